"""DAPSAM: adapters that bring low-level features back into SAM's encoder, and a prompt made of learnt prototypes."""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from segment_anything.modeling.image_encoder import Block
from torch import nn
from torch.nn import functional

from desam_lite.data.slices import CaseSlices
from desam_lite.methods.frozen_encoder import build_sam
from desam_lite.methods.run_spec import RunSpec
from desam_lite.methods.tuned_encoder import (
    TunedEncoder,
    embed_patches,
    run_block_for_training,
    run_encoder,
)
from desam_lite.model.fast_encoder import Attend
from desam_lite.model.names import MaskLoss
from desam_lite.model.sam_decoder import SAM

REDUCTION = 4  # how much narrower an adapter is in the middle
SHARE = 0.5  # of the tokens that enter the adapter before a block, and of the adapter parallel to its MLP
PROTOTYPES = 256  # in the memory
_INITIAL_SD = 0.02  # of the weights of the adapters before the blocks


class Adapter(nn.Module):
    """Tokens of C channels (``width``) gated channel by channel, squeezed to a quarter of the channels, and widened again."""

    def __init__(self, width: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, width // REDUCTION), nn.Linear(width // REDUCTION, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map ``(B, h, w, C)`` to the same shape."""
        gate = tokens.amax((1, 2), keepdim=True) + tokens.mean((1, 2), keepdim=True)  # (B, 1, 1, C)
        adapted: torch.Tensor = self.up(functional.gelu(self.down(tokens * gate.sigmoid())))
        return adapted


class PrototypePrompt(nn.Module):
    """A dense prompt from the slice's features, of ``width`` channels, and the prototypes that are like them."""

    def __init__(self, width: int):
        super().__init__()
        self.memory = nn.Parameter(torch.empty(PROTOTYPES, width).uniform_(-(width**-0.5), width**-0.5))
        self.fuse = nn.Conv2d(2 * width + 1, width, 1)

    def forward(self, neck: torch.Tensor) -> torch.Tensor:
        """Map the neck's output ``(B, C, h, w)`` to a dense prompt of the same shape."""
        summary = neck.mean((2, 3)) + neck.amax((2, 3))  # (B, C)
        prototype = (summary @ self.memory.T).softmax(dim=1) @ self.memory  # (B, C)
        spread = prototype[:, :, None, None].expand_as(neck)
        alike = functional.cosine_similarity(spread, neck, dim=1)[:, None]  # (B, 1, h, w)
        prompt: torch.Tensor = self.fuse(torch.cat([neck, spread, alike], dim=1))
        return prompt


class _AdaptedSAM(nn.Module):
    """SAM from pixels to masks, with adapters in its encoder and the prompt of prototypes."""

    def __init__(self, model: SAM):
        super().__init__()
        self.model, width = model, model.spec.width
        self.low_level = nn.Linear(width, width)
        self.before = nn.ModuleList(Adapter(width) for _ in model.image_encoder.blocks)
        self.parallel = nn.ModuleList(Adapter(width) for _ in model.image_encoder.blocks)
        self.prompt = PrototypePrompt(model.spec.neck)
        for module in (self.low_level, *self.before.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INITIAL_SD)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map ``(B, 3, S, S)`` to mask logits ``(B, K, 4h, 4w)``."""
        encoder = self.model.image_encoder
        first = embed_patches(encoder, pixels)  # (B, h, w, C)
        low_level = self.low_level(first)

        def run_block(number: int, block: Block, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
            tokens = tokens + self.before[number](SHARE * tokens + low_level)
            parallel = self.parallel[number]
            return run_block_for_training(
                block, tokens, attend, lambda normed: SHARE * parallel(normed + low_level)
            )

        neck = run_encoder(encoder, first, run_block)  # (B, 256, h, w)
        no_tokens = neck.new_zeros(len(neck), 0, neck.shape[1])
        return self.model.predict_masks(neck, no_tokens, self.prompt(neck), self.model.n_classes).mask_logits


class DAPSAM(TunedEncoder):
    """Domain-adaptive prompts for SAM (Wei et al., MICCAI 2024).

    The encoder is frozen. Before each of its blocks and beside each MLP an adapter adds what it makes of the tokens together with
    low-level features, those of the first tokens. The dense prompt of SAM's decoder is made from the neck's output and from the
    prototypes of a learnt memory that it is like; the sparse prompt is empty. Trained are the adapters, the prompt and SAM's
    mask decoder but for its IoU head, which is not used. The seed names the initial values of adapters and prompt.
    """

    paper: ClassVar[str] = "dapsam"
    defaults_from: ClassVar[str] = (
        "the public code of the authors (wkklavis/DAPSAM, prostate): adapters of a quarter of the width, half their output "
        "beside the MLP, 256 prototypes, initial weights; the loop of all methods for the rest"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "the loss is that of all decoders here; DAPSAM's is 0.8 Dice and 0.2 cross-entropy",
        "Adam, the rate, schedule and number of steps of all methods here; DAPSAM takes AdamW at 0.0005 with warm-up, 160 epochs",
        "slices fill SAM's own square, with its mean and standard deviation; DAPSAM works on 384 pixels with interpolated "
        "positions, each slice with mean 0 and standard deviation 1",
        "no augmentation; DAPSAM rotates, scales, deforms, mirrors and changes intensities",
        "mask tokens and the networks behind them start from SAM's, as do positions; the public code draws them at random",
        "every adapter gates channels; in the public code those before the blocks gate the columns of the map, by the order of "
        "its axes",
        "the best epoch is chosen on validation cases of the source; the public code keeps the last and logs the targets' Dice",
    )

    def __init__(self, model: SAM, seed: int, mask_loss: MaskLoss = "dice"):
        model.image_encoder.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _AdaptedSAM(model)
        super().__init__(model, network, mask_loss)

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it for a run: SAM, its decoder, adapters and prompt seeded by the run's seed."""
        assert spec.mask_loss is not None
        return cls(build_sam(spec, n_organs, seed=spec.seed), spec.seed, spec.mask_loss)
