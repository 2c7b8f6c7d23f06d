"""Images per second and peak memory of the frozen encoder: `DeSAM.encode` against segment-anything's own forward.

    python benchmarks/encoder.py              # two minutes on a CPU; --quick: seconds

Random weights and random pixels: neither changes the work. On a GPU also ViT-L and ViT-H, and bfloat16.
"""

from typing import Any

import torch
from common import Cost, Options, read_options, write_result
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.sam import BackboneSpec

NOTE = (
    "The reference is segment_anything's ImageEncoderViT.forward on the same weights, pixels, number "
    "format and device, in the same run. difference: norm of the difference of the neck maps over the "
    "norm of the reference's in float32. matrix_share: multiplications and additions of linear layers, "
    "convolutions and attention per second, over the rate of one large matrix product. profile: share of "
    "the time of ours by operation."
)


def main() -> None:
    options = read_options(__doc__ or "")
    with torch.no_grad():
        rows = [_row(*case, options) for case in tqdm(_cases(options), "encoders")]
    write_result(
        "encoder", options, [r for r, _ in rows], profile={r["backbone"]: p for r, p in rows}, note=NOTE
    )


def _cases(options: Options) -> list[tuple[str, torch.dtype, int]]:
    """Return backbone, number format and batch of every row."""
    if options.quick:
        return [("sam_tiny", torch.float32, 2)]
    if options.device.type != "cuda":
        return [("sam_tiny", torch.float32, 8), ("vit_b", torch.float32, 1)]
    return [(b, t, 8) for b in ("vit_b", "vit_l", "vit_h") for t in (torch.float32, torch.bfloat16)]


def _row(
    name: str, dtype: torch.dtype, batch: int, options: Options
) -> tuple[dict[str, Any], dict[str, float]]:
    torch.manual_seed(0)
    model = build_desam(name, device=options.device)
    for key, parameter in model.image_encoder.named_parameters():
        if "pos" in key:  # zero in a new encoder: what is done with them would not show in the difference
            torch.nn.init.normal_(parameter, std=0.5)
    pixels = torch.randn(batch, 3, model.image_size, model.image_size, device=options.device)
    exact = model.image_encoder(pixels)
    model.image_encoder.to(dtype)
    pixels = pixels.to(dtype)
    difference = (model.encode(pixels).neck.float() - exact).norm() / exact.norm()
    # In turns, so that a machine that gets slower meanwhile slows both.
    turns = [(_ours(model, pixels, options), _theirs(model, pixels, options)) for _ in range(3)]
    ours, theirs = (_middle([turn[i] for turn in turns]) for i in (0, 1))
    rate = _matrix_rate(dtype, options)
    row = {
        "backbone": name,
        "format": str(dtype).removeprefix("torch."),
        "batch": batch,
        "images_per_second": batch / ours.seconds,
        "images_per_second_reference": batch / theirs.seconds,
        "ratio": theirs.seconds / ours.seconds,
        "peak_mb": ours.peak_mb,
        "peak_mb_reference": theirs.peak_mb,
        "difference": float(difference),
        "matrix_share": batch * operations(model.spec) / ours.seconds / rate,
    }
    return row, _profile(model, pixels)


def _ours(model: DeSAM, pixels: torch.Tensor, options: Options) -> Cost:
    return options.cost(lambda: model.encode(pixels), repeats=1)


def _theirs(model: DeSAM, pixels: torch.Tensor, options: Options) -> Cost:
    return options.cost(lambda: model.image_encoder(pixels), repeats=1)


def _middle(costs: list[Cost]) -> Cost:
    return sorted(costs)[len(costs) // 2]


def operations(spec: BackboneSpec) -> float:
    """Return multiplications plus additions of one image: linear layers, attention, patches and neck."""
    tokens, width = spec.grid**2, spec.width
    linear = spec.depth * 12 * tokens * width**2
    windows = spec.depth - len(spec.global_blocks)
    seen = (
        len(spec.global_blocks) * tokens + windows * spec.window**2
    )  # tokens that each token attends to, over blocks
    attention = 2 * tokens * seen * width
    ends = tokens * (3 * spec.patch**2 * width + width * spec.neck + 9 * spec.neck**2)
    return 2.0 * (linear + attention + ends)


def _matrix_rate(dtype: torch.dtype, options: Options) -> float:
    """Return multiplications plus additions per second of a product of square matrices."""
    device = options.device
    side = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(options.seconds(lambda: one @ other) for _ in range(5))


def _profile(model: DeSAM, pixels: torch.Tensor) -> dict[str, float]:
    """Return the share of each operation's own time in one encoding, the six largest."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if pixels.is_cuda else [])]
    with profile(activities=activities) as seen:
        model.encode(pixels)
    field = "self_device_time_total" if pixels.is_cuda else "self_cpu_time_total"
    times = {event.key: getattr(event, field) for event in seen.key_averages()}
    largest = sorted(times, key=lambda key: -times[key])[:6]
    return {key: round(times[key] / sum(times.values()), 3) for key in largest}


if __name__ == "__main__":
    main()
