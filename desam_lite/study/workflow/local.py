"""The jobs of a plan on this machine: each in a process of its own, as many at once as there are processors.

The processes are forked from one that has imported everything, so a job costs no import. A process that is killed, for its
memory or otherwise, is one failed job and not the end of the others.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from desam_lite.study.processes import GRACE, IMPORTED_ONCE, end_with_parent, process_context
from desam_lite.study.workflow import records
from desam_lite.study.workflow.jobs import execute_job
from desam_lite.study.workflow.status import ProgressLine, open_jobs

_PAGES_IMPORT = ("typer", "papermill", "nbclient", "pydantic")
_JOBS_IMPORT = (*_PAGES_IMPORT, *IMPORTED_ONCE, "desam_lite.synthetic.phantoms")


def do_jobs(plan: records.Plan, folder: Path, processors: int, *, gpu: bool) -> None:
    """Do the jobs that are left; each leaves a record.

    Args:
        plan: What there is to do.
        folder: Of the plan.
        processors: How many are used at once; a job takes as many as the plan says, usually one.
        gpu: Whether there is a GPU; jobs that take it go one after the other.
    """
    entries = plan["jobs"]
    waiting = sorted(open_jobs(plan, folder), key=lambda job: -entries[job]["priority"])
    computing = any(entries[job]["kind"] not in ("page", "book") for job in waiting)
    context = process_context(_JOBS_IMPORT if computing else _PAGES_IMPORT, gpu=gpu)
    progress = ProgressLine(plan, folder, waiting, processors)
    active: dict[str, BaseProcess] = {}
    try:
        while waiting or active:
            for job in list(waiting):
                if _may_start(plan, job, waiting, active, processors):
                    waiting.remove(job)
                    active[job] = _start(context, folder, job)
            progress.show()
            connection.wait([process.sentinel for process in active.values()], timeout=1.0)
            for job, process in list(active.items()):
                if process.exitcode is not None:
                    del active[job]
                    _record_dead_worker(folder, job, process.exitcode)
        progress.show()
    finally:
        _stop(list(active.values()))


def _may_start(
    plan: records.Plan, job: str, waiting: Iterable[str], active: Iterable[str], processors: int
) -> bool:
    """Whether what a job needs has ended, and the processors and the GPU it takes are free."""
    entry, others = plan["jobs"][job], [plan["jobs"][other] for other in active]
    free = processors - sum(min(other["cpus"], processors) for other in others)
    gpu_is_taken = entry["gpu"] and any(other["gpu"] for other in others)
    ended = not set(entry["needs"]) & {*waiting, *active}
    return min(entry["cpus"], processors) <= free and not gpu_is_taken and ended


def _start(context: BaseContext, folder: Path, job: str) -> BaseProcess:
    log = records.log_path(folder, job)
    log.parent.mkdir(parents=True, exist_ok=True)
    process: BaseProcess = context.Process(target=_execute, args=(folder, job, log))  # type: ignore[attr-defined]
    process.start()
    return process


def _execute(folder: Path, job: str, log: Path) -> None:
    """Do a job in this process, with its output in its log; what it starts ends with it."""
    os.setsid()
    end_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    with log.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    execute_job(folder, job)


def _record_dead_worker(folder: Path, job: str, exit_code: int) -> None:
    """Record as failed a job whose process ended without a record of its own."""
    if not records.status_of(folder, job):
        killed = (
            f"was killed ({signal.Signals(-exit_code).name})" if exit_code < 0 else f"ended with {exit_code}"
        )
        memory = " (out of memory?)" if exit_code == -signal.SIGKILL else ""
        reason = f"its process {killed}{memory}: start again, finished work is kept."
        records.record_failure(folder, job, reason)
    records.mark_path(folder, job).unlink(missing_ok=True)


def _stop(processes: list[BaseProcess]) -> None:
    """Interrupt processes and all they have started; kill what has not ended in time."""
    if processes:
        print("stopping; what is finished is kept", file=sys.stderr, flush=True)
    deadline = time.monotonic() + GRACE
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, number)
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0.1))
