"""What the benchmarks share: options, time, peak memory, and the file a result is written to."""

import argparse
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from desam_lite.files import write_json
from desam_lite.provenance import (
    code_version,
    device_name,
    library_versions,
    peak_memory,
    reset_peak_memory,
)

STARTED_AT_LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RESULTS = Path(__file__).resolve().parent / "results"


class Options(NamedTuple):
    """How a benchmark is run.

    Attributes:
        quick: At a size that a test can wait for; its numbers say nothing.
        out: Folder of the result.
        device: Where the model runs.
        clock: One of `CLOCKS`.
    """

    quick: bool
    out: Path
    device: torch.device
    clock: str

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds one call takes."""
        clock = CLOCKS[self.clock]
        self._finish()
        start = clock()
        call()
        self._finish()
        return clock() - start

    def _return_memory() -> None:
    """Give freed memory back to the system, where the C library can: else it would be counted as held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with four significant digits."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def write_result(name: str, options: Options, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Write rows and where they come from to ``NAME-DEVICE.json``; returns the path."""
    path = options.out / f"{name}-{options.device.type}.json"
    origin = {
        "device": device_name(options.device),
        "libraries": library_versions(),
        "code": code_version(),
        "clock": options.clock,
        "load_before": STARTED_AT_LOAD,
        "quick": options.quick,
    }
    tables = {
        key: [rounded(r) for r in value] if isinstance(value, list) else value for key, value in more.items()
    }
    write_json(path, {**origin, **tables, "rows": [rounded(row) for row in rows]})
    print(f"written to {path}")
    return path
