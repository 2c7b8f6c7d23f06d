"""``python -m desam_lite.study.workflow.job FOLDER KIND KEY``: do one job of the graph and watch over it.

This process imports next to nothing. Where a warm process (`warm`) is at hand, the work is done in a copy of it, which
has imported everything; else in a new process. Whatever becomes of the worker, killed for its memory or crashed, is
recorded as the job's failure. Meanwhile the job's mark is touched, so that others see it is alive.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from desam_lite.study.workflow.records import BEAT, Job, begin, fail, mark_path

WARM = "DESAM_LITE_WARM"
"""Environment variable with the path of the warm process's socket."""
Poll = Callable[[float], int | None]
"""Waits at most so many seconds for a worker; returns its exit status (negative: killed by that signal) or None."""


def main() -> int:
    """Read the command line, do the job, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the graph's folder")
    parser.add_argument("kind", choices=("data", "embeddings", "run", "page", "book"))
    parser.add_argument("key")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--attempts-left", type=int, default=0, help="of those that follow a killed worker")
    given = parser.parse_args()
    os.environ["DESAM_LITE_THREADS"] = str(given.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    folder, job = given.folder.resolve(), Job(given.kind, given.key)
    mark = begin(folder, job)
    try:
        status = watch(_start(folder, job), mark)
        return status if status in (0, 1) else _mourn(folder, job, status, given.attempts_left)
    finally:
        mark_path(folder, job).unlink(missing_ok=True)


def _start(folder: Path, job: Job) -> Poll:
    path = os.environ.get(WARM, "")
    if path and Path(path).exists():
        try:
            return ask_warm(path, "job", [str(folder), *job])
        except OSError as error:
            print(f"the warm process does not answer ({error}): a new one is started", file=sys.stderr)
    return _start_new(folder, job)


def _start_new(folder: Path, job: Job) -> Poll:
    code = "import sys; from desam_lite.study.workflow.warm import work; sys.exit(work(*sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), *job])

    def poll(seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return poll


def ask_warm(path: str, task: str, arguments: list[str]) -> Poll:
    """Hand a task, this process's output and its environment to the warm process; its copy ends when this process does.

    Args:
        path: Of the warm process's socket.
        task: One of `desam_lite.study.workflow.warm.TASKS`.
        arguments: What the task takes.

    Returns:
        Waits for the copy.

    Raises:
        OSError: The warm process does not answer.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    asked = {"task": task, "arguments": arguments, "environment": dict(os.environ), "cwd": str(Path.cwd())}
    content = json.dumps(asked).encode()
    socket.send_fds(connection, [len(content).to_bytes(8, "big")], [1, 2])
    connection.sendall(content)

    def poll(seconds: float) -> int | None:
        connection.settimeout(seconds)
        try:
            answer = connection.recv(16)
        except TimeoutError:
            return None
        return int(answer) if answer else -signal.SIGKILL

    return poll


def watch(poll: Poll, mark: Path) -> int:
    """Wait for a worker and touch the job's mark meanwhile; return the worker's exit status."""
    while True:
        status = poll(BEAT)
        if status is not None:
            return status
        try:
            os.utime(mark)
        except FileNotFoundError:
            print(f"{time.ctime()}: the mark {mark} is gone", file=sys.stderr)


def _mourn(folder: Path, job: Job, status: int, attempts_left: int) -> int:
    """Record a worker that ended without a record of its own, or ask the graph for another attempt."""
    known = status < 0 and -status in [int(number) for number in signal.Signals]
    how = f"was killed ({signal.Signals(-status).name})" if known else f"ended with status {status}"
    memory = " (out of memory?)" if -status == signal.SIGKILL else ""
    reason = f"its process {how}{memory}: start again, finished work is kept."
    print(f"desam-lite: {reason}", file=sys.stderr)
    return 137 if attempts_left > 0 else fail(folder, job, reason)


if __name__ == "__main__":
    sys.exit(main())
