"""Grids of any size: their Dice, false alarms and seconds, and how well the IoU head ranks their points."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import rankdata

from desam_lite.data.slices import CaseSlices, select_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import Protocol, score_case
from desam_lite.evaluation.statistics import summarise
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.model.predictor import predict_slice
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.study.chapters.prompt_maps import WHO, Asked, slice_embeddings
from desam_lite.study.report.cache import kept_table
from desam_lite.training.method import combine_organs
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

GRIDS_VERSION = 2
Floats = npt.NDArray[np.float64]


def compare_grids(
    asked: Sequence[Asked],
    task: Task,
    workspace: Path | str,
    cases: Sequence[tuple[str, str]],
    sides: Sequence[int],
    *,
    empty: int,
    protocol: Protocol,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict cases with grids of several sizes by the same models; what is known is read from disk.

    Under ``published`` only the slices that this protocol scores are drawn, and a few without organ besides.

    Args:
        asked: Models that were trained on points and judge them.
        task: Where the cases are.
        workspace: Folder for results and caches.
        cases: (domain, case) pairs.
        sides: Points along a side of each grid.
        empty: Slices without organ of each case, evenly spread, on which false alarms are counted.
        protocol: How Dice is computed.
        progress: Whether to show a bar.

    Returns:
        One row per model, grid, case and organ: `WHO`, ``organ``, ``side``, ``points``, ``protocol``, ``dice``, ``seconds``
        (median over the slices, from embeddings to mask; processor time without a GPU), ``alarms`` (share of the slices without
        organ where one is drawn).

    Raises:
        StudyError: A model does not choose among points, or a side is below 1.
    """
    for model in asked:
        if not model.judges or not isinstance(model.predictor, PromptedMethod):
            raise StudyError(
                f"{model.run.spec.label} does not choose among points: take methods with points and IoU head."
            )
    if min(sides, default=1) < 1:
        raise StudyError("a grid needs at least 1 point along each side: pass sides of 1 or more.")
    work = [(model, domain, case, side) for model in asked for domain, case in cases for side in sides]
    found = []
    for model, domain, case, side in track(work, "trying grids", enabled=progress):
        trial = _Trial(model, task, Path(workspace), task.slices.load(domain, case), side, empty, protocol)
        what = ["grid", GRIDS_VERSION, model.run.name, task.slices.key(domain, case)]
        made_from = {"what": what, "how": [side, empty, protocol]}
        table = kept_table(Path(workspace) / "grids", made_from, trial.score)
        found.append(
            table.assign(**model.who(domain, case), side=side, points=side * side, protocol=protocol)
        )
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@dataclass(frozen=True, eq=False)
class _Trial:
    """One model on one case with one grid."""

    asked: Asked
    task: Task
    workspace: Path
    case: CaseSlices
    side: int
    empty: int
    protocol: Protocol

    def score(self) -> pd.DataFrame:
        labels = self.case.labels
        blank = _spread(np.flatnonzero(~labels.any(axis=(1, 2))), self.empty)
        rows = sorted({*_counted(labels, self.protocol), *blank})
        maps = slice_embeddings(self.asked, self.task, self.workspace, self.case.domain, self.case.case, rows)
        drawn, seconds = np.zeros_like(labels), []
        for row, emb in zip(rows, maps, strict=True):
            drawn[row], took = self._predict(emb)
            seconds.append(took)
        alarms = float(np.mean([drawn[row].any() for row in blank])) if blank else np.nan
        dice = {
            organ.name: score_case(drawn, labels, self.case.spacing, number, self.protocol).dice
            for number, organ in enumerate(self.task.manifest.organs, start=1)
        }
        table = pd.DataFrame({"organ": list(dice), "dice": list(dice.values())})
        return table.assign(seconds=float(np.median(seconds)), alarms=alarms)

    def _predict(self, emb: ImageEmbeddings) -> tuple[npt.NDArray[np.uint8], float]:
        method = self.asked.predictor
        size = (self.case.labels.shape[1], self.case.labels.shape[2])
        grid = replace(method.grid, points_per_side=self.side)
        start = _seconds(emb)
        found = predict_slice(method.model, emb, "points", size, grid)
        return combine_organs(found.masked), _seconds(emb) - start


def _seconds(emb: ImageEmbeddings) -> float:
    """Return a clock: the processor's time of this process, which other work beside it does not change; with a GPU the wall's."""
    if emb.neck.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(emb.neck.device)
    return time.perf_counter()


def _counted(labels: npt.NDArray[np.uint8], protocol: Protocol) -> list[int]:
    """Return the slices of ``(Z, H, W)`` that a protocol scores for any organ."""
    if protocol == "whole_volume":
        return list(range(len(labels)))
    organs = [labels == organ for organ in range(1, int(labels.max()) + 1)]
    return sorted({row for organ in organs for row in select_slices(organ, "published")})


def _spread(rows: npt.NDArray[np.int64], count: int) -> list[int]:
    """Return up to ``count`` of the rows, evenly spread."""
    places = (np.arange(count) + 0.5) / max(count, 1) * len(rows)
    return sorted({int(rows[int(place)]) for place in places}) if len(rows) else []


