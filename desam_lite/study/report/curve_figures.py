"""Curves over points, scores and dials: data in, `Figure` out, each with a sibling that says in words what is in it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from desam_lite.study.report.style import (
    NO_RUNS,
    WIDTH,
    add_legend,
    empty_figure,
    method_color,
    method_marker,
    styled,
)

_GREY = "#444444"
_DASHED = (0, (4, 2))
_MARK = "#f0e442"


def draw_grid_curves(dice: pd.DataFrame, seconds: pd.DataFrame) -> Figure:
    """Draw Dice and cost over the number of points.

    Args:
        dice: `results.summarise` by label, in_domain and points.
        seconds: label, points, seconds (per slice).

    Returns:
        The figure: Dice with 95 % intervals at the left, seconds at the right; points on a logarithmic axis.
    """
    if dice.empty:
        return empty_figure()
    with styled():
        figure = Figure((WIDTH, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        for (label, inside), rows in dice.groupby(["label", "in_domain"], sort=False):
            _band(left, rows, "points", str(label), inside=bool(inside))
        for label, rows in seconds.groupby("label", sort=False):
            look = {"color": method_color(str(label)), "marker": method_marker(str(label))}
            right.plot(rows["points"], rows["seconds"], lw=1.8, ms=5, **look)
        for ax, title in ((left, "Dice (%)"), (right, "seconds per slice")):
            _log_points(ax, dice["points"])
            ax.set_ylabel(title)
            ax.grid(axis="y")
        left.set_ylim(0, 100)
        right.set_ylim(bottom=0)
        labels = list(dict.fromkeys(map(str, dice["label"])))
        add_legend(figure, [*_methods(labels), *_domains()])
    return figure


def draw_grid_curves_alt(dice: pd.DataFrame, seconds: pd.DataFrame) -> str:
    """Say what `draw_grid_curves` shows: each curve's first, best and last value, and the cost at both ends."""
    if dice.empty:
        return f"Empty figure: {NO_RUNS}."
    parts = []
    for (label, inside), rows in dice.groupby(["label", "in_domain"], sort=False):
        values, points = rows["mean"].to_numpy(float) * 100, rows["points"].to_numpy(int)
        best = int(np.nanargmax(values)) if np.isfinite(values).any() else 0
        parts.append(
            f"{label} {'in' if inside else 'out of'} domain {values[0]:.0f} with {points[0]}, "
            f"{values[best]:.0f} at best with {points[best]}, {values[-1]:.0f} with {points[-1]}"
        )
    for label, rows in seconds.groupby("label", sort=False):
        cost = {int(n): float(s) for n, s in zip(rows["points"], rows["seconds"], strict=True)}
        parts.append(
            f"{label!s} "
            + " and ".join(f"{cost[n]:.3f} s per slice with {n}" for n in (min(cost), max(cost)))
        )
    return f"Curves of Dice (%) and cost over the number of points: {'; '.join(parts)}."


def draw_calibration(table: pd.DataFrame) -> Figure:
    """Draw what the IoU head says against what is so.

    Args:
        table: Of `grid_study.calibration`.

    Returns:
        The figure, a panel per label; the larger a marker, the more prompts it stands for.
    """
    if table.empty:
        return empty_figure()
    labels = list(dict.fromkeys(table["label"]))
    with styled():
        figure = Figure((WIDTH, 3.2 if len(labels) > 1 else 3.8), layout="constrained")
        axes = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
        for ax, label in zip(axes, labels, strict=True):
            rows, color = table[table["label"] == label], method_color(label)
            sizes = 12 + 90 * np.sqrt(rows["prompts"].to_numpy(float) / rows["prompts"].sum())
            ax.plot([0, 1], [0, 1], color="#999999", lw=1, ls=_DASHED)
            for column, face in (("inside", color), ("iou", "white")):
                ax.plot(rows["score"], rows[column], color=color, lw=1.2)
                ax.scatter(
                    rows["score"], rows[column], sizes, color=face, edgecolors=color, linewidths=1.6, zorder=3
                )
            ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xlabel="predicted IoU")
            ax.set_title(label, color=color, fontweight="bold")
        axes[0].set_ylabel("what is so")
        kinds = (("share of prompts in the organ", _GREY), ("IoU of their masks", "white"))
        add_legend(figure, [_dot(name, face) for name, face in kinds])
    return figure


