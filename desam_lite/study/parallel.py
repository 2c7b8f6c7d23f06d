"""Many runs on one machine: several single-threaded processes side by side, one failure never stopping the others.

On two cores two processes with one thread each finish such small trainings sooner than one process with two threads.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from desam_lite.data.tasks import Task, open_task
from desam_lite.methods.frozen_encoder import open_embeddings
from desam_lite.methods.registry import METHODS, export_registration, register
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.plans import FAILED, NO_RETRY
from desam_lite.study.processes import end_with_parent, process_context
from desam_lite.study.run import Run, execute_run, find_run
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track


def execute_runs(
    specs: Sequence[RunSpec], workspace: Path | str, *, jobs: int | None = None, progress: bool = True
) -> list[Run]:
    """Do every run that is not finished.

    What runs share (slices, embeddings) is made first, once. Press Ctrl-C at any moment: finished runs are kept and the
    others continue from their last checkpoint the next time. A method that is defined in a notebook is known to this
    process alone: its runs are done here, one after the other, when the others are finished.

    Args:
        specs: What to run.
        workspace: Folder for results and caches.
        jobs: Processes side by side; by default one per core, or one on a GPU.
        progress: Whether to show progress bars.

    Returns:
        One `Run` per specification, in the same order; one that failed carries the reason in its ``error``.

    Raises:
        StudyError: The data or a specification is at fault, before anything is trained.
    """
    workspace = Path(workspace)
    tasks = _open_tasks(specs, workspace, progress)
    runs = [find_run(spec, tasks[_place(spec)], workspace) for spec in specs]
    runs = [replace(run, error=_failed_before(run)) for run in runs]
    waiting = [run for run in runs if not run.finished and not run.error]
    if not waiting:
        return runs
    _embed_once(waiting, tasks, workspace, progress)
    errors = dict(_failures(waiting, workspace, jobs or default_jobs(), progress))
    for run in waiting:
        if run.name in errors:
            tqdm.write(f"run {run.name} ({run.spec.label} from {run.spec.source}) failed: {errors[run.name]}")
    return [replace(run, error=errors.get(run.name, run.error)) for run in runs]


def default_jobs() -> int:
    """Return how many runs go side by side: one per usable core, or one where there is a GPU."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failed_before(run: Run) -> str:
    """Return why the graph could not finish a run, in a notebook that the graph runs: it tells of it rather than try again."""
    note = run.directory / FAILED
    if NO_RETRY not in os.environ or run.finished or not note.is_file():
        return ""
    return note.read_text(encoding="utf-8").strip()


def _place(spec: RunSpec) -> tuple[Path, Path]:
    return spec.manifest, spec.data_root


def _open_tasks(specs: Sequence[RunSpec], workspace: Path, progress: bool) -> dict[tuple[Path, Path], Task]:
    places = {_place(spec) for spec in specs}
    return {place: open_task(*place, workspace, progress=progress) for place in places}


def _embed_once(
    runs: Sequence[Run], tasks: dict[tuple[Path, Path], Task], workspace: Path, progress: bool
) -> None:
    """Fill the stores of embeddings that the runs need, before processes would do it one against the other."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = {
        (*_place(run.spec), run.spec.backbone, run.spec.weights, run.spec.embedding_format): run.spec
        for run in runs
        if run.spec.embedding_format is not None
    }
    for spec in wanted.values():
        open_embeddings(spec, tasks[_place(spec)].slices, workspace, device, progress=progress)


def _failures(runs: Sequence[Run], workspace: Path, jobs: int, progress: bool) -> Iterator[tuple[str, str]]:
    """Do the runs; yield name and reason of each that failed."""
    unique = list({run.name: run for run in runs}.values())
    # A prior takes the seconds that processes take to start.
    few = sum(run.spec.method != "prior" for run in unique) < 2
    here = [run for run in unique if jobs == 1 or few or _lives_here(run.spec)]
    yield from _side_by_side([run for run in unique if run not in here], workspace, jobs, progress)
    for run in track(here, "runs", enabled=progress and bool(here)):
        reason = _attempt(run.spec, workspace, progress)
        if reason:
            yield run.name, reason


def _lives_here(spec: RunSpec) -> bool:
    """Whether the method of a run is defined in this process alone, as in a notebook: no other process can do it."""
    return METHODS[spec.method].import_path() is None


def _side_by_side(
    runs: Sequence[Run], workspace: Path, jobs: int, progress: bool
) -> Iterator[tuple[str, str]]:
    if not runs:
        return
    methods = dict.fromkeys(run.spec.method for run in runs)
    from_outside = [export_registration(name) for name in methods if not METHODS[name].own]
    with ProcessPoolExecutor(
        jobs,
        mp_context=process_context(gpu=torch.cuda.is_available()),
        initializer=_begin_worker,
        initargs=(from_outside,),
    ) as pool:
        futures = {pool.submit(_attempt, run.spec, workspace, False): run for run in runs}
        for future in track(as_completed(futures), "runs", total=len(futures), enabled=progress):
            reason = _reason(future)
            if reason:
                yield futures[future].name, reason


def _attempt(spec: RunSpec, workspace: Path, progress: bool) -> str:
    """Do one run; return why it failed, or nothing."""
    try:
        execute_run(spec, workspace, progress=progress)
    except StudyError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other runs go on; the reason is shown
        return f"{type(error).__name__}: {error}"
    return ""


def _reason(future: "Future[str]") -> str:
    try:
        return future.result()
    except BrokenProcessPool:
        return "its process was killed (out of memory?): run again with fewer jobs, finished runs are kept."


def _begin_worker(methods: Sequence[dict[str, Any]] = ()) -> None:
    """Begin a process that does runs: one thread, and the methods from outside of the package known as they are here."""
    torch.set_num_threads(1)
    for method in methods:
        register(**method)
    end_with_parent(lambda: os._exit(1))
