"""What the study costs: runs counted from the plans, bytes from the shapes, minutes and memory from the recorded benchmarks.

Nothing here is a guess: a row exists where a benchmark has recorded it, on the device that it names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.sam import BACKBONES, get_backbone
from desam_lite.study.plans import EXPERIMENTS, plan_experiment
from desam_lite.study.profiles import Profile
from desam_lite.study.report.benchmark_tables import read_benchmarks
from desam_lite.study.report.style import WIDTH, styled

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}
"""Bytes of one number in each format of stored embeddings."""

ENCODE, TRAIN, PREDICT = "encode", "train, per epoch", "predict"
"""The three costly steps: what `measured` calls them."""

_SYNTHETIC = "phantom_"


def embedding_bytes(backbone: str, fmt: str) -> int:
    """Return the bytes of one slice's four maps, without the few of checksums and scales.

    >>> embedding_bytes("vit_b", "float32") == (3 * 768 + 256) * 64 * 64 * 4
    True
    """
    spec = get_backbone(backbone)
    return (3 * spec.width + spec.neck) * spec.grid**2 * BYTES[fmt]


def embedding_table(slices: int) -> pd.DataFrame:
    """Return the gigabytes of the embeddings of many slices: one row per backbone, one column per format."""
    return pd.DataFrame(
        {
            fmt: {name: slices * embedding_bytes(name, fmt) / 1e9 for name in BACKBONES}
            for fmt in ("float32", "bfloat16", "float8")
        }
    )


def plan_study(profile: Profile, weights: str) -> dict[str, list[RunSpec]]:
    """Return the runs of every experiment on its own task; where the profile is for real data, on the real one of that kind.

    Args:
        profile: How much work.
        weights: Of the encoder; the file need not exist.
    """
    tasks = {
        name: usual.manifest.removeprefix(_SYNTHETIC) if profile.needs_weights else usual.manifest
        for name, usual in EXPERIMENTS.items()
    }
    return {name: plan_experiment(name, profile, task, weights=weights) for name, task in tasks.items()}


def list_runs(plans: dict[str, list[RunSpec]]) -> list[RunSpec]:
    """Return the runs of all plans, each once, in order."""
    return list(dict.fromkeys(spec for specs in plans.values() for spec in specs))


def count_runs(plans: dict[str, list[RunSpec]]) -> pd.DataFrame:
    """Return per experiment its runs, its seeds, and how many runs no experiment before it has."""
    rows, seen = [], set[RunSpec]()
    for name, specs in plans.items():
        facts = {
            "experiment": name,
            "sources": len({spec.source for spec in specs}),
            "methods": len({spec.label for spec in specs}),
            "seeds": len({spec.seed for spec in specs}),
            "runs": len(specs),
            "of them new": len(set(specs) - seen),
        }
        rows.append(facts)
        seen.update(specs)
    return pd.DataFrame(rows)


def measured(folder: Path | str, points: int = 81) -> pd.DataFrame:
    """Return what has been measured of the three costly steps.

    Args:
        folder: With the recorded benchmarks.
        points: Of the grid of prompts.

    Returns:
        One row per step, backbone, setting and device: ``seconds`` per slice and ``MB`` of peak memory.
    """
    rows: list[dict[str, Any]] = []
    for one in _records(folder, "encoder"):
        rows.append(_row(one, ENCODE, f"batch {one['batch']}, {one['format']}", 1 / one["images_per_second"]))
    for one in _records(folder, "training"):
        setting = f"batch {one['batch_size']}, {one['precision']}, {one['fmt']} from {one['placement']}"
        rows.append(_row(one, TRAIN, setting, 1 / one["samples_per_second"]))
    for one in _records(folder, "inference"):
        if one["points"] == points:
            rows.append(_row(one, PREDICT, f"{points} points", one["seconds"]))
    columns = ["step", "backbone", "setting", "seconds", "MB", "device", "commit"]
    return pd.DataFrame(rows, columns=columns)


def _records(folder: Path | str, name: str) -> list[dict[Any, Any]]:
    return read_benchmarks(folder, name).to_dict("records")


def _row(one: dict[Any, Any], step: str, setting: str, seconds: float) -> dict[str, Any]:
    where = {"device": one["device"], "commit": one["commit"]}
    return {
        "step": step,
        "backbone": one["backbone"],
        "setting": setting,
        "seconds": seconds,
        "MB": one["peak_mb"],
        **where,
    }


def draw_bytes(table: pd.DataFrame, slices: int) -> Figure:
    """Draw the gigabytes of `embedding_table` as bars on a logarithmic scale."""
    shades = ("#0072b2", "#56b4e9", "#009e73")
    with styled():
        figure = Figure((WIDTH, 2.9), layout="constrained")
        ax = figure.subplots()
        for number, (fmt, color) in enumerate(zip(table, shades, strict=True)):
            places = [row + (number - 1) * 0.27 for row in range(len(table))]
            bars = ax.barh(places, table[fmt], 0.25, color=color, label=fmt)
            ax.bar_label(bars, [f"{value:.3g}" for value in table[fmt]], padding=3, fontsize=8)
        ax.set_yticks(range(len(table)), list(table.index))
        ax.set(
            xscale="log", xlabel=f"gigabytes for {slices:,} slices", xlim=(None, table.to_numpy().max() * 4)
        )
        ax.invert_yaxis()
        handles, names = ax.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def draw_bytes_alt(table: pd.DataFrame, slices: int) -> str:
    """Say what `draw_bytes` shows."""
    said = "; ".join(
        f"{name}: {', '.join(f'{v:.3g} in {fmt}' for fmt, v in row.items())}"
        for name, row in table.iterrows()
    )
    return f"Bars: gigabytes of the embeddings of {slices:,} slices. {said}."


def devices(rows: pd.DataFrame) -> Sequence[str]:
    """Return the devices of `measured`, in order."""
    return list(dict.fromkeys(rows["device"]))
