"""The ``desam-lite`` command.

Every command's work is a function elsewhere; here are its words. Modules that take long to import are imported inside the
commands, so that ``--help`` answers at once.
"""

import sys
from importlib import metadata
from typing import NoReturn

import typer

from desam_lite.cli.course import student, verify_results
from desam_lite.cli.data import data_app
from desam_lite.cli.predict import predict
from desam_lite.cli.pretrain import pretrain
from desam_lite.cli.reproduce import keep, reproduce
from desam_lite.cli.run import check_book, execute_command, run, score
from desam_lite.cli.show import show_case
from desam_lite.cli.weights import weights_app
from desam_lite.utils.errors import StudyError

_SHOWN_LIBRARIES = (
    *("torch", "torchvision", "segment-anything", "monai"),
    *("nibabel", "numpy", "pandas", "safetensors"),
)

app = typer.Typer(
    help="DeSAM Lite: can a frozen Segment Anything encoder segment organs in hospitals it was never trained on?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.command("execute")(execute_command)
app.command("show")(show_case)
for command in (run, score, predict, reproduce, keep, pretrain, check_book, verify_results, student):
    app.command()(command)


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
    typer.echo("libraries: " + ", ".join(f"{name} {_version(name)}" for name in _SHOWN_LIBRARIES))
    typer.echo(f"device:    {_say_device()}")
    typer.echo("manifests, to be given by name or path:")
    for name, path in list_manifests().items():
        typer.echo(f"  {name:20} {path}")
    typer.echo("they are looked for in " + " and ".join(dict.fromkeys(map(str, manifest_folders()))))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _say_device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads"
    count = torch.cuda.device_count()
    return "cuda: " + ", ".join(torch.cuda.get_device_name(number) for number in range(count))


if __name__ == "__main__":
    main()
