"""Grids of points of any size: their Dice, false alarms and seconds, and how well the IoU head's scores rank points."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from desam_lite.data.slices import CaseSlices, select_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import Protocol, score_case
from desam_lite.evaluation.statistics import MARGINS, decide
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.model.predictor import predict_slice
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.study.report.cache import cached_table
from desam_lite.study.report.prompt_maps import PromptableModel, slice_embeddings, spread_rows
from desam_lite.study.report.sentences import list_words
from desam_lite.training.method import combine_organs
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

GRIDS_VERSION = 2


def compare_grids(
    models: Sequence[PromptableModel],
    task: Task,
    workspace: Path | str,
    cases: Sequence[tuple[str, str]],
    sides: Sequence[int],
    *,
    empty: int,
    protocol: Protocol,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict cases with grids of ``sides`` points along each side by the same models; tables on disk are read.

    Under ``published`` only the slices that this protocol scores are predicted, and ``empty`` ones without organ, for ``alarms``:
    the share of them where an organ is predicted. ``seconds`` are a slice's median, from embeddings to mask.
    """
    for model in models:
        if not model.predicts_iou or not issubclass(model.method, PromptedMethod):
            raise StudyError(
                f"{model.run.spec.label} does not choose among points: take methods with points and IoU head."
            )
    if min(sides, default=1) < 1:
        raise StudyError("a grid needs at least 1 point along each side: pass sides of 1 or more.")
    work = [(model, domain, case, side) for model in models for domain, case in cases for side in sides]
    tables = []
    for model, domain, case, side in track(work, "trying grids", enabled=progress):
        slices = task.slices.load(domain, case)
        made_from = {
            "what": [GRIDS_VERSION, task.slices.key(domain, case)],
            "how": [side, empty, protocol],
        }
        make = partial(_score_grid, model, task, workspace, slices, side, empty, protocol)
        table = cached_table(model.run, "grids", made_from, make)
        columns = {"side": side, "points": side * side, "protocol": protocol}
        tables.append(table.assign(**model.columns(domain, case), **columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _score_grid(
    model: PromptableModel,
    task: Task,
    workspace: Path | str,
    case: CaseSlices,
    side: int,
    empty: int,
    protocol: Protocol,
) -> pd.DataFrame:
    labels = case.labels
    blank = spread_rows(np.flatnonzero(~labels.any(axis=(1, 2))).tolist(), empty)
    rows = sorted({*_scored_rows(labels, protocol), *blank})
    embeddings = slice_embeddings(model, task, workspace, case.domain, case.case, rows)
    predicted, seconds = np.zeros_like(labels), []
    for row, maps in zip(rows, embeddings, strict=True):
        predicted[row], elapsed = _predict_timed(model, maps, labels[row].shape, side)
        seconds.append(elapsed)
    dice = {
        organ.name: score_case(predicted, labels, case.spacing, number, protocol).dice
        for number, organ in enumerate(task.manifest.organs, start=1)
    }
    table = pd.DataFrame({"organ": list(dice), "dice": list(dice.values())})
    alarms = float(np.mean([predicted[row].any() for row in blank])) if blank else np.nan
    return table.assign(seconds=float(np.median(seconds)), alarms=alarms)


def _predict_timed(
    model: PromptableModel, maps: ImageEmbeddings, size: tuple[int, ...], side: int
) -> tuple[npt.NDArray[np.uint8], float]:
    method = model.predictor
    grid = replace(method.grid, points_per_side=side)
    start = _clock(maps)
    prediction = predict_slice(method.model, maps, "points", (size[0], size[1]), grid)
    return combine_organs(prediction.masked), _clock(maps) - start


def _clock(maps: ImageEmbeddings) -> float:
    """Return the processor time of this process, which other processes do not change; with a GPU, the wall time."""
    if maps.neck.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(maps.neck.device)
    return time.perf_counter()


def _scored_rows(labels: npt.NDArray[np.uint8], protocol: Protocol) -> list[int]:
    """Return the slices of ``(Z, H, W)`` that a protocol scores for any organ."""
    if protocol == "whole_volume":
        return list(range(len(labels)))
    organs = [labels == organ for organ in range(1, int(labels.max()) + 1)]
    return sorted({row for organ in organs for row in select_slices(organ, "published")})


def say_points(enough: pd.DataFrame, seconds: pd.DataFrame, *, label: str) -> str:
    """Say how many points are enough for a method: the fewest that the rule calls not worse than the best."""
    rows = enough[enough["label"] == label]
    if rows.empty:
        return "There is no answer yet: no method with points has been scored out of domain."
    if rows["high"].isna().all():
        ends = rows.sort_values("points").iloc[[0, -1]]
        few, many = (f"{row['value'] * 100:.0f} with {row['points']:.0f}" for _, row in ends.iterrows())
        return (
            f"**One seed cannot tell** how many points are enough for {label}: mean Dice out of domain goes from {few} "
            f"to {many}."
        )
    words = [
        "equivalent" if row["points"] == row["best"] else decide(row["low"], row["high"], MARGINS["dice"])
        for row in rows.to_dict("records")
    ]
    rows = rows.assign(word=words).sort_values("points")
    least = rows[~rows["word"].isin(["cannot tell", "worse"])].iloc[0]
    best = rows[rows["points"] == rows["best"]].iloc[0]
    fewer = rows[(rows["word"] == "cannot tell") & (rows["points"] < least["points"])]["points"]
    unsure = list_words([f"{n:.0f}" for n in fewer])
    doubt = f" It cannot tell whether {unsure} would be enough." if unsure else ""
    cost = seconds[seconds["label"] == label].set_index("points")["seconds"]
    n, most = int(least["points"]), int(rows["points"].max())
    return (
        f"**{n} {'point is' if n == 1 else 'points are'} enough** for {label} on these cases. Out of domain, mean Dice (%) is "
        f"{least['value'] * 100:.0f} with {n} and {best['value'] * 100:.0f} with the best grid tried ({best['points']:.0f}). The "
        f"rule does not call the smaller grid worse by {MARGINS['dice'] * 100:.0f} points or more.{doubt} A slice takes "
        f"{cost[n]:.2f} s with {n} and {cost[most]:.2f} s with {most}."
    )


def say_ranking(quality: pd.DataFrame) -> str:
    """Say how well the IoU heads rank prompts, from label, auc, rank, chosen, typical, best: means over slices and cases."""
    parts = []
    for row in quality.to_dict("records"):
        auc, chosen, typical, best = (
            "none" if pd.isna(row[name]) else f"{row[name] * 100:.0f} %"
            for name in ("auc", "chosen", "typical", "best")
        )
        rank = "undefined" if pd.isna(row["rank"]) else f"{row['rank']:.2f}"
        parts.append(
            f"{row['label']} scores a point inside the organ higher than one outside in {auc} of pairs. The rank correlation of "
            f"its score with Dice is {rank}. Dice is {chosen} with the chosen point, {typical} with the median point and {best} "
            "with the best."
        )
    return " ".join(parts) or "No model scores its prompts."
