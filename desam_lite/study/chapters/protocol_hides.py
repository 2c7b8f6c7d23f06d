"""Finished runs scored again from their stored predictions, one quirk of the published protocol at a time.

``metrics.csv`` has the two ends, `whole_volume` and `published`; the steps between them are here.
"""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from desam_lite.data.slices import select_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import PUBLISHED_BORDER, PUBLISHED_SIZE, QUIRKS, Mask, Quirks, as_scored
from desam_lite.study.report.cache import cached_table
from desam_lite.study.report.charts import draw_curves, draw_rows, in_unit
from desam_lite.study.report.slice_examples import Example, largest_slice
from desam_lite.study.report.slice_figures import draw_slice
from desam_lite.study.report.style import WIDTH, DescribedFigure, describe, styled
from desam_lite.study.run import Run
from desam_lite.utils.progress import track

RESCORING_VERSION = 1
LADDER: dict[str, Quirks] = {
    "whole_volume": QUIRKS["whole_volume"],
    "organ_slices": Quirks(slices="foreground"),
    "last_dropped": Quirks(slices="published"),
    "on_square": Quirks(slices="published", square=True),
    "published": QUIRKS["published"],
}
"""From every slice as it is to the published protocol; each step adds one quirk."""

ALONE: dict[str, Quirks] = {"border_alone": Quirks(border=True)}
"""A quirk without those that come before it on the ladder."""

STEPS: dict[str, str] = {
    "whole_volume": "every slice, as it is",
    "organ_slices": "only slices with the organ",
    "last_dropped": "without the last of them",
    "on_square": "on a 256 x 256 square",
    "published": "predictions in the border set to zero",
    "border_alone": "every slice, predictions in the border set to zero",
}
"""What each protocol adds to the one before it, in words."""

_NOT_SCORED, _REFERENCE, _BORDER = "#e8e8e8", "#444444", "#f0e442"


def rescore(runs: Sequence[Run], task: Task, *, progress: bool = True) -> pd.DataFrame:
    """Score the stored predictions of finished runs under every protocol of `LADDER` and `ALONE`; tables on disk are read.

    ``dice`` is of the slices of a patient pooled, ``slice_dice`` the mean over its slices; NaN where nothing is left to score.
    """
    finished = [run for run in runs if run.finished]
    protocols = {name: quirks._asdict() for name, quirks in {**LADDER, **ALONE}.items()}
    tables = []
    for run in track(finished, "scoring again", enabled=progress):
        made_from = {"what": [RESCORING_VERSION], "how": protocols}
        table = cached_table(run, "rescored", made_from, partial(_rescore_run, run, task))
        tables.append(run.identified(table))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _rescore_run(run: Run, task: Task) -> pd.DataFrame:
    scored = run.metrics()[["target", "case", "organ"]].drop_duplicates()
    organs = list(dict.fromkeys(scored["organ"]))  # in the order of the ids
    task = task.only(run.spec.organs)
    rows: list[dict[str, object]] = []
    for target, case in scored[["target", "case"]].drop_duplicates().itertuples(index=False):
        slices, prediction = task.slices.load(target, case), run.stored_prediction(target, case)
        for number, organ in enumerate(organs, start=1):
            for name, quirks in {**LADDER, **ALONE}.items():
                masks = as_scored(prediction == number, slices.labels == number, slices.spacing, quirks)
                pooled, by_slice = dice_both_ways(masks.predicted, masks.true)
                place = {"target": target, "case": case, "organ": organ, "protocol": name}
                rows.append({**place, "dice": pooled, "slice_dice": by_slice})
    return pd.DataFrame(rows)


def dice_both_ways(predicted: Mask, true: Mask) -> tuple[float, float]:
    """Return Dice of all slices ``(Z, H, W)`` pooled, and the mean of the Dice of each slice.

    Slices in which both masks are empty are left out of the mean. Both empty throughout is perfect agreement, as in
    `metrics.score_volume`; no slice at all gives NaN.

    >>> import numpy as np
    >>> true = np.zeros((2, 4, 4), bool); true[0] = True; true[1, 0, 0] = True
    >>> predicted = true.copy(); predicted[1] = False
    >>> [round(score, 2) for score in dice_both_ways(predicted, true)]
    [0.97, 0.5]
    """
    if len(true) == 0:
        return float("nan"), float("nan")
    overlap = (predicted & true).sum(axis=(1, 2))
    sizes = predicted.sum(axis=(1, 2)) + true.sum(axis=(1, 2))
    filled = sizes > 0
    if not filled.any():
        return 1.0, 1.0
    return float(2 * overlap.sum() / sizes.sum()), float(np.mean(2 * overlap[filled] / sizes[filled]))


