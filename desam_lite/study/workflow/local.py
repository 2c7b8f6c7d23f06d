"""The jobs of a plan on this machine: each in a process of its own, as many at once as there are processors.

The processes are forked from one that has imported everything, so a job costs no import. A process that is killed, for its
memory or otherwise, is one failed job and not the end of the others.
"""

import contextlib
import os
import signal
import sys
import time
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from desam_lite.study.processes import GRACE, IMPORTED_ONCE, end_with_parent, process_context
from desam_lite.study.workflow.jobs import execute_job
from desam_lite.study.workflow.plan import Plan
from desam_lite.study.workflow.records import (
    StudyJob,
    list_needs,
    log_path,
    mark_path,
    record_failure,
    resources_of,
    status_of,
)
from desam_lite.study.workflow.status import ProgressLine, open_jobs

PRIORITIES = {"data": 30, "embeddings": 20, "page": 12, "run": 10, "book": 0}
"""Which job starts first where several could; `workflow/Snakefile` has the same numbers."""
FIRST = 15
"""That of a run through the encoder, which takes longest, and of a page without runs, which may train."""
_PAGES_IMPORT = ("typer", "papermill", "nbclient", "pydantic")
_JOBS_IMPORT = (*_PAGES_IMPORT, *IMPORTED_ONCE, "desam_lite.synthetic.phantoms")


def do_jobs(plan: Plan, folder: Path, processors: int, *, gpu: bool) -> None:
    """Do the jobs that are left; each leaves a record.

    Args:
        plan: What there is to do.
        folder: Of the plan.
        processors: How many are used at once; a job takes one, unless the plan says more.
        gpu: Whether there is a GPU; then the jobs that take one go one after the other.
    """
    waiting = sorted(open_jobs(plan, folder), key=lambda job: -priority(plan, job))
    computing = any(job.kind not in ("page", "book") for job in waiting)
    context = process_context(_JOBS_IMPORT if computing else _PAGES_IMPORT, gpu=gpu)
    progress = ProgressLine(plan, folder, waiting, processors)
    active: dict[StudyJob, BaseProcess] = {}
    try:
        while waiting or active:
            for job in list(waiting):
                if _may_start(plan, job, waiting, list(active), processors):
                    waiting.remove(job)
                    active[job] = _start(context, folder, job)
            progress.show()
            connection.wait([process.sentinel for process in active.values()], timeout=1.0)
            for job, process in list(active.items()):
                if process.exitcode is not None:
                    del active[job]
                    _record_dead_worker(folder, job, process)
        progress.show()
    finally:
        _stop(list(active.values()))


def priority(plan: Plan, job: StudyJob) -> int:
    """Return how early a job starts among those that could."""
    run = plan["runs"].get(job.key, {}) if job.kind == "run" else {}
    encodes = bool(run) and run["spec"]["backbone"] and not run["embeddings"]
    alone = job.kind == "page" and not plan["pages"][job.key]["runs"]
    return FIRST if encodes or alone else PRIORITIES[job.kind]


def _may_start(
    plan: Plan, job: StudyJob, waiting: list[StudyJob], active: list[StudyJob], processors: int
) -> bool:
    """Whether what a job needs has ended, and the processors and the GPU it takes are free."""
    used = [resources_of(plan, other) for other in active]
    amount = resources_of(plan, job)
    free = processors - sum(min(each["cpus"], processors) for each in used)
    if min(amount["cpus"], processors) > free or (amount["gpu"] and any(each["gpu"] for each in used)):
        return False
    return not any(need in waiting or need in active for need in list_needs(plan, job))


def _start(context: BaseContext, folder: Path, job: StudyJob) -> BaseProcess:
    log = log_path(folder, job)
    log.parent.mkdir(parents=True, exist_ok=True)
    process: BaseProcess = context.Process(target=_execute, args=(folder, job, log))  # type: ignore[attr-defined]
    process.start()
    return process


def _execute(folder: Path, job: StudyJob, log: Path) -> None:
    """Do a job in this process, with its output in its log; what it starts ends with it."""
    os.setsid()
    end_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    with log.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    execute_job(folder, job)


def _record_dead_worker(folder: Path, job: StudyJob, process: BaseProcess) -> None:
    """Record as failed a job whose process ended without a record of its own."""
    if not status_of(folder, job):
        number = -(process.exitcode or 0)
        killed = f"was killed ({signal.Signals(number).name})" if number > 0 else f"ended with {-number}"
        memory = " (out of memory?)" if number == signal.SIGKILL else ""
        reason = f"its process {killed}{memory}: start again, finished work is kept."
        record_failure(folder, job, reason)
    mark_path(folder, job).unlink(missing_ok=True)


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
