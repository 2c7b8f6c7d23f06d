"""How processes that compute are started, and that they end with the one that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext

IMPORTED_ONCE = (
    "desam_lite.study.parallel",
    "desam_lite.methods.desam",
    "desam_lite.methods.samed",
    "desam_lite.methods.dapsam",
    "desam_lite.methods.unet",
    "desam_lite.methods.maxstyle",
    "desam_lite.methods.slaug",
    "desam_lite.methods.csdg",
    "lightning_fabric",
    "monai.metrics.utils",
    "monai.networks.nets.dynunet",
    "monai.transforms",
)
"""What a run imports, some of it on its way."""
GRACE = 20.0
"""Seconds that processes get to end when the user stops them."""


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_context(modules: Sequence[str] = IMPORTED_ONCE, *, gpu: bool = False) -> BaseContext:
    """Return how processes are started: forked from one that has imported everything, where that is possible.

    So the imports (seconds, hundreds of MiB) are paid once and not by every process. Where CUDA is at hand each process
    is a new one: it cannot be used in a fork of a process that has looked at it.

    Args:
        modules: What is imported before the forks; read when the first process starts.
        gpu: Whether CUDA is at hand.
    """
    if gpu or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def end_with_parent(end: Callable[[], object]) -> None:
    """Call a function that ends this process as soon as the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            end()

    threading.Thread(target=watch, daemon=True).start()
