"""Low-rank adaptation (Hu et al., ICLR 2022) of the queries and values in SAM's image encoder, as SAMed adapts it."""

import math

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from torch.nn import functional


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
