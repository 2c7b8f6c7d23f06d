"""What the benchmarks share: options, time, peak memory, and the file a result is written to."""

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
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

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on a GPU."""
        return self.device.type == "cuda"

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds one call takes."""
        clock = CLOCKS[self.clock]
        self._finish()
        start = clock()
        call()
        self._finish()
        return clock() - start

    def cost(self, call: Callable[[], object], repeats: int = 3) -> "Cost":
        """Measure a call: once for its memory (and to warm up), then ``repeats`` times for its seconds; 0: of that one."""
        times: list[float] = []
        peak = self._peak(lambda: times.append(self.seconds(call)))
        return Cost(statistics.median([self.seconds(call) for _ in range(repeats)] or times), peak)

    def fastest_batch(self, call: Callable[[int], object], batches: Sequence[int]) -> int:
        """Return the batch of the most items per second; larger ones are left once one does not fit into memory."""
        rates: dict[int, float] = {}
        for batch in batches if len(batches) > 1 else ():
            try:
                self.seconds(lambda b=batch: call(b))
                rates[batch] = batch / self.seconds(lambda b=batch: call(b))
            except torch.OutOfMemoryError:
                break
        torch.cuda.empty_cache()
        return max(rates, key=lambda batch: rates[batch], default=batches[0])

    def _peak(self, call: Callable[[], object]) -> float:
        gc.collect()
        _return_memory()
        reset_peak_memory()
        if self.on_gpu:
            before = torch.cuda.memory_allocated(self.device) / 2**20
            call()
            return peak_memory()["gpu_mib"] - before
        before = psutil.Process().memory_info().rss / 2**20
        call()
        return peak_memory()["process_mib"] - before

    def _finish(self) -> None:
        if self.on_gpu:
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


def build_model(backbone: str, options: Options) -> DeSAM:
    """Return a model with random weights, made where it runs: on a processor those of ViT-H take half a minute."""
    with torch.device(options.device):
        return build_desam(backbone, device=options.device)


def shares_by_operation(call: Callable[[], object], options: Options, largest: int = 8) -> dict[str, float]:
    """Return the share of each operation's own time in one call, the largest first."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if options.on_gpu else [])]
    with profile(activities=activities) as trace:
        call()
    field = "self_device_time_total" if options.on_gpu else "self_cpu_time_total"
    # Kernels are listed beside the operations that launch them: each counts once. Operations have a library's name before "::".
    rows = trace.key_averages()
    operations = [row for row in rows if row.device_type == DeviceType.CPU and "::" in row.key]
    times = {event.key: getattr(event, field) for event in operations}
    total = sum(times.values()) or 1
    return {name: round(times[name] / total, 3) for name in sorted(times, key=lambda n: -times[n])[:largest]}


def _return_memory() -> None:
    """Give freed memory back to the system, where the C library can: else it would be counted as held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def recorded(name: str, options: Options) -> dict[str, Any]:
    """Return the result on file that a run would write over, so that what it does not measure can be kept; {} for a quick one."""
    path = _path(name, options)
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    return result


def _path(name: str, options: Options) -> Path:
    return options.out / f"{name}-{options.device.type}.json"


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with four significant digits, and nothing where there is no number."""
    return {k: _rounded_number(v) if isinstance(v, float) else v for k, v in row.items()}


def _rounded_number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def write_result(name: str, options: Options, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Write rows and where they come from to ``NAME-DEVICE.json``; returns the path.

    Called after every row, it leaves what there is where a time limit ends the run.
    """
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
    if rows:
        print(json.dumps(rounded(rows[-1])), flush=True)
    print(f"written to {path}", flush=True)
    return path
