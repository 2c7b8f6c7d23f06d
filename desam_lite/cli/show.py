"""``desam-lite show``: one case of finished runs, slice by slice."""

from pathlib import Path
from typing import Annotated

import typer

from desam_lite.cli.options import DataOption, require_writable
from desam_lite.utils.errors import StudyError


def show_case(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs, as results/runs/NAME; the task is the first's."),
    ],
    case: Annotated[
        str, typer.Option(help="A tested case, as DOMAIN/CASE, or CASE where a single domain has it.")
    ],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write.  [default: DOMAIN_CASE.html]")] = None,
) -> None:
    """Write a page with all slices of a case and the contours of runs and reference; it needs no network and no server.

    Example: desam-lite show results/runs/NAME --case B/Case03
    """
    from desam_lite.data.tasks import open_task
    from desam_lite.study.report.case_viewer import find_case, view_case
    from desam_lite.study.run import open_run

    opened = [open_run(path) for path in runs]
    domain, name = find_case(opened[0], case)
    path = out or Path(f"{domain}_{name}.html")
    if path.suffix != ".html":
        raise StudyError(f"the page is HTML, but --out is {path}: give a name that ends in .html.")
    require_writable(path)
    spec = opened[0].spec
    task = open_task(spec.manifest, data or spec.data_root, opened[0].directory.parents[1])
    for run in opened:
        if run.info["identity"]["data"] != task.data_hash:
            raise StudyError(f"run {run.name} is of other data than {task.root}: name its own with --data.")
    view_case(task, opened, domain, name).save(path)
    typer.echo(f"wrote {path}: open it in any browser")
