"""The losses that the compared methods share."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from desam_lite.model.names import MaskLoss

_SMOOTH = 1e-5  # keeps the Dice of an empty mask defined (public DeSAM code)


def mask_loss(logits: torch.Tensor, masks: torch.Tensor, kind: MaskLoss = "dice_ce") -> torch.Tensor:
    """Return the Dice loss of each organ's own map (sigmoid, squared denominator), alone or with cross-entropy.

    The public DeSAM code writes MONAI's ``DiceCELoss(sigmoid=True, squared_pred=True)``. In the release that it pins (1.1.0) the
    cross-entropy of a single map is a softmax over one channel, so identically 0: what it computes is Dice alone.

    Args:
        logits: ``(B, K, h, w)``.
        masks: ``(B, K, h, w)`` float, 0 to 1.
        kind: "dice" (published), or "dice_ce", as nnU-Net's; either is the mean over slices and organs.
    """
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((2, 3))  # (B, K)
    sizes = probability.square().sum((2, 3)) + masks.square().sum((2, 3))
    dice = 1 - (2 * overlap + _SMOOTH) / (sizes + _SMOOTH)
    if kind == "dice":
        return dice.mean()
    return dice.mean() + functional.binary_cross_entropy_with_logits(logits, masks)


@dataclass(frozen=True)
class IoULoss:
    """The loss of an IoU head: the distance of each predicted IoU from its target.

    The public DeSAM code takes L1 and has a switch for the square. On a PRIM that starts from random weights L1 can get stuck
    at a constant: its gradient does not grow with the error.
    """

    kind: Literal["l1", "mse"] = "l1"  #: "l1" or "mse"
    weight: float = 1.0  #: its weight beside the mask loss

    def __call__(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean over predictions and targets, both ``(B, K)``: a scalar."""
        distance = functional.l1_loss if self.kind == "l1" else functional.mse_loss
        return self.weight * distance(predicted, target)