def draw_calibration_alt(table: pd.DataFrame) -> str:
    """Say what `draw_calibration` shows: the lowest and the highest bin of each label."""
    if table.empty:
        return f"Empty figure: {NO_RUNS}."
    parts = []
    for label, rows in table.groupby("label", sort=False):
        ends = [
            f"at predicted {row['score']:.2f} ({row['prompts']:.0f} prompts) {row['inside']:.0%} lie in the organ and "
            f"the masks have IoU {row['iou']:.2f}"
            for _, row in rows.iloc[[0, -1]].drop_duplicates().iterrows()
        ]
        parts.append(f"{label}: {', '.join(ends)}")
    return f"Calibration of the IoU head: {'; '.join(parts)}."


def draw_dial_curves(summary: pd.DataFrame) -> Figure:
    """Draw Dice over the position of each dial, a panel per dial.

    Args:
        summary: `results.summarise` by label, dial and position.

    Returns:
        The figure; bands are 95 % intervals.
    """
    if summary.empty:
        return empty_figure()
    dials = list(dict.fromkeys(summary["dial"]))
    labels = list(dict.fromkeys(summary["label"]))
    rows = math.ceil(len(dials) / 3)
    with styled():
        figure = Figure((WIDTH, 1.75 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True)
        for ax in axes.flat[len(dials) :]:
            ax.set_axis_off()
        for ax, dial in zip(axes.flat, dials, strict=False):
            for label in labels:
                chosen = summary[(summary["dial"] == dial) & (summary["label"] == label)]
                _band(ax, chosen, "position", label, inside=True)
            ax.set_title(dial.replace("_", " "))
            ax.set(ylim=(0, 100), xlim=(-0.05, 1.05), xticks=[0, 0.5, 1])
            ax.grid(axis="y")
        for ax in axes[:, 0]:
            ax.set_ylabel("Dice (%)")
        figure.supxlabel("position of the dial", fontsize=9.5)
        add_legend(figure, _methods(labels))
    return figure


def draw_dial_curves_alt(summary: pd.DataFrame) -> str:
    """Say what `draw_dial_curves` shows: where each curve starts and ends."""
    if summary.empty:
        return f"Empty figure: {NO_RUNS}."
    parts = []
    for dial, rows in summary.groupby("dial", sort=False):
        moves = [
            f"{label} {own['mean'].iloc[0] * 100:.0f} to {own['mean'].iloc[-1] * 100:.0f}"
            for label, own in rows.groupby("label", sort=False)
        ]
        parts.append(f"{str(dial).replace('_', ' ')}: {', '.join(moves)}")
    return f"Curves of Dice (%) from dial position 0 to the last: {'; '.join(parts)}."


def _band(ax: Axes, rows: pd.DataFrame, x: str, label: str, *, inside: bool) -> None:
    """Draw a curve of means with its intervals; dashed and open where out of domain."""
    color, places = method_color(label), rows[x].to_numpy(float)
    low, high = (rows[name].to_numpy(float) * 100 for name in ("low", "high"))
    ax.fill_between(places, low, high, color=color, alpha=0.13, lw=0)
    face = color if inside else "white"
    ls: Any = "solid" if inside else _DASHED
    ax.plot(
        places, rows["mean"] * 100, color=color, lw=1.8, ls=ls, marker=method_marker(label), ms=4.5, mfc=face
    )


def _log_points(ax: Axes, points: pd.Series) -> None:
    ticks = sorted({int(p) for p in points})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8, rotation=45)
    ax.minorticks_off()
    ax.set_xlabel("points per slice")


def _methods(labels: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=method_color(name), marker=method_marker(name), lw=1.8, ms=5, label=name)
        for name in labels
    ]


def _domains() -> list[Line2D]:
    lines: list[tuple[str, Any, str]] = [("in domain", "solid", _GREY), ("out of domain", _DASHED, "white")]
    return [
        Line2D([], [], color=_GREY, lw=1.8, ls=ls, marker="o", ms=5, mfc=face, label=name)
        for name, ls, face in lines
    ]


def _dot(name: str, face: str) -> Line2D:
    return Line2D([], [], ls="none", marker="o", ms=7, mfc=face, mec=_GREY, mew=1.6, label=name)
