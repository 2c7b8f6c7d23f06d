"""Masks of a slice without any human prompt: the whole image as box, or a grid of points of which the best is kept.

The context of PDMM does not depend on the prompt, and the score of a point needs PRIM only. So all points are scored first, and
masks are then decoded in descending score until one is good enough: the same mask as decoding all of them and choosing, for
a fraction of the work.

Good enough is by "iou" the first mask that is not empty; as "published" the first whose box overlaps no better one's and that
needs no clean-up, as an empty one needs none, or else the very best: what the public DeSAM code writes first into its files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from segment_anything.utils.amg import batched_mask_to_box
from torchvision.ops import box_iou

from desam_lite.model.names import AutomaticMode, Selection
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size, unfit_square

OVERLAP = 0.7
"""Masks whose boxes overlap more are of the same thing: the one with the higher predicted IoU stays (segment-anything)."""
_AREA_SIDE = 256  # minimal areas are given in pixels of a slice of this side, as in the public code
_STABILITY_OFFSET = 1.0  # of the logits, as in segment-anything's automatic mask generator
_LARGEST_LOGIT = 60  # beyond, a probability is 0 or 1 in float32 anyway
_NEIGHBOURS = np.ones((3, 3))  # pixels that touch at a corner belong together


@dataclass(frozen=True)
class GridSettings:
    """The point grid and what is kept of it; the defaults are those of the public code.

    Attributes:
        points_per_side: n of the n x n grid.
        iou_threshold: Points with a predicted IoU not above it are dropped.
        stability_threshold: Masks with a stability score below it are dropped; 0 keeps all. The public code computes the score
            and drops none.
        selection: Which of the masks that are left is kept (see above).
        min_area: Smaller holes are filled and smaller islands removed, in pixels of a 256 x 256 slice.
        batch: Points scored at once; bounds the memory, changes nothing else. None: what suits the device.
    """

    points_per_side: int = 9
    iou_threshold: float = 0.5
    stability_threshold: float = 0.0
    selection: Selection = "published"
    min_area: int = 1000
    batch: int | None = None


@dataclass(frozen=True)
class Prediction:
    """What is predicted in one slice.

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


_Organ = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], np.float32]
"""Probability ``(H, W)``, mask ``(H, W)`` and predicted IoU of one organ."""


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
    mode: AutomaticMode,
    original_size: tuple[int, int],
    settings: GridSettings | None = None,
    *,
    points: torch.Tensor | None = None,
) -> Prediction:
    """Predict every organ in one slice.

    Args:
        model: In evaluation mode.
        embeddings: Of this slice, batch 1.
        mode: "box" for the whole image, "points" for the grid. A variant without IoU head cannot rank points and predicts from
            the centre point of the slice.
        original_size: Height and width of the slice, in pixels.
        settings: The grid and its thresholds.
        points: ``(N, 2)`` x, y in pixels of the model's square, in place of the grid.

    Returns:
        Probability, mask and predicted IoU per organ, on the grid of the slice.
    """
    predictor = _SlicePredictor(model, embeddings, original_size, settings or GridSettings())
    if mode == "box":
        return _join(predictor.from_prompt(Prompts.whole_image()))
    height, width = scaled_size(original_size, model.image_size)
    if not model.predicts_iou:
        centre = torch.tensor([[width / 2, height / 2]]) if points is None else points[:1]
        return _join(predictor.from_prompt(single_points(centre)))
    if points is None:
        points = point_grid(predictor.settings.points_per_side, width, height)
    return _join(predictor.from_best_points(points))


@torch.no_grad()
def predict_prompted(
    model: PromptedSAM,
    embeddings: ImageEmbeddings,
    prompts: Sequence[Prompts | None],
    original_size: tuple[int, int],
    settings: GridSettings | None = None,
) -> Prediction:
    """Predict every organ in one slice as `predict_slice` does, but from a prompt of its own.

    ``prompts`` are K times one prompt, None where an organ is not to be predicted.
    """
    predictor = _SlicePredictor(model, embeddings, original_size, settings or GridSettings())
    each = (predictor.nothing if p is None else predictor.from_prompt(p)[k] for k, p in enumerate(prompts))
    return _join(each)


def _join(organs: Iterable[_Organ]) -> Prediction:
    return Prediction(*(np.stack(values) for values in zip(*organs, strict=True)))


