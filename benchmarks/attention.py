"""Milliseconds of the encoder's attention and of one block in several equal ways: which way a device should take.

    python benchmarks/attention.py            # half a minute on a GPU (ViT-H); --quick: seconds

Random numbers. A way that a device does not have is a row with its error.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import Options, build_model, read_options, write_result
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos, get_rel_pos
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from desam_lite.model import fast_encoder
from desam_lite.model.sam import BackboneSpec

NOTE = (
    "ms: median of several calls. difference: norm of the difference to segment-anything's way in float32 over its norm. bias: "
    "the relative positions as additive bias of torch's fused attention, the way of desam_lite.model.fast_encoder, with the "
    "kernel that torch chooses or one that is named. channels: relative positions as further channels of queries and keys. "
    "flex: torch's flex_attention, compiled. block: one block of the encoder, as it is and compiled."
)
Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys and values ``(G, h, w, c)``, relative positions ``(2 h - 1, c)`` and ``(2 w - 1, c)``."""


def main() -> None:
    options = read_options(__doc__ or "")
    model = build_model("sam_tiny" if options.quick else "vit_h", options)
    batch, dtype = (1, torch.float32) if options.quick else (8, torch.bfloat16)
    model.image_encoder.to(dtype)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for kind, side, groups in _kinds(model.spec, batch):
            maps = _draw(groups, side, model.spec.width // model.spec.heads, dtype, options)
            exact = _attend_written_out(*(m[:64].float() if m.ndim == 4 else m.float() for m in maps))
            for way, attend in _ways(options).items():
                rows.append({"kind": kind, "way": way, **_measure(attend, maps, exact, options)})
                write_result("attention", options, rows, note=NOTE)
            block = model.image_encoder.blocks[model.spec.global_blocks[0] if kind == "global" else 0]
            tokens = torch.randn(
                batch, *(model.spec.grid,) * 2, model.spec.width, device=options.device, dtype=dtype
            )
            run = partial(fast_encoder.run_block, block, tokens)
            rows.append({"kind": kind, "way": "block", **_time(run, options)})
            if not options.quick:
                rows.append(
                    {
                        "kind": kind,
                        "way": "block compiled",
                        **_time(torch.compile(lambda call=run: call()), options),
                    }
                )
            write_result("attention", options, rows, note=NOTE)


def _kinds(spec: BackboneSpec, batch: int) -> list[tuple[str, int, int]]:
    """Return name, side and number of the maps of global and windowed blocks."""
    windows = (-(-spec.grid // spec.window)) ** 2
    return [("global", spec.grid, batch * spec.heads), ("window", spec.window, batch * windows * spec.heads)]


def _draw(groups: int, side: int, channels: int, dtype: torch.dtype, options: Options) -> Maps:
    shapes = (*[(groups, side, side, channels)] * 3, *[(2 * side - 1, channels)] * 2)
    q, k, v, down, across = (torch.randn(shape, device=options.device, dtype=dtype) for shape in shapes)
    return q, k, v, down, across


def _ways(options: Options) -> dict[str, Callable[..., torch.Tensor]]:
    ways = {
        "written out": _attend_written_out,
        "bias": _attend_by_bias,
        "channels": _attend_by_channels,
    }
    if options.on_gpu:
        backends = {
            "cuDNN": SDPBackend.CUDNN_ATTENTION,
            "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
            "flash": SDPBackend.FLASH_ATTENTION,
        }
        for name, backend in backends.items():
            for way in ("bias", "channels") if name != "flash" else ("channels",):
                ways[f"{way}, {name}"] = partial(_with_backend, ways[way], backend)
        ways["flex"] = torch.compile(_attend_by_flex)
    return ways


def _with_backend(
    attend: Callable[..., torch.Tensor], backend: SDPBackend, *maps: torch.Tensor
) -> torch.Tensor:
    with sdpa_kernel(backend):
        return attend(*maps)


def _measure(
    attend: Callable[..., torch.Tensor], maps: Maps, exact: torch.Tensor, options: Options
) -> dict[str, Any]:
    row = _time(lambda: attend(*maps), options)
    if not row["error"]:
        result = attend(*maps)[: len(exact)].float()
        row["difference"] = float((result - exact).norm() / exact.norm())
    return row


def _time(call: Callable[[], object], options: Options) -> dict[str, Any]:
    """Return milliseconds and memory, or the error of a way that this device does not have."""
    row: dict[str, Any] = {"ms": None, "peak_mb": None, "difference": None, "error": ""}
    try:
        cost = options.cost(call, repeats=1 if options.quick else 7)
    except Exception as error:  # whatever a kernel or a compiler says: the other ways are still measured
        return row | {"error": f"{type(error).__name__}: {error}"[:200]}
    return row | {"ms": cost.seconds * 1e3, "peak_mb": cost.peak_mb}


def _attend_written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """As segment-anything does it."""
    height, width, channels = q.shape[1:]
    queries, keys, values = (m.flatten(1, 2) for m in (q, k, v))
    scores = (queries * channels**-0.5) @ keys.mT
    scores = add_decomposed_rel_pos(scores, queries, rel_pos_h, rel_pos_w, (height, width), (height, width))
    return (scores.softmax(-1) @ values).view(q.shape)


def _attend_by_bias(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *positions: torch.Tensor
) -> torch.Tensor:
    """As desam_lite does it, on maps of one head."""
    windows = torch.stack((q, k, v), 3)[:, None, :, None, :, :, None]  # each map a window of one head
    return fast_encoder.attend_fused(windows, *positions)


def _attend_by_channels(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """(q, q R_row, q R_column) times (k, row in one-hot form, column likewise), without any bias."""
    height, width, channels = q.shape[1:]
    scale = channels**0.5  # torch divides all products by it; the positions' are not to be
    by_row, by_column = (
        (get_rel_pos(n, n, r).float() * scale).to(q.dtype)
        for n, r in ((height, rel_pos_h), (width, rel_pos_w))
    )
    down, across = torch.einsum("ghwc,hkc->ghwk", q, by_row), torch.einsum("ghwc,wkc->ghwk", q, by_column)
    rows, columns = (torch.eye(n, dtype=q.dtype, device=q.device) for n in (height, width))
    place = torch.cat((rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)), -1)
    spare = -(channels + height + width) % 8  # fused kernels want a multiple of eight
    queries = functional.pad(torch.cat((q, down, across), -1), (0, spare)).flatten(1, 2)
    keys = functional.pad(torch.cat((k, place.expand(len(k), -1, -1, -1)), -1), (0, spare)).flatten(1, 2)
    values = functional.pad(v, (0, queries.shape[-1] - channels)).flatten(1, 2)
    attended = functional.scaled_dot_product_attention(
        queries[:, None], keys[:, None], values[:, None], scale=1 / scale
    )
    return attended[:, 0, :, :channels].reshape(q.shape)


def _attend_by_flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """The positions' products are read where a score is made."""
    height, width, _ = q.shape[1:]
    by_row, by_column = (
        get_rel_pos(n, n, r).to(q.dtype) for n, r in ((height, rel_pos_h), (width, rel_pos_w))
    )
    down = torch.einsum("ghwc,hkc->ghwk", q, by_row).flatten(1, 2)  # (G, h w, h)
    across = torch.einsum("ghwc,wkc->ghwk", q, by_column).flatten(1, 2)

    def add_positions(
        score: torch.Tensor, group: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score + down[group, query, key // width] + across[group, query, key % width]

    queries, keys, values = (m.flatten(1, 2)[:, None] for m in (q, k, v))
    attended: Any = flex_attention(queries, keys, values, score_mod=add_positions)
    return attended[:, 0].reshape(q.shape)


if __name__ == "__main__":
    main()
