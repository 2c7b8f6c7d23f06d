"""``desam-lite weights``: list, fetch and check the weights of SAM's encoders."""

from pathlib import Path
from typing import Annotated

import typer

from desam_lite.utils.errors import StudyError

weights_app = typer.Typer(help="List, fetch and check the weights of SAM's encoders.", no_args_is_help=True)

FolderOption = Annotated[Path, typer.Option(help="Folder of the weights files.")]


@weights_app.command("list")
def list_(folder: FolderOption = Path("weights")) -> None:
    """List the public weights of SAM and MedSAM: file, size, address, hash, and which of them are here.

    Example: desam-lite weights list
    """
    from desam_lite.model.download import PUBLIC

    for public in PUBLIC.values():
        there = "here" if (folder / public.name).exists() else "not here"
        typer.echo(f"{public.backbone}  {folder / public.name}  {public.size / 1e6:.0f} MB, {there}")
        typer.echo(f"       {public.url}\n       SHA-256 {public.sha256}")


@weights_app.command()
def fetch(
    backbones: Annotated[list[str], typer.Argument(help="vit_b, vit_l or vit_h; several may be given.")],
    folder: FolderOption = Path("weights"),
    mirror: Annotated[
        str | None, typer.Option(help="Folder or URL that holds the files under their names.")
    ] = None,
) -> None:
    """Fetch SAM's weights (Apache-2.0); a download that broke off goes on, and only the published content gets the name.

    Example: desam-lite weights fetch vit_b --folder weights
    """
    from desam_lite.model.download import fetch_weights

    for backbone in backbones:
        typer.echo(f"{fetch_weights(backbone, folder, mirror=mirror)}: the published {backbone}")


@weights_app.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Weights files of any kind.  [default: the public ones in the folder]"),
    ] = None,
    folder: FolderOption = Path("weights"),
) -> None:
    """Check weights files: whole, free of code, and the published ones where they bear their names.

    Example: desam-lite weights check weights/sam_vit_b_01ec64.pth
    """
    from desam_lite.model.download import PUBLIC

    paths = files or [folder / public.name for public in PUBLIC.values() if (folder / public.name).exists()]
    if not paths:
        raise StudyError(
            f"none of the public weights of SAM and MedSAM is in '{folder}': name files, or --folder."
        )
    faults = []
    for path in paths:
        try:
            typer.echo(f"{path}: {identify_weights(path)}")
        except StudyError as error:
            faults.append(str(error))
    if faults:
        raise StudyError("\n".join(faults))


def identify_weights(text: Path | str) -> str:
    """Say in a few words what a weights file is, once all of it has been read.

    Raises:
        StudyError: It is missing, damaged or could run code, or it bears the name of a public file and is not that file.
    """
    from desam_lite.model.weights import find_weights, public_weights, read_tensors, weights_sha256

    path = find_weights(text)
    public, sha256 = public_weights(path), weights_sha256(path)
    if public is not None:
        return f"the published {public.name} (SHA-256 {sha256})"
    return f"{len(read_tensors(path))} tensors, none of the public files of SAM and MedSAM (SHA-256 {sha256})"
