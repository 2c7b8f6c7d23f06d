"""What the benchmarks share: options, time, peak memory, and the file a result is written to."""

import argparse
import ctypes
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from desam_lite.utils.files import write_json
from desam_lite.utils.provenance import (
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

    def cost(self, call: Callable[[], object], repeats: int = 3) -> "Cost":
        """Measure a call: once for its memory (and to warm up), then ``repeats`` times for its seconds."""
        peak = self._peak(call)
        times = [self.seconds(call) for _ in range(repeats)]
        return Cost(statistics.median(times) if times else 0.0, peak)

    def _peak(self, call: Callable[[], object]) -> float:
        gc.collect()
        _return_memory()
        reset_peak_memory()
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device) / 2**20
            call()
            return peak_memory()["gpu_mib"] - before
        before = psutil.Process().memory_info().rss / 2**20
        call()
        return peak_memory()["process_mib"] - before

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Cost(NamedTuple):
    """What one call took: median seconds, and MiB above what was held before."""

    seconds: float
    peak_mb: float


def read_options(description: str) -> Options:
    """Read the command line; sets the number of torch's threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a run of seconds whose numbers say nothing")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the result (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, where the machine is not idle"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return Options(chosen.quick, chosen.out, torch.device(chosen.device), chosen.clock)


def _return_memory() -> None:
    """Give freed memory back to the system, where the C library can: else it would be counted as held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def recorded(name: str, options: Options) -> dict[str, Any]:
    """Return the result on file that a run would write over, so that what it does not measure can be kept; {} for a quick one."""
    path = _path(name, options)
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    return known


def _path(name: str, options: Options) -> Path:
    return options.out / f"{name}-{options.device.type}.json"


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with four significant digits."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def write_result(name: str, options: Options, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Write rows and where they come from to ``NAME-DEVICE.json``; returns the path."""
    path = _path(name, options)
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
