"""MaxStyle: an auxiliary decoder renders each slice in the style that makes the network fail most."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from desam_lite.data.datasets import Batch
from desam_lite.methods.mixstyle import draw_partners, style
from desam_lite.methods.unet import MAX_CHANNELS, UNetMethod, decode, encode
from desam_lite.training.losses import mask_loss

CODE_SIDE = 16  # the image code is the map of this side: the paper's is 14 (224 / 16)
STYLE_LAYERS = 3  # styles are changed in the last two blocks of the image decoder and in the image itself
MAXSTYLE_PROBABILITY = 0.5  # that a layer's style is changed
MAXSTYLE_ALPHA = 0.1  # of Beta(alpha, alpha), which the mixing weight starts from
ASCENT_STEPS, ASCENT_RATE = 5, 0.1  # of Adam's ascent on mixing weights and noise
RECONSTRUCTION_WEIGHT = 0.5  # of the mean squared error: the public code's l2 loss

Styles = dict[str, torch.Tensor]


def apply_style(maps: torch.Tensor, styles: Styles, layer: int) -> torch.Tensor:
    """Change mean and spread of each channel of ``(B, C, h, w)``: mixed with a partner's, plus noise in spreads over the batch.

    With L = `STYLE_LAYERS`, styles are ``mix`` ``(B, L)``, the partner's share (0 to 1); ``scale`` and ``shift`` ``(B, L, >=
    C)``, noise in standard deviations over the batch; ``keys`` ``(B, L)``, for `draw_partners`. Without share and noise the maps
    stay as they are.
    """
    mean, deviation = style(maps)
    partner = draw_partners(styles["keys"][:, layer])
    share = styles["mix"][:, layer, None, None, None].clamp(0, 1)
    noise = [styles[name][:, layer, : maps.shape[1], None, None] for name in ("scale", "shift")]
    spread = [values.std(dim=0, keepdim=True, correction=0) for values in (deviation, mean)]
    shift = share * (mean[partner] - mean) + noise[1] * spread[1]
    scale = share * (deviation[partner] - deviation) + noise[0] * spread[0]
    return maps + shift + scale * (maps - mean) / deviation


class ImageDecoder(nn.Module):
    """From the image code back to the image, ``depth`` levels without skip connections, ``code`` channels to ``width``."""

    def __init__(self, width: int, depth: int, code: int):
        super().__init__()
        widths = [code, *(min(width * 2**level, code) for level in reversed(range(depth))), width]
        scales = [*([2] * depth), 1]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
                if scale > 1
                else nn.Identity(),
                nn.Conv2d(inside, outside, 3, padding=1),
                nn.GroupNorm(1, outside),
                nn.LeakyReLU(0.01),
            )
            for inside, outside, scale in zip(widths[:-1], widths[1:], scales, strict=True)
        )
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, code: torch.Tensor, styles: Styles | None = None) -> torch.Tensor:
        """Return the image ``(B, 1, S, S)`` of a code ``(B, C, 16, 16)``; styles, if given, change the last maps."""
        current = code
        blocks = [*self.blocks, self.head]
        for number, block in enumerate(blocks):
            current = block(current)
            layer = number - (len(blocks) - STYLE_LAYERS)
            if styles is not None and layer >= 0:
                current = apply_style(current, styles, layer)
        return current


class MaxStyleUNet(nn.Module):
    """The U-Net of `build_unet` with an image decoder on one of its levels."""

    def __init__(self, unet: nn.Module, width: int, size: int):
        super().__init__()
        self.unet = unet
        self.level = max(1, int(np.log2(size / CODE_SIDE)))
        self.decoder = ImageDecoder(width, self.level, min(width * 2**self.level, MAX_CHANNELS))

    def code(self, images: torch.Tensor) -> torch.Tensor:
        """Return the image code ``(B, C, 16, 16)``."""
        return encode(self.unet, images)[self.level]

    def forward(
        self, images: torch.Tensor, reconstruct: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits ``(B, K, S, S)`` and, if ``reconstruct``, the slices decoded from their code ``(B, 1, S, S)``."""
        maps = encode(self.unet, images)
        logits = decode(self.unet, maps)
        return (logits, self.decoder(maps[self.level])) if reconstruct else logits


