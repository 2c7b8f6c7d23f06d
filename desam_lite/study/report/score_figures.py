"""Figures of scores: frames in, `Figure` out; siblings ``*_alt`` tell what is in them, from the same data."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from desam_lite.study.report import style
from desam_lite.study.report.curve_figures import start_plot
from desam_lite.study.report.sentences import format_interval

_NAME = 16  # characters of a method's name on one line, so that the axis keeps its room
_APART = 0.14  # of a row: in domain is drawn this far over its middle, out of domain below


def draw_heatmaps(matrices: Mapping[str, pd.DataFrame], *, metric: str = "dice") -> Figure:
    """Draw a matrix of `statistics.score_matrix` per method, all on one scale; in-domain cells are framed, missing ones grey."""
    if not matrices:
        return style.empty_figure()
    title, factor = style.UNITS[metric]
    largest = np.nanmax(pd.concat(matrices.values()).to_numpy(float) * factor, initial=0.0) or 1.0
    top, cmap = (100.0, "viridis") if metric == "dice" else (largest, "viridis_r")
    columns = min(2, len(matrices))
    rows = -(-len(matrices) // columns)
    n_sources, n_targets = next(iter(matrices.values())).shape
    with style.styled():
        side = (style.WIDTH - 1.1) / columns / max(n_targets, 3)
        figure = Figure((style.WIDTH, rows * (side * n_sources + 0.75) + 0.7), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(matrices) :]:
            ax.set_axis_off()
        for ax, (label, matrix) in zip(axes.flat, matrices.items(), strict=False):
            look = {"vmin": 0, "vmax": top, "cmap": cmap, "annot_kws": {"size": 9.5}, "linewidths": 1}
            sns.heatmap(matrix * factor, ax=ax, annot=True, fmt=".0f", square=True, cbar=False, **look)
            _mark_cells(ax, matrix)
            ax.set_title(label, color=style.method_color(label), fontweight="bold")
            ax.set(xlabel="target (tested on)", ylabel="source (trained on)" if ax in axes[:, 0] else "")
        cells = axes[0, 0].collections[0]
        bar = figure.colorbar(cells, ax=axes, location="bottom", shrink=0.55, aspect=32, pad=0.02)
        bar.set_label(f"{title}; framed: in domain")
        bar.outline.set_visible(False)
    return figure


def _mark_cells(ax: Axes, matrix: pd.DataFrame) -> None:
    """Frame the cells in domain and put a dash into those without a score."""
    ax.set_facecolor("#e6e6e6")
    ax.tick_params(length=0, labelrotation=0)
    missing = matrix.isna().to_numpy()
    for y, source in enumerate(matrix.index):
        for x, target in enumerate(matrix.columns):
            if missing[y, x]:
                ax.text(x + 0.5, y + 0.5, "-", ha="center", va="center")
            if source == target:
                frame = Rectangle((x + 0.09, y + 0.09), 0.82, 0.82, fill=False, ec="black", lw=1.2)
                frame.set_path_effects(
                    [withStroke(linewidth=3.6, foreground="white")]
                )  # for dark and light cells
                ax.add_patch(frame)


def draw_heatmaps_alt(matrices: Mapping[str, pd.DataFrame], *, metric: str = "dice") -> str:
    """Tell what `draw_heatmaps` shows: for each method the range in and out of domain."""
    if not matrices:
        return style.EMPTY_ALT
    title, factor = style.UNITS[metric]
    parts = []
    for label, matrix in matrices.items():
        inside = np.array([[row == column for column in matrix.columns] for row in matrix.index])
        home, away = (_range(matrix.to_numpy(float)[cells] * factor) for cells in (inside, ~inside))
        parts.append(f"{label}: {home} in domain, {away} out of domain")
    return f"Heat maps of {title}, one per method, rows are sources and columns targets. {'; '.join(parts)}."


def _range(values: Any) -> str:
    scored = values[np.isfinite(values)]
    ends = (scored.min(), scored.max()) if len(scored) else ()
    return " to ".join(dict.fromkeys(f"{end:.0f}" for end in ends)) or "nothing"


def draw_averages(summary: pd.DataFrame, cells: pd.DataFrame, *, metric: str = "dice") -> Figure:
    """Draw averages by label and in_domain with 95 % intervals; small dots are cells, averages by source and target too."""
    if summary.empty:
        return style.empty_figure()
    title, factor = style.UNITS[metric]
    labels = list(dict.fromkeys(summary["label"]))
    small, large = (
        _in_rows(frame[frame["label"].isin(labels)], labels, factor) for frame in (cells, summary)
    )
    with style.styled():
        figure = Figure((style.WIDTH, 1.4 + 0.62 * len(labels)), layout="constrained")
        ax = figure.subplots()
        dots, means = (start_plot(frame, "mean", "row") for frame in (small, large))
        dots = dots.add(so.Dots(pointsize=3.2, stroke=0, fillalpha=0.28), marker="label", legend=False)
        means = means.add(so.Range(linewidth=2.2), orient="y", xmin="low", xmax="high", legend=False)
        marks = so.Dots(pointsize=6.5, stroke=1.8, fillalpha=1)
        means = means.add(marks, marker="label", fillcolor="face", legend=False)
        for plot in (dots, means):
            plot.on(ax).plot()
        for order, drawn in enumerate(ax.collections, start=2):
            drawn.set_zorder(order)  # marks over the lines of their intervals
        for place, label, mean in zip(large["row"], large["label"], large["mean"], strict=True):
            look: dict[str, Any] = {"color": style.method_color(label), "transform": ax.get_yaxis_transform()}
            ax.text(1.01, place, f"{mean:.0f}", va="center", **look)
        ax.set_yticks(range(len(labels)), [textwrap.fill(label, _NAME) for label in labels])
        for tick, label in zip(ax.get_yticklabels(), labels, strict=True):
            tick.set(color=style.method_color(label), fontweight="bold")
        ax.set(ylim=(len(labels) - 0.45, -0.6), xlim=(0, 100 if metric == "dice" else None), ylabel="")
        note = f"small dots: one source on one target{style.oracle_note(labels)}"
        ax.set_xlabel(f"{title}: mean and 95 % interval\n{note}")
        ax.grid(axis="x")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        style.add_legend(figure, style.domain_handles())
    return figure


def _in_rows(frame: pd.DataFrame, labels: list[str], factor: float) -> pd.DataFrame:
    """Return scaled scores with the place of their ``row``."""
    scaled = {name: frame[name] * factor for name in ("mean", "low", "high") if name in frame}
    apart = np.where(frame["in_domain"].astype(bool), -_APART, _APART)
    return frame.assign(row=frame["label"].map(labels.index) + apart, **scaled)


def draw_averages_alt(summary: pd.DataFrame, *, metric: str = "dice") -> str:
    """Tell what `draw_averages` shows: every mean with its interval."""
    if summary.empty:
        return style.EMPTY_ALT
    title, factor = style.UNITS[metric]
    parts = []
    for label, rows in summary.groupby("label", sort=False):
        means = [
            f"{format_interval(row, factor, '.0f')} {'in' if row['in_domain'] else 'out of'} domain"
            for row in rows.to_dict("records")
        ]
        parts.append(f"{label} {', '.join(means)}")
    return f"Dot plot of the mean {title} of each method with 95 % intervals: {'; '.join(parts)}."
