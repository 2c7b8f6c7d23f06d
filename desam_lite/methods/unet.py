"""A plain 2-D U-Net: what a hospital would train without any thought of the next hospital."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.datasets import Batch, standardise
from desam_lite.embeddings import ReadEmbeddings
from desam_lite.errors import StudyError
from desam_lite.framing import fit_square, unfit_square
from desam_lite.methods.base import Method, SlicePrediction, combine_organs, mask_loss


def build_unet(n_organs: int, width: int, size: int, seed: int) -> nn.Module:
    """Return MONAI's DynUNet planned as nnU-Net plans a 2-D network for slices of ``size`` pixels.

    One level per halving until the coarsest map is 4 to 7 pixels wide, kernels 3 x 3, instance normalisation, leaky ReLU,
    channels doubling from ``width`` up to 512 (Isensee et al., Nature Methods 2021).

    Args:
        n_organs: Maps in the output.
        width: Channels of the finest level; nnU-Net takes 32.
        size: Side of the input square, in pixels, divisible by 2 for each level but the first.
        seed: Names the initial weights.

    Returns:
        A module from ``(B, 1, S, S)`` to logits ``(B, n_organs, S, S)``.

    Raises:
        StudyError: The size cannot be halved that often.
    """
    levels = max(2, int(np.log2(size / 4)) + 1)
    if size % 2 ** (levels - 1):
        raise StudyError(
            f"a U-Net of {levels} levels halves its input {levels - 1} times, and unet_size {size} is not divisible by "
            f"{2 ** (levels - 1)}: use a power of two, as 64, 128 or 256."
        )
    from monai.networks.nets.dynunet import DynUNet  # seconds to import: only a process that builds one pays

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = DynUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=n_organs,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=[min(width * 2**level, 512) for level in range(levels)],
            norm_name=("INSTANCE", {"affine": True}),
        )
    return network


class UNetMethod(Method):
    """A plain 2-D U-Net without any means of generalization (empirical risk minimisation).

    Args:
        n_organs: K.
        width: Channels of the finest level.
        size: Side of the input square, in pixels.
        seed: Names the initial weights.
    """

    inputs = "slices"

    def __init__(self, n_organs: int, width: int, size: int, seed: int):
        self.input_size = self.mask_size = size
        self.module = build_unet(n_organs, width, size, seed)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return Dice plus cross-entropy, the loss all methods share."""
        return mask_loss(module(batch.images), batch.masks)

    @torch.no_grad()
    def predict(
        self, images: npt.NDArray[np.uint8], embeddings: ReadEmbeddings | None
    ) -> Iterator[SlicePrediction]:
        """Predict in batches of slices, back on the grid of the scan."""
        self.module.eval()
        device = next(self.module.parameters()).device
        size = (images.shape[1], images.shape[2])
        for chunk in torch.split(torch.from_numpy(standardise(images))[:, None], 8):
            logits = self.module(fit_square(chunk.to(device), self.input_size))
            for probability in unfit_square(logits, size).sigmoid().cpu().numpy():
                unjudged = np.full(len(probability), np.nan, np.float32)
                yield SlicePrediction(combine_organs(probability), probability, unjudged)
