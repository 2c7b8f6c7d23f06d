"""Figures of scores and losses: data in, `Figure` out; nothing here trains, shows or saves.

Each figure has a sibling, named ``*_alt``, that says in words what is in it, from the same data. Pictures of slices are in
`desam_lite.study.report.slice_figures`.
"""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from desam_lite.study.report.style import (
    NO_RUNS,
    UNITS,
    WIDTH,
    add_legend,
    empty_figure,
    method_color,
    method_marker,
    oracle_note,
    styled,
)

_NAME = 16  # characters of a method's name on one line, so that the axis keeps its room


def draw_heatmaps(matrices: Mapping[str, pd.DataFrame], *, metric: str = "dice") -> Figure:
    """Draw one source x target matrix per method, all on one scale; in-domain cells are framed.

    Args:
        matrices: Method -> matrix of `results.score_matrix`; equal rows and columns in all.
        metric: Names the scale; Dice always runs from 0 to 100 %, a distance from 0 to the largest.

    Returns:
        The figure; a cell without a score is grey and holds a dash.
    """
    if not matrices:
        return empty_figure()
    title, factor = UNITS[metric]
    top = 100.0 if metric == "dice" else _largest(matrices)
    columns = min(2, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    n_sources, n_targets = next(iter(matrices.values())).shape
    with styled():
        cell = (WIDTH - 1.1) / columns / max(n_targets, 3)
        figure = Figure((WIDTH, rows * (cell * n_sources + 0.75) + 0.7), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(matrices) :]:
            ax.set_axis_off()
        for ax, (label, matrix) in zip(axes.flat, matrices.items(), strict=False):
            picture = _heatmap(
                ax, matrix * factor, label, top, "viridis" if metric == "dice" else "viridis_r"
            )
        for ax in axes[:, 0]:
            ax.set_ylabel("source (trained on)")
        bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.55, aspect=32, pad=0.02)
        bar.set_label(f"{title}; framed: in domain")
        bar.outline.set_visible(False)
    return figure


def draw_heatmaps_alt(matrices: Mapping[str, pd.DataFrame], *, metric: str = "dice") -> str:
    """Say what `draw_heatmaps` shows: for each method the range in and out of domain."""
    if not matrices:
        return f"Empty figure: {NO_RUNS}."
    title, factor = UNITS[metric]
    parts = []
    for label, matrix in matrices.items():
        inside = np.array([[row == column for column in matrix.columns] for row in matrix.index])
        values = matrix.to_numpy(float) * factor
        ranges = f"{_range(values[inside])} in domain, {_range(values[~inside])} out of domain"
        parts.append(f"{label}: {ranges}")
    return f"Heat maps of {title}, one per method, rows are sources and columns targets. {'; '.join(parts)}."


def _heatmap(ax: Axes, matrix: pd.DataFrame, label: str, top: float, cmap: str) -> Any:
    colors = mpl.colormaps[cmap].with_extremes(bad="#e6e6e6")
    values = matrix.to_numpy(float)
    picture = ax.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=0, vmax=top, aspect="equal")
    for row, source in enumerate(matrix.index):
        for column, target in enumerate(matrix.columns):
            _cell(ax, (row, column), values[row, column], picture, inside=source == target)
    ax.set_xticks(range(len(matrix.columns)), list(matrix.columns))
    ax.set_yticks(range(len(matrix.index)), list(matrix.index))
    for place in range(1, len(matrix.columns)):
        ax.axvline(place - 0.5, color="white", lw=1)
    for place in range(1, len(matrix.index)):
        ax.axhline(place - 0.5, color="white", lw=1)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(label, color=method_color(label), fontweight="bold")
    ax.set_xlabel("target (tested on)")
    return picture


def _cell(ax: Axes, place: tuple[int, int], value: float, picture: Any, *, inside: bool) -> None:
    row, column = place
    background = picture.cmap(picture.norm(value)) if np.isfinite(value) else (0.9, 0.9, 0.9, 1.0)
    luminance = float(np.dot(np.power(background[:3], 2.2), (0.2126, 0.7152, 0.0722)))
    dark = luminance < 0.2  # above it, black stands out more than white
    color = "white" if dark else "black"
    text = f"{value:.0f}" if np.isfinite(value) else "-"
    ax.text(column, row, text, ha="center", va="center", color=color, fontsize=9.5)
    if inside:
        ax.add_patch(Rectangle((column - 0.42, row - 0.42), 0.84, 0.84, fill=False, ec=color, lw=1.6))


def draw_averages(summary: pd.DataFrame, cells: pd.DataFrame, *, metric: str = "dice") -> Figure:
    """Draw the average of each method in and out of domain with its 95 % interval, over the cells it is made of.

    Args:
        summary: `results.summarise` by label and in_domain.
        cells: The same by label, in_domain, source and target: the small dots.
        metric: Names the axis.

    Returns:
        The figure.
    """
    if summary.empty:
        return empty_figure()
    title, factor = UNITS[metric]
    labels = list(dict.fromkeys(summary["label"]))
    with styled():
        figure = Figure((WIDTH, 1.4 + 0.62 * len(labels)), layout="constrained")
        ax = figure.subplots()
        for row, label in enumerate(labels):
            _method_row(
                ax, row, label, summary[summary["label"] == label], cells[cells["label"] == label], factor
            )
        ax.set_yticks(range(len(labels)), [textwrap.fill(label, _NAME) for label in labels])
        for tick, label in zip(ax.get_yticklabels(), labels, strict=True):
            tick.set(color=method_color(label), fontweight="bold")
        ax.set_ylim(len(labels) - 0.45, -0.6)
        ax.set_xlim(left=0, right=100 if metric == "dice" else None)
        note = oracle_note(labels)
        ax.set_xlabel(f"{title}: mean and 95 % interval\nsmall dots: one source on one target{note}")
        ax.grid(axis="x")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        add_legend(figure, [_marker("in domain", True), _marker("out of domain", False)])
    return figure


