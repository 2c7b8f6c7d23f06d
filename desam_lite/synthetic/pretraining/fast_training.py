"""SAM's attention and mask decoder as training runs them: segment-anything's arithmetic with fewer passes over memory.

A training step of a small model on a CPU waits for memory, not for products. Here positions are folded into products instead of
being added to maps, maps stay in the number format of the products, and channels stay last, so that nothing is transposed.
"""

import math

import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import get_rel_pos
from segment_anything.modeling.transformer import Attention
from torch import nn
from torch.nn import functional

from desam_lite.model.fast_encoder import join_heads, split_heads


def attend_with_positions(
    windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """Attend as `fast_encoder.Attend` says, with SAM's decomposed relative positions, as part of one product.

    The score q k + q R_row + q R_column is (q, q R_row, q R_column) times (k, its row in one-hot form, its column likewise).
    Relative positions are ``(2 N - 1, c)``, N at least the side of the map.
    """
    q, k, v = split_heads(windows)  # (G, h, w, c) each
    height, width, channels = q.shape[1:]
    sides = (height, rel_pos_h), (width, rel_pos_w)
    by_row, by_column = (get_rel_pos(n, n, _nearest_distances(r, n)).to(q.dtype) for n, r in sides)
    down = torch.einsum("ghwc,hkc->ghwk", q, by_row)  # (G, h, w, h)
    across = torch.einsum("ghwc,wkc->ghwk", q, by_column)  # (G, h, w, w)
    rows, columns = (torch.eye(n, dtype=q.dtype, device=q.device) for n in (height, width))
    place = torch.cat((rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)), -1)
    queries = torch.cat((q * channels**-0.5, down, across), -1).flatten(1, 2)  # (G, h w, c + h + w)
    keys = torch.cat((k, place.expand(len(k), -1, -1, -1)), -1).flatten(1, 2)
    attended = ((queries @ keys.mT).softmax(-1) @ v.flatten(1, 2)).view(q.shape)
    return join_heads(attended, windows)


def _nearest_distances(relative: torch.Tensor, tokens: int) -> torch.Tensor:
    """Cut relative positions ``(2 N - 1, c)`` of N tokens to those of fewer: ``(2 n - 1, c)`` from the middle."""
    spare = len(relative) // 2 + 1 - tokens
    return relative[spare : len(relative) - spare] if spare > 0 else relative


def run_two_way(
    transformer: TwoWayTransformer, source: torch.Tensor, place: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the two-way transformer of a mask decoder on P prompts: returns tokens ``(P, T, C)`` and image ``(P, h w, C)``.

    The source is the image as each prompt begins with it, ``place`` ``(h w, C)`` its positional encoding; the tokens, of output
    and prompt, are their own.
    """
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.norm1(_run_attention(layer.self_attn, queries, queries, queries))
        else:
            q = queries + tokens
            queries = layer.norm1(queries + _run_attention(layer.self_attn, q, q, queries))
        read = _run_attention(
            layer.cross_attn_token_to_image, queries + tokens, source, source, key_place=place
        )
        queries = layer.norm2(queries + read)
        queries = layer.norm3(queries + layer.mlp(queries))
        to_tokens = layer.cross_attn_image_to_token
        written = _run_attention(to_tokens, source, queries + tokens, queries, query_place=place)
        source = layer.norm4(source + written)
    final = transformer.final_attn_token_to_image
    queries = queries + _run_attention(final, queries + tokens, source, source, key_place=place)
    return transformer.norm_final_attn(queries), source


def _run_attention(
    attention: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    query_place: torch.Tensor | None = None,
    key_place: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run attention ``(P, N, C)``; positions are projected once instead of being added to the map of every prompt."""
    queries, keys, values = attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)
    if query_place is not None:
        queries = queries + functional.linear(query_place, attention.q_proj.weight)
    if key_place is not None:
        keys = keys + functional.linear(key_place, attention.k_proj.weight)
    heads = (attention.num_heads, -1)
    queries, keys, values = (x.unflatten(-1, heads).transpose(1, 2) for x in (queries, keys, values))
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT  # (P, heads, N, N')
    projected: torch.Tensor = attention.out_proj((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))
    return projected


def upscale_masks(decoder: MaskDecoder, source: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Bring images ``(P, h w, C)``, h = w, to four times their side and weight their channels: logits ``(P, 4, 4 h, 4 w)``.

    The weights ``(P, 4, C / 8)`` are of the hypernetworks. SAM's transposed convolutions do not overlap: each is a product per
    pixel.
    """
    first, norm, _, second, _ = decoder.output_upscaling
    image = _convolve(first, source)
    image = functional.gelu(functional.layer_norm(image, image.shape[-1:], norm.weight, norm.bias, norm.eps))
    image = functional.gelu(_convolve(second, image))  # (P, h w, 2 2, 2 2, C / 8)
    side = math.isqrt(source.shape[1])
    logits = (image.flatten(1, 3) @ weights.mT).view(-1, side, side, 2, 2, 2, 2, weights.shape[1])
    return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(source), -1, 4 * side, 4 * side)


def _convolve(convolution: nn.ConvTranspose2d, image: torch.Tensor) -> torch.Tensor:
    """Run a transposed convolution of stride and kernel 2 on pixels ``(..., C)``: ``(..., 2 2, C')``."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 2 C', C)
    assert convolution.bias is not None
    return torch.unflatten(functional.linear(image, weight, convolution.bias.repeat(4)), -1, (4, -1))
