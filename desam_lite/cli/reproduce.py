"""``desam-lite reproduce``: the study's graph from the command line."""

import json
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from desam_lite.cli.options import WorkspaceOption, parse_assignments, require_writable
from desam_lite.utils.errors import StudyError


def reproduce(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(help="Names of notebooks, as domain_splits.  [default: all, and the book]"),
    ] = None,
    profile: Annotated[str, typer.Option(help="Amount of work: smoke, teach, study or paper.")] = "teach",
    manifest: Annotated[
        list[str] | None,
        typer.Option(help="Task, by name or path, for the notebooks with its organs; may be given again."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Folder with the scans of each --manifest, in the same order.")
    ] = None,
    weights: Annotated[str, typer.Option(help="File with the frozen encoder's weights.")] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            help="A further parameter, for the notebooks that have it; may be given again.",
        ),
    ] = None,
    executor: Annotated[str, typer.Option(help="local, or slurm to submit to a cluster.")] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Jobs at once.  [default: one per core, or as workflow/profiles/slurm says]"
        ),
    ] = None,
    workspace: WorkspaceOption = Path("results"),
    pages: Annotated[Path, typer.Option(help="Folder for the executed notebooks.")] = Path("book/executed"),
    book: Annotated[bool, typer.Option(help="Whether to build the book.")] = True,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would run, and how long it may take.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say what is done, running, failed.")] = False,
) -> None:
    """Do the study: data, embeddings, runs, notebooks, book; what is finished is not repeated.

    Example: desam-lite reproduce domain_splits --profile smoke --plan
    """
    from desam_lite.study.workflow.plan import StudyOptions, graph_folder, make_plan, read_plan
    from desam_lite.study.workflow.reproduce import Executor, reproduce_study, say_outcome, usual_jobs
    from desam_lite.study.workflow.status import say_plan, say_status

    if executor not in get_args(Executor):
        raise StudyError(f"there is no executor '{executor}': use {' or '.join(get_args(Executor))}.")
    folder, chosen = graph_folder(workspace), cast(Executor, executor)
    if status:
        typer.echo(say_status(read_plan(folder), folder))
        return
    options = StudyOptions(
        profile=profile,
        manifests=tuple(manifest or ()),
        data=tuple(data or ()),
        weights=weights,
        parameters=parse_assignments(parameter, "-p"),
        experiments=tuple(experiments or ()),
        workspace=workspace,
        pages=pages,
        book=book and not experiments and pages == Path("book/executed"),
    )
    if plan:
        typer.echo(say_plan(make_plan(options), folder, jobs or usual_jobs(chosen)))
        return
    require_writable(pages, "--pages", folder=True)
    failed = reproduce_study(options, chosen, jobs)
    made = read_plan(folder)
    if failed:
        raise StudyError(say_outcome(made, folder))
    typer.echo(f"all {len(made['jobs'])} jobs are done")


def keep(
    workspace: Annotated[Path, typer.Option(help="Folder with the results of the whole study.")] = Path(
        "results/anew"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the kept study; what is there goes.")] = Path(
        "results/published"
    ),
    profile: Annotated[str, typer.Option(help="The profile that the study was done in.")] = "study",
) -> None:
    """Keep the finished runs of a study in a few files, from which pages are made without training.

    Kept are the scores of all runs on the tasks of data_manifests/, the masks that its pages show, and the models that the page
    coupling_seen tries prompts on, of one source and seed.

    Example: desam-lite keep --workspace results/anew
    """
    from desam_lite.data.manifest import list_manifests
    from desam_lite.study.kept import MARK, write_kept
    from desam_lite.study.plans import plan_experiment
    from desam_lite.study.profiles import get_profile
    from desam_lite.study.run import open_run

    require_writable(out, "--out", folder=True)
    tried = plan_experiment("coupling_seen", get_profile(profile), "phantom_prostate")
    tried = [spec for spec in tried if (spec.source, spec.seed) == (tried[0].source, tried[0].seed)]
    records = {
        done.parent: json.loads((done.parent / "run.json").read_text())
        for done in workspace.glob("runs/*/done")
    }
    runs = [
        open_run(directory)
        for directory, record in records.items()  # but a page's own methods and hospitals
        if not (directory / MARK).exists()
        and record["method_module"].startswith("desam_lite.")
        and record["files"]["manifest"] in list_manifests()
    ]
    if not runs:
        raise StudyError(
            f"no run is finished in {workspace}: do the study first, with 'desam-lite reproduce --workspace {workspace}'."
        )
    models = {run.name for run in runs if run.spec in tried}
    weights = write_kept([run.directory for run in runs], out, models)
    typer.echo(f"kept {len(runs)} runs in {out}:\n{weights.to_string(index=False)}")
