"""AdvBias: before every step the smooth shading of each slice that confuses the network, and one answer with and without."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.data.datasets import Batch
from desam_lite.methods.consistency import contour_distance, divergence
from desam_lite.methods.splines import control_shape, spline_field
from desam_lite.methods.unet import UNetMethod
from desam_lite.training.losses import mask_loss

CELLS, ORDER = 2, 3  # control points half a side apart, cubic
MAGNITUDE = 0.3  # the field stays within 1 - 0.3 and 1 + 0.3
STEP = 1.0  # of the one step of gradient ascent, on control points of norm 1
CONTOUR = 0.5  # weight of the contours beside the divergence
CONSISTENCY = 1.0  # weight of both beside the mask loss


def bias_field(control: torch.Tensor, size: int) -> torch.Tensor:
    """Return the multiplicative field ``(B, 1, size, size)``: the exponential of a cubic spline, within 1 +- `MAGNITUDE`."""
    field: torch.Tensor = spline_field(control, size, ORDER).exp().clamp(1 - MAGNITUDE, 1 + MAGNITUDE)
    return field


def shade(images: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Multiply grey levels, counted from the darkest of each slice, by the field; both ``(B, 1, S, S)``."""
    black = images.amin(dim=(2, 3), keepdim=True)
    return (images - black) * field + black


def distance(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return how far logits ``(B, K, S, S)`` are from a reference drawing: divergence and half the distance of contours."""
    first, second = reference.sigmoid(), logits.sigmoid()
    return divergence(first, second) + CONTOUR * contour_distance(first, second)


def to_unit(control: torch.Tensor) -> torch.Tensor:
    """Return control points ``(B, c, c)`` scaled to norm 1 for each slice."""
    norms = control.flatten(1).norm(dim=1).clamp_min(1e-12)
    unit: torch.Tensor = control / norms[:, None, None]
    return unit


class AdvBias(UNetMethod):
    """Training with adversarial bias fields (Chen et al., MICCAI 2020; Medical Image Analysis 2022)."""

    paper: ClassVar[str] = "advbias"
    defaults_from: ClassVar[str] = (
        "the public code of the authors (cherise215/advchain): magnitude 0.3, control points half the side apart, one step of "
        "size 1, contour weight 0.5; consistency weight 1"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "the field multiplies grey levels counted from the darkest of the slice: slices here have mean 0, theirs run from 0 to 1",
        "5 x 5 control points, a whole cubic spline over 2 x 2 cells, not 4 x 4 and a spline that fades at the rim",
        "supervised slices only; the semi-supervised use of the paper has no place here",
        "the field is sought in float32, whatever the precision of the training",
        "divergence and contours are taken of every organ's map, not over classes",
    )

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Draw the control points that the search starts from."""
        return {"control": generator.uniform(-1.0, 1.0, control_shape(CELLS, ORDER))}

    def attack(self, images: torch.Tensor, control: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return control points ``(B, c, c)`` of norm 1, one step up the distance from the reference drawing.

        The network is asked directly, not through the wrapper of the training loop, and only the control points get a
        gradient: neither the gradients of the step to come nor other processes are touched.
        """
        control = to_unit(control).requires_grad_(True)
        with torch.enable_grad():
            far = distance(reference, self.network(shade(images, bias_field(control, self.input_size))))
            (gradient,) = torch.autograd.grad(far, control)
        return to_unit(control.detach() + STEP * to_unit(gradient))

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss of the slices plus the distance of what the network says of them shaded."""
        assert batch.images is not None
        with torch.no_grad():
            reference = self.network(batch.images)
        control = self.attack(batch.images, batch.drawn["control"], reference)
        shaded = shade(batch.images, bias_field(control, self.input_size))
        clean, changed = module(torch.cat([batch.images, shaded])).chunk(2)
        return mask_loss(clean, batch.masks) + CONSISTENCY * distance(clean.detach(), changed)
