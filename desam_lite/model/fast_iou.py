"""Scoring many prompts on one slice: the IoU that `PRIM` predicts, without writing out the image of each prompt.

All prompts of a grid see the same image, and PRIM's transformer changes it only by what a few tokens write into it. So at every
stage a pixel's token is ``scale * base + sum of weights * rows + constant``. The base is the image, shared by all
prompts, as is the constant; the rows (256 channels each) are what the tokens of a prompt wrote, one per token and head; a
pixel's weights say how much it took of each, its scale is what the norms did. Every projection of the base is computed once
per slice. What remains for a prompt are products with its few rows, where `PRIM.forward` has 256 channels at every pixel;
even the norm's variance needs no more. The result is that of `PRIM.forward` but for rounding.
"""

from typing import Any, NamedTuple, Protocol

import torch
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import nn

SCORED_AT_ONCE = 8
"""Prompts whose intermediate results fill about 30 MB with SAM's ViTs."""


class Judge(Protocol):
    """What predicts the IoU of a prompt: PRIM, or SAM's own mask decoder under the same names."""

    @property
    def transformer(self) -> Any:
        """SAM's two-way transformer."""

    @property
    def iou_token(self) -> nn.Embedding:
        """``(1, 256)``."""

    @property
    def mask_tokens(self) -> nn.Embedding:
        """``(4, 256)``, or more."""

    @property
    def iou_head(self) -> Any:
        """From the updated IoU token to predicted IoUs."""

    @property
    def n_classes(self) -> int:
        """How many of these count, from the first."""


@torch.no_grad()
def score_many(
    judge: Judge,
    neck: torch.Tensor,
    position: torch.Tensor,
    sparse: torch.Tensor,
    dense: torch.Tensor,
    batch: int = SCORED_AT_ONCE,
) -> torch.Tensor:
    """Predict the IoU of B prompts on one slice, without gradients.

    Args:
        judge: With an IoU head.
        neck: ``(1, 256, h, w)``.
        position: ``(1, 256, h, w)``, SAM's positional encoding.
        sparse: ``(B, N, 256)`` prompt tokens.
        dense: ``(1, 256, h, w)``, SAM's dense prompt map, the same for all prompts.
        batch: Prompts scored at once; bounds the memory, changes nothing else.

    Returns:
        ``(B, K)``.
    """
    image, where = (m.flatten(2)[0].T for m in (neck + dense, position))  # (h w, 256)
    writers, last = _share(judge, image, where)
    return torch.cat([_score(judge, writers, last, chunk) for chunk in torch.split(sparse, batch)])


class _Seen(NamedTuple):
    """Keys or queries that an attention projects from the image, as far as prompts share them.

    Attributes:
        weight: The projection, ``(heads, c, 256)``.
        base: Of the base, ``(heads, c, h w)``.
        fixed: Of position and constant, ``(heads, c, h w)``.
    """

    weight: torch.Tensor
    base: torch.Tensor
    fixed: torch.Tensor


class _Reader(NamedTuple):
    """An attention of tokens to the image, as far as prompts share it.

    Attributes:
        keys: What the tokens compare with.
        weight: The projection to values, ``(heads, c, 256)``.
        base: Values of the base, ``(heads, h w, c)``.
        constant: Values of the constant, and the bias, ``(heads, 1, c)``.
    """

    keys: _Seen
    weight: torch.Tensor
    base: torch.Tensor
    constant: torch.Tensor


class _Writer(NamedTuple):
    """A layer of the transformer, as far as prompts share it: tokens read the image and write into it, which is then normalised.

    Attributes:
        layer: The layer.
        reader: How the tokens read.
        queries: By what a pixel chooses the tokens that write into it.
        directions: ``(heads, c, 256)`` for each group of rows so far: from a token's values to its rows.
        crosses: ``(heads, c, h w)`` for each group: mean over channels of base times direction.
        square: ``(h w)``, mean over channels of the squared base.
    """

    layer: TwoWayAttentionBlock
    reader: _Reader
    queries: _Seen
    directions: list[torch.Tensor]
    crosses: list[torch.Tensor]
    square: torch.Tensor


