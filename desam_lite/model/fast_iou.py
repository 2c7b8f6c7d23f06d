"""An optional, faster way to the predicted IoU of many prompts on one slice: what `PRIM.forward` gives, but for rounding.

All prompts of a grid see the same image, and PRIM's transformer changes it only by what a few tokens write into it. So at every
stage a pixel's token is ``scale * base + sum of weights * rows + constant``. The base is the image, shared by all
prompts, as is the constant; the rows (256 channels each) are what the tokens of a prompt wrote, one per token and head; a
pixel's weights say how much it took of each, its scale is what the norms did. Every projection of the base is computed once
per slice. What remains for a prompt are products with its few rows, where `PRIM.forward` has 256 channels at every pixel;
even the norm's variance needs no more.
"""

from typing import Any, NamedTuple

import torch
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import nn


@torch.no_grad()
def predict_iou(
    transformer: TwoWayTransformer,
    output_tokens: torch.Tensor,
    iou_head: Any,
    neck: torch.Tensor,
    position: torch.Tensor,
    dense: torch.Tensor,
    sparse: torch.Tensor,
    batch: int,
) -> torch.Tensor:
    """Predict the IoU of B prompts on one slice, without gradients.

    Args:
        transformer: Of `PRIM`, or of SAM's mask decoder.
        output_tokens: ``(5, 256)``, the IoU token first.
        iou_head: From the updated IoU token to the predicted IoU of M masks.
        neck: ``(1, 256, h, w)``.
        position: ``(1, 256, h, w)``, SAM's positional encoding.
        dense: ``(1, 256, h, w)``, SAM's dense prompt map, the same for all prompts.
        sparse: ``(B, N, 256)`` prompt tokens.
        batch: Prompts computed at once; bounds the memory, changes nothing else.

    Returns:
        ``(B, M)``.
    """
    image, where = (m.flatten(2)[0].T for m in (neck + dense, position))  # (h w, 256)
    writers, last = _share(transformer, image, where)
    parts = torch.split(sparse, batch)
    starts = (torch.cat([output_tokens.expand(len(s), -1, -1), s], dim=1) for s in parts)  # (b, 5 + N, 256)
    return torch.cat([iou_head(_update_iou_token(transformer, writers, last, start)) for start in starts])


