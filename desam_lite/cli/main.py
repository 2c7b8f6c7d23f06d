"""The ``desam-lite`` command.

Every command's work is a function elsewhere; here are its words. Modules that take long to import are imported inside the
commands, so that ``--help`` answers at once.
"""

import sys
from importlib import metadata
from typing import NoReturn

import typer

from desam_lite.cli import course as cli_course
from desam_lite.cli import data as cli_data
from desam_lite.cli import predict as cli_predict
from desam_lite.cli import pretrain as cli_pretrain
from desam_lite.cli import reproduce as cli_graph
from desam_lite.cli import run as cli_run
from desam_lite.cli import weights as cli_weights
from desam_lite.utils.errors import StudyError

_LIBRARIES = (
    "torch",
    "torchvision",
    "segment-anything",
    "monai",
    "nibabel",
    "numpy",
    "pandas",
    "safetensors",
)

app = typer.Typer(
    help="DeSAM Lite: can a frozen Segment Anything encoder segment organs in hospitals it was never trained on?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_weights.app, name="weights")
app.command()(cli_run.run)
app.command()(cli_predict.predict)
app.command()(cli_run.execute)
app.command()(cli_graph.reproduce)
app.command()(cli_pretrain.pretrain)
app.command()(cli_run.check_book)
app.command()(cli_course.verify_results)
app.command()(cli_course.student)


def main() -> NoReturn:
    """Run the command line; failures a user can act on are one sentence on standard error and status 1."""
    try:
        app()
    except StudyError as error:
        print(f"desam-lite: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written: no fault of the program either
        where = f" {error.filename}" if error.filename else ""
        print(
            f"desam-lite: {error.strerror or error}:{where} cannot be used; check the path.", file=sys.stderr
        )
    sys.exit(1)


@app.command()
def info() -> None:
    """Show versions, the device that would be used, and the manifests known here.

    Example: desam-lite info
    """
    from desam_lite.data.manifest import list_manifests, manifest_folders

    typer.echo(f"desam-lite {_version('desam-lite')}, Python {sys.version.split()[0]} at {sys.executable}")
    typer.echo("libraries: " + ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES))
    typer.echo(f"device:    {_device()}")
    typer.echo("manifests, to be given by name or path:")
    for name, path in list_manifests().items():
        typer.echo(f"  {name:20} {path}")
    typer.echo("they are looked for in " + " and ".join(dict.fromkeys(map(str, manifest_folders()))))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return "cuda: " + ", ".join(names)
    return f"cpu, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
