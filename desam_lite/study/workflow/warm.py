"""A warm process: it has imported what jobs and notebooks need, and does each in a copy of itself.

Importing PyTorch, MONAI and the rest takes several seconds, more than a small run. On one machine with many small jobs that is
paid once: ``python -m ...warm SOCKET`` imports, then forks a copy per job that `job` asks for, or per kernel
that `desam_lite.study.workflow.kernel` does. The copy writes to the asker's output, and is killed when the asker
goes away. The warm process ends when its standard input is closed: with whoever started it.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from desam_lite.utils.memory import keep_freed_memory

BY_JOBS = ("desam_lite.study.workflow.jobs", "desam_lite.synthetic.phantoms", "papermill", "nbclient")
BY_KERNELS = (
    *("ipykernel.kernelapp", "matplotlib.backends.backend_agg", "myst_nb"),
    *(
        "desam_lite.study.report.comparison",
        "desam_lite.study.report.score_figures",
        "desam_lite.study.report.notebook",
    ),
    *(
        "desam_lite.evaluation.statistics",
        "desam_lite.study.report.contact_sheets",
        "desam_lite.study.report.sentences",
    ),
)


def work(folder: str, kind: str, key: str) -> int:
    """Do one job of the graph in this process; return its exit status."""
    from desam_lite.study.workflow.jobs import do_job
    from desam_lite.study.workflow.records import Job

    return do_job(Path(folder), Job(kind, key))  # type: ignore[arg-type]  # the graph knows no other kinds


def run_kernel(*arguments: str) -> int:
    """Be a notebook's kernel until it is told to end; return its exit status."""
    import matplotlib
    import torch
    from ipykernel.kernelapp import IPKernelApp

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    app: Any = IPKernelApp.instance(parent_handle=os.getppid())  # a kernel ends when this process does
    app.initialize(list(arguments))
    matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]  # read at its import, which was before
    app.start()
    app.close()
    return 0


TASKS: dict[str, Callable[..., int]] = {"job": work, "kernel": run_kernel}
"""What a copy may be asked to do, each with the arguments it is asked with."""


def main() -> None:
    """Listen at the path of the first argument until standard input is closed."""
    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)  # who asks before the imports are done, waits
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asked
    _import_all(BY_JOBS)
    asked: dict[int, socket.socket] = {}
    try:
        while _serve(listener, asked):
            pass
    finally:
        for pid in asked:
            os.kill(pid, signal.SIGKILL)
        path.unlink(missing_ok=True)


def _import_all(more: Sequence[str]) -> None:
    from desam_lite.study.parallel import IMPORTED_ONCE

    for name in (*IMPORTED_ONCE, *more):
        with contextlib.suppress(ImportError):  # who needs what is not installed says so itself
            importlib.import_module(name)
    gc.freeze()  # so that the copies leave these objects, and the pages they lie in, alone


def _serve(listener: socket.socket, asked: dict[int, socket.socket]) -> bool:
    """Take what has come since the last call; return whether to go on."""
    watched: list[int | socket.socket] = [0, listener, *asked.values()]
    ready, _, _ = select.select(watched, [], [], 0.05)
    for pid, connection in list(asked.items()):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _answer(connection, os.waitstatus_to_exitcode(status))
            del asked[pid]
        elif connection in ready:  # nothing more is said on it: it was closed
            os.kill(pid, signal.SIGKILL)
    if listener in ready:
        connection, _ = listener.accept()
        if pid := _fork(connection, listener):
            asked[pid] = connection
    return not (0 in ready and not os.read(0, 1))


def _answer(connection: socket.socket, status: int) -> None:
    try:
        connection.sendall(str(status).encode())
    except OSError:
        pass  # nobody waits any more
    finally:
        connection.close()


def _fork(connection: socket.socket, listener: socket.socket) -> int:
    """Read what is asked and do it in a copy of this process; return its process id, or 0 for a broken question."""
    connection.settimeout(10)
    try:
        length, fds, _, _ = socket.recv_fds(connection, 8, 2)
        content = _read(connection, int.from_bytes(length, "big"))
        asked = json.loads(content)
        if asked["task"] == "kernel":
            _import_all(BY_KERNELS)  # when the first one is asked for: by then the jobs have begun
    except (OSError, ValueError, KeyError):
        connection.close()
        return 0
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        return pid
    listener.close()
    connection.close()
    _become(fds, asked)
    return 0


def _read(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise OSError("the connection was closed")
        content += part
    return content


def _become(fds: list[int], asked: dict[str, object]) -> None:
    """Do a job in this copy and end it."""
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, fd in enumerate([nothing, *fds]):
            os.dup2(fd, number)
        os.environ.clear()
        os.environ.update(dict(asked["environment"]))  # type: ignore[call-overload]
        os.chdir(str(asked["cwd"]))
        with keep_freed_memory():
            status = TASKS[str(asked["task"])](*asked["arguments"])  # type: ignore[misc]
    except BaseException as error:  # nothing may go back into the loop of the warm process
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
