"""Low-rank adaptation (Hu et al., ICLR 2022) of the queries and values in SAM's image encoder, as SAMed adapts it."""

import math

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from desam_lite.model.fast_encoder import run_block_for_training

_RECOMPUTED_FROM = 48 * 48  # tokens above which keeping what every block computes would fill a GPU


class LoRAQueryValue(nn.Linear):
    """A projection to queries, keys and values whose queries and values are changed by ``up @ down`` of low rank.

    Weight and bias are those of the projection it replaces, frozen, under their own names. ``up`` starts at zero, so that at
    first nothing is changed; ``down`` starts as a linear layer does.

    Args:
        projection: From C to 3 C channels: queries, keys, values.
        rank: r.
    """

    def __init__(self, projection: nn.Linear, rank: int):
        super().__init__(projection.in_features, projection.out_features, device="meta")
        self.weight, self.bias = projection.weight, projection.bias
        width = projection.in_features
        self.lora_down = nn.Parameter(torch.empty(2, rank, width, device=self.weight.device))
        self.lora_up = nn.Parameter(
            torch.zeros(2, projection.out_features // 3, rank, device=self.weight.device)
        )
        for down in self.lora_down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map ``(..., C)`` to ``(..., 3 C)``."""
        query, value = (
            functional.linear(functional.linear(tokens, down), up)
            for down, up in zip(self.lora_down, self.lora_up, strict=True)
        )
        change = torch.cat([query, torch.zeros_like(query), value], dim=-1)
        return super().forward(tokens) + change

    def merged(self) -> nn.Linear:
        """Return a plain projection that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, device=self.weight.device)
        query, value = self.lora_up @ self.lora_down  # (C, C) each
        change = torch.cat([query, torch.zeros_like(query), value])
        with torch.no_grad():
            plain.weight.copy_(self.weight + change)
            plain.bias.copy_(self.bias)
        return plain


def add_lora(encoder: ImageEncoderViT, rank: int) -> None:
    """Put low-rank changes on the queries and values of every block, drawn from torch's random stream; freeze the rest."""
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        block.attn.qkv = LoRAQueryValue(block.attn.qkv, rank)


def merge_lora(encoder: ImageEncoderViT) -> None:
    """Write the changes into the weights, so that any program for SAM can use the encoder."""
    for block in encoder.blocks:
        if isinstance(block.attn.qkv, LoRAQueryValue):
            block.attn.qkv = block.attn.qkv.merged()


def encode_for_training(encoder: ImageEncoderViT, pixels: torch.Tensor) -> torch.Tensor:
    """Run the image encoder with gradients: ``(B, 3, S, S)`` to the neck's output ``(B, 256, h, w)``.

    Where there are many tokens, blocks are run once more on the way back rather than all they computed being kept.
    """
    tokens = encoder.patch_embed(pixels)  # (B, h, w, C)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    recompute = tokens.shape[1] * tokens.shape[2] > _RECOMPUTED_FROM
    for block in encoder.blocks:
        if recompute:
            tokens = checkpoint(
                run_block_for_training, block, tokens, _attend_written_out, use_reentrant=False
            )
        else:
            tokens = run_block_for_training(block, tokens, _attend_written_out)
    neck: torch.Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
    return neck


def _attend_written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """Attend over G maps ``(G, h, w, c)``: as `fast_encoder` does, but torch's fused attention has no gradient for its bias."""
    height, width, channels = q.shape[1:]
    by_row, by_column = (
        get_rel_pos(n, n, r).to(q.dtype) for n, r in ((height, rel_pos_h), (width, rel_pos_w))
    )
    down = torch.einsum("ghwc,hkc->ghwk", q, by_row).flatten(1, 2)  # (G, h w, h)
    across = torch.einsum("ghwc,wkc->ghwk", q, by_column).flatten(1, 2)  # (G, h w, w)
    keys, values = k.flatten(1, 2), v.flatten(1, 2)
    scores = (q.flatten(1, 2) * channels**-0.5) @ keys.mT  # (G, h w, h w)
    scores = scores.unflatten(2, (height, width)) + down[..., None] + across[..., None, :]
    attended: torch.Tensor = (scores.flatten(2).softmax(-1) @ values).view(q.shape)
    return attended
