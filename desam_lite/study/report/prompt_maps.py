"""What a trained model predicts for any prompt of a slice: maps of Dice over places, and how well its scores rank prompts.

Two kinds of prompt go over a slice as the points of a grid do: ``points``, and ``box``, a box as large as the organ's own
(so its size is an oracle's) with its middle at the point. Nothing is trained here, and nothing is chosen by what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import mannwhitneyu, spearmanr

from desam_lite.data.slices import select_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import Mask
from desam_lite.methods import METHODS
from desam_lite.methods.frozen_encoder import open_embeddings
from desam_lite.methods.oracle_prompts import tight_box
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.methods.sam_baselines import SAMZeroShot
from desam_lite.model.predictor import masks_of, point_grid
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size
from desam_lite.model.sam import SAM_MASKS
from desam_lite.model.sam_decoder import SAM
from desam_lite.study.report.cache import cached_table
from desam_lite.study.run import Run
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

PromptKind = Literal["points", "box"]
MAPS_VERSION = 1
MODEL_AND_CASE = ["label", "source", "seed", "target", "in_domain", "case"]
"""The columns that name a model and a case; as in `desam_lite.evaluation.statistics`."""
_BATCH = 16  # prompts that are decoded at once


@dataclass(frozen=True)
class PromptableModel:
    """The model of a finished run on SAM's encoder that takes any prompt; it is loaded once it predicts."""

    run: Run

    @cached_property
    def predictor(self) -> PromptedMethod | SAMZeroShot:
        """What predicts; StudyError where a kept run is without its model."""
        predictor = self.run.load_model().predictor
        assert isinstance(predictor, PromptedMethod | SAMZeroShot)
        predictor.model.eval()
        return predictor

    @property
    def method(self) -> type:
        """The class of its method."""
        return METHODS[self.run.spec.method].load()

    @property
    def predicts_iou(self) -> bool:
        """Whether its IoU head was trained to score prompts."""
        return self.run.spec.predicts_iou

    @property
    def kind(self) -> PromptKind:
        """The kind of prompt that its own method uses."""
        return "box" if (self.run.spec.prompt_mode or "").startswith("box") else "points"

    def columns(self, target: str, case: str) -> dict[str, Any]:
        """Return the columns `MODEL_AND_CASE` of a case."""
        spec = self.run.spec
        values = (spec.label, spec.source, spec.seed, target, target == spec.source, case)
        return dict(zip(MODEL_AND_CASE, values, strict=True))


def open_model(run: Run) -> PromptableModel:
    """Return the model of a finished run; `StudyError` if it is not finished, or takes no prompt."""
    if not run.finished:
        raise StudyError(
            f"run {run.name} ({run.spec.label} from {run.spec.source}) is not finished: run it again."
        )
    model = PromptableModel(run)
    if not issubclass(model.method, PromptedMethod | SAMZeroShot):
        raise StudyError(f"{run.spec.label} takes no prompt: choose a method with prompt_mode.")
    return model


def tested_cases(run: Run, per_domain: int) -> list[tuple[str, str]]:
    """Return (target, case) of the first ``per_domain`` cases of each domain on which a run was scored."""
    rows = run.metrics()[["target", "case"]].drop_duplicates()
    first = rows.groupby("target", sort=False).head(per_domain)
    return [(str(target), str(case)) for target, case in first.itertuples(index=False)]


def spread_rows(rows: Sequence[int], count: int) -> list[int]:
    """Return up to ``count`` of some slices, evenly spread."""
    places = (np.arange(count) + 0.5) / max(count, 1) * len(rows)
    return sorted({int(rows[int(place)]) for place in places}) if len(rows) else []


def slice_embeddings(
    model: PromptableModel, task: Task, workspace: Path | str, domain: str, case: str, rows: Sequence[int]
) -> list[ImageEmbeddings]:
    """Return the embeddings of some slices, one by one, in the form in which the model was trained on them."""
    device = next(model.predictor.model.parameters()).device
    slices = task.slices.of_case(domain, case)  # a page on kept runs shows a few of many cases
    store = open_embeddings(model.run.spec, slices, Path(workspace), device, progress=False)
    maps = store.load(domain, case, rows).to(device=device, dtype=torch.float32)
    return [maps[row] for row in range(len(maps))]