def say_protocol(effects: pd.DataFrame, ordered: pd.DataFrame, *, control: str = "Prior") -> str:
    """Say what the published protocol changes, of the effect of each quirk, and the orders with the ways that give them."""
    whole = effects[(effects["first"] == "published") & (effects["second"] == "whole_volume")]
    trained = whole[whole["label"] != control].dropna(subset="mean")
    if trained.empty:
        return "There is no answer yet: no trained method has been scored out of domain."
    winners = ordered.groupby(ordered["order"].str.split(" > ").str[0], sort=False)["ways"].sum()
    several = len(ordered) > 1
    order = f"{len(ordered)} orders of the methods" if several else "one order of the methods"
    verdict = (
        f"It changes {'the order of the methods' if several else 'scores, but not the order of the methods'}"
    )
    moves = ", ".join(f"{row['label']} {row['mean'] * 100:+.1f}" for row in trained.to_dict("records"))
    return (
        f"**{verdict}**. With the published protocol instead of every slice, Dice (%) out of domain changes by this much on the "
        f"same predictions: {moves}. {ordered['ways'].sum()} ways of scoring give {order}; "
        f"{winners.idxmax()} is first in {winners.max()} of them."
    )


def hidden_slice(labels: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]) -> int:
    """Return the slice with the most prediction of those the published protocol leaves out; if it has none, the largest."""
    pixels = (predicted > 0).sum(axis=(1, 2))
    pixels[select_slices(labels, "published")] = 0
    return int(pixels.argmax()) if pixels.any() else largest_slice(labels)


class OrganPixels(NamedTuple):
    """Pixels of an organ in each slice ``(Z,)`` of reference and prediction, and the slices that are scored when published."""

    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    counted: tuple[int, ...]


def count_pixels(predicted: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> OrganPixels:
    """Count the pixels of organ 1 in each slice; both masks ``(Z, H, W)`` hold organ ids."""
    true = labels == 1
    counted = tuple(select_slices(true.astype(np.uint8), "published"))
    return OrganPixels(true.sum(axis=(1, 2)), (predicted == 1).sum(axis=(1, 2)), counted)


def draw_case(example: Example, pixels: OrganPixels, colors: Sequence[str]) -> DescribedFigure:
    """Draw one slice with the border of the published protocol, and beside it how much organ there is in every slice."""
    lines: list[tuple[Any, dict[str, Any]]] = [
        (pixels.predicted, {"color": colors[0], "ls": "-", "label": "prediction"}),
        (pixels.true, {"color": _REFERENCE, "ls": "--", "label": "reference"}),
    ]
    with styled():
        figure = Figure((WIDTH, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        draw_slice(left, example, colors)
        height, width = np.array(example.image.shape) * np.array(example.spacing)
        share = PUBLISHED_BORDER / PUBLISHED_SIZE
        corner, size = (width * share, height * share), 1 - 2 * share
        frame = Rectangle(corner, width * size, height * size, fill=False, ec=_BORDER, lw=1.5)
        left.add_patch(frame)
        count = len(pixels.true)
        for row in sorted(set(range(count)) - set(pixels.counted)):
            right.axvspan(row - 0.5, row + 0.5, color=_NOT_SCORED, lw=0)
        for heights, line in lines:
            right.step(np.arange(count), heights, where="mid", lw=1.8, **line)
        right.set(xlim=(-0.5, count - 0.5), xlabel="slice, from foot to head", ylabel="pixels of organ")
        right.set_ylim(bottom=0)
        handles = [Line2D([], [], lw=2, **line) for _, line in lines]
        handles.append(Patch(color=_NOT_SCORED, label="not scored when published"))  # type: ignore[arg-type]
        figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=1.8)
    outside = np.ones(len(pixels.true), bool)
    outside[list(pixels.counted)] = False
    told = (
        f"the published protocol scores {len(pixels.counted)} of {len(outside)} slices; in the others the prediction has "
        f"{pixels.predicted[outside].sum()} pixels and the reference {pixels.true[outside].sum()}"
    )
    parts = {f"{example.title}, {example.note}": told}
    return DescribedFigure(figure, describe("One slice, and the pixels of organ in each", parts))


def draw_ladder(steps: pd.DataFrame) -> DescribedFigure:
    """Draw the mean Dice of each method out of domain at every step of `LADDER`, with 95 % intervals."""
    away = in_unit(steps[~steps["in_domain"].astype(bool)])
    words = {name: f"{name}\n{textwrap.fill(STEPS[name], 15)}" for name in LADDER}
    axes = ("protocol", "Dice (%), out of domain")
    return draw_curves(away.replace({"protocol": words}), "protocol", axes=axes, limit=(0, 100), height=3.6)


def draw_scorings(scorings: pd.DataFrame) -> DescribedFigure:
    """Draw for each method the range of its means out of domain over all ways of scoring, filled where slices are pooled."""
    dots = in_unit(scorings.assign(in_domain=scorings["pooling"] == "patient"))
    ranges = (
        dots.groupby(["label", "in_domain"], sort=False)["mean"].agg(["mean", "min", "max"]).reset_index()
    )
    axis = "Dice (%), out of domain: mean and range\nover protocols and averaging rules"
    faces = ("slices pooled per patient", "mean of slices")
    return draw_rows(ranges.rename(columns={"min": "low", "max": "high"}), dots, axis=axis, faces=faces)
