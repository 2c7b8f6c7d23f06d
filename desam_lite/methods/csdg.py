"""CSDG: random shallow networks change how tissues appear, and two results are blended without regard to anatomy."""

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from desam_lite.data.datasets import Batch
from desam_lite.methods.consistency import divergence
from desam_lite.methods.splines import control_shape, unit_spline_field
from desam_lite.methods.unet import UNetMethod
from desam_lite.training.losses import mask_loss

GIN_CHANNELS = (3, 2, 2, 2, 3)  # of its four layers; the slice is repeated in three channels
GIN_SIZES = (1, 3)  # of kernels, drawn for every layer
IPA_CELLS, IPA_ORDER = 4, 2  # control points a quarter of the side apart (24 of 96), quadratic
CSDG_VIEWS = 3  # two that are blended, one that is not
CSDG_WEIGHT = 10.0 / 2  # the public code's weight 10 is on a mean over both outcomes, here they are summed


def random_appearances(images: torch.Tensor, draws: dict[str, torch.Tensor]) -> torch.Tensor:
    """Change intensities by a random network of four convolutions, the paper's GIN, mix the result with the slice, keep its norm.

    Of slices ``(B, 1, S, S)`` it gives V appearances in three channels, ``(B, V, 3, S, S)``, by ``kernelsN`` ``(B, V, out, in,
    3, 3)`` and ``shiftsN`` ``(B, V, out)``, N from 0 to 3, and the share ``mix`` ``(B, V)``.
    """
    count, views = draws["mix"].shape
    size = images.shape[-1]
    layers = len(GIN_CHANNELS) - 1
    repeated = images[:, None].expand(-1, views, GIN_CHANNELS[0], -1, -1)
    maps = repeated.reshape(1, -1, size, size)
    for layer in range(layers):
        kernels = draws[f"kernels{layer}"].flatten(0, 2)  # (B * V * out, in, 3, 3)
        shifts, groups = draws[f"shifts{layer}"].flatten(), count * views
        maps = functional.conv2d(maps, kernels, shifts, padding=1, groups=groups)
        maps = functional.leaky_relu(maps) if layer < layers - 1 else maps
    share = draws["mix"][:, :, None, None, None]
    mixed = share * maps.reshape(repeated.shape) + (1 - share) * repeated
    before, after = (m.flatten(2).norm(dim=2)[..., None, None, None] for m in (repeated, mixed))
    normed: torch.Tensor = mixed * before / (after + 1e-5)
    return normed


class CSDG(UNetMethod):
    """Global intensity non-linear augmentation with interventional pseudo-correlation (Ouyang et al., IEEE TMI 2023).

    A slice ``(1, S, S)`` becomes three views ``(3, 3, S, S)`` of three channels: two random appearances blended by a smooth
    random map, both ways, and a third appearance. The loss is the mask loss of the first view plus the weighted divergence of
    the mean of the three predictions ``(3, K, S, S)`` from each of them.
    """

    channels = GIN_CHANNELS[-1]
    paper: ClassVar[str] = "csdg"
    defaults_from: ClassVar[str] = (
        "the paper and its public code (cheng-01037, prostate script): four layers of two channels, kernels of 1 or 3, "
        "consistency weight 10"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "this study's U-Net from random weights, not an EfficientNet-b2 U-Net trained on ImageNet",
        "nnU-Net's augmentation before it, or none, as the profile has it; the public code has its own, with elastic deformation",
        "kernel sizes are drawn for each slice, not once for a batch",
        "the blending map is the spline itself brought to 0..1; the public code takes its exponential first",
        "the divergence is taken in every pixel of every organ's map, not over classes",
        "the shared learning rate, schedule and number of epochs, not 2000 epochs with weight decay",
    )

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Draw the random networks of all views and the control points of the blending map."""
        drawn: dict[str, npt.NDArray[Any]] = {}
        for layer, (inside, outside) in enumerate(pairwise(GIN_CHANNELS)):
            kernels = [_random_kernels(generator, outside, inside) for _ in range(CSDG_VIEWS)]
            drawn[f"kernels{layer}"] = np.stack(kernels)
            drawn[f"shifts{layer}"] = generator.standard_normal((CSDG_VIEWS, outside))
        drawn["mix"] = generator.random(CSDG_VIEWS)
        drawn["control"] = generator.standard_normal(control_shape(IPA_CELLS, IPA_ORDER))
        return drawn

    def views(self, batch: Batch) -> torch.Tensor:
        """Return three views of each slice, ``(B, 3, 3, S, S)``: two appearances blended both ways, and one unblended."""
        assert batch.images is not None
        first, second, third = random_appearances(batch.images, dict(batch.drawn)).unbind(dim=1)
        blend = unit_spline_field(batch.drawn["control"], self.input_size, IPA_ORDER)  # the paper's IPA
        there, back = blend * first + (1 - blend) * second, (1 - blend) * first + blend * second
        return torch.stack([there, back, third], dim=1)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss of the first view plus the divergence of the views' mean from each of them."""
        views = self.views(batch)
        logits = module(views.flatten(0, 1)).unflatten(0, views.shape[:2])  # (B, 3, K, S, S)
        probability = logits.sigmoid()
        apart = divergence(probability.mean(dim=1, keepdim=True).expand_as(probability), probability)
        return mask_loss(logits[:, 0], batch.masks) + CSDG_WEIGHT * apart


def _random_kernels(generator: np.random.Generator, outside: int, inside: int) -> npt.NDArray[Any]:
    """Draw standard normal kernels of one random size, in the middle of 3 x 3."""
    side = int(generator.choice(GIN_SIZES))
    rim = (max(GIN_SIZES) - side) // 2
    values = generator.standard_normal((outside, inside, side, side))
    return np.pad(values, ((0, 0), (0, 0), (rim, rim), (rim, rim)))
