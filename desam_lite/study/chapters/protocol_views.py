"""Figures of what a scoring protocol does: step by step, in one case, and over all ways of counting."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from desam_lite.data.slices import select_slices
from desam_lite.evaluation.metrics import PUBLISHED_BORDER, PUBLISHED_SIZE
from desam_lite.study.chapters.protocol_hides import LADDER, STEPS
from desam_lite.study.report.slice_examples import Example, largest_slice
from desam_lite.study.report.slice_figures import draw_slice as draw_picture
from desam_lite.study.report.slice_figures import draw_slices_alt
from desam_lite.study.report.style import WIDTH, add_legend, empty_figure, method_color, method_marker, styled

_TRUE = "#444444"


def ladder_figure(steps: pd.DataFrame) -> Figure:
    """Draw the mean Dice of each method out of domain at every step from the whole volume to the published protocol.

    Args:
        steps: Of `rescoring.ladder`.

    Returns:
        The figure; bars are 95 % intervals.
    """
    away = _away(steps)
    if away.empty:
        return empty_figure()
    names = [name for name in LADDER if name in set(away["protocol"])]
    labels = list(dict.fromkeys(away["label"]))
    with styled():
        figure = Figure((WIDTH, 4.2), layout="constrained")
        ax = figure.subplots()
        for number, label in enumerate(labels):
            own = away[away["label"] == label].set_index("protocol").reindex(names)
            x = np.arange(len(names)) + 0.06 * (number - (len(labels) - 1) / 2)
            color = method_color(label)
            ax.plot(x, own["mean"] * 100, color=color, marker=method_marker(label), ms=5.5, lw=1.6)
            ax.vlines(x, own["low"] * 100, own["high"] * 100, color=color, lw=1.2, alpha=0.55)
        words = [f"{name}\n{textwrap.fill(STEPS[name], 15)}" for name in names]
        ax.set_xticks(range(len(names)), words, fontsize=8)
        ax.set_ylabel("Dice (%), out of domain")
        ax.set_ylim(0, 100)
        ax.grid(axis="y")
        _method_legend(figure, labels)
    return figure


def ladder_alt(steps: pd.DataFrame) -> str:
    """Say what `ladder_figure` shows: the means of each method along the steps."""
    away = _away(steps)
    if away.empty:
        return "Empty figure: no finished run to show."
    parts = [
        f"{label} {', '.join(f'{mean * 100:.0f}' for mean in rows['mean'])}"
        for label, rows in away.groupby("label", sort=False)
    ]
    names = ", ".join(dict.fromkeys(away["protocol"]))
    return f"Mean Dice (%) out of domain under {names}, in this order: {'; '.join(parts)}."


def _away(steps: pd.DataFrame) -> pd.DataFrame:
    if steps.empty:
        return steps
    return steps[~steps["in_domain"].astype(bool)].drop(columns="in_domain")


def _method_legend(figure: Figure, labels: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=method_color(label), marker=method_marker(label), ms=5.5, label=label)
        for label in labels
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)), handlelength=2.2)


class Profile(NamedTuple):
    """How much of one organ there is in each slice of one case.

    Attributes:
        true: ``(Z,)``: pixels of the reference.
        predicted: ``(Z,)``: pixels of the prediction.
        counted: The slices the published protocol looks at.
    """

    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    counted: tuple[int, ...]


def profile_of(predicted: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], organ: int = 1) -> Profile:
    """Return the profile of one organ; both masks ``(Z, H, W)`` hold organ ids."""
    true = labels == organ
    counted = tuple(select_slices(true.astype(np.uint8), "published"))
    return Profile(true.sum(axis=(1, 2)), (predicted == organ).sum(axis=(1, 2)), counted)


def case_under_protocol(example: Example, profile: Profile, colors: Sequence[str]) -> Figure:
    """Draw one slice with the border of the published protocol, and beside it how much organ there is in every slice.

    Args:
        example: The slice with prediction and reference.
        profile: Of its case.
        colors: Of the organs, in the order of the ids.

    Returns:
        The figure.
    """
    prediction: dict[str, Any] = {"color": colors[0], "ls": "-", "label": "prediction"}
    reference: dict[str, Any] = {"color": _TRUE, "ls": "--", "label": "reference"}
    with styled():
        figure = Figure((WIDTH, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        draw_picture(left, example, colors)
        _border(left, example)
        _slices(right, profile, [(profile.predicted, prediction), (profile.true, reference)])
        handles = [Line2D([], [], lw=2, **line) for line in (prediction, reference)]
        figure.legend(
            handles=[*handles, Patch(color="#e8e8e8", label="not scored when published")],
            loc="outside upper center",
            ncols=3,
            handlelength=1.8,
        )
    return figure


def case_alt(example: Example, profile: Profile) -> str:
    """Say what `case_under_protocol` shows, in numbers."""
    outside = np.ones(len(profile.true), bool)
    outside[list(profile.counted)] = False
    unseen, missing = (int(pixels[outside].sum()) for pixels in (profile.predicted, profile.true))
    return (
        f"{draw_slices_alt([example], {'organ': ''})} The published protocol scores {len(profile.counted)} of "
        f"{len(profile.true)} slices; in the others the prediction has {unseen} pixels and the reference {missing}."
    )


def _border(ax: Axes, example: Example) -> None:
    height, width = np.array(example.image.shape) * np.array(example.spacing)
    share = PUBLISHED_BORDER / PUBLISHED_SIZE
    place = (width * share, height * share)
    frame = Rectangle(
        place, width * (1 - 2 * share), height * (1 - 2 * share), fill=False, ec="#f0e442", lw=1.5
    )
    ax.add_patch(frame)


def _slices(
    ax: Axes, profile: Profile, lines: Sequence[tuple[npt.NDArray[np.int64], dict[str, Any]]]
) -> None:
    z = np.arange(len(profile.true))
    for row in z:
        if row not in profile.counted:
            ax.axvspan(row - 0.5, row + 0.5, color="#e8e8e8", lw=0)
    for pixels, line in lines:
        ax.step(z, pixels, where="mid", lw=1.8, **line)
    ax.set_xlim(-0.5, len(z) - 0.5)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("slice, from foot to head")
    ax.set_ylabel("pixels of organ")


def spread_figure(ways: pd.DataFrame) -> Figure:
    """Draw for each method its mean out of domain in every way of counting.

    Args:
        ways: Of `rescoring.every_way`.

    Returns:
        The figure: a dot per way; filled where slices are pooled per patient.
    """
    if ways.empty:
        return empty_figure()
    labels = list(dict.fromkeys(ways["label"]))
    with styled():
        figure = Figure((WIDTH, 1.3 + 0.5 * len(labels)), layout="constrained")
        ax = figure.subplots()
        for row, label in enumerate(labels):
            own = ways[ways["label"] == label]
            color = method_color(label)
            ax.plot([own["mean"].min() * 100, own["mean"].max() * 100], [row, row], color=color, lw=1)
            for pooling, height, face in (("patient", row - 0.1, color), ("slice", row + 0.1, "white")):
                values = own[own["pooling"] == pooling]["mean"] * 100
                ax.plot(values, np.full(len(values), height), "o", ms=5, color=color, mfc=face, mew=1.2)
        ax.set_yticks(range(len(labels)), [textwrap.fill(label, 16) for label in labels])
        for tick, label in zip(ax.get_yticklabels(), labels, strict=True):
            tick.set(color=method_color(label), fontweight="bold")
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.set_xlim(0, 100)
        ax.set_xlabel("Dice (%), out of domain: one dot per protocol and averaging rule")
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
        faces = (("slices pooled per patient", "#444444"), ("mean of slices", "white"))
        marks = [
            Line2D([], [], color="#444444", marker="o", ms=5, mfc=face, ls="none", label=name)
            for name, face in faces
        ]
        add_legend(figure, marks)
    return figure


def spread_alt(ways: pd.DataFrame) -> str:
    """Say what `spread_figure` shows: the lowest and highest mean of each method."""
    if ways.empty:
        return "Empty figure: no finished run to show."
    ranges = ways.groupby("label", sort=False)["mean"].agg(["min", "max"]) * 100
    parts = [f"{label} {row['min']:.0f} to {row['max']:.0f}" for label, row in ranges.iterrows()]
    count = len(ways) // ways["label"].nunique()
    return f"Range of the mean Dice (%) out of domain over {count} ways of counting: {'; '.join(parts)}."


def telling_slice(labels: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]) -> int:
    """Return the slice with the most prediction of those the published protocol leaves out; if it has none, the largest."""
    counted = select_slices(labels, "published")
    unseen = (predicted > 0).sum(axis=(1, 2))
    unseen[counted] = 0
    return int(unseen.argmax()) if unseen.any() else largest_slice(labels)
