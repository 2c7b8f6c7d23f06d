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

from desam_lite.data.tasks import open_task
from desam_lite.methods.frozen_encoder import open_embeddings
from desam_lite.methods.registry import METHODS, export_registration, register
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.plans import FAILED, NO_RETRY
from desam_lite.study.processes import end_with_parent, process_context, usable_cores
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
    locations = {(spec.manifest, spec.data_root) for spec in specs}
    tasks = {location: open_task(*location, workspace, progress=progress) for location in locations}
    runs = [find_run(spec, tasks[spec.manifest, spec.data_root], workspace) for spec in specs]
    runs = [replace(run, error=_earlier_failure(run)) for run in runs]
    waiting = {run.name: run for run in runs if not run.finished and not run.error}
    if not waiting:
        return runs
    # Stores of embeddings are filled before processes would do it one against the other.
    stores = {
        (spec.embedding_format, spec.backbone, spec.weights, spec.manifest, spec.data_root): spec
        for spec in (run.spec for run in waiting.values())
        if spec.embedding_format is not None
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for spec in stores.values():
        slices = tasks[spec.manifest, spec.data_root].slices
        open_embeddings(spec, slices, workspace, device, progress=progress)
    errors = dict(_failures(list(waiting.values()), workspace, jobs or default_jobs(), progress))
    for name, reason in errors.items():
        spec = waiting[name].spec
        tqdm.write(f"run {name} ({spec.label} from {spec.source}) failed: {reason}")
    return [replace(run, error=errors.get(run.name, run.error)) for run in runs]


def default_jobs() -> int:
    """Return how many runs go side by side: one per usable core, or one where there is a GPU."""
    return 1 if torch.cuda.is_available() else usable_cores()


def _earlier_failure(run: Run) -> str:
    """Return why a job of the study could not finish a run: its page tells of it rather than try again."""
    note = run.directory / FAILED
    if NO_RETRY not in os.environ or run.finished or not note.is_file():
        return ""
    return note.read_text(encoding="utf-8").strip()


def _failures(runs: Sequence[Run], workspace: Path, jobs: int, progress: bool) -> Iterator[tuple[str, str]]:
    """Do the runs; yield name and reason of each that failed."""
    # A prior takes the seconds that processes take to start.
    few = sum(run.spec.method != "prior" for run in runs) < 2
    # A method without import path is defined in this process, as in a notebook: no other can do it.
    here = [run for run in runs if jobs == 1 or few or METHODS[run.spec.method].import_path() is None]
    side_by_side = [run for run in runs if run not in here]
    if side_by_side:
        methods = dict.fromkeys(run.spec.method for run in side_by_side)
        foreign = [export_registration(name) for name in methods if not METHODS[name].own]
        context = process_context(gpu=torch.cuda.is_available())
        with ProcessPoolExecutor(jobs, context, initializer=_begin_worker, initargs=(foreign,)) as pool:
            futures = {pool.submit(_attempt, run.spec, workspace, False): run for run in side_by_side}
            for future in track(as_completed(futures), "runs", total=len(futures), enabled=progress):
                if reason := _failure_of(future):
                    yield futures[future].name, reason
    for run in track(here, "runs", enabled=progress and bool(here)):
        if reason := _attempt(run.spec, workspace, progress):
            yield run.name, reason


def _attempt(spec: RunSpec, workspace: Path, progress: bool) -> str:
    """Do a run; return why it failed, or nothing."""
    try:
        execute_run(spec, workspace, progress=progress)
    except StudyError as error:
        return str(error)
    except Exception as error:  # whatever it is, the other runs go on; the reason is shown
        return f"{type(error).__name__}: {error}"
    return ""


def _failure_of(future: "Future[str]") -> str:
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
