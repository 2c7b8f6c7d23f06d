"""What the study costs: runs counted from the plans, bytes from the shapes, minutes and memory from the recorded benchmarks.

Every row is of a recorded benchmark, on the device that it names. Hours follow from the measured rates; runs of methods without
one are counted and listed.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from desam_lite.data.manifest import load_manifest
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.sam import get_backbone
from desam_lite.study.plans import EXPERIMENTS, plan_experiment
from desam_lite.study.profiles import Profile
from desam_lite.study.report.benchmark_tables import read_benchmarks
from desam_lite.study.report.sentences import count
from desam_lite.study.report.style import WIDTH, DescribedFigure, describe, styled

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}
"""Bytes of one number in each format of stored embeddings."""

ENCODE, TRAIN, PREDICT = "encode", "train, per epoch", "predict"
"""The three costly steps, as `measured` names them."""

DECODERS = ("desam", "sam_finetuned", "sam_zero_shot")
"""The methods whose rates are measured: they train or run a decoder on stored embeddings."""

_SYNTHETIC = "phantom_"
_FORMAT_COLORS = {"float32": "#0072b2", "bfloat16": "#56b4e9", "float8": "#009e73"}
_TRAINED_SHARE = 0.9  # of a source's cases; the others are held out, as published


def embedding_bytes(backbone: str, fmt: str) -> int:
    """Return the bytes of one slice's four maps, without the few of checksums and scales.

    >>> embedding_bytes("vit_b", "float32") == (3 * 768 + 256) * 64 * 64 * 4
    True
    """
    spec = get_backbone(backbone)
    return (3 * spec.width + spec.neck) * spec.grid**2 * BYTES[fmt]


def plan_study(profile: Profile, weights: str) -> dict[str, list[RunSpec]]:
    """Return the runs of every experiment on its own task, or on the real one of that kind where the profile is for real data."""
    tasks = {
        name: usual.manifest.removeprefix(_SYNTHETIC) if profile.needs_weights else usual.manifest
        for name, usual in EXPERIMENTS.items()
    }
    return {name: plan_experiment(name, profile, task, weights=weights) for name, task in tasks.items()}


def measured(folder: Path | str, points: int = 81) -> pd.DataFrame:
    """Return what the recorded benchmarks of a folder measured of the three costly steps, with a grid of that many points.

    Returns:
        One row per step, backbone, setting and device: ``seconds`` per slice and ``MB`` of peak memory.
    """
    rows: list[dict[str, Any]] = []

    def add(row: dict[Any, Any], step: str, setting: str, seconds: float) -> None:
        measure = {"step": step, "backbone": row["backbone"], "setting": setting, "seconds": seconds}
        rows.append({**measure, "MB": row["peak_mb"], "device": row["device"], "commit": row["commit"]})

    for row in read_benchmarks(folder, "encoder").to_dict("records"):
        add(row, ENCODE, f"batch {row['batch']}, {row['format']}", 1 / row["images_per_second"])
    for row in read_benchmarks(folder, "training").to_dict("records"):
        setting = f"batch {row['batch_size']}, {row['precision']}, {row['fmt']} from {row['placement']}"
        add(row, TRAIN, setting, 1 / row["samples_per_second"])
    for row in read_benchmarks(folder, "inference").to_dict("records"):
        if row["points"] == points:
            add(row, PREDICT, f"{points} points", row["seconds"])
    return pd.DataFrame(rows, columns=["step", "backbone", "setting", "seconds", "MB", "device", "commit"])


@dataclass(frozen=True)
class Rates:
    """How many slices a second one device (and backbone, in words) encodes, trains on, and predicts with 9 x 9 points."""

    device: str
    encode: float
    train: float
    predict: float


def read_rates(folder: Path | str, backbone: str) -> list[Rates]:
    """Return the best rates of every device on which all three steps were measured with that backbone."""
    rows = measured(folder)
    rates = []
    for device, own in rows[rows["backbone"] == backbone].groupby("device", sort=False):
        best = 1 / own.groupby("step")["seconds"].min()
        if {ENCODE, TRAIN, PREDICT} <= set(best.index):
            rates.append(Rates(f"{device}, {backbone}", best[ENCODE], best[TRAIN], best[PREDICT]))
    return rates


def run_seconds(spec: RunSpec, rates: Rates, slices_per_case: float) -> float:
    """Return the seconds of one run of `DECODERS`: epochs over the training slices, then every slice of every case once."""
    cases = _cases(spec.manifest)
    trained = (spec.epochs or 0) * _TRAINED_SHARE * cases[spec.source] * slices_per_case / rates.train
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


def study_hours(
    specs: Sequence[RunSpec], rates: Rates, slices_per_case: float, devices: Sequence[int] = (1, 8, 64)
) -> pd.DataFrame:
    """Return the expected hours of a study by the number of devices.

    Runs (each once) whose method has no measured rate, and those on synthetic scans, are counted, not timed. The slices of a
    task are encoded by one job; the tasks, and the runs after them, go side by side.

    Returns:
        One row per number of devices: ``devices``, ``runs``, ``runs_without_rate``, ``encode_hours``, ``run_hours`` (sum),
        ``longest_run_hours``, ``wall_hours``.
    """
    timed = [spec for spec in specs if _is_timed(spec)]
    seconds = [run_seconds(spec, rates, slices_per_case) for spec in timed]
    tasks = {spec.manifest for spec in timed}
    encodes = [sum(_cases(task).values()) * slices_per_case / rates.encode for task in tasks]
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


def _is_timed(spec: RunSpec) -> bool:
    return spec.method in DECODERS and any(_cases(spec.manifest).values())


@cache
def _cases(manifest: Path) -> dict[str, int]:
    return {name: domain.cases or 0 for name, domain in load_manifest(manifest).domains.items()}


def say_hours(specs: Sequence[RunSpec], table: pd.DataFrame, rates: Rates) -> str:
    """Return the arithmetic of `study_hours` in words."""
    first = table.iloc[0]
    untimed = Counter(spec.label for spec in specs if not _is_timed(spec))
    times = ", ".join(f"{_hours(row['wall_hours'])} on {row['devices']}" for row in table.to_dict("records"))
    sentence = (
        f"At the rates measured on {rates.device} (slices per second: encoding {rates.encode:.3g}, training {rates.train:.3g}, "
        f"predicting {rates.predict:.3g}), {len(specs) - untimed.total()} of {count(len(specs), 'planned run')} take "
        f"{_hours(first['run_hours'])} of computing after {_hours(first['encode_hours'])} of encoding: {times} such devices."
    )
    if untimed:
        each = ", ".join(f"{label} {number}" for label, number in untimed.items())
        sentence += (
            f" The other {count(untimed.total(), 'run')} have no measured rate and come on top: {each}."
        )
    return sentence


def say_gpu(folder: Path | str) -> str:
    """Say that nothing was measured on a GPU, where that is so."""
    if any(Path(folder).glob("*-cuda.json")):
        return ""
    return " **Nothing was measured on a GPU**; hours are estimates from rates measured on processors."


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def draw_bytes(table: pd.DataFrame, slices: int) -> DescribedFigure:
    """Draw gigabytes (a row per backbone, a column per format) as bars on a logarithmic scale."""
    with styled():
        figure = Figure((WIDTH, 2.9), layout="constrained")
        ax = figure.subplots()
        table.plot.barh(ax=ax, color=list(_FORMAT_COLORS.values()), width=0.8, logx=True, legend=False)
        for bars in ax.containers:
            ax.bar_label(bars, fmt="{:.3g}", padding=3, fontsize=8)  # type: ignore[arg-type]
        ax.set(xlabel=f"gigabytes for {slices:,} slices", ylabel="", xlim=(None, table.to_numpy().max() * 4))
        ax.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=len(table.columns))
    parts = {
        str(name): ", ".join(f"{value:.3g} in {fmt}" for fmt, value in row.items())
        for name, row in table.iterrows()
    }
    return DescribedFigure(figure, describe(f"Bars: gigabytes of the embeddings of {slices:,} slices", parts))
