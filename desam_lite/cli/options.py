"""Arguments and options that several commands share."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from desam_lite.data.manifest import PlainLoader, find_manifest, load_manifest
from desam_lite.utils.errors import StudyError

ManifestArgument = Annotated[
    str, typer.Argument(help="Path of a manifest, or its name in data_manifests/ here or in the repository.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder that the manifest's patterns start from.  [default: data/NAME]"),
]
WorkspaceOption = Annotated[Path, typer.Option(help="Folder for results and caches.")]
NotebooksOption = Annotated[Path, typer.Option(help="Folder with the notebooks.")]
AcceleratorOption = Annotated[str, typer.Option(help="auto, cpu or gpu.")]


def locate_task(manifest: str, data: Path | None) -> tuple[Path, Path]:
    """Return the path of a manifest and the folder of its data, by default ``data/NAME``."""
    path = find_manifest(manifest)
    return path, data if data is not None else Path("data") / load_manifest(path).name


def parse_assignments(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Turn ``name=value`` texts into values, read as YAML: ``3`` is a number, ``[A, B]`` a list.

    Raises:
        StudyError: A text has no ``=``, or its value is not YAML.
    """
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise StudyError(f"{option} {pair}: write name=value.")
        try:
            values[name] = yaml.load(text, PlainLoader) if text else ""  # noqa: S506 - it is a safe loader
        except (yaml.YAMLError, ValueError) as error:
            raise StudyError(f"{option} {pair}: the value is not plain YAML; put text in quotes.") from error
    return values


def require_writable(
    path: Path, option: str = "--out", *, folder: bool = False, inputs: Sequence[Path] = ()
) -> None:
    """Refuse, before any work, a place that nothing can be written to, of the other kind, or one of the inputs."""
    if path.exists() and any(place.exists() and path.samefile(place) for place in inputs):
        raise StudyError(f"{option} {path} is also an input: give another path.")
    if path.exists() and path.is_dir() != folder:
        there, needed = ("a file", "a folder") if folder else ("a folder", "a file")
        raise StudyError(f"{option} {path} is {there}, and {needed} is needed: name another place.")
    above = (path if folder else path.parent).absolute()
    place = next(place for place in (above, *above.parents) if os.path.lexists(place))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise StudyError(f"{option} {path}: {place} is no folder you may write to; name another place.")
