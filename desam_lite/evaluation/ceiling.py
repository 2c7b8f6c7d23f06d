"""The best Dice that a method could reach with the size of its maps: what is lost when labels go to that size and back."""

import numpy as np
import numpy.typing as npt
import torch

from desam_lite.data.datasets import organ_maps
from desam_lite.model.resize import fit_square, unfit_square

_SUREST = 1e-3  # distance of the surest probability from 0 and 1


def label_ceiling(labels: npt.NDArray[np.uint8], n_organs: int, size: int, square: int) -> float:
    """Return the Dice of a network that predicts its training targets exactly, brought back to the slices as predictions are.

    Labels are organ ids ``(Z, H, W)`` of a case, K of them; size and square are the sides of the method's maps and of its input,
    in pixels. It is 0 to 1, the mean over the organs of the case; NaN if it has none.
    """
    present = labels.any(axis=(1, 2))
    maps = organ_maps(labels[present], n_organs)  # (Z', K, H, W)
    logits = fit_square(maps, size).clamp(_SUREST, 1 - _SUREST).logit()
    returned = unfit_square(logits, (labels.shape[1], labels.shape[2]), square) > 0
    overlap = (returned * maps).sum((0, 2, 3))  # (K,)
    both = returned.sum((0, 2, 3)) + maps.sum((0, 2, 3))
    dice = (2 * overlap / both)[maps.sum((0, 2, 3)) > 0]
    return float(torch.nanmean(dice)) if len(dice) else float("nan")
