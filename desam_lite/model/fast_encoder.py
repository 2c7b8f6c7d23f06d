"""An optional, faster way through the blocks of SAM's image encoder: the same features, in less time and memory.

segment-anything writes out the attention maps of a global block several times over, for ViT-B 12 heads x 4096 x 4096 numbers
each. Here the relative positions go as additive bias into torch's fused attention, for so few queries at once that the bias stays
in the processor's cache. Tokens that only pad a window are never multiplied by weights, and the MLP takes its tokens in
portions.
"""

from collections.abc import Callable

import torch
from segment_anything.modeling.image_encoder import Attention, Block
from torch.nn import functional

_BIAS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Elements of the bias that exist at one time: 16 MB in float32 on a CPU; on a GPU many, as each portion is a launch."""
_MAPS_AT_ONCE = 1 << 15  # a GPU's kernels take at most 65,535
_TOKENS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 20}
"""Tokens whose hidden channels in the MLP exist at one time: on a CPU they stay in its cache."""


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries, keys and values ``(G, h, w, c)`` of G maps, and relative positions ``(2 N - 1, c)`` of rows and columns, to
``(G, h, w, c)``."""


@torch.no_grad()
def run_block(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """Run one transformer block, ``(B, h, w, C)`` in and out, without gradients."""
    joined = tokens + _attention(block.attn, block.norm1(tokens), block.window_size, attend_fused)
    flat = joined.reshape(-1, joined.shape[-1])
    for portion in torch.split(flat, _TOKENS_AT_ONCE.get(tokens.device.type, 1 << 20)):
        portion += block.mlp(block.norm2(portion))
    return flat.view(tokens.shape)


def run_block_for_training(
    block: Block,
    tokens: torch.Tensor,
    attend: Attend,
    adapter: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run one transformer block, ``(B, h, w, C)`` in and out, with the gradients that ``attend`` has.

    What an ``adapter`` makes of the tokens that go into the MLP is added to what the MLP makes of them.
    """
    joined = tokens + _attention(block.attn, block.norm1(tokens), block.window_size, attend)
    normed = block.norm2(joined)
    result: torch.Tensor = joined + block.mlp(normed)
    return result if adapter is None else result + adapter(normed)


def _attention(attention: Attention, tokens: torch.Tensor, window: int, attend: Attend) -> torch.Tensor:
    """Attend within windows of ``window`` x ``window`` tokens, or over the whole map if 0: ``(B, h, w, C)`` in and out."""
    batch, height, width, _ = tokens.shape
    rows, columns = (window, window) if window else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    qkv = attention.qkv(tokens)
    if (down * rows, across * columns) != (height, width):
        # Padding tokens are zero, so that their queries, keys and values are the bias.
        padded = attention.qkv.bias.to(qkv.dtype).repeat(batch, down * rows, across * columns, 1)
        padded[:, :height, :width] = qkv
        qkv = padded
    heads = attention.num_heads
    split = qkv.view(batch, down, rows, across, columns, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = split.reshape(3, -1, rows, columns, split.shape[-1])  # (B windows heads, rows, columns, c)
    attended = attend(q, k, v, attention.rel_pos_h, attention.rel_pos_w)
    joined = attended.view(batch, down, across, heads, rows, columns, -1).permute(0, 1, 4, 2, 5, 3, 6)
    maps = joined.reshape(batch, down * rows, across * columns, -1)
    projected: torch.Tensor = attention.proj(maps[:, :height, :width])
    return projected


def attend_fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """Attend over G maps ``(G, h, w, c)`` with SAM's decomposed relative positions; returns ``(G, h, w, c)``."""
    count, height, width, _ = q.shape
    by_row, by_column = (
        _by_query_and_key(r, n).to(q.dtype) for r, n in ((rel_pos_h, height), (rel_pos_w, width))
    )  # (h, h, c), (w, w, c)
    down = torch.einsum("ghwc,hkc->ghwk", q, by_row)[..., None]  # (G, h, w, h, 1)
    across = torch.einsum("ghwc,wkc->ghwk", q, by_column)[..., None, :]  # (G, h, w, 1, w)
    keys, values = k.flatten(1, 2), v.flatten(1, 2)  # (G, h w, c)
    attended = torch.empty_like(q)
    limit, tokens = _BIAS_AT_ONCE.get(q.device.type, 1 << 28), height * width
    # Maps whose bias exists at one time, of all their queries or of some lines.
    maps = min(max(1, limit // tokens**2), _MAPS_AT_ONCE)
    lines = max(1, min(height, limit // (width * tokens)))
    # One buffer for all portions: memory that is new each time costs a CPU more than the sum that is written into it.
    room = q.new_empty((min(maps, count), lines, width, height, width))
    for g in range(0, count, maps):
        for y in range(0, height, lines):
            part = (slice(g, g + maps), slice(y, y + lines))
            queries = q[part].flatten(1, 2)  # (maps, lines w, c)
            bias = room[: len(queries), : queries.shape[1] // width]  # (maps, lines, w, h, w)
            torch.add(down[part], across[part], out=bias)
            attended_part = functional.scaled_dot_product_attention(
                queries[None],
                keys[None, part[0]],
                values[None, part[0]],
                attn_mask=bias.flatten(3).flatten(1, 2)[None],  # (1, maps, lines w, h w)
            )
            attended[part] = attended_part[0].view(attended[part].shape)
    return attended


def _by_query_and_key(relative: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return from the relative positions ``(2 N - 1, c)`` of N tokens those of query i to key j: ``(N, N, c)``.

    The numbers of segment-anything's `get_rel_pos`, without the table of indices that it sends to the device each time.
    """
    return relative.unfold(0, tokens, 1).flip(-1).transpose(1, 2).contiguous()
