"""SAM asked everywhere: a grid of points, three guesses at each, and of these the masks that are good and not yet there.

The filters are those of segment-anything's ``SamAutomaticMaskGenerator`` (predicted IoU, stability, non-maximum suppression), on
embeddings that are at hand. All guesses are judged before any is drawn, and only points with a good guess are drawn.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torchvision.ops import nms

from desam_lite.model.fast_iou import score_many
from desam_lite.model.predictor import GridSettings, point_grid
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size, unfit_square
from desam_lite.model.sam_decoder import SAM_MASKS, CoupledSAM

OVERLAP = 0.7
"""Boxes that overlap more are of the same thing: the mask with the higher predicted IoU stays."""

_DRAWN_AT_ONCE = 16


@dataclass(frozen=True)
class Candidates:
    """Masks of one slice, the highest predicted IoU first.

    Attributes:
        logits: ``(N, H, W)`` float32 on the grid of the slice; a mask is where they are above 0.
        iou: ``(N,)`` float32, predicted.
        points: ``(N, 2)`` float32, x and y of the point in pixels of the model's square.
    """

    logits: npt.NDArray[np.float32]
    iou: npt.NDArray[np.float32]
    points: npt.NDArray[np.float32]


@torch.no_grad()
def automatic_masks(
    model: CoupledSAM, embeddings: ImageEmbeddings, size: tuple[int, int], settings: GridSettings
) -> Candidates:
    """Find everything in one slice.

    Args:
        model: In evaluation mode.
        embeddings: Of this slice, batch 1.
        size: Height and width of the slice, in pixels.
        settings: The grid, the smallest predicted IoU and the smallest stability score; 0 lets everything pass.

    Returns:
        The masks that pass all filters; possibly none.
    """
    height, width = scaled_size(size, model.image_size)
    points = point_grid(settings.points_per_side, width, height)
    scores = _judge(model, embeddings, points, settings.batch)  # (P, 3)
    good = scores > settings.iou_threshold if settings.iou_threshold > 0 else torch.ones_like(scores) > 0
    promising = good.any(1).nonzero()[:, 0]
    kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for some in torch.split(promising, _DRAWN_AT_ONCE):
        logits = draw_on_slice(model, embeddings, _single(points[some]), size)[:, 1:]
        chosen, guess = good[some].nonzero(as_tuple=True)
        drawn = logits[chosen, guess]
        stability = calculate_stability_score(drawn, 0.0, 1.0).nan_to_num(0.0)  # an empty mask has none
        steady = stability >= settings.stability_threshold
        kept.append((drawn[steady], scores[some][chosen, guess][steady], points[some][chosen][steady]))
    if not kept:
        return _nothing(size)
    found, iou, places = (torch.cat(part) for part in zip(*kept, strict=True))
    if not len(found):
        return _nothing(size)
    best = nms(batched_mask_to_box(found > 0).float(), iou, OVERLAP)
    return Candidates(*(part[best].cpu().numpy() for part in (found, iou, places)))


@torch.no_grad()
def draw_on_slice(
    model: CoupledSAM, embeddings: ImageEmbeddings, prompts: Prompts, size: tuple[int, int]
) -> torch.Tensor:
    """Draw SAM's four masks of B prompts: logits ``(B, 4, H, W)`` on the grid of the slice."""
    logits = model.draw(embeddings, prompts).mask_logits.float()
    return unfit_square(logits, size, model.image_size)


def _judge(model: CoupledSAM, embeddings: ImageEmbeddings, points: torch.Tensor, batch: int) -> torch.Tensor:
    """Predict the IoU of the three guesses at each point: ``(P, 3)``, on the device of the embeddings."""
    sparse, dense = model.encode_prompts(_single(points), embeddings.neck.device)
    position = model.prompt_encoder.get_dense_pe()
    return score_many(model.judge_of(SAM_MASKS), embeddings.neck, position, sparse, dense[:1], batch)[:, 1:]


def _single(points: torch.Tensor) -> Prompts:
    return Prompts.points(points[:, None], torch.ones(len(points), 1))


def _nothing(size: tuple[int, int]) -> Candidates:
    return Candidates(np.zeros((0, *size), np.float32), np.zeros(0, np.float32), np.zeros((0, 2), np.float32))
