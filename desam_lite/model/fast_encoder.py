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
_WIDE = torch.complex128  # sixteen bytes, which a GPU moves as fast as two


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From queries, keys and values of windows, ``(B, down, h, across, w, 3, heads, c)``, and relative positions ``(2 N - 1, c)`` of
rows and columns, to the map that the windows make up, ``(B, down h, across w, heads c)``."""


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
        _widen(padded)[:, :height, :width] = _widen(qkv)
        qkv = padded
    windows = qkv.view(batch, down, rows, across, columns, 3, attention.num_heads, -1)
    maps = attend(windows, attention.rel_pos_h, attention.rel_pos_w)
    projected: torch.Tensor = attention.proj(_copy(maps, lambda m: m[:, :height, :width]))
    return projected


def _widen(maps: torch.Tensor) -> torch.Tensor:
    """Return the same memory in larger pieces, where no gradient is asked for: torch copies parts of maps piece by piece."""
    fits = maps.shape[-1] * maps.element_size() % _WIDE.itemsize == 0
    return maps.view(_WIDE) if fits and not torch.is_grad_enabled() else maps


def _copy(maps: torch.Tensor, arrange: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
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


def attend_fused(windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor) -> torch.Tensor:
    """Attend as `Attend` says, with SAM's decomposed relative positions."""
    attend = _attend_in_lines if windows.device.type == "cpu" else _attend_by_products
    return attend(windows, rel_pos_h, rel_pos_w)


def _attend_by_products(
    windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """The bias is (q R_row, q R_column) times each key's row and column in one-hot form."""
    batch, down, height, across, width, _, heads, channels = windows.shape
    inside = _copy(windows.flatten(5), lambda w: w.transpose(2, 3)).view(
        -1, height * width, 3, heads, channels
    )
    q, k, v = inside.unbind(2)  # (windows, h w, heads, c) each
    tokens, spare = height * width, -(height + width) % _WHOLE_TILES
    rows, columns = (torch.eye(n, dtype=q.dtype, device=q.device) for n in (height, width))
    place = torch.cat((rows[..., None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)))
    place = functional.pad(place.flatten(1), (0, 0, 0, spare))  # (h + w + spare, h w)
    relative = torch.cat((rel_pos_h.flip(0), rel_pos_w.flip(0))).to(q.dtype)  # of key minus query, rising
    relative = functional.pad(relative, (0, 0, 0, -len(relative) % _WHOLE_TILES)).T.expand(heads, -1, -1)
    at_once = max(1, min(_BIAS_AT_ONCE["cuda"] // (heads * tokens**2), _WINDOWS_AT_ONCE))
    attended = []
    for parts in zip(*(x.split(at_once) for x in (q, k, v)), strict=True):
        products = parts[0].flatten(0, 1).transpose(0, 1) @ relative  # (heads, n h w, distances)
        products = products.view(heads, -1, height, width, products.shape[-1]).transpose(0, 1)
        by_row, by_column = _by_key(products, height, 2), _by_key(products[..., 2 * height - 1 :], width, 3)
        nothing = products.new_zeros(*products.shape[:-1], spare)
        near = torch.cat((by_row, by_column, nothing), -1).flatten(2, 3)  # (n, heads, h w, h + w + spare)
        queries, keys, values = (x.transpose(1, 2) for x in parts)  # (n, heads, h w, c)
        read = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=near @ place)
        attended.append(read.transpose(1, 2))
    whole = attended[0] if len(attended) == 1 else torch.cat(attended)
    maps = _copy(whole.reshape(batch, down, across, height, width, -1), lambda m: m.transpose(2, 3))
    return maps.view(batch, down * height, across * width, -1)


def _by_key(products: torch.Tensor, tokens: int, axis: int) -> torch.Tensor:
    """Return from products by distance, key minus query from ``1 - tokens``, those of each key, as a view of the same memory."""
    strides, last = list(products.stride()), products.stride(-1)
    strides[axis] -= last
    offset = products.storage_offset() + (tokens - 1) * last
    return products.as_strided((*products.shape[:-1], tokens), strides, offset)


def _attend_in_lines(windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor) -> torch.Tensor:
    """The bias is a sum that exists for a few lines of queries at once."""
    q, k, v = split_heads(windows)  # (G, h, w, c) each
    height, width = q.shape[1:3]
    by_row, by_column = (
        _by_query_and_key(r, n).to(q.dtype) for r, n in ((rel_pos_h, height), (rel_pos_w, width))
    )  # (h, h, c), (w, w, c)
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
    return join_heads(attended, windows)


def _by_query_and_key(relative: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return from the relative positions ``(2 N - 1, c)`` of N tokens those of query i to key j: ``(N, N, c)``.

    The numbers of segment-anything's `get_rel_pos`, without the table of indices that it sends to the device each time.
    """
    return relative.unfold(0, tokens, 1).flip(-1).transpose(1, 2).contiguous()