class MaxStyle(UNetMethod):
    """Adversarial style composition with an auxiliary image decoder (Chen et al., MICCAI 2022).

    Five steps of Adam search the styles (channel-wise mean and spread in the decoder's last three maps) in which the slices
    ``(B, 1, S, S)``, decoded from their code ``(B, C, 16, 16)``, have the largest mask loss. The loss is the mask loss of the
    slices and of these, plus the error of reconstruction.
    """

    paper: ClassVar[str] = "maxstyle"
    defaults_from: ClassVar[str] = (
        "the public code of the authors (cherise215/MaxStyle, prostate configuration): the last three layers, probability 0.5, "
        "alpha 0.1, five steps of Adam at rate 0.1"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "this study's U-Net with its skip connections, not a network of two decoders on a filtered code",
        "the image code is the U-Net's map of 16 x 16, and the decoder has group normalisation: batch statistics would not be "
        "those of one process on several devices",
        "no noise is added to the slices that are decoded; nnU-Net's augmentation before it, or none, as the profile has it",
        "the attack climbs the shared mask loss, not cross-entropy alone, in float32 whatever the precision of training",
        "whether a layer is changed is drawn for each slice; partners go round the batch, so that none is its own (public code: "
        "any order but the identity); with several devices partners are on the same one",
        "a restyled slice gets its own mean and standard deviation back, not a range of 0 to 1: slices here are standardised",
    )

    module: MaxStyleUNet

    def wrap(self, seed: int) -> nn.Module:
        """Return the U-Net with an image decoder, whose weights the seed names."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return MaxStyleUNet(self.network, self.width, self.input_size)

    def draw(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Draw the styles that the attack starts from, and which layers it may change."""
        used = generator.random(STYLE_LAYERS) < MAXSTYLE_PROBABILITY
        noise = generator.standard_normal((2, STYLE_LAYERS, self.width)) * used[:, None]
        mix = generator.beta(MAXSTYLE_ALPHA, MAXSTYLE_ALPHA, STYLE_LAYERS) * used
        keys = generator.random(STYLE_LAYERS)
        return {"used": used, "mix": mix, "scale": noise[0], "shift": noise[1], "keys": keys}

    def attack(self, batch: Batch, steps: int = ASCENT_STEPS) -> Styles:
        """Return the styles after some steps of ascent on the mask loss of the restyled slices.

        As in `AdvBias.attack`, only what is searched for gets a gradient.
        """
        assert batch.images is not None
        styles = {name: batch.drawn[name].clone() for name in ("mix", "scale", "shift", "keys")}
        searched = [styles[name].requires_grad_(True) for name in ("mix", "scale", "shift")]
        used = batch.drawn["used"][:, :, None]
        optimizer = torch.optim.Adam(searched, lr=ASCENT_RATE, maximize=True)
        with torch.no_grad():
            code = self.module.code(batch.images)
        for _ in range(steps):
            with torch.enable_grad():
                loss = mask_loss(self.network(self.module.decoder(code, styles)), batch.masks)
                gradients = torch.autograd.grad(loss, searched)
            for values, gradient in zip(searched, gradients, strict=True):
                values.grad = gradient * used.reshape(*used.shape[:2], *[1] * (gradient.dim() - 2))
            optimizer.step()
        return {name: values.detach() for name, values in styles.items()}

    @torch.no_grad()
    def restyled(self, images: torch.Tensor, styles: Styles) -> torch.Tensor:
        """Return the slices decoded in these styles, ``(B, 1, S, S)``, each with its own mean and standard deviation again.

        So the search cannot win by gain and offset alone, which preparation takes out of every scan (public code).
        """
        decoded = self.module.decoder(self.module.code(images), styles)
        mean, deviation = style(decoded)
        own_mean, own_deviation = style(images)
        restored: torch.Tensor = (decoded - mean) / deviation * own_deviation + own_mean
        return restored

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return mask loss and reconstruction error of the slices and of the same slices in the hardest style."""
        assert batch.images is not None
        hard = self.restyled(batch.images, self.attack(batch))
        logits, decoded = module(torch.cat([batch.images, hard]), True)
        error = functional.mse_loss(decoded, batch.images.repeat(2, 1, 1, 1))
        clean, stylised = (mask_loss(half, batch.masks) for half in logits.chunk(2))
        return clean + stylised + 2 * RECONSTRUCTION_WEIGHT * error