def per_slice(maps: pd.DataFrame) -> pd.DataFrame:
    """Say of each slice how its prompts differ, and how well their scores tell them apart.

    Args:
        maps: Of `prompt_study.prompt_maps`.

    Returns:
        One row per model, kind of prompt, slice and organ: `WHO`, ``kind``, ``slice``, ``organ``; ``rank``, Spearman's
        correlation of score and Dice over the prompts (NaN where one of them is constant); ``auc``, the chance that a prompt
        inside the organ has a higher score than one outside; ``chosen``, the Dice of the prompt with the highest score;
        ``best``, ``typical`` (median) and ``low`` (10th percentile) over prompts; ``spread``, best minus low.
    """
    keys = [*WHO, "kind", "slice", "organ"]
    rows = []
    for names, prompts in maps.groupby(keys, sort=False):
        dice, score = prompts["dice"].to_numpy(float), prompts["score"].to_numpy(float)
        low, typical = np.percentile(dice, [10, 50])
        judged = bool(np.isfinite(score).all())
        rows.append(
            {
                **dict(zip(keys, names, strict=True)),
                "rank": spearman(score, dice) if judged else np.nan,
                "auc": auc(score, prompts["inside"].to_numpy(bool)) if judged else np.nan,
                "chosen": dice[int(score.argmax())] if judged else np.nan,
                "best": dice.max(),
                "typical": typical,
                "low": low,
                "spread": dice.max() - low,
            }
        )
    return pd.DataFrame(rows)


def as_scores(frame: pd.DataFrame, column: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Average a column over the slices and organs of each case, as rows that `desam_lite.evaluation.statistics` takes.

    Args:
        frame: With the columns `WHO`.
        column: What is averaged.
        by: Columns to keep apart besides.

    Returns:
        One row per model, case and ``by``: `WHO`, ``by``, ``metric`` (the column's name) and ``value``.
    """
    means = frame.groupby([*WHO, *by], sort=False)[column].mean().reset_index(name="value")
    return means.assign(metric=column)


def calibration(maps: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Compare what the IoU head says with what it was trained to say, and with what it is taken to mean.

    Args:
        maps: Of `prompt_study.prompt_maps`.
        bins: Of equal width, from 0 to 1; scores beyond count at the ends.

    Returns:
        One row per label and bin that holds prompts: ``label``, ``bin``, ``score`` (mean), ``inside`` (share of the prompts in
        the organ), ``iou`` (mean, of the masks the prompts give), ``prompts``.
    """
    judged = maps.dropna(subset="score")
    place = np.clip((judged["score"] * bins).astype(int), 0, bins - 1)
    groups = judged.assign(bin=place).groupby(["label", "bin"], sort=False)
    table = groups.agg(
        score=("score", "mean"), inside=("inside", "mean"), iou=("iou", "mean"), prompts=("x", "size")
    )
    return table.reset_index().sort_values(["label", "bin"], kind="stable", ignore_index=True)


def spearman(first: Floats, second: Floats) -> float:
    """Return the rank correlation; NaN where one of the two is constant.

    >>> spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 3.0, 2.0]))
    0.5
    """
    one, other = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return round(float((one * other).sum()) / norm, 12) if norm > 0 else float("nan")


def auc(score: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Return the chance that a positive has a higher score than a negative, ties counting half; NaN without both.

    >>> auc(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]))
    1.0
    """
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    ranks = rankdata(score)[positive].sum()
    return float((ranks - many * (many + 1) / 2) / (many * few))


def pooled(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores with all other hospitals taken as one, so that few cases of each still give an interval over cases.

    Args:
        scores: As `as_scores` returns them.
    """
    away = ~scores["in_domain"].astype(bool)
    named = scores["target"] + " " + scores["case"]
    return scores.assign(target=scores["target"].mask(away, "others"), case=scores["case"].mask(away, named))


def enough_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Say of each grid what it has less than the best one, case by case, out of domain.

    Args:
        scores: Of `pooled`, with ``points``; more is better.

    Returns:
        One row per label and grid, few points first: ``label``, ``points``, ``value`` (mean), ``best`` (points of the
        grid with the highest mean; of equal ones the smallest), and ``mean``, ``low``, ``high`` of the difference to it.
    """
    rows = []
    for label, own in scores[~scores["in_domain"].astype(bool)].groupby("label", sort=False):
        table = own.pivot_table(index=["source", "target", "seed", "case"], columns="points", values="value")
        means = table.mean()
        best = int(table.columns[int(means.to_numpy().argmax())])
        for points in map(int, table.columns):
            difference = (table[points] - table[best]).rename("value").reset_index()
            found = summarise(difference.assign(label=label), ["label"], rule="cases").iloc[0]
            row = {"label": label, "points": points, "value": float(means[points]), "best": best}
            rows.append({**row, **{name: float(found[name]) for name in ("mean", "low", "high")}})
    return pd.DataFrame(rows, columns=["label", "points", "value", "best", "mean", "low", "high"])
