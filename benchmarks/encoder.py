"""Images per second and peak memory of the frozen encoder: `DeSAM.encode` against segment-anything's own forward.

    python benchmarks/encoder.py              # two minutes on a CPU and on a GPU; --quick: seconds

Random weights and random pixels: neither changes the work. On a GPU also ViT-L and ViT-H, in bfloat16, and each side with the
batch that suits it best.
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from common import Cost, Options, build_model, read_options, shares_by_operation, write_result
from tqdm import tqdm

from desam_lite.model.desam import DeSAM
from desam_lite.model.sam import BackboneSpec

NOTE = (
    "The reference is segment_anything's ImageEncoderViT.forward on the same weights and device in the same run, in the "
    "same number format (ratio) and in float32 (ratio_to_float32), each with the fastest batch of those tried (large ones "
    "in float32 on a GPU: 8 alone). difference: norm of the difference of the neck maps over the norm of the reference's in"
    " float32. matrix_share: multiplications and additions of linear layers, convolutions and attention per second, over "
    "the rate of one large matrix product in the same format (matrix_rate, per second). profile: share of the time of ours "
    "by operation. format 'bfloat16 autocast': weights and the sums between blocks in float32, products in bfloat16."
)
ROUNDS = 3  # in which the two sides take turns, so that a machine that gets slower meanwhile slows both


class Case(NamedTuple):
    """One row to measure.

    Attributes:
        backbone: Its name.
        dtype: Number format of the products.
        autocast: Whether weights stay in float32.
        batches: To choose from.
    """

    backbone: str
    dtype: torch.dtype
    autocast: bool
    batches: tuple[int, ...]

    @property
    def format(self) -> str:
        """The number format in words."""
        return str(self.dtype).removeprefix("torch.") + (" autocast" if self.autocast else "")


def main() -> None:
    options = read_options(__doc__ or "")
    rows: list[dict[str, Any]] = []
    profiles: dict[str, dict[str, float]] = {}
    rates: dict[torch.dtype, float] = {}
    for case in tqdm(_cases(options), "encoders"):
        if case.dtype not in rates:
            rates[case.dtype] = _matrix_rate(case.dtype, options)
        with torch.no_grad():
            row, shares = _measure(case, rates[case.dtype], options)
        rows.append(row)
        profiles[f"{case.backbone} {case.format}"] = shares
        _compare_with_float32(rows)
        write_result("encoder", options, rows, profile=profiles, note=NOTE)


def _cases(options: Options) -> list[Case]:
    """Return what is measured: on a GPU what matters most first, as its time may be limited."""
    if options.quick:
        return [Case("sam_tiny", torch.float32, False, (1,)), Case("sam_tiny", torch.bfloat16, True, (1, 2))]
    if not options.on_gpu:
        return [Case("sam_tiny", torch.float32, False, (8,)), Case("vit_b", torch.float32, False, (1,))]
    large = {torch.float32: (8,), torch.bfloat16: (16, 32)}
    batches = {"vit_h": large, "sam_tiny": dict.fromkeys(large, (64, 256)), "vit_b": large, "vit_l": large}
    formats = ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))
    return [
        Case(name, dtype, cast, sizes[dtype]) for name, sizes in batches.items() for dtype, cast in formats
    ]


def _measure(case: Case, rate: float, options: Options) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the row of a case, and the shares of operations of ours."""
    torch.manual_seed(0)
    model = build_model(case.backbone, options)
    for key, parameter in model.image_encoder.named_parameters():
        if "pos" in key:  # zero in a new encoder: what is done with them would not show in the difference
            torch.nn.init.normal_(parameter, std=0.5)
    probe = _pixels(model, case.batches[0], options)
    exact = model.image_encoder(probe)
    if not case.autocast:
        model.image_encoder.to(case.dtype)

    def cast(encode: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def call(pixels: torch.Tensor) -> Any:
            with torch.autocast(options.device.type, case.dtype, enabled=case.autocast):
                return encode(pixels if case.autocast else pixels.to(case.dtype))

        return call

    ours, reference = cast(model.encode), cast(model.image_encoder)
    difference = (ours(probe).neck.float() - exact).norm() / exact.norm()
    del exact
    sides = [_side(encode, model, case, options) for encode in (ours, reference)]
    costs = [options.cost(call, repeats=0) for _, call in sides]
    turns = [[options.seconds(call) for _, call in sides] for _ in range(1 if options.quick else ROUNDS)]
    own, their = (Cost(statistics.median(t[side] for t in turns), costs[side].peak_mb) for side in (0, 1))
    (batch, call), (batch_reference, _) = sides
    row = {
        "backbone": case.backbone,
        "format": case.format,
        "batch": batch,
        "batch_reference": batch_reference,
        "images_per_second": batch / own.seconds,
        "images_per_second_reference": batch_reference / their.seconds,
        "ratio": batch / own.seconds * their.seconds / batch_reference,
        "peak_mb": own.peak_mb,
        "peak_mb_reference": their.peak_mb,
        "difference": float(difference),
        "matrix_share": batch * operations(model.spec) / own.seconds / rate,
        "matrix_rate": rate,
    }
    return row, shares_by_operation(call, options)


def _side(
    encode: Callable[[torch.Tensor], Any], model: DeSAM, case: Case, options: Options
) -> tuple[int, Callable[[], Any]]:
    """Return the batch that a side is fastest with, and one call of it."""
    batch = options.fastest_batch(lambda count: encode(_pixels(model, count, options)), case.batches)
    pixels = _pixels(model, batch, options)
    return batch, lambda: encode(pixels)


def _pixels(model: DeSAM, batch: int, options: Options) -> torch.Tensor:
    return torch.randn(batch, 3, model.image_size, model.image_size, device=options.device)


def _compare_with_float32(rows: list[dict[str, Any]]) -> None:
    """Add to each row ours over the reference in float32, of the same backbone."""
    exact = {r["backbone"]: r["images_per_second_reference"] for r in rows if r["format"] == "float32"}
    for row in rows:
        row["ratio_to_float32"] = row["images_per_second"] / exact[row["backbone"]]


def operations(spec: BackboneSpec) -> float:
    """Return multiplications plus additions of one image: linear layers, attention, patches and neck."""
    tokens, width = spec.grid**2, spec.width
    linear = spec.depth * 12 * tokens * width**2
    windows = spec.depth - len(spec.global_blocks)
    reach = (
        len(spec.global_blocks) * tokens + windows * spec.window**2
    )  # tokens that one attends to, over blocks
    attention = 2 * tokens * reach * width
    ends = tokens * (3 * spec.patch**2 * width + width * spec.neck + 9 * spec.neck**2)
    return 2.0 * (linear + attention + ends)


def _matrix_rate(dtype: torch.dtype, options: Options) -> float:
    """Return multiplications plus additions per second of a product of square matrices of random numbers."""
    side = 8192 if options.on_gpu else 512 if options.quick else 2048
    left, right = (torch.randn(side, side, device=options.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(options.seconds(lambda: left @ right) for _ in range(10))


if __name__ == "__main__":
    main()