def _share(judge: Judge, image: torch.Tensor, where: torch.Tensor) -> tuple[list[_Writer], _Reader]:
    """Compute what does not depend on the prompt, from image and positions ``(h w, 256)``.

    A norm first takes the mean over channels off; that of a sum is the sum of that of its parts.
    """
    base, constant = image, torch.zeros_like(image[0])
    directions: list[torch.Tensor] = []
    writers = []
    for layer in judge.transformer.layers:
        reader = _share_reader(layer.cross_attn_token_to_image, base, constant, where)
        attention = layer.cross_attn_image_to_token
        queries = _see(attention.q_proj, attention, base, where + constant)
        base = _centre(base)
        written = _by_head(attention.out_proj.weight.T, attention)
        constants = (constant + attention.out_proj.bias)[None, None]  # a row that every pixel takes once
        directions = [_centre(d) for d in (*directions, constants, written)]
        crosses = [d @ base.T / base.shape[1] for d in directions]
        writers.append(_Writer(layer, reader, queries, directions, crosses, base.square().mean(1)))
        base, constant = base * layer.norm4.weight, layer.norm4.bias
        directions = [d * layer.norm4.weight for d in directions]
    return writers, _share_reader(judge.transformer.final_attn_token_to_image, base, constant, where)


def _share_reader(
    attention: Attention, base: torch.Tensor, constant: torch.Tensor, where: torch.Tensor
) -> _Reader:
    weight = _by_head(attention.v_proj.weight, attention)
    # The same for all pixels, a constant in keys would not change which pixels are attended to.
    return _Reader(
        _see(attention.k_proj, attention, base, where),
        weight,
        (weight @ base.T).transpose(1, 2),
        _by_head(attention.v_proj(constant)[:, None], attention).transpose(1, 2),
    )


def _see(projection: nn.Linear, attention: Attention, base: torch.Tensor, fixed: torch.Tensor) -> _Seen:
    weight = _by_head(projection.weight, attention)
    return _Seen(weight, weight @ base.T, _by_head(projection(fixed).T, attention))


def _by_head(x: torch.Tensor, attention: Attention) -> torch.Tensor:
    """``(heads * c, n)`` to ``(heads, c, n)``."""
    return x.reshape(attention.num_heads, -1, x.shape[1])


