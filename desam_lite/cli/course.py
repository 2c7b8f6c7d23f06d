"""``desam-lite verify-results`` and ``student``: whether a run of the study agrees with the kept one, and copies for a class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desam_lite.cli.options import NotebooksOption, WorkspaceOption
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.study.run import Run
    from desam_lite.study.workflow.records import Plan


def verify_results(
    profile: Annotated[str, typer.Option(help="Whose runs: smoke, teach, study or paper.")] = "teach",
    workspace: WorkspaceOption = Path("results"),
    reference: Annotated[Path, typer.Option(help="Folder with the kept tables.")] = Path("results/reference"),
    notebooks: NotebooksOption = Path("notebooks"),
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with the data.  [default: the usual one]")
    ] = None,
    manifest: Annotated[str, typer.Option(help="The task; by default that of each notebook.")] = "",
    weights: Annotated[str, typer.Option(help="The encoder's weights; by default the profile's.")] = "",
    write: Annotated[bool, typer.Option("--write", help="Keep these results as the reference.")] = False,
) -> None:
    """Compare the finished runs of all experiments with the kept tables, method by method, and give a verdict.

    Any mean that differs by more than its metric's tolerance, or is missing, makes the status 1.

    Example: desam-lite verify-results --profile teach
    """
    from desam_lite.study.run import collect_metrics
    from desam_lite.study.verification import (
        compare_with_reference,
        read_reference,
        say_verdict,
        tidy,
        write_reference,
    )
    from desam_lite.study.workflow.plan import StudyOptions, make_plan

    options = StudyOptions(
        profile=profile,
        manifests=(manifest,) if manifest else (),
        data=(str(data),) if data else (),
        weights=weights,
        workspace=workspace,
        notebooks=notebooks,
        book=False,
    )
    runs = find_planned_runs(make_plan(options))
    if write:
        typer.echo(f"wrote {write_reference(runs, reference, profile)}: {len(runs)} runs")
        return
    kept = read_reference(reference, profile)
    agrees, lines = say_verdict(compare_with_reference(tidy(collect_metrics(runs)), kept))
    typer.echo(lines)
    if not agrees:
        raise typer.Exit(1)


def find_planned_runs(plan: "Plan") -> "list[Run]":
    """Return the runs of a plan, each once, finished or not."""
    from desam_lite.data.tasks import Task, open_task
    from desam_lite.methods.run_spec import make_spec
    from desam_lite.study.run import find_run

    tasks: dict[tuple[Path, Path], Task] = {}
    runs = []
    for spec in [make_spec(**entry["spec"]) for entry in plan["jobs"].values() if entry["kind"] == "run"]:
        location = spec.manifest, spec.data_root
        if not spec.data_root.is_dir():
            raise StudyError(
                f"there are no data at {spec.data_root}: run 'make book' with this profile first."
            )
        if location not in tasks:
            tasks[location] = open_task(*location, plan["workspace"], progress=False)
        runs.append(find_run(spec, tasks[location], plan["workspace"]))
    return list({run.name: run for run in runs}.values())


def student(
    out: Annotated[Path, typer.Option(help="Folder for the copies.")] = Path("student"),
    notebooks: NotebooksOption = Path("notebooks"),
) -> None:
    """Write copies of all notebooks without their solutions, with an empty cell where each was.

    Example: desam-lite student --out student
    """
    from desam_lite.study.report.student_copies import write_student_copies

    copies = write_student_copies(notebooks, out)
    typer.echo(f"wrote {len(copies)} notebooks without solutions to {out}")
