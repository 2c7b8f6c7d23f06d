"""Scoring many prompts on one slice: what `PRIM` computes of the IoU, without what prompts share or scores do not need.

All prompts of a grid see the same image. So in the first layer of the two-way transformer everything computed from the
image alone is computed once; positional encodings are added after the projection, where maps are narrow, instead of before;
and of the last attention only the IoU token is followed. The result is that of `PRIM.forward` but for rounding.
"""

import math

import torch
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch.nn import functional

from desam_lite.decoder import PRIM


def score_many(
    prim: PRIM, neck: torch.Tensor, position: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
) -> torch.Tensor:
    """Predict the IoU of B prompts on one slice.

    Args:
        prim: With an IoU head.
        neck: ``(1, 256, h, w)``.
        position: ``(1, 256, h, w)``, SAM's positional encoding.
        sparse: ``(B, N, 256)`` prompt tokens.
        dense: ``(1, 256, h, w)``, SAM's dense prompt map, the same for all prompts.

    Returns:
        ``(B, K)``.
    """
    assert prim.iou_head is not None
    own = torch.cat([prim.iou_token.weight, prim.mask_tokens.weight]).expand(len(sparse), -1, -1)
    start = torch.cat([own, sparse], dim=1)  # (B, T, 256)
    image = (neck + dense).flatten(2).transpose(1, 2)  # (1, h w, 256), batch B after the first layer
    where = position.flatten(2).transpose(1, 2)
    queries = start
    for layer in prim.transformer.layers:
        queries, image = _two_way(layer, queries, image, start, where)
    first = queries[:, :1]
    last = prim.transformer.final_attn_token_to_image
    first = first + _to_image(last, first + start[:, :1], image, where)
    token = prim.transformer.norm_final_attn(first)[:, 0]
    scores: torch.Tensor = prim.iou_head(token)[:, : prim.n_classes]
    return scores


def _two_way(
    layer: TwoWayAttentionBlock,
    queries: torch.Tensor,
    image: torch.Tensor,
    start: torch.Tensor,
    where: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer: tokens attend to themselves and the image, then the image to the tokens."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        told = queries + start
        queries = queries + layer.self_attn(q=told, k=told, v=queries)
    queries = layer.norm1(queries)
    queries = queries + _to_image(layer.cross_attn_token_to_image, queries + start, image, where)
    queries = layer.norm2(queries)
    queries = layer.norm3(queries + layer.mlp(queries))
    attention = layer.cross_attn_image_to_token
    asked = _heads(attention.q_proj(image) + functional.linear(where, attention.q_proj.weight), attention)
    keys, values = (
        _heads(attention.k_proj(queries + start), attention),
        _heads(attention.v_proj(queries), attention),
    )
    change = attention.out_proj(_attend(asked, keys, values))
    return queries, layer.norm4(image + change)


def _to_image(
    attention: Attention, asked: torch.Tensor, image: torch.Tensor, where: torch.Tensor
) -> torch.Tensor:
    """Attend from tokens ``(B, T, 256)`` to an image ``(1 or B, h w, 256)``."""
    keys = _heads(attention.k_proj(image) + functional.linear(where, attention.k_proj.weight), attention)
    values = _heads(attention.v_proj(image), attention)
    found: torch.Tensor = attention.out_proj(
        _attend(_heads(attention.q_proj(asked), attention), keys, values)
    )
    return found


def _heads(x: torch.Tensor, attention: Attention) -> torch.Tensor:
    """``(B, n, c)`` to ``(B, heads, n, c / heads)``."""
    return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)


def _attend(asked: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention, batches of 1 shared by all; returns ``(B, n, c)``."""
    weights = (asked @ keys.transpose(-1, -2) / math.sqrt(asked.shape[-1])).softmax(-1)
    return (weights @ values).transpose(1, 2).flatten(2)
