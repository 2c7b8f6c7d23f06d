"""Runs the study's graph: plans, starts Snakemake on it, tells how it goes, and what failed in the end."""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from desam_lite.study.workflow.job import WARM
from desam_lite.study.workflow.plan import Plan, Wishes, graph_folder, make_plan, write_plan
from desam_lite.study.workflow.records import Job, drop_stale, fail, list_jobs, read_record, record_path
from desam_lite.study.workflow.status import Progress, failures, keep_seconds, open_jobs, say_failures
from desam_lite.utils.errors import StudyError

Executor = Literal["local", "slurm"]
GRACE = 20.0
"""Seconds that Snakemake gets to end its jobs when the user stops it."""
TOGETHER = 3
"""Jobs from which on a warm process is worth its start."""


def workflow_folder() -> Path:
    """Return the folder with the Snakefile and its profiles.

    Raises:
        StudyError: It is not here.
    """
    here = Path("workflow")
    if not (here / "Snakefile").is_file():
        raise StudyError("there is no workflow/Snakefile here: start in the root of the repository.")
    return here.resolve()


def prepare(wishes: Wishes) -> tuple[Plan, Path]:
    """Plan the study and forget what no longer holds; return the plan and the graph's folder."""
    plan = make_plan(wishes)
    folder = graph_folder(wishes.workspace)
    folder.mkdir(parents=True, exist_ok=True)
    drop_stale(folder, plan)
    return plan, folder


def reproduce(wishes: Wishes, executor: Executor = "local", jobs: int | None = None) -> list[Job]:
    """Do what is left of the study; return the jobs that failed.

    Finished work is not repeated; what failed the last time, or was damaged since, is tried again. Ctrl-C stops it at any moment.

    Args:
        wishes: What to do.
        executor: This machine, or the Slurm cluster it submits to (``workflow/profiles/slurm``).
        jobs: How many at once; by default one per core of this machine, and as many as the profile says on a cluster.

    Raises:
        StudyError: The plan is at fault, another process is at work in the workspace, or Snakemake cannot be started.
    """
    workflow = workflow_folder()
    folder = graph_folder(wishes.workspace)
    with _alone(folder) as lock:
        plan, _ = prepare(wishes)
        write_plan(plan, wishes.workspace)
        _drop_old_book(plan, folder)
        if not open_jobs(plan, folder):
            return []
        at_once = jobs or usual_jobs(executor)
        with _warm(plan, folder, executor) as environment:
            command = _snakemake(workflow, folder, executor, jobs)
            for _ in range(2):
                progress = Progress(plan, folder, at_once)
                status = _run(command, folder, environment, progress, lock)
                if status == 0 or not _give_up_lost(plan, folder):
                    break
        keep_seconds(plan, folder)
        failed = failures(plan, folder)
        if status != 0 and not failed:
            raise StudyError(
                f"the graph could not be done; the last lines of {folder / 'snakemake.log'}:\n{_tail(folder)}"
            )
        return failed


def summary(plan: Plan, folder: Path) -> str:
    """Return what is told at the end of a graph in which something failed."""
    failed = failures(plan, folder)
    return "\n".join([f"{len(failed)} of {len(list_jobs(plan))} jobs failed:", *say_failures(plan, folder)])


def usual_jobs(executor: Executor) -> int:
    """Return how many jobs there are at once: one single-threaded process per core, one where there is a GPU."""
    if executor == "slurm":
        return 64
    if has_gpu():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    """Tell whether there is an NVIDIA GPU, without importing PyTorch."""
    return Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def _drop_old_book(plan: Plan, folder: Path) -> None:
    """Forget that the book was built when one of its sources is younger."""
    record = record_path(folder, Job("book", "book"))
    if plan["book"] and record.exists():
        built = record.stat().st_mtime
        if any(Path(path).stat().st_mtime > built for path in plan["book_sources"]):
            record.unlink()


