"""``desam-lite verify-results`` and ``student``: whether a repetition agrees with the kept study, and copies for a class."""

from pathlib import Path
from typing import Annotated

import typer

from desam_lite.cli.options import NotebooksOption, WorkspaceOption
from desam_lite.utils.errors import StudyError


def verify_results(
    quick: Annotated[bool, typer.Option("--quick", help="Repeat a few of the cheapest runs first.")] = False,
    workspace: WorkspaceOption = Path("results/anew"),
    kept: Annotated[Path, typer.Option(help="Folder of the kept study.")] = Path("results/published"),
    profile: Annotated[str, typer.Option(help="That the kept study was made with.")] = "study",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side.  [default: one per core]")
    ] = None,
) -> None:
    """Say whether runs that were repeated on this machine agree with the kept ones: averages, order and verdicts.

    The status is 0 only if they agree. 'make reproduce' repeats all of them.

    Example: desam-lite verify-results --quick
    """
    from desam_lite.data.manifest import load_manifest
    from desam_lite.study.kept import read_kept
    from desam_lite.study.parallel import execute_runs
    from desam_lite.study.profiles import get_profile
    from desam_lite.study.verification import choose_quick, find_repetitions, verify_runs
    from desam_lite.synthetic.phantoms import make_task

    if not (kept / "runs.csv.gz").is_file():
        raise StudyError(
            f"no run is kept in {kept} yet: compute the study with 'make reproduce', then keep it with 'make keep'."
        )
    study = read_kept(kept)
    if quick:
        names = choose_quick(study)
        chosen = [spec for name, spec in zip(study.names, study.specs, strict=True) if name in names]
        for root, manifest in {spec.data_root: spec.manifest for spec in chosen}.items():
            if not root.is_dir():
                make_task(load_manifest(manifest).name, root, cases=get_profile(profile).cases)
        execute_runs(chosen, workspace, jobs=jobs)
    outcome, text = verify_runs(study, find_repetitions(study, workspace))
    typer.echo(text)
    if outcome != "agrees":
        raise typer.Exit(1)


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