def _centre(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


class _Image(NamedTuple):
    """The image side for B prompts: ``scale * base + sum of weights * rows + constant``.

    Attributes:
        scale: ``(B, 1, h w)``.
        weights: ``(B, R, h w)``.
        rows: ``(B, R, 256)``.
        values: What the tokens wrote, ``(B, heads, T, c)`` for each group of rows.
    """

    scale: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor
    values: list[torch.Tensor]


def _score(judge: Judge, writers: list[_Writer], last: _Reader, sparse: torch.Tensor) -> torch.Tensor:
    """Score prompts ``(B, N, 256)``; returns ``(B, K)``."""
    count, pixels = len(sparse), last.base.shape[1]
    own = torch.cat([judge.iou_token.weight, judge.mask_tokens.weight]).expand(count, -1, -1)
    start = torch.cat([own, sparse], dim=1)  # (B, T, 256)
    queries = start
    image = _Image(
        start.new_ones(count, 1, pixels),
        start.new_empty(count, 0, pixels),
        start.new_empty(count, 0, start.shape[2]),
        [],
    )
    for writer in writers:
        queries, image = _two_way(writer, queries, image, start)
    first = queries[:, :1]  # the IoU token alone is asked for
    attention = judge.transformer.final_attn_token_to_image
    first = first + _read(last, attention, first + start[:, :1], image)
    token = judge.transformer.norm_final_attn(first)[:, 0]
    scores: torch.Tensor = judge.iou_head(token)[:, : judge.n_classes]
    return scores


def _two_way(
    writer: _Writer, queries: torch.Tensor, image: _Image, start: torch.Tensor
) -> tuple[torch.Tensor, _Image]:
    """One layer: tokens attend to themselves and the image, then the image to the tokens."""
    layer = writer.layer
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        told = queries + start
        queries = queries + layer.self_attn(q=told, k=told, v=queries)
    queries = layer.norm1(queries)
    queries = queries + _read(writer.reader, layer.cross_attn_token_to_image, queries + start, image)
    queries = layer.norm2(queries)
    queries = layer.norm3(queries + layer.mlp(queries))
    attention = layer.cross_attn_image_to_token
    keys = _heads(attention.k_proj(queries + start), attention)
    weights = _compare(writer.queries, keys, image).softmax(2)  # each pixel chooses among the tokens
    return queries, _write(writer, weights, _heads(attention.v_proj(queries), attention), image)


def _read(reader: _Reader, attention: Attention, asked: torch.Tensor, image: _Image) -> torch.Tensor:
    """Attend from tokens ``(B, T, 256)`` to the image; returns ``(B, T, 256)``."""
    weights = _compare(reader.keys, _heads(attention.q_proj(asked), attention), image).softmax(3)
    count, heads, tokens, pixels = weights.shape
    taken = weights.flatten(1, 2) @ image.weights.transpose(1, 2)  # (B, heads T, R)
    rows = (taken @ image.rows).view(count, heads, tokens, -1)
    scaled = weights.new_empty(heads, count, tokens, pixels)
    torch.mul(weights.transpose(0, 1), image.scale, out=scaled)
    base = (scaled.flatten(1, 2) @ reader.base).view(heads, count, tokens, -1).transpose(0, 1)
    values = base + rows @ reader.weight.transpose(1, 2) + reader.constant  # (B, heads, T, c)
    found: torch.Tensor = attention.out_proj(values.transpose(1, 2).flatten(2))
    return found


def _write(writer: _Writer, weights: torch.Tensor, values: torch.Tensor, image: _Image) -> _Image:
    """Add what the tokens write, weights ``(B, heads, T, h w)`` of values ``(B, heads, T, c)``, and normalise."""
    known = [*image.values, values.new_ones(len(values), 1, 1, 1), values]
    rows = torch.cat([(v @ d).flatten(1, 2) for v, d in zip(known, writer.directions, strict=True)], dim=1)
    joined = torch.cat([image.weights, torch.ones_like(image.scale), weights.flatten(1, 2)], dim=1)
    # The variance over channels: square of base, twice base by rows, rows by rows.
    products = torch.empty_like(joined)
    sizes = [v.shape[1] * v.shape[2] for v in known]
    for part, v, cross in zip(torch.split(products, sizes, dim=1), known, writer.crosses, strict=True):
        torch.mul(_dot(v, cross), 2 * image.scale[:, None], out=part.view(*v.shape[:3], -1))
    products.baddbmm_(rows @ rows.transpose(1, 2) / rows.shape[2], joined).mul_(joined)
    variance = image.scale.square() * writer.square + products.sum(1, keepdim=True)
    norm = writer.layer.norm4
    change = (variance.clamp_min(0) + norm.eps).rsqrt()
    return _Image(image.scale * change, joined.mul_(change), rows * norm.weight, known)


def _compare(seen: _Seen, tokens: torch.Tensor, image: _Image) -> torch.Tensor:
    """Return the scaled products of tokens ``(B, heads, T, c)`` and pixels, ``(B, heads, T, h w)``."""
    tokens = tokens * tokens.shape[3] ** -0.5
    if image.rows.shape[1] == 0:  # before the first layer nothing is scaled
        return _dot(tokens, seen.base + seen.fixed)
    rows = (tokens @ seen.weight).flatten(1, 2) @ image.rows.transpose(1, 2)  # (B, heads T, R)
    found = tokens.new_empty(*tokens.shape[:3], seen.base.shape[2])
    torch.addcmul(_dot(tokens, seen.fixed), _dot(tokens, seen.base), image.scale[:, None], out=found)
    found.flatten(1, 2).baddbmm_(rows, image.weights)
    return found


def _dot(tokens: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Multiply ``(B, heads, T, c)`` with ``(heads, c, h w)``, which all prompts share: ``(B, heads, T, h w)``."""
    count, heads, amount, _ = tokens.shape
    found = tokens.transpose(0, 1).reshape(heads, count * amount, -1) @ shared
    return found.view(heads, count, amount, -1).transpose(0, 1)


def _heads(x: torch.Tensor, attention: Attention) -> torch.Tensor:
    """``(B, n, heads * c)`` to ``(B, heads, n, c)``."""
    return x.reshape(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