def draw_averages_alt(summary: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say what `draw_averages` shows: every mean with its interval."""
    if summary.empty:
        return f"Empty figure: {NO_RUNS}."
    title, factor = UNITS[metric]
    parts = []
    for label, rows in summary.groupby("label", sort=False):
        said = [
            f"{_interval(row, factor)} {'in' if row['in_domain'] else 'out of'} domain"
            for _, row in rows.iterrows()
        ]
        parts.append(f"{label} {', '.join(said)}")
    return f"Dot plot of the mean {title} of each method with 95 % intervals: {'; '.join(parts)}."


def _method_row(
    ax: Axes, row: int, label: str, summary: pd.DataFrame, cells: pd.DataFrame, factor: float
) -> None:
    color, marker = method_color(label), method_marker(label)
    for inside, height in ((True, row - 0.14), (False, row + 0.14)):
        small = cells[cells["in_domain"] == inside]["mean"].to_numpy(float) * factor
        ax.plot(small, np.full(len(small), height), marker, ms=3.2, color=color, alpha=0.28, mew=0)
        for _, one in summary[summary["in_domain"] == inside].iterrows():
            ax.plot(
                [one["low"] * factor, one["high"] * factor],
                [height] * 2,
                color=color,
                lw=2.2,
                solid_capstyle="butt",
            )
            face = color if inside else "white"
            ax.plot(one["mean"] * factor, height, marker, ms=6.5, color=color, mfc=face, mew=1.8)
            ax.text(
                1.01,
                height,
                f"{one['mean'] * factor:.0f}",
                transform=ax.get_yaxis_transform(),
                va="center",
                color=color,
            )


def _marker(label: str, filled: bool) -> Line2D:
    face = "#444444" if filled else "white"
    return Line2D([], [], color="#444444", marker="o", ms=7, mfc=face, mew=1.8, ls="none", label=label)


def draw_training(history: pd.DataFrame) -> Figure:
    """Draw the losses of every run, one panel per method with a scale of its own: thin lines are runs, thick ones their median.

    Args:
        history: Rows of `Run.history` of all runs: label, source, seed, epoch, train_loss, val_loss.

    Returns:
        The figure.
    """
    if history.empty:
        return empty_figure()
    labels = list(dict.fromkeys(history["label"]))
    columns = min(3, len(labels))
    rows = math.ceil(len(labels) / columns)
    with styled():
        figure = Figure((WIDTH, 2.1 * rows + 0.45), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for ax in axes.flat[len(labels) :]:
            ax.set_axis_off()
        for ax, label in zip(axes.flat, labels, strict=False):
            _losses(ax, history[history["label"] == label], method_color(label))
            ax.set_title(label, color=method_color(label), fontweight="bold")
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
            ax.set_ylim(bottom=0)
            ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        for ax in axes[:, 0]:
            ax.set_ylabel("loss")
        lines = [("training", "solid"), ("validation (source)", (0, (4, 2)))]
        add_legend(
            figure, [Line2D([], [], color="#444444", lw=2, ls=line, label=name) for name, line in lines]
        )
    return figure


def draw_training_alt(history: pd.DataFrame) -> str:
    """Say what `draw_training` shows: where the median losses start and end."""
    if history.empty:
        return f"Empty figure: {NO_RUNS}."
    parts = []
    for label, rows in history.groupby("label", sort=False):
        median = rows.groupby("epoch")[["train_loss", "val_loss"]].median()
        moves = ", ".join(
            f"{name} loss from {median[column].iloc[0]:.2f} to {median[column].iloc[-1]:.2f}"
            for name, column in (("training", "train_loss"), ("validation", "val_loss"))
        )
        runs = len(rows[["source", "seed"]].drop_duplicates())
        parts.append(f"{label} ({runs} {'run' if runs == 1 else 'runs'}) median {moves}")
    return f"Training curves over {int(history['epoch'].nunique())} epochs: {'; '.join(parts)}."


def _losses(ax: Axes, history: pd.DataFrame, color: str) -> None:
    for column, line in (("train_loss", "solid"), ("val_loss", (0, (4, 2)))):
        for _, run in history.groupby(["source", "seed"]):
            ax.plot(run["epoch"], run[column], color=color, lw=0.6, alpha=0.3, ls=line)
        median = history.groupby("epoch")[column].median()
        ax.plot(median.index, median, color=color, lw=2, ls=line, marker="o" if len(median) == 1 else None)
    ax.grid(axis="y")


def _range(values: npt.NDArray[np.float64]) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "nothing"
    return f"{known.min():.0f} to {known.max():.0f}" if len(known) > 1 else f"{known[0]:.0f}"


def _interval(row: pd.Series, factor: float) -> str:
    mean = f"{row['mean'] * factor:.0f}"
    if not np.isfinite(row["low"]):
        return mean
    return f"{mean} ({row['low'] * factor:.0f} to {row['high'] * factor:.0f})"


def _largest(matrices: Mapping[str, pd.DataFrame]) -> float:
    values = np.concatenate([matrix.to_numpy(float).ravel() for matrix in matrices.values()])
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else 1.0
