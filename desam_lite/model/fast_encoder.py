"""An optional, faster way through the blocks of SAM's image encoder: the same features, in less time and memory.

segment-anything writes out the attention maps of a global block several times over, for ViT-B 12 heads x 4096 x 4096 numbers
each. Here the relative positions go as additive bias into torch's fused attention: on a CPU for so few queries at once that the
bias stays in the processor's cache, on a GPU from one matrix product, which writes as fast as the memory takes it. Tokens that
only pad a window are never multiplied by weights, and the MLP takes its tokens in portions.
"""

from collections.abc import Callable

import torch
from segment_anything.modeling.image_encoder import Attention, Block
from torch.nn import functional

_BIAS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Elements of the bias that exist at one time: 16 MB in float32 on a CPU; on a GPU many, as each portion is a launch."""
_WINDOWS_AT_ONCE = 1 << 12  # a GPU's kernels take at most 65,535 maps, of 16 heads each
_TOKENS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 20}
"""Tokens whose hidden channels in the MLP exist at one time: on a CPU they stay in its cache."""
_WHOLE_TILES = 8  # matrix units want rows of a multiple of eight numbers


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries, keys and values ``(W, heads, h, w, c)`` of W windows (views, channels last), and relative positions
``(2 N - 1, c)`` of rows and columns, to ``(W, heads, h, w, c)``."""


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
    lines = qkv.view(batch, down, rows, across, columns, -1).transpose(2, 3)
    windows = lines.reshape(
        -1, rows, columns, 3, attention.num_heads, tokens.shape[-1] // attention.num_heads
    )
    q, k, v = windows.permute(3, 0, 4, 1, 2, 5)  # (B windows, heads, rows, columns, c) each
    attended = attend(q, k, v, attention.rel_pos_h, attention.rel_pos_w)
    joined = attended.permute(0, 2, 3, 1, 4).reshape(batch, down, across, rows, columns, -1).transpose(2, 3)
    maps = joined.reshape(batch, down * rows, across * columns, -1)
    projected: torch.Tensor = attention.proj(maps[:, :height, :width])
    return projected


def attend_fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """Attend within windows ``(W, heads, h, w, c)`` with SAM's decomposed relative positions; returns the same shape."""
    height, width = q.shape[2:4]
    by_row, by_column = (
        _by_query_and_key(r, n).to(q.dtype) for r, n in ((rel_pos_h, height), (rel_pos_w, width))
    )  # (h, h, c), (w, w, c)
    attend = _attend_in_lines if q.device.type == "cpu" else _attend_by_products
    return attend(q, k, v, by_row, by_column)


def _attend_by_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, by_row: torch.Tensor, by_column: torch.Tensor
) -> torch.Tensor:
    """The bias is (q R_row, q R_column) times each key's row and column in one-hot form."""
    _, heads, height, width, _ = q.shape
    tokens, spare = height * width, -(height + width) % _WHOLE_TILES
    rows, columns = (torch.eye(n, dtype=q.dtype, device=q.device) for n in (height, width))
    place = torch.cat((rows[..., None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)))
    place = functional.pad(place.flatten(1), (0, 0, 0, spare))  # (h + w + spare, h w)
    at_once = max(1, min(_BIAS_AT_ONCE["cuda"] // (heads * tokens**2), _WINDOWS_AT_ONCE))
    attended = []
    for queries, keys, values in zip(*(x.split(at_once) for x in (q, k, v)), strict=True):
        down = torch.einsum("nmhwc,hkc->nmhwk", queries, by_row)
        across = torch.einsum("nmhwc,wkc->nmhwk", queries, by_column)
        bias = functional.pad(torch.cat((down, across), -1), (0, spare)).flatten(2, 3) @ place
        flat = (x.flatten(2, 3) for x in (queries, keys, values))  # (n, heads, h w, c)
        attended.append(functional.scaled_dot_product_attention(*flat, attn_mask=bias))
    return torch.cat(attended).unflatten(2, (height, width))


def _attend_in_lines(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, by_row: torch.Tensor, by_column: torch.Tensor
) -> torch.Tensor:
    """The bias is a sum that exists for a few lines of queries at once."""
    shape, (height, width) = q.shape, q.shape[2:4]
    q, k, v = (x.reshape(-1, height, width, shape[-1]) for x in (q, k, v))  # (G, h, w, c)
    down = torch.einsum("ghwc,hkc->ghwk", q, by_row)[..., None]  # (G, h, w, h, 1)
    across = torch.einsum("ghwc,wkc->ghwk", q, by_column)[..., None, :]  # (G, h, w, 1, w)
    keys, values = k.flatten(1, 2), v.flatten(1, 2)  # (G, h w, c)
    attended = torch.empty_like(q)
    limit, tokens = _BIAS_AT_ONCE["cpu"], height * width
    # Maps whose bias exists at one time, of all their queries or of some lines.
    maps = max(1, limit // tokens**2)
    lines = max(1, min(height, limit // (width * tokens)))
    # One buffer for all portions: memory that is new each time costs a CPU more than the sum that is written into it.
    room = q.new_empty((min(maps, len(q)), lines, width, height, width))
    for g in range(0, len(q), maps):
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
    return attended.view(shape)


def _by_query_and_key(relative: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return from the relative positions ``(2 N - 1, c)`` of N tokens those of query i to key j: ``(N, N, c)``.

    The numbers of segment-anything's `get_rel_pos`, without the table of indices that it sends to the device each time.
    """
    return relative.unfold(0, tokens, 1).flip(-1).transpose(1, 2).contiguous()