class _SlicePredictor:
    """One slice with everything that its prompts share."""

    def __init__(
        self, model: PromptedSAM, embeddings: ImageEmbeddings, size: tuple[int, int], settings: GridSettings
    ):
        self.model, self.embeddings, self.size, self.settings = model, embeddings, size, settings
        self.context = model.read_context(embeddings)
        self.nothing: _Organ = np.zeros(size, np.float32), np.zeros(size, bool), np.float32(0)

    def from_prompt(self, prompt: Prompts) -> list[_Organ]:
        """Predict all organs from one prompt, whatever its score."""
        out = self.model.decode(self.embeddings, prompt, context=self.context)
        logits = _on_slice(self.model, out.mask_logits, self.size)[0]  # (K, H, W)
        iou = np.full(len(logits), np.nan) if out.iou is None else out.iou[0].cpu().numpy()
        return [self._organ(*values)[0] for values in zip(logits, iou, strict=True)]

    def from_best_points(self, points: torch.Tensor) -> list[_Organ]:
        """Score all points ``(N, 2)``, then decode in descending score, for each organ until a mask is good enough."""
        prompts = single_points(points)
        scores = self.model.score_prompts(self.embeddings, prompts, batch=self.settings.batch).cpu()  # (N, K)
        return [self._best(points, scores[:, k], k) for k in range(self.model.n_classes)]

    def _best(self, points: torch.Tensor, scores: torch.Tensor, k: int) -> _Organ:
        published = self.settings.selection == "published"
        best, boxes = self.nothing, torch.zeros(0, 4)
        # A stable sort: of points with equal scores the first of the grid wins.
        ranked = torch.sort(scores, descending=True, stable=True).indices
        for place in ranked[scores[ranked] > self.settings.iou_threshold]:
            prompt = single_points(points[place][None])
            out = self.model.decode(self.embeddings, prompt, context=self.context)
            logits = _on_slice(self.model, out.mask_logits[:, k : k + 1], self.size)[0, 0]  # (H, W)
            box = batched_mask_to_box(torch.from_numpy(logits > 0)[None]).float()
            repeated = published and bool((box_iou(boxes, box) > OVERLAP).any())
            if repeated or _stability(logits) < self.settings.stability_threshold:
                continue
            organ, changed = self._organ(logits, float(scores[place]))
            if (published and not changed) or (not published and organ[1].any()):
                return organ
            best = organ if published and not len(boxes) else best
            boxes = torch.cat([boxes, box])
        return best

    def _organ(self, logits: npt.NDArray[np.float32], iou: float) -> tuple[_Organ, bool]:
        mask, changed = _clean(logits > 0, self.settings)
        return (sigmoid(logits), mask, np.float32(iou)), changed


@torch.no_grad()
def masks_of(
    model: PromptedSAM, logits: torch.Tensor, original_size: tuple[int, int], settings: GridSettings
) -> npt.NDArray[np.bool_]:
    """Turn mask logits ``(B, K, 4h, 4w)`` into masks ``(B, K, H, W)`` of the slice, cleaned as those of a prediction."""
    maps = _on_slice(model, logits, original_size)
    return np.stack([[_clean(mask, settings)[0] for mask in organs > 0] for organs in maps])


def _on_slice(model: PromptedSAM, logits: torch.Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bring mask logits ``(B, K, 4h, 4w)`` to ``(B, K, H, W)``."""
    maps = unfit_square(logits.float(), size, model.image_size)
    return np.asarray(maps.cpu().numpy(), np.float32)


def single_points(points: torch.Tensor) -> Prompts:
    """Return a prompt for each of ``(N, 2)`` points, which says that it is inside."""
    return Prompts.points(points[:, None], torch.ones(len(points), 1))


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn logits into probabilities."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT))), dtype=np.float32)


def _stability(logits: npt.NDArray[np.float32]) -> float:
    """Return the IoU of the mask at logits above +1 and above -1; 0 when both are empty."""
    inner, outer = (logits > _STABILITY_OFFSET).sum(), (logits > -_STABILITY_OFFSET).sum()
    return float(inner / max(outer, 1))


def _clean(mask: npt.NDArray[np.bool_], settings: GridSettings) -> tuple[npt.NDArray[np.bool_], bool]:
    scale = max(mask.shape) / _AREA_SIDE
    return remove_small(mask, settings.min_area * scale * scale)


def remove_small(mask: npt.NDArray[np.bool_], min_area: float) -> tuple[npt.NDArray[np.bool_], bool]:
    """Fill holes and remove islands of ``(H, W)`` smaller than ``min_area`` pixels; the largest island always stays.

    Returns:
        The mask, and whether there was anything as small, be it the largest island.
    """
    if min_area <= 0 or not mask.any():
        return mask, False
    holes = _small(~mask, min_area)
    islands, count = ndimage.label(mask | holes, _NEIGHBOURS)
    sizes = np.bincount(islands.ravel(), minlength=count + 1)[1:]
    kept = sizes >= min(min_area, sizes.max())
    cleaned = np.asarray(np.concatenate([[False], kept])[islands])
    return cleaned, bool(holes.any() or sizes.min() < min_area)


def _small(mask: npt.NDArray[np.bool_], min_area: float) -> npt.NDArray[np.bool_]:
    """Return the parts of ``mask`` smaller than ``min_area`` pixels."""
    parts, count = ndimage.label(mask, _NEIGHBOURS)
    small = np.bincount(parts.ravel(), minlength=count + 1) < min_area
    small[0] = False
    return np.asarray(small[parts])
