"""Doing the study: plans it, does what is left on this machine or on a Slurm cluster, and says what failed."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from desam_lite.study.processes import usable_cores
from desam_lite.study.workflow.cluster import ON_SLURM, do_jobs_on_slurm
from desam_lite.study.workflow.local import do_jobs
from desam_lite.study.workflow.plan import StudyOptions, graph_folder, make_plan, write_plan
from desam_lite.study.workflow.records import Plan, drop_stale
from desam_lite.study.workflow.status import failed_jobs, open_jobs, say_failed_jobs
from desam_lite.utils.errors import StudyError

Executor = Literal["local", "slurm"]


def reproduce_study(
    options: StudyOptions, executor: Executor = "local", jobs: int | None = None
) -> list[str]:
    """Do what is left of the study; return the jobs that failed.

    Finished work is not repeated; what failed the last time, or was damaged since, is tried again. Ctrl-C stops it at any moment,
    and so does SIGTERM.

    Args:
        options: What to do.
        executor: This machine, or the Slurm cluster it submits to (``workflow/profiles/slurm``).
        jobs: How many at once; by default one per core of this machine, and as many as the profile says on a cluster.

    Raises:
        StudyError: The plan is at fault, another process is at work in the workspace, or Snakemake cannot be started.
    """
    folder = graph_folder(options.workspace)
    with _study_lock(folder), _stopped_by_sigterm():
        plan = make_plan(options)
        drop_stale(folder, plan)
        write_plan(plan, options.workspace)
        if open_jobs(plan, folder):
            if executor == "slurm":
                do_jobs_on_slurm(plan, folder, jobs)
            else:
                if not has_gpu():
                    os.environ["OMP_NUM_THREADS"] = "1"
                do_jobs(plan, folder, jobs or usual_jobs(executor), gpu=has_gpu())
        return failed_jobs(plan, folder)


def say_outcome(plan: Plan, folder: Path) -> str:
    """Return what is told at the end of a study in which something failed."""
    failed = failed_jobs(plan, folder)
    return "\n".join([f"{len(failed)} of {len(plan['jobs'])} jobs failed:", *say_failed_jobs(plan, folder)])


def usual_jobs(executor: Executor) -> int:
    """Return how many jobs there are at once: one single-threaded process per core of this machine."""
    return ON_SLURM if executor == "slurm" else usable_cores()


def has_gpu() -> bool:
    """Tell whether there is an NVIDIA GPU, without importing PyTorch."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


@contextlib.contextmanager
def _study_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a workspace; the system frees that of a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"the graph in {folder} is being done already: see 'make status', and wait for it or stop it."
            ) from None
        yield


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
