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
_TOKENS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 20}
"""Tokens whose hidden channels in the MLP exist at one time: on a CPU they stay in its cache."""
_WHOLE_TILES = 8  # matrix units want rows of a multiple of eight numbers
_WIDE = torch.complex128  # sixteen bytes, which a GPU moves as fast as two


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries, keys and values of windows, ``(B, down, h, across, w, 3, heads, c)``, and relative positions ``(2 N - 1, c)`` of
rows and columns, to the map that the windows make up, ``(B, down h, across w, heads c)``."""


@torch.no_grad()
def run_block(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """Run one transformer block, ``(B, h, w, C)`` in and out, without gradients."""
    joined = tokens + attend_in_windows(block.attn, block.norm1(tokens), block.window_size, attend_fused)
    flat = joined.reshape(-1, joined.shape[-1])
    for portion in torch.split(flat, _TOKENS_AT_ONCE.get(tokens.device.type, 1 << 20)):
        portion += block.mlp(block.norm2(portion))
    return flat.view(tokens.shape)


def attend_in_windows(
    attention: Attention, tokens: torch.Tensor, window: int, attend: Attend
) -> torch.Tensor:
    """Attend within windows of ``window`` x ``window`` tokens, or over the whole map if 0: ``(B, h, w, C)`` in and out."""
    batch, height, width, _ = tokens.shape
    rows, columns = (window, window) if window else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    qkv = attention.qkv(tokens)
    if (down * rows, across * columns) != (height, width):
        # Padding tokens are zero, so that their queries, keys and values are the bias.
        padded = attention.qkv.bias.to(qkv.dtype).repeat(batch, down * rows, across * columns, 1)
        _widen(padded)[:, :height, :width] = _widen(qkv)
        qkv = padded
    windows = qkv.view(batch, down, rows, across, columns, 3, attention.num_heads, -1)
    maps = attend(windows, attention.rel_pos_h, attention.rel_pos_w)
    projected: torch.Tensor = attention.proj(_rearrange(maps, lambda m: m[:, :height, :width]))
    return projected


def _widen(maps: torch.Tensor) -> torch.Tensor:
    """Return the same memory in larger pieces, where no gradient is asked for: torch copies parts of maps piece by piece."""
    fits = maps.shape[-1] * maps.element_size() % _WIDE.itemsize == 0
    return maps.view(_WIDE) if fits and not torch.is_grad_enabled() else maps


def _rearrange(maps: torch.Tensor, arrange: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return an arrangement of maps that leaves the last axis whole, in memory of its own."""
    wide = _widen(maps)
    arranged = arrange(wide).contiguous()
    return arranged if wide is maps else arranged.view(maps.dtype)


def split_heads(windows: torch.Tensor) -> torch.Tensor:
    """Return queries, keys and values of `Attend` with a map for each window and head: ``(3, G, h, w, c)``."""
    split = windows.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, B, down, across, heads, h, w, c)
    return split.reshape(3, -1, *split.shape[-3:])


def join_heads(attended: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Return what was made of the maps of `split_heads`, ``(G, h, w, c)``, as `Attend` does."""
    batch, down, height, across, width, _, heads, _ = windows.shape
    joined = attended.view(batch, down, across, heads, height, width, -1).permute(0, 1, 4, 2, 5, 3, 6)
    return joined.reshape(batch, down * height, across * width, -1)


def _attend_by_products(
    windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """The bias is (q R_row, q R_column) times each key's row and column in one-hot form."""
    batch, down, height, across, width, _, heads, channels = windows.shape
    moved = _rearrange(windows.flatten(5), lambda w: w.transpose(2, 3))
    inside = moved.view(-1, height * width, 3, heads, channels)
    spare = -(height + width) % _WHOLE_TILES
    rows, columns = (torch.eye(n, dtype=inside.dtype, device=inside.device) for n in (height, width))
    place = torch.cat((rows[..., None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)))
    place = functional.pad(place.flatten(1), (0, 0, 0, spare))  # (h + w + spare, h w)
    attended = []
    at_once = max(1, _BIAS_AT_ONCE["cuda"] // (heads * (height * width) ** 2))
    for part in torch.split(inside, at_once):
        q, k, v = part.permute(2, 0, 3, 1, 4)  # (n, heads, h w, c) each, views
        both = _products_by_key(q.transpose(0, 1).flatten(1, 2), height, width, rel_pos_h, rel_pos_w)
        near = functional.pad(torch.cat(both, -1), (0, spare)).flatten(2, 3).transpose(0, 1)
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=near @ place)
        attended.append(read.transpose(1, 2))  # (n, h w, heads, c)
    maps = torch.cat(attended).reshape(batch, down, across, height, width, -1)
    return _rearrange(maps, lambda m: m.transpose(2, 3)).view(batch, down * height, across * width, -1)


def attend_fused(windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor) -> torch.Tensor:
    """Attend as `Attend` says, with SAM's decomposed relative positions; on a CPU the bias exists for a few lines at once."""
    if windows.device.type != "cpu":
        return _attend_by_products(windows, rel_pos_h, rel_pos_w)
    q, k, v = split_heads(windows)  # (G, h, w, c) each
    height, width = q.shape[1:3]
    near = _products_by_key(q.flatten(0, 2)[None], height, width, rel_pos_h, rel_pos_w)
    down, across = near[0][0, ..., None], near[1][0, ..., None, :]  # (G, h, w, h, 1), (G, h, w, 1, w)
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
            queries = q[part].flatten(1, 2)[None]  # (1, maps, lines w, c)
            bias = room[: queries.shape[1], : queries.shape[2] // width]  # (maps, lines, w, h, w)
            torch.add(down[part], across[part], out=bias)
            read = functional.scaled_dot_product_attention(
                queries,
                keys[None, part[0]],
                values[None, part[0]],
                attn_mask=bias.flatten(3).flatten(1, 2)[None],
            )
            attended[part] = read[0].view(attended[part].shape)
    return join_heads(attended, windows)


def _products_by_key(
    queries: torch.Tensor, height: int, width: int, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries ``(A, n h w, c)`` times positions by row and column of the key: ``(A, n, h, w, h)``, ``(A, n, h, w, w)``."""
    distances = torch.cat((rel_pos_h.flip(0), rel_pos_w.flip(0))).to(queries.dtype)  # key minus query
    distances = functional.pad(distances, (0, 0, 0, -len(distances) % _WHOLE_TILES)).T
    products = queries @ distances.expand(len(queries), -1, -1)  # keys are along its diagonals
    products = products.view(len(queries), -1, height, width, products.shape[-1])
    by_row, by_column = (tuple(s - (i == axis) for i, s in enumerate(products.stride())) for axis in (2, 3))
    shape = products.shape[:-1]
    down = products.as_strided((*shape, height), by_row, height - 1)
    return down, products.as_strided((*shape, width), by_column, 2 * height + width - 2)
