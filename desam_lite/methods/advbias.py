"""AdvBias: before every step, the bias field of each slice that changes its prediction most, and a consistency loss."""

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from desam_lite.data.datasets import Batch
from desam_lite.methods.consistency import contour_distance, divergence
from desam_lite.methods.splines import control_shape, spline_field
from desam_lite.methods.unet import UNetMethod
from desam_lite.training.losses import mask_loss

BIAS_CELLS, BIAS_ORDER = 2, 3  # control points half a side apart, cubic
BIAS_MAGNITUDE = 0.3  # the field stays within 1 - 0.3 and 1 + 0.3
CONTROL_RANGE = (math.log(1 - BIAS_MAGNITUDE), math.log(1 + BIAS_MAGNITUDE))  # of control points
ASCENT_STEP = 1.0  # of the one step of gradient ascent, along the gradient's direction
CONTOUR_WEIGHT = 0.5  # of the contours beside the divergence
ADVBIAS_WEIGHT = 1.0  # of both beside the mask loss


def bias_field(control: torch.Tensor, size: int) -> torch.Tensor:
    """Return the multiplicative field ``(B, 1, size, size)``: the exponential of a cubic spline, in 1 +- `BIAS_MAGNITUDE`."""
    return spline_field(control, size, BIAS_ORDER).exp().clamp(1 - BIAS_MAGNITUDE, 1 + BIAS_MAGNITUDE)


def apply_bias(images: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Multiply intensities, counted from the darkest of each slice, by the field; both ``(B, 1, S, S)``."""
    black = images.amin(dim=(2, 3), keepdim=True)
    return (images - black) * field + black


def distance(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the distance of logits from reference logits, both ``(B, K, S, S)``: divergence plus weighted contour distance."""
    first, second = reference.sigmoid(), logits.sigmoid()
    return divergence(first, second) + CONTOUR_WEIGHT * contour_distance(first, second)


class AdvBias(UNetMethod):
    """Training with adversarial bias fields (Chen et al., MICCAI 2020; Medical Image Analysis 2022).

    One step of gradient ascent on the control points ``(B, 5, 5)`` of a smooth multiplicative field ``(B, 1, S, S)`` makes the
    prediction under the field as different as possible from that without. The loss is the mask loss of the slices plus the
    distance between the two predictions ``(B, K, S, S)``.
    """

    paper: ClassVar[str] = "advbias"
    defaults_from: ClassVar[str] = (
        "the public code of the authors (cherise215/advchain): magnitude 0.3, control points half the side apart, one step of "
        "size 1, contour weight 0.5; consistency weight 1"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "the field multiplies intensities counted from the darkest of the slice: slices here have mean 0, theirs are in 0 to 1",
        "5 x 5 control points, a whole cubic spline over 2 x 2 cells, not 4 x 4 and a spline that fades at the rim",
        "supervised slices only; the semi-supervised use of the paper has no place here",
        "the authors' run on prostates (code of MaxStyle) takes magnitude 0.4 and adds the mask loss of biased slices",
        "the field is searched for in float32, whatever the precision of the training",
        "divergence and contours are computed on every organ's map, not over classes",
    )

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Draw the control points that the search starts from."""
        return {"control": generator.uniform(*CONTROL_RANGE, control_shape(BIAS_CELLS, BIAS_ORDER))}

    def attack(self, images: torch.Tensor, control: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return control points ``(B, c, c)``, one step up the distance from the reference prediction and within `CONTROL_RANGE`.

        The network is called directly, not through the wrapper of the training loop, and only the control points get a
        gradient: neither the gradients of the training step nor other processes are touched.
        """
        control = control.clone().requires_grad_(True)
        with torch.enable_grad():
            biased = self.network(apply_bias(images, bias_field(control, self.input_size)))
            (gradient,) = torch.autograd.grad(distance(reference, biased), control)
        direction = functional.normalize(gradient.flatten(1)).view_as(gradient)  # of norm 1 for each slice
        return (control.detach() + ASCENT_STEP * direction).clamp(*CONTROL_RANGE)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss of the slices plus the distance of the prediction under the field from that without."""
        assert batch.images is not None
        with torch.no_grad():
            reference = self.network(batch.images)
        control = self.attack(batch.images, batch.drawn["control"], reference)
        biased = apply_bias(batch.images, bias_field(control, self.input_size))
        clean, changed = module(torch.cat([batch.images, biased])).chunk(2)
        return mask_loss(clean, batch.masks) + ADVBIAS_WEIGHT * distance(clean.detach(), changed)