def _snakemake(workflow: Path, folder: Path, executor: Executor, jobs: int | None) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow / "Snakefile")]
    command += ["--directory", str(folder), "--runtime-source-cache-path", str(folder / "sources")]
    command += [
        "--nolock",
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "--keep-going",
        "--scheduler",
        "greedy",
    ]
    if executor == "slurm":
        command += ["--workflow-profile", str(workflow / "profiles" / "slurm")]
        return command + (["--jobs", str(jobs)] if jobs else [])
    cores = jobs or len(os.sched_getaffinity(0))
    at_once = ["--resources", "gpu=1"] if has_gpu() else []
    return [*command, "--workflow-profile", "none", "--cores", str(cores), *at_once]


def _run(
    command: list[str], folder: Path, environment: dict[str, str], progress: Progress, lock: IO[str]
) -> int:
    """Run Snakemake until it ends; Ctrl-C and SIGTERM end it and all its jobs."""
    with (folder / "snakemake.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock.fileno()],
            preexec_fn=_end_with_parent,
        )
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            while process.poll() is None:
                _tell(progress)
                time.sleep(0.25)
            _tell(progress)
            return process.returncode
        except KeyboardInterrupt:
            print("stopping; what is finished is kept", file=sys.stderr)
            _stop(process)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _tell(progress: Progress) -> None:
    if line := progress.line():
        print(line, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Ask Linux to interrupt this process when the one that started it is killed."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGINT)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt Snakemake and its jobs, all of which are in its process group; kill what has not ended by then."""
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """Hold the graph's lock; Snakemake inherits it, so that it is free only when both are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"the graph in {folder} is being done already: see 'make status', and wait for it or stop it."
            ) from None
        yield lock


@contextlib.contextmanager
def _warm(plan: Plan, folder: Path, executor: Executor) -> Iterator[dict[str, str]]:
    """Yield the environment of jobs; where many small ones run here, with a warm process at hand."""
    environment = dict(os.environ)
    environment.pop(WARM, None)
    if executor == "local" and not has_gpu():
        environment["OMP_NUM_THREADS"] = "1"
    few = len(open_jobs(plan, folder)) < TOGETHER
    if executor != "local" or has_gpu() or few or not hasattr(os, "fork"):
        yield environment
        return
    with warm_process(folder, environment) as path:
        yield {**environment, WARM: path}


@contextlib.contextmanager
def warm_process(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start a warm process (`warm`) with its log in a folder; yield its socket's path, and end it with the context."""
    with tempfile.TemporaryDirectory(
        prefix="desam-lite-"
    ) as place:  # a socket's path may have 107 bytes only
        path = str(Path(place) / "warm")
        command = [sys.executable, "-m", "desam_lite.study.workflow.warm", path]
        with (folder / "warm.log").open("w") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            _wait_for(path, process)
            try:
                yield path
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(GRACE)


def _wait_for(path: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the socket is there; the imports go on meanwhile."""
    while not Path(path).exists() and process.poll() is None:
        time.sleep(0.02)


def _give_up_lost(plan: Plan, folder: Path) -> bool:
    """Record as failed the runs that ended without any record (their machine went away); return whether there were some."""
    lost = [
        job
        for job in open_jobs(plan, folder)
        if job.kind in ("run", "embeddings")
        and read_record(folder, job) is None
        and _could_run(plan, folder, job)
    ]
    for job in lost:
        fail(
            folder,
            job,
            "its process was lost, with its machine or for its memory: start again, finished work is kept.",
        )
    return bool(lost)


def _could_run(plan: Plan, folder: Path, job: Job) -> bool:
    part = plan["runs" if job.kind == "run" else "embeddings"]
    return (read_record(folder, Job("data", part[job.key]["data"])) or {}).get("status") == "ok"


def _tail(folder: Path) -> str:
    return "\n".join((folder / "snakemake.log").read_text(errors="replace").splitlines()[-10:])
