"""MixStyle: in early layers each slice gets the mean and spread of a mixture with another slice."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.data.datasets import Batch
from desam_lite.methods.unet import UNetMethod, decode, encode
from desam_lite.training.losses import mask_loss

MIXSTYLE_LEVELS = 2  # the two finest levels, as the paper's first two residual blocks
MIXSTYLE_PROBABILITY = 0.5  # that a level of a slice is mixed
MIXSTYLE_ALPHA = 0.1  # of Beta(alpha, alpha), which the mixing weight is drawn from


def style(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each channel of ``(B, C, h, w)``, both ``(B, C, 1, 1)``, without gradient."""
    variance, mean = torch.var_mean(maps.detach().float(), dim=(2, 3), keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def draw_partners(keys: torch.Tensor) -> torch.Tensor:
    """Return for each slice the number of another of the batch, ``(B,)``, of a slice alone its own.

    In the order of the random ``keys`` ``(B,)`` each takes the next, and the last the first.
    """
    order = keys.argsort()
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def mix_styles(maps: torch.Tensor, keep: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """Give each slice of ``(B, C, h, w)`` the style ``keep`` of its own plus ``1 - keep`` of its partner's.

    Both are ``(B,)``: a share from 0 to 1, which changes nothing, and the number of another slice of the batch.
    """
    mean, deviation = style(maps)
    keep = keep[:, None, None, None]
    new_mean = keep * mean + (1 - keep) * mean[partner]
    scale = keep + (1 - keep) * deviation[partner] / deviation
    mixed = (maps - mean) * scale + new_mean
    untouched = (keep == 1) | (partner == torch.arange(len(maps), device=maps.device))[:, None, None, None]
    return torch.where(untouched, maps, mixed.to(maps.dtype))


class MixStyleUNet(nn.Module):
    """The U-Net of `build_unet` with styles mixed after its finest levels."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(
        self, images: torch.Tensor, keep: torch.Tensor | None = None, keys: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return logits ``(B, K, S, S)``; in training styles are mixed by shares and keys, ``(B, MIXSTYLE_LEVELS)``."""
        if not self.training or keep is None or keys is None:
            logits: torch.Tensor = self.unet(images)
            return logits

        def alter(level: int, maps: torch.Tensor) -> torch.Tensor:
            if level >= MIXSTYLE_LEVELS:
                return maps
            return mix_styles(maps, keep[:, level], draw_partners(keys[:, level]))

        return decode(self.unet, encode(self.unet, images, alter))


class MixStyle(UNetMethod):
    """Feature statistics of slices mixed in the finest levels of the U-Net (Zhou et al., ICLR 2021).

    The maps ``(B, C, h, w)`` of a level keep their content and get, per channel, a mixture of their own and a partner slice's
    mean and standard deviation; nothing changes at prediction.
    """

    paper: ClassVar[str] = "mixstyle"
    defaults_from: ClassVar[str] = (
        "the paper (probability 0.5, alpha 0.1, the first two blocks) and its public code (KaiyangZhou)"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "it was published for several training domains and a ResNet with batch normalisation; here there is one domain, and the "
        "U-Net's instance normalisation has removed much of the style before it could be mixed",
        "whether a slice is mixed is drawn for each slice, not once for a batch, and no slice is its own partner",
        "with several devices a slice is mixed with those on its own device",
    )

    def wrap(self, seed: int) -> nn.Module:
        """Return the U-Net with mixed styles."""
        return MixStyleUNet(self.network)

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Draw mixing weights (1, no mixing, for half of them) and the keys of partners."""
        mixed = generator.random(MIXSTYLE_LEVELS) < MIXSTYLE_PROBABILITY
        weights = generator.beta(MIXSTYLE_ALPHA, MIXSTYLE_ALPHA, MIXSTYLE_LEVELS)
        return {"keep": np.where(mixed, weights, 1.0), "keys": generator.random(MIXSTYLE_LEVELS)}

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the shared mask loss with mixed styles."""
        return mask_loss(module(batch.images, batch.drawn["keep"], batch.drawn["keys"]), batch.masks)
