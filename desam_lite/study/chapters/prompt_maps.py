"""What a trained model draws for any prompt of a slice, not only for the one it would choose: maps of Dice over places.

Two kinds of prompt go over a slice as the points of a grid do: ``points``, and ``box``, a box as large as the organ's own
(so its size is an oracle's) with its middle at the point. Nothing is trained here, and nothing chosen on what is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from desam_lite.data.slices import select_slices
from desam_lite.data.tasks import Task
from desam_lite.methods import load_predictor
from desam_lite.methods.frozen_encoder import open_embeddings
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.methods.sam_baselines import SAMZeroShot
from desam_lite.model.oracle_prompts import innermost, tight_box
from desam_lite.model.predictor import masks_of, point_grid
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size
from desam_lite.model.sam_decoder import CoupledSAM
from desam_lite.study.report.cache import kept_table
from desam_lite.study.run import Run
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

Kind = Literal["points", "box"]
Mask = npt.NDArray[np.bool_]
MAPS_VERSION = 1
_AT_ONCE = 16
WHO = ["label", "source", "seed", "target", "in_domain", "case"]
"""The columns that say which model met which case; as in `desam_lite.evaluation.statistics`."""


@dataclass(frozen=True)
class Asked:
    """A trained model on SAM's encoder, ready for any prompt.

    Attributes:
        run: What trained it.
        predictor: The model and how its masks are cleaned.
        judges: Whether its IoU head was trained to judge prompts.
    """

    run: Run
    predictor: PromptedMethod | SAMZeroShot
    judges: bool

    @property
    def kind(self) -> Kind:
        """The kind of prompt it is asked with by its own method."""
        return "box" if (self.run.spec.prompt_mode or "").startswith("box") else "points"

    def who(self, target: str, case: str) -> dict[str, Any]:
        """Return the columns `WHO` of a case."""
        spec = self.run.spec
        values = (spec.label, spec.source, spec.seed, target, target == spec.source, case)
        return dict(zip(WHO, values, strict=True))


def open_asked(run: Run) -> Asked:
    """Load the model of a finished run.

    Raises:
        StudyError: The run is not finished, or its method takes no prompt.
    """
    if not run.finished:
        raise StudyError(
            f"run {run.name} ({run.spec.label} from {run.spec.source}) is not finished: run it again."
        )
    found = load_predictor(run.directory)
    if not isinstance(found.predictor, PromptedMethod | SAMZeroShot):
        raise StudyError(f"{run.spec.label} takes no prompt: choose a method with prompt_mode.")
    found.predictor.model.eval()
    return Asked(run, found.predictor, found.card.judges)


def tested_cases(run: Run, per_domain: int) -> list[tuple[str, str]]:
    """Return (target, case) of the first ``per_domain`` cases that a run was scored on in each domain."""
    rows = run.metrics()[["target", "case"]].drop_duplicates()
    return [
        (str(t), str(c))
        for t, c in rows.groupby("target", sort=False).head(per_domain).itertuples(index=False)
    ]


def spread_slices(labels: npt.NDArray[np.uint8], count: int) -> list[int]:
    """Return up to ``count`` slices of ``(Z, H, W)``, evenly spread over those with an organ."""
    rows = select_slices(labels, "foreground")
    places = (np.arange(count) + 0.5) / count * len(rows)
    return sorted({rows[int(place)] for place in places}) if rows else []


def slice_embeddings(
    asked: Asked, task: Task, workspace: Path | str, domain: str, case: str, rows: Sequence[int]
) -> list[ImageEmbeddings]:
    """Return the embeddings of some slices, one by one, as the model was trained on them."""
    device = next(asked.predictor.model.parameters()).device
    store = open_embeddings(asked.run.spec, task.slices, Path(workspace), device)
    maps = store.load(domain, case, rows).to(device=device, dtype=torch.float32)
    return [maps[row] for row in range(len(maps))]


def prompt_maps(
    asked: Sequence[Asked],
    task: Task,
    workspace: Path | str,
    cases: Sequence[tuple[str, str]],
    *,
    slices: int | Sequence[int],
    side: int,
    kind: Kind | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ask every model with every prompt of a grid, on some slices of some cases; what is known is read from disk.

    Args:
        asked: The models.
        task: Where the cases are.
        workspace: Folder for results and caches.
        cases: (domain, case) pairs.
        slices: How many slices of each case (`spread_slices`), or which.
        side: Points along a side of the grid.
        kind: Of prompt; None for each model's own.
        progress: Whether to show a bar.

    Returns:
        One row per model, slice, organ and prompt: `WHO`, ``slice``, ``organ``, ``kind``, ``side``, ``x`` and ``y`` of the
        prompt's middle (pixels of the slice), ``inside`` (whether it lies in the organ), ``score`` (predicted IoU; NaN where
        nobody was trained to judge), ``dice`` and ``iou`` of the mask the prompt gives.
    """
    pairs = [(model, domain, case) for model in asked for domain, case in cases]
    found = []
    for model, domain, case in track(pairs, "asking every prompt", enabled=progress):
        labels = task.slices.load(domain, case).labels
        rows = spread_slices(labels, slices) if isinstance(slices, int) else list(slices)
        used = kind or model.kind
        made_from = {
            "what": ["prompt map", MAPS_VERSION, model.run.name, task.slices.key(domain, case)],
            "how": [rows, used, side],
        }
        question = _Question(model, task, Path(workspace), domain, case, rows, used, side)
        table = kept_table(Path(workspace) / "prompt_maps", made_from, question.ask)
        found.append(table.assign(**model.who(domain, case)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@dataclass(frozen=True, eq=False)
class _Question:
    """All prompts of some slices of one case, put to one model."""

    asked: Asked
    task: Task
    workspace: Path
    domain: str
    case: str
    rows: Sequence[int]
    kind: Kind
    side: int

    def ask(self) -> pd.DataFrame:
        labels = self.task.slices.load(self.domain, self.case).labels
        maps = slice_embeddings(self.asked, self.task, self.workspace, self.domain, self.case, self.rows)
        tables = []
        for row, emb in zip(self.rows, maps, strict=True):
            for number, organ in enumerate(self.task.manifest.organs):
                reference = labels[row] == number + 1
                if reference.any():
                    table = ask_everywhere(self.asked, emb, reference, number, self.kind, self.side)
                    tables.append(table.assign(slice=row, organ=organ.name, kind=self.kind, side=self.side))
        return pd.concat(tables, ignore_index=True)


def ask_everywhere(
    asked: Asked, embeddings: ImageEmbeddings, reference: Mask, organ: int, kind: Kind, side: int
) -> pd.DataFrame:
    """Draw one organ of one slice with every prompt of a grid.

    Args:
        asked: The model.
        embeddings: Of the slice, batch 1.
        reference: ``(H, W)`` bool, not empty.
        organ: Its number from 0.
        kind: Of prompt.
        side: Points along a side of the grid.

    Returns:
        One row per prompt: ``x``, ``y``, ``inside``, ``score``, ``dice``, ``iou``; see `prompt_maps`.
    """
    model, size = asked.predictor.model, (reference.shape[0], reference.shape[1])
    scale = model.image_size / max(size)
    height, width = scaled_size(size, model.image_size)
    middles = point_grid(side, width, height).numpy() / scale  # (P, 2), pixels of the slice
    masks, scores = draw_all(asked, embeddings, places(middles, reference, kind), size, organ)
    overlap, areas = (masks & reference).sum((1, 2)), masks.sum((1, 2)) + reference.sum()
    row, column = (np.minimum(middles[:, 1 - axis].astype(int), size[axis] - 1) for axis in (0, 1))
    return pd.DataFrame(
        {
            "x": middles[:, 0],
            "y": middles[:, 1],
            "inside": reference[row, column],
            "score": scores,
            "dice": 2 * overlap / areas,
            "iou": overlap / (areas - overlap),
        }
    )


def places(middles: npt.NDArray[np.floating], reference: Mask, kind: Kind) -> npt.NDArray[np.float64]:
    """Return prompts with their middles at ``(P, 2)``: points, or boxes ``(P, 4)`` of the organ's size; pixels of the slice."""
    if kind == "points":
        return np.asarray(middles, np.float64)
    left, top, right, bottom = tight_box(reference)
    half = np.array([right - left, bottom - top]) / 2
    limits = np.array(reference.shape[::-1])
    return np.concatenate([np.clip(middles - half, 0, limits), np.clip(middles + half, 0, limits)], axis=1)


def good_and_poor(reference: Mask, kind: Kind) -> dict[str, npt.NDArray[np.float64]]:
    """Return a good and a poor prompt for an organ ``(H, W)``, in pixels of the slice.

    Good is the innermost point, or the tight box. Poor is the same moved by the size of the organ to the side with most room for
    it (right, left, down or up): a slip that no longer means the organ but is still near it.
    """
    box = tight_box(reference)
    good = innermost(reference) + 0.5 if kind == "points" else box
    size, limits = box[2:] - box[:2], np.array(reference.shape[::-1])
    room = np.concatenate([limits - box[2:], box[:2]])  # right, down, left, up
    side = int((room / np.tile(size, 2)).argmax())
    step = np.zeros(2)
    step[side % 2] = (1 if side < 2 else -1) * min(size[side % 2], room[side])
    poor = good + np.resize(step, good.shape)
    return {"good": np.asarray(good, np.float64), "poor": np.asarray(poor, np.float64)}


@torch.no_grad()
def draw_all(
    asked: Asked,
    embeddings: ImageEmbeddings,
    where: npt.NDArray[np.float64],
    size: tuple[int, int],
    organ: int,
) -> tuple[Mask, npt.NDArray[np.float64]]:
    """Draw one organ with many prompts on one slice.

    Args:
        asked: The model.
        embeddings: Of the slice, batch 1.
        where: Points ``(P, 2)`` or boxes ``(P, 4)``, pixels of the slice.
        size: Height and width of the slice.
        organ: Its number from 0.

    Returns:
        Masks ``(P, H, W)`` and predicted IoU ``(P,)``, NaN where nobody was trained to judge.
    """
    model = asked.predictor.model
    context = model.read_context(embeddings)
    scaled = torch.from_numpy(where * (model.image_size / max(size))).float()
    masks, scores = [], []
    for some in torch.split(scaled, _AT_ONCE):
        prompts = (
            Prompts.box(some)
            if some.shape[1] == 4
            else Prompts.points(some[:, None], torch.ones(len(some), 1))
        )
        logits, judged = _draw(asked.predictor, embeddings, prompts, organ, context)
        masks.append(masks_of(model, logits[:, None], size, asked.predictor.grid)[:, 0])
        scores.append(
            judged.cpu().numpy() if asked.judges and judged is not None else np.full(len(some), np.nan)
        )
    return np.concatenate(masks), np.concatenate(scores).astype(np.float64)


def _draw(
    predictor: PromptedMethod | SAMZeroShot,
    embeddings: ImageEmbeddings,
    prompts: Prompts,
    organ: int,
    context: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return logits ``(B, 4h, 4w)`` and predicted IoU ``(B,)`` of one organ.

    SAM as it is knows no organs. Of a point it draws three guesses, and the one it thinks best counts; of a box, one mask.
    """
    model = predictor.model
    if isinstance(predictor, SAMZeroShot) and isinstance(model, CoupledSAM):
        out = model.draw(embeddings, prompts)
        assert out.iou is not None
        best = (
            1 + out.iou[:, 1:].argmax(1)
            if prompts.xy is not None
            else torch.zeros(prompts.count, dtype=torch.long)
        )
        each = torch.arange(prompts.count)
        return out.mask_logits[each, best], out.iou[each, best]
    out = model.decode(embeddings, prompts, context=context)
    return out.mask_logits[:, organ], None if out.iou is None else out.iou[:, organ]
