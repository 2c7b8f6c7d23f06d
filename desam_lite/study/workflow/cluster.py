"""The jobs of a plan on a Slurm cluster: Snakemake submits them (`workflow/Snakefile`), and is told about here."""

import contextlib
import ctypes
import signal
import subprocess
import sys
from pathlib import Path

from desam_lite.study.processes import GRACE
from desam_lite.study.workflow.records import Plan, record_failure, status_of
from desam_lite.study.workflow.status import ProgressLine, failed_jobs, last_lines, open_jobs
from desam_lite.utils.errors import StudyError

ON_SLURM = 64
"""Jobs that `workflow/profiles/slurm` has on the cluster at once."""


def do_jobs_on_slurm(plan: Plan, folder: Path, jobs: int | None) -> None:
    """Do the jobs that are left; each leaves a record. Those that were lost with their machine are recorded as failed.

    Raises:
        StudyError: There is no Snakefile here, or Snakemake gave up and no job says why.
    """
    workflow = Path("workflow").resolve()
    if not (workflow / "Snakefile").is_file():
        raise StudyError("there is no workflow/Snakefile here: start in the root of the repository.")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow / "Snakefile")]
    command += ["--directory", str(folder), "--runtime-source-cache-path", str(folder / "sources")]
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "--keep-going"]
    command += ["--scheduler", "greedy", "--workflow-profile", str(workflow / "profiles" / "slurm")]
    command += ["--jobs", str(jobs)] if jobs else []
    log = folder / "snakemake.log"
    for _ in range(2):
        progress = ProgressLine(plan, folder, open_jobs(plan, folder), jobs or ON_SLURM)
        status = _run_snakemake(command, log, progress)
        if status == 0 or not _give_up_lost(plan, folder):
            break  # else the pages are made without them, and say so
    if status and not failed_jobs(plan, folder):
        tail = "\n".join(last_lines(log))
        raise StudyError(f"the graph could not be done; the last lines of {log}:\n{tail}")


def _run_snakemake(command: list[str], log: Path, progress: ProgressLine) -> int:
    """Run Snakemake until it ends; an interrupt ends it and all its jobs."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=_interrupt_with_parent,
        )
        try:
            while True:
                progress.show()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(1.0)
        except KeyboardInterrupt:
            print("stopping; what is finished is kept", file=sys.stderr)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            raise


def _interrupt_with_parent() -> None:
    """Ask Linux to interrupt this process when the one that started it is killed."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG of Linux's prctl.h


def _give_up_lost(plan: Plan, folder: Path) -> bool:
    """Record as failed what could start and ended without any record; return whether there was such a job."""
    lost = [
        job
        for job in open_jobs(plan, folder)
        if plan["jobs"][job]["kind"] in ("run", "embeddings")
        and not status_of(folder, job)
        and all(status_of(folder, need) == "ok" for need in plan["jobs"][job]["needs"])
    ]
    for job in lost:
        reason = (
            "its process was lost, with its machine or for its memory: start again, finished work is kept."
        )
        record_failure(folder, job, reason)
    return bool(lost)
