"""Arithmetic of the paper-sized study: how many runs there are, what each costs at measured rates, how long on so many GPUs."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from desam_lite.data.manifest import load_manifest
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.chapters.paper_scale import ENCODE, PREDICT, TRAIN, measured

DECODERS = ("desam", "sam_finetuned", "sam_zero_shot")
"""The methods whose rates are measured: they train or run a decoder on stored embeddings."""


@dataclass(frozen=True)
class Rates:
    """How fast one device is.

    Attributes:
        where: Device and backbone, in words.
        encode: Images encoded per second.
        train: Training slices per second.
        predict: Slices predicted per second with a grid of 9 x 9 points.
    """

    where: str
    encode: float
    train: float
    predict: float


def read_rates(folder: Path | str, backbone: str) -> list[Rates]:
    """Return the rates of every device on which all three steps were measured with that backbone.

    Args:
        folder: With the recorded benchmarks ``encoder``, ``training`` and ``inference``.
        backbone: The frozen encoder.
    """
    rows = measured(folder)
    rows = rows[rows["backbone"] == backbone]
    found = []
    for device, each in rows.groupby("device", sort=False):
        best = 1 / each.groupby("step")["seconds"].min()
        if {ENCODE, TRAIN, PREDICT} <= set(best.index):
            found.append(Rates(f"{device}, {backbone}", best[ENCODE], best[TRAIN], best[PREDICT]))
    return found


def run_seconds(spec: RunSpec, rates: Rates, slices_per_case: float) -> float:
    """Return the seconds of one run on one device: epochs over the training slices, then every slice of every case once.

    Args:
        spec: A run of one of `DECODERS`.
        rates: Of the device.
        slices_per_case: How many slices a scan has, on average.
    """
    domains = load_manifest(spec.manifest).domains
    cases = {name: domain.cases or 0 for name, domain in domains.items()}
    trained = (spec.epochs or 0) * 0.9 * cases[spec.source] * slices_per_case / rates.train
    return trained + sum(cases.values()) * slices_per_case / rates.predict


def wall_hours(seconds: Sequence[float], devices: int) -> float:
    """Return the hours of independent runs on so many devices, the longest first, each on the device that is free first.

    >>> wall_hours([3600, 3600, 7200], 2)
    2.0
    """
    free = [0.0] * devices
    for each in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free) / 3600


def scaling(
    specs: Sequence[RunSpec], rates: Rates, slices_per_case: float, devices: Sequence[int] = (1, 8, 64)
) -> pd.DataFrame:
    """Return the expected hours of a study by the number of devices, with its arithmetic.

    Args:
        specs: Each once (`costs.list_runs`); those whose method has no measured rate, and those on
            scans made to order, are counted, not timed.
        rates: Of one device.
        slices_per_case: How many slices a scan has, on average.
        devices: How many.

    Returns:
        One row per number of devices: ``devices``, ``runs``, ``runs_without_rate``, ``encode_hours``, ``run_hours`` (sum),
        ``longest_run_hours``, ``wall_hours``.
    """
    timed = [spec for spec in specs if spec.method in DECODERS and _cases(spec.manifest)]
    seconds = [run_seconds(spec, rates, slices_per_case) for spec in timed]
    # The slices of a task are encoded by one job; the tasks, and the runs after them, go side by side.
    encodes = [_cases(task) * slices_per_case / rates.encode for task in {spec.manifest for spec in timed}]
    rows = [
        {
            "devices": count,
            "runs": len(specs),
            "runs_without_rate": len(specs) - len(timed),
            "encode_hours": sum(encodes) / 3600,
            "run_hours": sum(seconds) / 3600,
            "longest_run_hours": max(seconds, default=0.0) / 3600,
            "wall_hours": wall_hours(encodes, count) + wall_hours(seconds, count),
        }
        for count in devices
    ]
    return pd.DataFrame(rows)


def _cases(manifest: Path) -> int:
    return sum(domain.cases or 0 for domain in load_manifest(manifest).domains.values())


def say_scaling(specs: Sequence[RunSpec], table: pd.DataFrame, rates: Rates) -> str:
    """Return the arithmetic in words, from the table of `scaling`."""
    first = table.iloc[0]
    each = ", ".join(f"{label} {count}" for label, count in Counter(spec.label for spec in specs).items())
    times = ", ".join(f"{_hours(row['wall_hours'])} on {row['devices']}" for row in table.to_dict("records"))
    return (
        f"The paper-sized study has {first['runs']:.0f} runs ({each}). At the rates measured on {rates.where} (encoding "
        f"{rates.encode:.3g}, training {rates.train:.3g}, predicting {rates.predict:.3g} slices per second) the "
        f"{first['runs'] - first['runs_without_rate']:.0f} runs with a measured rate take {_hours(first['run_hours'])} of "
        f"computing after {_hours(first['encode_hours'])} of encoding: {times} such devices."
    )


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"
