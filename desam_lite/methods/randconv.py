"""RandConv: slices of the same shapes in random local textures, and a loss that asks for equal predictions on them."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from desam_lite.data.datasets import Batch
from desam_lite.methods.consistency import divergence
from desam_lite.methods.unet import UNetMethod
from desam_lite.training.losses import mask_loss

RANDCONV_SIZES = (1, 3, 5, 7)  # of kernels, drawn anew for every view (the paper's "1-7")
RANDCONV_VIEWS = 3
RANDCONV_WEIGHT = 10.0  # of the divergence beside the mask loss


def random_kernel(
    generator: np.random.Generator, sizes: tuple[int, ...] = RANDCONV_SIZES
) -> npt.NDArray[Any]:
    """Draw a k x k kernel with weights of variance 1 / k**2, in the middle of a square of the largest size.

    On average, a convolution with it leaves the mean square of an image as it is, but for its rim.
    """
    side, largest = int(generator.choice(sizes)), max(sizes)
    rim = (largest - side) // 2
    return np.pad(generator.normal(0.0, 1.0 / side, (side, side)), rim)


def convolve(images: torch.Tensor, kernels: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Convolve each slice ``(B, 1, S, S)`` with its kernel ``(B, k, k)``, k odd; ``mix`` ``(B,)`` is the result's share."""
    count, side = kernels.shape[:2]
    filtered = functional.conv2d(images.transpose(0, 1), kernels[:, None], padding=side // 2, groups=count)
    share = mix[:, None, None, None]
    return share * filtered.transpose(0, 1) + (1 - share) * images


def random_views(images: torch.Tensor, kernels: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Return V views of each slice ``(B, 1, S, S)``, ``(B, V, S, S)``: it convolved, and the others made of that (public code).

    Kernels are ``(B, V, k, k)``, the shares ``mix`` of the convolved image ``(B, V)``.
    """
    first = convolve(images, kernels[:, 0], mix[:, 0])
    others = [convolve(first, kernels[:, view], mix[:, view]) for view in range(1, kernels.shape[1])]
    return torch.cat([first, *others], dim=1)


class RandConv(UNetMethod):
    """Random convolutions with kernels of several sizes, mixed with the slice, and a consistency loss (Xu et al., ICLR 2021).

    A slice ``(1, S, S)`` becomes V views ``(V, S, S)``; the loss is the mask loss of the first plus ten times the divergence of
    the V predictions ``(V, K, S, S)`` from their mean.
    """

    paper: ClassVar[str] = "randconv"
    defaults_from: ClassVar[str] = (
        "the paper's RC-mix 1-7 with consistency weight 10 and its public code (wildphoton/RandConv)"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "it was published for the classification of photographs; here it segments organs with this study's U-Net",
        "kernels and mixing weights are drawn for each slice, not once for a batch",
        "one grey channel in and out, no clipping to the range of photographs",
        "the divergence is taken in every pixel of every organ's map",
    )

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Draw kernels and mixing weights of all views."""
        kernels = np.stack([random_kernel(generator) for _ in range(RANDCONV_VIEWS)])
        return {"kernels": kernels, "mix": generator.random(RANDCONV_VIEWS)}

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss of the first view plus ten times the divergence of all views from their mean."""
        assert batch.images is not None
        views = random_views(batch.images, batch.drawn["kernels"], batch.drawn["mix"])
        logits = module(views.flatten(0, 1)[:, None]).unflatten(0, views.shape[:2])  # (B, V, K, S, S)
        probability = logits.sigmoid()
        apart = divergence(probability, probability.mean(dim=1, keepdim=True))
        return mask_loss(logits[:, 0], batch.masks) + RANDCONV_WEIGHT * apart
