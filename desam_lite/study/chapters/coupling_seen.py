"""What a prompt does to a mask: data in, `Figure` out, each with a sibling that says in words what is in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from desam_lite.study.report.slice_figures import Example, pictures
from desam_lite.study.report.style import NO_RUNS, WIDTH, method_color, method_marker, nothing, styled

_GREY = "#444444"
_DASHED = (0, (4, 2))
_MARK = "#f0e442"


def dice_maps(maps: pd.DataFrame, example: Example) -> Figure:
    """Draw one slice's Dice over the place of the prompt, a panel per model; a row per kind of prompt.

    Args:
        maps: Of `prompt_study.prompt_maps`, one slice and organ.
        example: The slice, for its size and reference.

    Returns:
        The figure; the reference is a white line.
    """
    if maps.empty:
        return nothing()
    kinds = list(dict.fromkeys(maps["kind"]))
    by_kind = {kind: list(dict.fromkeys(maps[maps["kind"] == kind]["label"])) for kind in kinds}
    columns = max(map(len, by_kind.values()))
    with styled():
        figure = Figure((WIDTH, len(kinds) * (WIDTH / columns + 0.5) + 0.75), layout="constrained")
        axes = figure.subplots(len(kinds), columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for row, kind in enumerate(kinds):
            for ax, label in zip(axes[row], by_kind[kind], strict=False):
                picture = _map(ax, maps[(maps["kind"] == kind) & (maps["label"] == label)], example)
                ax.set_title(_two_lines(label), color=method_color(label), fontweight="bold", fontsize=9)
            axes[row, 0].text(
                -0.06,
                0.5,
                _ASKED[kind],
                rotation=90,
                va="center",
                ha="right",
                transform=axes[row, 0].transAxes,
            )
        bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.55, aspect=32, pad=0.02)
        bar.set_label(f"Dice (%) of the mask that a prompt there gives\n{_SIZE}")
        bar.outline.set_visible(False)
    return figure


_SIZE = "the size of a box is the reference's (oracle); places are not"
_ASKED = {"points": "asked with a point", "box": "asked with a box"}


def dice_maps_alt(maps: pd.DataFrame) -> str:
    """Say what `dice_maps` shows: Dice inside and outside of the organ, for each model."""
    if maps.empty:
        return f"Empty figure: {NO_RUNS}."
    parts = []
    for (kind, label), rows in maps.groupby(["kind", "label"], sort=False):
        means = [
            f"{rows[rows['inside'].astype(bool) == inside]['dice'].mean() * 100:.0f} {where}"
            for inside, where in ((True, "inside"), (False, "outside"))
        ]
        parts.append(f"{label}, {_ASKED[str(kind)]}: mean {', '.join(means)} the organ")
    return f"Maps of Dice (%) over the place of the prompt in one slice. {'; '.join(parts)}."


def _map(ax: Axes, rows: pd.DataFrame, example: Example) -> Any:
    side = int(rows["side"].iloc[0])
    height, width = example.image.shape
    extent = (0.0, width * example.spacing[1], height * example.spacing[0], 0.0)
    values = rows["dice"].to_numpy(float).reshape(side, side) * 100
    picture = ax.imshow(values, cmap="viridis", vmin=0, vmax=100, extent=extent, interpolation="nearest")
    line = ax.contour(
        (example.reference > 0).astype(float),
        levels=[0.5],
        colors="white",
        linewidths=1.4,
        origin="upper",
        extent=extent,
    )
    line.set_path_effects([withStroke(linewidth=2.6, foreground=(0, 0, 0, 0.6))])
    return picture


def prompted_pictures(
    examples: Sequence[Example],
    prompts: Sequence[npt.NDArray[np.float64]],
    organs: Mapping[str, str],
    *,
    columns: int,
) -> Figure:
    """Draw slices with contours as `pictures.pictures`, and into each the prompt that was given.

    Args:
        examples: In reading order.
        prompts: Of each: a point ``(2,)`` or a box ``(4,)``, pixels of the slice.
        organs: Name -> colour.
        columns: Pictures per row.
    """
    figure = pictures(examples, organs, columns=columns)
    for ax, example, prompt in zip(figure.axes, examples, prompts, strict=False):
        y, x = example.spacing
        outline: list[AbstractPathEffect] = [withStroke(linewidth=3.4, foreground="black")]
        if len(prompt) == 2:
            (mark,) = ax.plot(prompt[0] * x, prompt[1] * y, "+", color=_MARK, ms=11, mew=2)
            mark.set_path_effects(outline)
            continue
        left, top, right, bottom = prompt * (x, y, x, y)
        box = Rectangle((left, top), right - left, bottom - top, fill=False, ec=_MARK, lw=1.6)
        box.set_path_effects(outline)
        ax.add_patch(box)
    return figure


def spreads(summary: pd.DataFrame) -> Figure:
    """Draw how far apart the masks of many prompts are: a row per model, Dice from the 10th percentile to the best.

    Args:
        summary: label, kind, low, typical, best: means over slices and cases.

    Returns:
        The figure.
    """
    if summary.empty:
        return nothing()
    with styled():
        figure = Figure((WIDTH, 1.0 + 0.42 * len(summary)), layout="constrained")
        ax = figure.subplots()
        names = []
        for place, row in enumerate(summary.to_dict("records")):
            color = method_color(row["label"])
            ax.plot(
                [row["low"] * 100, row["best"] * 100],
                [place] * 2,
                color=color,
                lw=5,
                alpha=0.35,
                solid_capstyle="butt",
            )
            ax.plot(row["typical"] * 100, place, method_marker(row["label"]), color=color, ms=7)
            names.append(f"{row['label']}\n{_ASKED[row['kind']]}")
        ax.set_yticks(range(len(names)), names, fontsize=8.5)
        for tick, label in zip(ax.get_yticklabels(), summary["label"], strict=True):
            tick.set_color(method_color(label))
        ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(-3, 100))
        ax.set_xlabel(f"Dice (%): median, 10th percentile to best\n{_SIZE}")
        ax.grid(axis="x")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return figure


def spreads_alt(summary: pd.DataFrame) -> str:
    """Say what `spreads` shows."""
    if summary.empty:
        return f"Empty figure: {NO_RUNS}."
    parts = [
        f"{row['label']}, {_ASKED[row['kind']]}: median {row['typical'] * 100:.0f}, "
        f"from {row['low'] * 100:.0f} to {row['best'] * 100:.0f}"
        for row in summary.to_dict("records")
    ]
    return f"Dice (%) over the prompts of a slice, median, and from the 10th percentile to the best. {'; '.join(parts)}."


def _two_lines(label: str) -> str:
    return label.replace(" tight box (oracle)", "\ntight box (oracle)").replace(
        " point (oracle)", "\npoint (oracle)"
    )