def prompt_maps(
    models: Sequence[PromptableModel],
    task: Task,
    workspace: Path | str,
    cases: Sequence[tuple[str, str]],
    *,
    slices: int | Sequence[int],
    side: int,
    kind: PromptKind | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict with every prompt of a grid by every model, on some slices of some (domain, case) pairs; tables on disk are read.

    ``slices`` says which, or how many with an organ; a grid has ``side`` points along a side; without ``kind`` each model gets
    its own kind of prompt. A row is a model, slice, organ and prompt, with the columns of `score_grid`.
    """
    pairs = [(model, domain, case) for model in models for domain, case in cases]
    tables = []
    for model, domain, case in track(pairs, "predicting every prompt", enabled=progress):
        labels = task.slices.load(domain, case).labels
        rows = spread_rows(select_slices(labels, "foreground"), slices) if isinstance(slices, int) else slices
        used = kind or model.kind
        made_from = {
            "what": [MAPS_VERSION, task.slices.key(domain, case)],
            "how": [list(rows), used, side],
        }
        make = partial(_score_case, model, task, workspace, domain, case, rows, used, side)
        table = cached_table(model.run, "prompt_maps", made_from, make)
        tables.append(table.assign(**model.columns(domain, case)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _score_case(
    model: PromptableModel,
    task: Task,
    workspace: Path | str,
    domain: str,
    case: str,
    rows: Sequence[int],
    kind: PromptKind,
    side: int,
) -> pd.DataFrame:
    labels = task.slices.load(domain, case).labels
    embeddings = slice_embeddings(model, task, workspace, domain, case, rows)
    tables = []
    for row, maps in zip(rows, embeddings, strict=True):
        for number, organ in enumerate(task.manifest.organs):
            reference = labels[row] == number + 1
            if reference.any():
                table = score_grid(model, maps, reference, number, kind, side)
                tables.append(table.assign(slice=row, organ=organ.name, kind=kind, side=side))
    return pd.concat(tables, ignore_index=True)


def score_grid(
    model: PromptableModel,
    embeddings: ImageEmbeddings,
    reference: Mask,
    organ: int,
    kind: PromptKind,
    side: int,
) -> pd.DataFrame:
    """Predict one organ (a number from 0) of one slice with every prompt of a grid; the reference ``(H, W)`` is not empty.

    Returns:
        One row per prompt: ``x`` and ``y`` of its middle (pixels of the slice), ``inside`` (whether that lies in the organ),
        ``score`` (predicted IoU; NaN where the model was not trained to predict it), ``dice`` and ``iou`` of the mask.
    """
    net, size = model.predictor.model, (reference.shape[0], reference.shape[1])
    height, width = scaled_size(size, net.image_size)
    middles = point_grid(side, width, height).numpy() / (net.image_size / max(size))  # (P, 2)
    masks, scores = predict_masks(model, embeddings, place_prompts(middles, reference, kind), size, organ)
    overlap, areas = (masks & reference).sum((1, 2)), masks.sum((1, 2)) + reference.sum()
    row, column = (np.minimum(middles[:, 1 - axis].astype(int), size[axis] - 1) for axis in (0, 1))
    columns = {"x": middles[:, 0], "y": middles[:, 1], "inside": reference[row, column], "score": scores}
    return pd.DataFrame({**columns, "dice": 2 * overlap / areas, "iou": overlap / (areas - overlap)})


def place_prompts(
    middles: npt.NDArray[np.floating], reference: Mask, kind: PromptKind
) -> npt.NDArray[np.float64]:
    """Return prompts with their middles at ``(P, 2)``: points, or boxes ``(P, 4)`` of the organ's size; pixels of the slice."""
    if kind == "points":
        return np.asarray(middles, np.float64)
    left, top, right, bottom = tight_box(reference)
    half = np.array([right - left, bottom - top]) / 2
    limits = np.array(reference.shape[::-1])
    return np.concatenate([np.clip(middles - half, 0, limits), np.clip(middles + half, 0, limits)], axis=1)


@torch.no_grad()
def predict_masks(
    model: PromptableModel,
    embeddings: ImageEmbeddings,
    places: npt.NDArray[np.float64],
    size: tuple[int, int],
    organ: int,
) -> tuple[Mask, npt.NDArray[np.float64]]:
    """Predict one organ (a number from 0) of one slice ``size`` (H, W) with many prompts.

    Places are points ``(P, 2)`` or boxes ``(P, 4)``, pixels of the slice. Returned are masks ``(P, H, W)`` and predicted IoU
    ``(P,)``, NaN where the model was not trained to predict it.
    """
    net = model.predictor.model
    context = net.read_context(embeddings)
    scaled = torch.from_numpy(places * (net.image_size / max(size))).float()
    masks, scores = [], []
    for batch in torch.split(scaled, _BATCH):
        boxes = batch.shape[1] == 4
        prompts = Prompts.box(batch) if boxes else Prompts.points(batch[:, None], torch.ones(len(batch), 1))
        logits, iou = _predict_organ(model.predictor, embeddings, prompts, organ, context)
        masks.append(masks_of(net, logits[:, None], size, model.predictor.grid)[:, 0])
        score = iou if model.predicts_iou else None
        scores.append(np.full(len(batch), np.nan) if score is None else score.cpu().numpy())
    return np.concatenate(masks), np.concatenate(scores).astype(np.float64)


def _predict_organ(
    predictor: PromptedMethod | SAMZeroShot,
    embeddings: ImageEmbeddings,
    prompts: Prompts,
    organ: int,
    context: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return logits ``(B, 4h, 4w)`` and predicted IoU ``(B,)`` of one organ.

    SAM without training has no organs. For a point it predicts three masks, and that with the highest predicted IoU counts;
    for a box, one.
    """
    model = predictor.model
    if isinstance(predictor, SAMZeroShot) and isinstance(model, SAM):
        out = model.decode(embeddings, prompts, n_masks=SAM_MASKS)
        assert out.iou is not None
        single = torch.zeros(prompts.count, dtype=torch.long)
        best = single if prompts.xy is None else 1 + out.iou[:, 1:].argmax(1)
        each = torch.arange(prompts.count)
        return out.mask_logits[each, best], out.iou[each, best]
    out = model.decode(embeddings, prompts, context=context)
    return out.mask_logits[:, organ], None if out.iou is None else out.iou[:, organ]


def per_slice(maps: pd.DataFrame) -> pd.DataFrame:
    """Summarise for each slice of `prompt_maps` how its prompts differ, and how well their scores tell them apart.

    ``rank`` is Spearman's correlation of score and Dice, ``auc`` the chance that a prompt inside has a higher score than one
    outside, ``chosen`` the Dice of the highest score; ``low`` is the 10th percentile, ``spread`` best minus low.
    """
    keys = [*MODEL_AND_CASE, "kind", "slice", "organ"]
    rows = []
    for names, prompts in maps.groupby(keys, sort=False):
        dice, score = prompts["dice"].to_numpy(float), prompts["score"].to_numpy(float)
        low, typical = np.percentile(dice, [10, 50])
        row = {"rank": np.nan, "auc": np.nan, "chosen": np.nan, "best": dice.max(), "typical": typical}
        if np.isfinite(score).all():
            if np.ptp(score) and np.ptp(dice):
                row["rank"] = spearmanr(score, dice).statistic
            row["auc"] = auc(score, prompts["inside"].to_numpy(bool))
            row["chosen"] = dice[int(score.argmax())]
        rows.append({**dict(zip(keys, names, strict=True)), **row, "low": low, "spread": dice.max() - low})
    return pd.DataFrame(rows)


def auc(score: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    """Return the chance that a positive has a higher score than a negative, ties counting half; NaN without both.

    >>> auc(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]))
    1.0
    """
    inside, outside = score[positive], score[~positive]
    if not len(inside) or not len(outside):
        return float("nan")
    return float(mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside)))


def as_scores(frame: pd.DataFrame, column: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """Average a column over the slices and organs of each case (and ``by``), as rows for `desam_lite.evaluation.statistics`."""
    means = frame.groupby([*MODEL_AND_CASE, *by], sort=False)[column].mean().reset_index(name="value")
    return means.assign(metric=column)


def pool_targets(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of `as_scores` with all targets as one, so that few cases of each still give an interval over cases."""
    away = ~scores["in_domain"].astype(bool)
    named = scores["target"] + " " + scores["case"]
    return scores.assign(target=scores["target"].mask(away, "others"), case=scores["case"].mask(away, named))
