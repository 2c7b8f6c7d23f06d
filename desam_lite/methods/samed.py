"""SAMed: SAM's encoder adapted by low-rank changes, and a decoder that needs no prompt."""

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from torch.nn import functional

from desam_lite.data.slices import CaseSlices
from desam_lite.methods.frozen_encoder import build_sam
from desam_lite.methods.run_spec import RunSpec
from desam_lite.methods.tuned_encoder import TunedEncoder, embed_patches, run_encoder
from desam_lite.model.names import MaskLoss
from desam_lite.model.sam_decoder import SAM


class LoRAQueryValue(nn.Linear):
    """A projection to queries, keys and values, the first and last changed by ``up @ down`` of low rank (Hu et al., ICLR 2022).

    Weight and bias are those of the projection it replaces, frozen, under their own names. ``up`` starts at zero, so that at
    first nothing is changed; ``down`` starts as a linear layer does.
    """

    def __init__(self, projection: nn.Linear, rank: int):
        super().__init__(projection.in_features, projection.out_features, device="meta")
        self.weight, self.bias = projection.weight, projection.bias
        width = projection.in_features
        self.lora_down = nn.Parameter(torch.empty(2, rank, width, device=self.weight.device))
        self.lora_up = nn.Parameter(self.weight.new_zeros(2, width, rank))
        for down in self.lora_down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map ``(..., C)`` to ``(..., 3 C)``."""
        pairs = zip(self.lora_down, self.lora_up, strict=True)
        query, value = (functional.linear(functional.linear(tokens, down), up) for down, up in pairs)
        change = torch.cat([query, torch.zeros_like(query), value], dim=-1)
        return super().forward(tokens) + change


def add_lora(encoder: ImageEncoderViT, rank: int) -> None:
    """Put low-rank changes on the queries and values of every block, drawn from torch's random stream; freeze the rest."""
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        block.attn.qkv = LoRAQueryValue(block.attn.qkv, rank)


class _PromptFreeSAM(nn.Module):
    """SAM from pixels to masks with its default prompt: no token, and SAM's map for "no mask given"."""

    def __init__(self, model: SAM):
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map ``(B, 3, S, S)`` to mask logits ``(B, K, 4h, 4w)``."""
        model = self.model
        neck = run_encoder(model.image_encoder, embed_patches(model.image_encoder, pixels))  # (B, 256, h, w)
        sparse = neck.new_zeros(len(neck), 0, neck.shape[1])
        dense = model.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        return model.predict_masks(neck, sparse, dense, model.n_classes).mask_logits


class SAMed(TunedEncoder):
    """SAMed (Zhang and Liu, 2023): low-rank changes of the encoder's queries and values, default prompt, trained decoder.

    It maps pixels ``(B, 3, S, S)`` to mask logits ``(B, K, 4h, 4w)``; organ k is the output of mask token k. Trained are the
    low-rank changes in every block, SAM's mask decoder but for its IoU head (which is not used), and the default prompt. The
    model is changed in place; the seed names the initial values of the changes.
    """

    paper: ClassVar[str] = "samed"
    defaults_from: ClassVar[str] = (
        "the paper for rank and places of the changes; the loop of all methods for the rest"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "the loss is that of all decoders here, one map per organ; SAMed's is a soft maximum over organs and background with "
        "0.8 Dice and 0.2 cross-entropy",
        "Adam, the schedule and the number of steps of all methods here; SAMed takes AdamW at 0.005 with warm-up, 200 epochs",
        "slices fill SAM's own square; SAMed works on 512 pixels with interpolated positions",
        "no augmentation; SAMed rotates and flips its slices",
        "pixels are normalised with SAM's mean and standard deviation, as its encoder was trained; SAMed's code takes 0 and 1",
        "the best epoch is chosen on validation cases of the source, as for all methods here",
    )

    def __init__(self, model: SAM, rank: int, seed: int, mask_loss: MaskLoss = "dice"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_lora(model.image_encoder, rank)
        model.prompt_encoder.no_mask_embed.requires_grad_(True)
        super().__init__(model, _PromptFreeSAM(model), mask_loss)

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it for a run: SAM, its decoder and the changes seeded by the run's seed."""
        assert spec.lora_rank is not None and spec.mask_loss is not None
        return cls(build_sam(spec, n_organs, seed=spec.seed), spec.lora_rank, spec.seed, spec.mask_loss)
