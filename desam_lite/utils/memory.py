"""What the C library does with memory that tensors no longer need."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

# Names and numbers of glibc's malloc.h; the second number is what glibc starts with.
_TRIM_THRESHOLD = (-1, 128 * 1024)
_MMAP_MAX = (-4, 65536)
_NEVER = -1
_inside = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let freed memory stay with the process inside this context, for the next tensor of its size.

    glibc asks the system for every block above 32 MiB and hands it back when it is freed. Then each large activation of a
    training step is made of fresh pages, which the system clears one by one; at ViT-B's size that is up to half of the time
    of a step on a CPU (``benchmarks/training.py``). After a few steps every tensor finds its place, and the process holds up to a
    third more than it would otherwise. On leaving (the outermost, where they lie in each other), the memory is handed back.
    Changes nothing with another C library, and no number that is computed.
    """
    global _inside
    library = ctypes.CDLL(None)
    set_option = cast("Callable[[int, int], int] | None", getattr(library, "mallopt", None))
    trim = cast("Callable[[int], int] | None", getattr(library, "malloc_trim", None))
    if set_option is None or trim is None:
        yield
        return
    set_option(_MMAP_MAX[0], 0)
    set_option(_TRIM_THRESHOLD[0], _NEVER)
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            for option, usual in (_MMAP_MAX, _TRIM_THRESHOLD):
                set_option(option, usual)
            trim(0)
