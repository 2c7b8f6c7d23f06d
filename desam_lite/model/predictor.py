"""Masks of a slice without any human prompt: the whole image as box, or a grid of points of which the best is kept.

The context of PDMM does not depend on the prompt, and the score of a point needs PRIM only. So all points are scored first and
masks are then drawn in descending score until one is good enough: the same mask as drawing all of them and choosing, for
a fraction of the work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from desam_lite.model.fast_iou import SCORED_AT_ONCE
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size, unfit_square

PromptMode = Literal["points", "box"]
_AREA_SIDE = 256  # minimal areas are given in pixels of a slice of this side, as in the public code
_STABILITY_OFFSET = 1.0


@dataclass(frozen=True)
class GridSettings:
    """The point grid and what is kept of it; the defaults are those of the public code.

    Attributes:
        points_per_side: n of the n x n grid.
        iou_threshold: Points with a predicted IoU not above it are dropped.
        stability_threshold: Masks with a stability score below it are dropped.
        min_area: Smaller holes are filled and smaller islands removed, in pixels of a 256 x 256 slice.
        batch: Points scored at once; bounds the memory, changes nothing else.
        exhaustive: Draw every mask instead of as few as needed; the same result, for tests and benchmarks.
    """

    points_per_side: int = 9
    iou_threshold: float = 0.5
    stability_threshold: float = 0.6
    min_area: int = 1000
    batch: int = SCORED_AT_ONCE
    exhaustive: bool = False


@dataclass(frozen=True)
class Prediction:
    """What is found in one slice.

    Attributes:
        probability: ``(K, H, W)`` float32; zero for an organ of which no prompt was kept.
        mask: ``(K, H, W)`` bool, small holes and islands removed.
        iou: ``(K,)`` float32: the predicted IoU of the prompt kept; NaN without IoU head, 0 where none was kept.
    """

    probability: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    iou: npt.NDArray[np.float32]

    @property
    def masked(self) -> npt.NDArray[np.float32]:
        """The probability as the mask has it, ``(K, H, W)``: zero outside, above 0.5 inside, where holes may have been filled."""
        inside = np.maximum(self.probability, np.nextafter(np.float32(0.5), np.float32(1)))
        return np.where(self.mask, inside, np.float32(0))


def point_grid(points_per_side: int, width: float, height: float) -> torch.Tensor:
    """Return the centres of n x n equal cells, row by row: ``(n * n, 2)`` float, x and y in pixels.

    >>> point_grid(2, 8, 4).tolist()
    [[2.0, 1.0], [6.0, 1.0], [2.0, 3.0], [6.0, 3.0]]
    """
    steps = (torch.arange(points_per_side) + 0.5) / points_per_side
    y, x = torch.meshgrid(steps * height, steps * width, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


@torch.no_grad()
def predict_slice(
    model: PromptedSAM,
    embeddings: ImageEmbeddings,
    mode: PromptMode,
    original_size: tuple[int, int],
    settings: GridSettings | None = None,
    *,
    points: torch.Tensor | None = None,
) -> Prediction:
    """Find every organ in one slice.

    Args:
        model: In evaluation mode.
        embeddings: Of this slice, batch 1.
        mode: "box" for the whole image, "points" for the grid. A variant without IoU head cannot rank points and draws with
            the centre point of the slice.
        original_size: Height and width of the slice, in pixels.
        settings: The grid and its thresholds.
        points: ``(N, 2)`` x, y in pixels of the model's square, in place of the grid.

    Returns:
        Probability, mask and predicted IoU per organ, on the grid of the slice.
    """
    settings = settings or GridSettings()
    context = model.read_context(embeddings)
    finder = _Finder(model, embeddings, context, original_size, settings)
    if mode == "box":
        return finder.single(Prompts.whole_image())
    height, width = scaled_size(original_size, model.image_size)
    if model.judge is None:
        centre = torch.tensor([[width / 2, height / 2]]) if points is None else points[:1]
        return finder.single(_as_prompts(centre))
    if points is None:
        points = point_grid(settings.points_per_side, width, height)
    return finder.best_of(points)


@torch.no_grad()
def predict_prompted(
    model: PromptedSAM,
    embeddings: ImageEmbeddings,
    prompts: Sequence[Prompts | None],
    original_size: tuple[int, int],
    settings: GridSettings | None = None,
) -> Prediction:
    """Draw every organ in one slice with a prompt of its own.

    Args:
        model: In evaluation mode.
        embeddings: Of this slice, batch 1.
        prompts: K times one prompt; None where an organ is not to be drawn.
        original_size: Height and width of the slice, in pixels.
        settings: Gives the smallest area of holes and islands.

    Returns:
        Probability, mask and predicted IoU per organ, on the grid of the slice.
    """
    finder = _Finder(
        model, embeddings, model.read_context(embeddings), original_size, settings or GridSettings()
    )
    drawn = [None if prompt is None else finder.single(prompt) for prompt in prompts]
    empty = np.zeros(original_size)
    return Prediction(
        np.stack([empty if d is None else d.probability[k] for k, d in enumerate(drawn)]).astype(np.float32),
        np.stack([empty if d is None else d.mask[k] for k, d in enumerate(drawn)]).astype(bool),
        np.array([0 if d is None else d.iou[k] for k, d in enumerate(drawn)], np.float32),
    )


@torch.no_grad()
def masks_of(
    model: PromptedSAM,
    logits: torch.Tensor,
    original_size: tuple[int, int],
    settings: GridSettings,
) -> npt.NDArray[np.bool_]:
    """Bring mask logits to the slice and clean each as a prediction is cleaned, whatever its score.

    Args:
        model: What drew them.
        logits: ``(B, K, 4h, 4w)`` of `PromptedSAM.decode`.
        original_size: Height and width of the slice, in pixels.
        settings: Gives the smallest area of holes and islands.

    Returns:
        ``(B, K, H, W)`` bool.
    """
    maps = unfit_square(logits.float(), original_size, model.image_size).cpu().numpy() > 0
    return np.stack([[_clean(mask, settings) for mask in organs] for organs in maps])


def _clean(mask: npt.NDArray[np.bool_], settings: GridSettings) -> npt.NDArray[np.bool_]:
    scale = max(mask.shape) / _AREA_SIDE
    return remove_small(mask, settings.min_area * scale * scale)


def _as_prompts(points: torch.Tensor) -> Prompts:
    return Prompts.points(points[:, None], torch.ones(len(points), 1))


@dataclass(frozen=True)
class _Finder:
    """One slice with everything that its prompts share."""

    model: PromptedSAM
    embeddings: ImageEmbeddings
    context: Any
    size: tuple[int, int]
    settings: GridSettings

    def single(self, prompts: Prompts) -> Prediction:
        """Draw with one prompt and keep what it gives."""
        out = self.model.decode(self.embeddings, prompts, context=self.context)
        logits = self._on_slice(out.mask_logits)[0]
        masks = np.stack([self._clean(organ > 0) for organ in logits])
        iou = np.full(len(masks), np.nan) if out.iou is None else out.iou[0].cpu().numpy()
        return Prediction(sigmoid(logits), masks, iou.astype(np.float32))

    def best_of(self, points: torch.Tensor) -> Prediction:
        """Score all points, then draw in descending score, for each organ until a mask is stable."""
        prompts = _as_prompts(points)
        scores = self.model.score_prompts(self.embeddings, prompts, batch=self.settings.batch)
        organs = [self._best_mask(points, scores[:, k].cpu(), k) for k in range(self.model.n_classes)]
        return Prediction(
            np.stack([o.probability[0] for o in organs]),
            np.stack([o.mask[0] for o in organs]),
            np.concatenate([o.iou for o in organs]),
        )

    def _best_mask(self, points: torch.Tensor, scores: torch.Tensor, organ: int) -> Prediction:
        # A stable sort: of points with equal scores the first of the grid wins, however the masks are drawn.
        ranked = torch.sort(scores, descending=True, stable=True).indices
        kept = ranked[scores[ranked] > self.settings.iou_threshold]
        for rank, logits in self._draw(points[kept], organ):
            if _stability(logits) < self.settings.stability_threshold:
                continue
            mask = self._clean(logits > 0)
            if mask.any():
                score = np.array([scores[kept[rank]]], np.float32)
                return Prediction(sigmoid(logits)[None], mask[None], score)
        empty = np.zeros((1, *self.size))
        return Prediction(empty.astype(np.float32), empty.astype(bool), np.zeros(1, np.float32))

    def _draw(self, points: torch.Tensor, organ: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield rank and logits ``(H, W)`` of each point: one at a time, or all drawn beforehand if exhaustive."""
        size = max(len(points), 1) if self.settings.exhaustive else 1
        for start in range(0, len(points), size):
            prompts = _as_prompts(points[start : start + size])
            out = self.model.decode(self.embeddings, prompts, context=self.context)
            for offset, logits in enumerate(self._on_slice(out.mask_logits[:, organ : organ + 1])):
                yield start + offset, logits[0]

    def _on_slice(self, logits: torch.Tensor) -> npt.NDArray[np.float32]:
        """Bring ``(B, K, 4h, 4w)`` to ``(B, K, H, W)``."""
        maps = unfit_square(logits.float(), self.size, self.model.image_size)
        found: npt.NDArray[np.float32] = maps.cpu().numpy()
        return found

    def _clean(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return _clean(mask, self.settings)


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn logits into probabilities."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), dtype=np.float32)


def _stability(logits: npt.NDArray[np.float32]) -> float:
    """Return the IoU of the mask at logits above +1 and above -1; 0 when both are empty."""
    inner, outer = (logits > _STABILITY_OFFSET).sum(), (logits > -_STABILITY_OFFSET).sum()
    return float(inner / max(outer, 1))


def remove_small(mask: npt.NDArray[np.bool_], min_area: float) -> npt.NDArray[np.bool_]:
    """Fill holes and remove islands smaller than ``min_area`` pixels; the largest island always stays.

    Args:
        mask: ``(H, W)`` bool.
        min_area: In pixels; 0 changes nothing.

    Returns:
        ``(H, W)`` bool.
    """
    if min_area <= 0 or not mask.any():
        return mask
    filled = mask | _small(~mask, min_area)
    islands, count = ndimage.label(filled, np.ones((3, 3)))
    sizes = np.bincount(islands.ravel(), minlength=count + 1)[1:]
    kept = sizes >= min(min_area, sizes.max())
    return np.asarray(np.concatenate([[False], kept])[islands])


def _small(mask: npt.NDArray[np.bool_], min_area: float) -> npt.NDArray[np.bool_]:
    """Return the parts of ``mask`` smaller than ``min_area`` pixels."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    small = sizes < min_area
    small[0] = False
    return np.asarray(small[parts])
