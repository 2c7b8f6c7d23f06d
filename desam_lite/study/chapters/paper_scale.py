"""What the study costs: runs counted from the plans, bytes from the shapes, minutes and memory from the recorded benchmarks.

Every row is of a recorded benchmark, on the device that it names. Hours follow from the measured rates; runs of methods without
one are counted and listed.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.sam import get_backbone
from desam_lite.study.plans import EXPERIMENTS, plan_experiment
from desam_lite.study.profiles import Profile
from desam_lite.study.report.benchmark_tables import read_benchmarks
from desam_lite.study.report.sentences import count
from desam_lite.study.report.style import WIDTH, DescribedFigure, describe, styled

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}  # of a number, by format
MEASURED = {
    "encoder": ("encode", "batch {batch}, {format}"),
    "training": ("train, per epoch", "batch {batch_size}, {precision}, {fmt} from {placement}"),
    "inference": ("predict", "{points} points"),
}
"""The three costly steps: the benchmark of each, its name, and its setting in words."""

_SYNTHETIC = "phantom_"
_FORMAT_COLORS = {"float32": "#0072b2", "bfloat16": "#56b4e9", "float8": "#009e73"}


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
    """Return seconds per slice and MB of each recorded step, backbone, setting and device, with a grid of so many points."""
    rows: list[dict[str, Any]] = []
    for benchmark, (step, setting) in MEASURED.items():
        for record in read_benchmarks(folder, benchmark).to_dict("records"):
            row = {str(name): value for name, value in record.items()}
            if row.get("points", points) == points:
                rate = row.get("images_per_second") or row.get("samples_per_second") or 1 / row["seconds"]
                fields = {"step": step, "backbone": row["backbone"], "setting": setting.format(**row)}
                measure = {"seconds": 1 / rate, "MB": row["peak_mb"]}
                rows.append(fields | measure | {name: row[name] for name in ("device", "commit")})
    return pd.DataFrame(rows, columns=["step", "backbone", "setting", "seconds", "MB", "device", "commit"])


def read_rates(folder: Path | str, backbone: str) -> pd.DataFrame:
    """Return the best slices per second of the three `MEASURED` on every ``device`` where all were measured with a backbone."""
    rows = measured(folder)
    best = 1 / rows[rows["backbone"] == backbone].groupby(["device", "step"], sort=False)["seconds"].min()
    wide = best.unstack().reindex(columns=[step for step, _ in MEASURED.values()]).dropna()
    wide = wide.set_axis(["encode", "train", "predict"], axis=1).rename_axis("device").reset_index()
    return wide.assign(device=wide["device"] + f", {backbone}")


def say_hours(untimed: Sequence[RunSpec], table: pd.DataFrame, rates: "pd.Series[Any]") -> str:
    """Return the hours of a study in words, of a row per number of devices and of the runs whose method has no measured rate."""
    others, runs = Counter(spec.label for spec in untimed), int(table["runs"].iloc[0])
    encode, computing = (_hours(table[name].iloc[0]) for name in ("encode_hours", "run_hours"))
    times = ", ".join(f"{_hours(row['wall_hours'])} on {row['devices']}" for row in table.to_dict("records"))
    sentence = (
        f"At the rates measured on {rates['device']} (slices per second: encoding {rates['encode']:.3g}, training "
        f"{rates['train']:.3g}, predicting {rates['predict']:.3g}), {runs - len(untimed)} of "
        f"{count(runs, 'planned run')} take {computing} of computing after {encode} of encoding: {times} such devices."
    )
    each = ", ".join(f"{label} {number}" for label, number in others.items())
    left = f" The other {count(len(untimed), 'run')} have no measured rate and come on top: {each}."
    return sentence + left if untimed else sentence


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def say_gpu(folder: Path | str) -> str:
    """Say which of the three costly steps was not measured on a GPU, where any was not."""
    missing = [
        step for name, (step, _) in MEASURED.items() if not (Path(folder) / f"{name}-cuda.json").exists()
    ]
    if len(missing) == len(MEASURED):
        return " **Nothing was measured on a GPU**; hours are estimates from rates measured on processors."
    without = f" **On a GPU no rate of {'these steps' if missing[1:] else 'this step'} was measured: {'; '.join(missing)}.**"
    return f"{without} So no hours of one are given." if missing else ""


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