_Projection = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Keys or queries of the image, as far as prompts share them: the weight ``(heads, c, 256)``, and what it makes of the base, and
of position and constant with the bias, both ``(heads, c, h w)``."""


class _Reader(NamedTuple):
    """An attention of tokens to the image, as far as prompts share it."""

    attention: Attention
    keys: _Projection
    weight: torch.Tensor  # from the image to values, (heads, c, 256)
    base: torch.Tensor  # values of the base, (heads, h w, c)
    constant: torch.Tensor  # values of the constant, and the bias, (heads, 1, c)


class _Writer(NamedTuple):
    """A layer, as far as prompts share it: tokens read the image and write into it, which is then normalised."""

    layer: TwoWayAttentionBlock
    reader: _Reader
    queries: _Projection  # by which a pixel chooses the tokens that write into it
    directions: list[
        torch.Tensor
    ]  # (heads, c, 256) for each group of rows so far: from a token's values to its rows
    crosses: list[torch.Tensor]  # (heads, c, h w) for each group: mean over channels of base times direction
    square: torch.Tensor  # (h w), mean over channels of the squared base


class _Image(NamedTuple):
    """The image side for B prompts: ``scale * base + sum of weights * rows + constant``."""

    scale: torch.Tensor  # (B, 1, h w)
    weights: torch.Tensor  # (B, R, h w)
    rows: torch.Tensor  # (B, R, 256)
    values: list[torch.Tensor]  # (B, heads, T, c) for each group of rows: what the tokens wrote


def _share(
    transformer: TwoWayTransformer, image: torch.Tensor, where: torch.Tensor
) -> tuple[list[_Writer], _Reader]:
    """Compute what does not depend on the prompt, from image and positions ``(h w, 256)``.

    A norm first takes the mean over channels off; that of a sum is the sum of that of its parts.
    """
    base, constant = image, torch.zeros_like(image[0])
    directions: list[torch.Tensor] = []
    writers = []
    for layer in transformer.layers:
        reader = _share_reader(layer.cross_attn_token_to_image, base, constant, where)
        attention = layer.cross_attn_image_to_token
        queries = _project(attention.q_proj, attention, base, where + constant)
        base = _centre(base)
        written = _by_head(attention.out_proj.weight.T, attention)
        constants = (constant + attention.out_proj.bias)[None, None]  # a row that every pixel takes once
        directions = [_centre(d) for d in (*directions, constants, written)]
        crosses = [d @ base.T / base.shape[1] for d in directions]
        writers.append(_Writer(layer, reader, queries, directions, crosses, base.square().mean(1)))
        base, constant = base * layer.norm4.weight, layer.norm4.bias
        directions = [d * layer.norm4.weight for d in directions]
    return writers, _share_reader(transformer.final_attn_token_to_image, base, constant, where)


def _share_reader(
    attention: Attention, base: torch.Tensor, constant: torch.Tensor, where: torch.Tensor
) -> _Reader:
    # The same for all pixels, a constant in keys would not change which pixels are attended to.
    keys = _project(attention.k_proj, attention, base, where)
    weight = _by_head(attention.v_proj.weight, attention)
    constants = _by_head(attention.v_proj(constant)[:, None], attention).transpose(1, 2)
    return _Reader(attention, keys, weight, (weight @ base.T).transpose(1, 2), constants)


def _project(
    projection: nn.Linear, attention: Attention, base: torch.Tensor, fixed: torch.Tensor
) -> _Projection:
    weight = _by_head(projection.weight, attention)
    return weight, weight @ base.T, _by_head(projection(fixed).T, attention)


def _by_head(x: torch.Tensor, attention: Attention) -> torch.Tensor:
    """``(heads * c, n)`` to ``(heads, c, n)``."""
    return x.reshape(attention.num_heads, -1, x.shape[1])


def _centre(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


def _update_iou_token(
    transformer: TwoWayTransformer, writers: list[_Writer], last: _Reader, start: torch.Tensor
) -> torch.Tensor:
    """Return the IoU token ``(B, 256)`` after all layers, from tokens ``(B, T, 256)``: output tokens, then those of a prompt."""
    count, pixels = len(start), last.base.shape[1]
    scale, weights = start.new_ones(count, 1, pixels), start.new_empty(count, 0, pixels)
    image, queries = _Image(scale, weights, start.new_empty(count, 0, start.shape[2]), []), start
    for writer in writers:
        queries, image = _two_way(writer, queries, image, start)
    first = queries[:, :1]  # of all tokens, the IoU token alone is read
    first = first + _read_image(last, first + start[:, :1], image)
    token: torch.Tensor = transformer.norm_final_attn(first)[:, 0]
    return token


def _two_way(
    writer: _Writer, queries: torch.Tensor, image: _Image, start: torch.Tensor
) -> tuple[torch.Tensor, _Image]:
    """One layer: tokens attend to themselves and the image, then the image to the tokens."""
    layer = writer.layer
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + start
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)
    queries = queries + _read_image(writer.reader, queries + start, image)
    queries = layer.norm2(queries)
    queries = layer.norm3(queries + layer.mlp(queries))
    attention = layer.cross_attn_image_to_token
    keys = _split_heads(attention.k_proj(queries + start), attention)
    weights = _compare(writer.queries, keys, image).softmax(2)  # each pixel chooses among the tokens
    return queries, _write_image(writer, weights, _split_heads(attention.v_proj(queries), attention), image)


def _read_image(reader: _Reader, tokens: torch.Tensor, image: _Image) -> torch.Tensor:
    """Attend from tokens ``(B, T, 256)`` to the image; returns ``(B, T, 256)``."""
    queries = _split_heads(reader.attention.q_proj(tokens), reader.attention)
    weights = _compare(reader.keys, queries, image).softmax(3)
    count, heads, amount, pixels = weights.shape
    taken = weights.flatten(1, 2) @ image.weights.transpose(1, 2)  # (B, heads T, R)
    rows = (taken @ image.rows).view(count, heads, amount, -1)
    scaled = weights.new_empty(heads, count, amount, pixels)
    torch.mul(weights.transpose(0, 1), image.scale, out=scaled)
    base = (scaled.flatten(1, 2) @ reader.base).view(heads, count, amount, -1).transpose(0, 1)
    values = base + rows @ reader.weight.transpose(1, 2) + reader.constant  # (B, heads, T, c)
    projected: torch.Tensor = reader.attention.out_proj(values.transpose(1, 2).flatten(2))
    return projected


def _write_image(writer: _Writer, weights: torch.Tensor, values: torch.Tensor, image: _Image) -> _Image:
    """Add what the tokens write, weights ``(B, heads, T, h w)`` of values ``(B, heads, T, c)``, and normalise."""
    groups = [*image.values, values.new_ones(len(values), 1, 1, 1), values]
    rows = torch.cat([(v @ d).flatten(1, 2) for v, d in zip(groups, writer.directions, strict=True)], dim=1)
    joined = torch.cat([image.weights, torch.ones_like(image.scale), weights.flatten(1, 2)], dim=1)
    # The variance over channels: square of base, twice base by rows, rows by rows.
    products = torch.empty_like(joined)
    sizes = [v.shape[1] * v.shape[2] for v in groups]
    for part, v, cross in zip(torch.split(products, sizes, dim=1), groups, writer.crosses, strict=True):
        torch.mul(_multiply_shared(v, cross), 2 * image.scale[:, None], out=part.view(*v.shape[:3], -1))
    products.baddbmm_(rows @ rows.transpose(1, 2) / rows.shape[2], joined).mul_(joined)
    variance = image.scale.square() * writer.square + products.sum(1, keepdim=True)
    norm = writer.layer.norm4
    change = (variance.clamp_min(0) + norm.eps).rsqrt()
    return _Image(image.scale * change, joined.mul_(change), rows * norm.weight, groups)


def _compare(shared: _Projection, tokens: torch.Tensor, image: _Image) -> torch.Tensor:
    """Return the scaled products of tokens ``(B, heads, T, c)`` and pixels, ``(B, heads, T, h w)``."""
    weight, base, fixed = shared
    tokens = tokens * tokens.shape[3] ** -0.5
    if image.rows.shape[1] == 0:  # before the first layer nothing is scaled
        return _multiply_shared(tokens, base + fixed)
    rows = (tokens @ weight).flatten(1, 2) @ image.rows.transpose(1, 2)  # (B, heads T, R)
    products = tokens.new_empty(*tokens.shape[:3], base.shape[2])
    of_fixed, of_base = _multiply_shared(tokens, fixed), _multiply_shared(tokens, base)
    torch.addcmul(of_fixed, of_base, image.scale[:, None], out=products)
    products.flatten(1, 2).baddbmm_(rows, image.weights)
    return products


def _multiply_shared(tokens: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Multiply ``(B, heads, T, c)`` with ``(heads, c, h w)``, which all prompts share: ``(B, heads, T, h w)``."""
    count, heads, amount, _ = tokens.shape
    products = tokens.transpose(0, 1).reshape(heads, count * amount, -1) @ shared
    return products.view(heads, count, amount, -1).transpose(0, 1)


def _split_heads(x: torch.Tensor, attention: Attention) -> torch.Tensor:
    """``(B, n, heads * c)`` to ``(B, heads, n, c)``."""
    return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
