"""Arguments and options that several commands share."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

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
_POWER_OF_TEN = re.compile(r"[-+]?\d+[eE][-+]?\d+")


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
        # YAML takes 1e-4 for text, unlike everybody who writes it.
        number = _POWER_OF_TEN.fullmatch(text)
        try:
            values[name] = float(text) if number else yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise StudyError(f"{option} {pair}: the value is not plain YAML; put text in quotes.") from error
    return values
