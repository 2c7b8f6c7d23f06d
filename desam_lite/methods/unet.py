"""A plain 2-D U-Net, as a hospital would train it without a thought of the next hospital; other methods build on it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.data.datasets import Batch, standardise
from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.methods.augmentation import Augmentation, augment_batch
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.resize import fit_square, unfit_square
from desam_lite.training.losses import mask_loss
from desam_lite.training.method import Method, SlicePrediction, Volume
from desam_lite.utils.errors import StudyError

MAX_CHANNELS = 512  # of any level, as in nnU-Net's 2-D networks
SLICES_AT_ONCE = 8  # at prediction; bounds the memory, changes nothing else

Alter = Callable[[int, torch.Tensor], torch.Tensor]


def build_unet(n_organs: int, width: int, size: int, seed: int, channels: int = 1) -> nn.Module:
    """Return MONAI's DynUNet planned as nnU-Net plans a 2-D network for slices of ``size`` pixels.

    One level per halving until the coarsest map is 4 to 7 pixels wide, kernels 3 x 3, instance normalisation, leaky ReLU,
    channels doubling from ``width`` (nnU-Net: 32) up to 512 (Isensee et al., Nature Methods 2021). The seed names its weights.

    Returns:
        A module from ``(B, channels, S, S)`` to logits ``(B, n_organs, S, S)``.

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
            in_channels=channels,
            out_channels=n_organs,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=[min(width * 2**level, MAX_CHANNELS) for level in range(levels)],
            norm_name=("INSTANCE", {"affine": True}),
        )
    return network


def encode(network: Any, images: torch.Tensor, alter: Alter | None = None) -> list[torch.Tensor]:
    """Return the maps of all levels of a network of `build_unet`, finest first: ``(B, C, S / 2**level, S / 2**level)``.

    ``alter``, if given, gets the level (0 is the finest) and its map; what it returns goes on, to the next level and the skip.
    """
    maps, current = [], images
    for level, block in enumerate([network.input_block, *network.downsamples, network.bottleneck]):
        current = block(current)
        current = current if alter is None else alter(level, current)
        maps.append(current)
    return maps


def decode(network: Any, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the logits ``(B, K, S, S)`` from the maps of `encode`."""
    current = maps[-1]
    for block, skip in zip(network.upsamples, reversed(maps[:-1]), strict=True):
        current = block(current, skip)
    logits: torch.Tensor = network.output_block(current)
    return logits


class UNetMethod(Method):
    """A plain 2-D U-Net without any means of generalization but its augmentation (empirical risk minimisation).

    It maps slices ``(B, 1, S, S)``, standardised per volume, to logits ``(B, K, S, S)``.

    Attributes:
        network: The U-Net that predicts; part of `module`, or `module` itself.
        channels: Of its input, in all of which a slice is repeated.
    """

    channels: ClassVar[int] = 1
    inputs = "slices"
    paper: ClassVar[str] = "nnunet"
    defaults_from: ClassVar[str] = (
        "nnU-Net's rules for a 2-D network and its default augmentation (public code, version 2)"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "Adam with the rate, length and batch all methods of this study share, not SGD over 1000 epochs of 250 steps",
        "one map per organ with a sigmoid, no deep supervision, no test-time mirroring, no ensemble of five folds",
        "whole slices scaled to one square, not patches on a common spacing with a third of them on an organ",
        "on synthetic slices, SynthSeg in the plane: classes of background from every slice itself, no elastic deformation but "
        "nnU-Net's rotation, scaling and mirroring, acquisition as in the training of `sam_tiny`",
    )

    def __init__(self, n_organs: int, width: int, size: int, seed: int, augmentation: Augmentation = "none"):
        self.input_size = self.mask_size = size
        self.augmentation = augmentation
        self.width, self.network = width, build_unet(n_organs, width, size, seed, self.channels)
        self.module = self.wrap(seed)

    def wrap(self, seed: int) -> nn.Module:
        """Return what is trained, of which the U-Net is a part; here the U-Net itself."""
        return self.network

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it, or a method on it, for a run."""
        assert spec.unet_width is not None and spec.unet_size is not None
        return cls(n_organs, spec.unet_width, spec.unet_size, spec.seed, spec.augmentation or "none")

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Augment the training slices and add the random numbers of the loss; validation slices stay as they are."""
        if not augment:
            return batch
        batch = augment_batch(batch, generators, self.augmentation)
        drawn = [self.draw(generator) for generator in generators]
        names = drawn[0] if drawn else {}
        stacked = {n: torch.from_numpy(np.stack([d[n] for d in drawn]).astype(np.float32)) for n in names}
        return replace(batch, drawn=stacked)

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Return the random numbers that the loss needs for one slice; the loss itself draws none."""
        return {}

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return Dice plus cross-entropy, as nnU-Net."""
        return self.validation_loss(module, batch)

    def validation_loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return Dice plus cross-entropy of the slices as they are: one rule selects the epoch of every method."""
        assert batch.images is not None
        return mask_loss(module(batch.images.expand(-1, self.channels, -1, -1)), batch.masks)

    @torch.no_grad()
    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Predict in batches of slices, back on the grid of the scan."""
        self.module.eval()
        size = (images.shape[1], images.shape[2])
        for chunk in torch.split(torch.from_numpy(standardise(images))[:, None], SLICES_AT_ONCE):
            fitted = fit_square(chunk.to(self.device), self.input_size)
            logits = self.network(fitted.expand(-1, self.channels, -1, -1))
            for probability in unfit_square(logits, size).sigmoid().cpu().numpy():
                yield SlicePrediction.from_probability(probability)
