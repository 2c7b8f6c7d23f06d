"""SAM's masks of everything in a slice: three guesses at each point of a grid, and of these the good ones that are not there yet.

The filters are those of segment-anything's ``SamAutomaticMaskGenerator`` (predicted IoU, stability, non-maximum suppression), on
embeddings that are at hand. All guesses are scored before any is decoded, and only points with a good guess are decoded.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torchvision.ops import nms

from desam_lite.model.fast_iou import predict_iou
from desam_lite.model.predictor import OVERLAP, GridSettings, point_grid, single_points
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts, prompts_at_once
from desam_lite.model.resize import scaled_size, unfit_square
from desam_lite.model.sam import SAM_MASKS
from desam_lite.model.sam_decoder import SAM

_SCORE_OFFSET = 1.0  # of the logits, as there
_DECODED_AT_ONCE = 16


class Candidates(NamedTuple):
    """Masks of one slice, the highest predicted IoU first."""

    # ``(N, H, W)`` float32 on the grid of the slice; a mask is where they are above 0
    logits: npt.NDArray[np.float32]
    iou: npt.NDArray[np.float32]  # ``(N,)`` float32, predicted
    points: npt.NDArray[
        np.float32
    ]  # ``(N, 2)`` float32, x and y of the point in pixels of the model's square


@torch.no_grad()
def automatic_masks(
    model: SAM, embeddings: ImageEmbeddings, size: tuple[int, int], settings: GridSettings
) -> Candidates:
    """Predict the masks of everything in a slice of ``size`` (height, width; pixels) that pass all filters; possibly none."""
    height, width = scaled_size(size, model.image_size)
    points = point_grid(settings.points_per_side, width, height).to(embeddings.neck.device)
    scores = _score_guesses(model, embeddings, points, settings.batch)  # (P, 3)
    good = scores > settings.iou_threshold if settings.iou_threshold > 0 else torch.ones_like(scores) > 0
    logits, iou, places = [scores.new_zeros(0, *size)], [scores.new_zeros(0)], [points.new_zeros(0, 2)]
    for part in torch.split(good.any(1).nonzero()[:, 0], _DECODED_AT_ONCE):
        guesses = decode_on_slice(model, embeddings, single_points(points[part]), size).mask_logits[:, 1:]
        row, guess = good[part].nonzero(as_tuple=True)
        masks = guesses[row, guess]
        stability = calculate_stability_score(masks, 0.0, _SCORE_OFFSET)  # NaN of an empty mask
        stable = stability.nan_to_num(0.0) >= settings.stability_threshold
        logits.append(masks[stable])
        iou.append(scores[part][row, guess][stable])
        places.append(points[part][row][stable])
    candidates = torch.cat(logits), torch.cat(iou), torch.cat(places)
    best = nms(batched_mask_to_box(candidates[0] > 0).float(), candidates[1], OVERLAP)
    return Candidates(*(values[best].cpu().numpy() for values in candidates))


@torch.no_grad()
def decode_on_slice(
    model: SAM, embeddings: ImageEmbeddings, prompts: Prompts, size: tuple[int, int]
) -> Decoded:
    """Predict SAM's four masks of B prompts: logits ``(B, 4, H, W)`` on the grid of the slice, and IoU ``(B, 4)``."""
    out = model.decode(embeddings, prompts, n_masks=SAM_MASKS)
    return Decoded(unfit_square(out.mask_logits.float(), size, model.image_size), out.iou)


def _score_guesses(
    model: SAM, embeddings: ImageEmbeddings, points: torch.Tensor, batch: int | None
) -> torch.Tensor:
    """Predict the IoU of the three guesses at each point: ``(P, 3)``, on the device of the embeddings."""
    sparse, dense = model.encode_prompts(single_points(points), embeddings.neck.device)
    shared = (embeddings.neck, model.prompt_encoder.get_dense_pe(), dense[:1])
    batch = batch or prompts_at_once(sparse.device)
    return predict_iou(*model.iou_modules(), *shared, sparse, batch)[:, 1:SAM_MASKS]
