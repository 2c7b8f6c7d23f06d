"""Seconds and peak memory of one slice with a point grid: `predict_slice` against drawing the mask of every point.

    python benchmarks/inference.py            # a few minutes, half a one on a GPU; --quick: seconds

The model has random weights and random embeddings: the arithmetic is the same whatever they are, but for how many masks are
drawn. `seconds` is the usual case, in which the mask of the best point is stable; `details` adds the worst, in which none is.
"""

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import Cost, Options, build_model, read_options, write_result
from tqdm import tqdm

from desam_lite.model.desam import DeSAM
from desam_lite.model.predictor import GridSettings, Prediction, point_grid, predict_slice, remove_small
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import unfit_square

SIZE = (384, 384)  # of the slice, in pixels
USUAL = GridSettings(iou_threshold=-1e9, selection="iou")
WORST = GridSettings(iou_threshold=-1e9, stability_threshold=2)  # a stability is at most 1
AT_ONCE = {"cpu": 1, "cuda": 64}  # points of a pass of the exhaustive way; 64 are segment-anything's on a GPU
BASELINE = (
    "seconds_exhaustive: passes through the whole decoder for every point (context of PDMM, PRIM, mask brought to the slice, "
    "stability), one point in each on a CPU and 64 on a GPU; the mask of the best point alone is cleaned, which is less than "
    "the published code does. On a CPU it is timed on the whole grid up to 81 points (9 for other backbones than vit_b), above "
    "on 9 of its points and multiplied; memory on 2. On a GPU all is timed on the whole grid. "
    "seconds_exhaustive_shared (details): the same with the context computed once for all points. pixels_different (details): "
    "of the two masks, where the whole grid was drawn."
)
USUAL_CASE = (
    "seconds: the mask of the best point passes (one mask is drawn). seconds_worst (details): no mask passes and all are "
    "drawn; from the second mask on one mask's seconds, measured on 8 points, multiplied."
)


def main() -> None:
    options = read_options(__doc__ or "")
    if options.quick:
        backbones, sides = ["sam_tiny"], [1, 3]
    elif options.on_gpu:
        backbones, sides = ["vit_h"], [9, 32]
    else:
        backbones, sides = ["vit_b", "vit_h"], [1, 3, 9, 16, 32]
    rows: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    for backbone in backbones:
        for row, detail in _measure(backbone, sides, options):
            rows.append(row)
            details.append(detail)
            notes = {"exhaustive": BASELINE, "lazy": USUAL_CASE}
            write_result("inference", options, rows, details=details, notes=notes)


def _measure(
    backbone: str, sides: list[int], options: Options
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the row of each grid, and its details."""
    torch.manual_seed(0)
    model = build_model(backbone, options)
    grid, width, neck = model.embedding_size, model.spec.width, model.spec.neck
    maps = [torch.randn(1, c, grid, grid, device=options.device) for c in (width, width, width, neck)]
    embeddings = ImageEmbeddings((maps[0], maps[1], maps[2]), maps[3])
    further = _further_mask(model, embeddings, options)
    for side in tqdm(sides, f"point grids with {backbone}"):
        points = point_grid(side, model.image_size, model.image_size)
        ours = options.cost(
            lambda p=points: predict_slice(model, embeddings, "points", SIZE, USUAL, points=p)
        )
        plain, difference, pixels = _exhaustive(model, embeddings, points, False, options)
        shared, _, _ = _exhaustive(model, embeddings, points, True, options)
        grid_of = {"backbone": backbone, "points": len(points)}
        row = {
            "seconds": ours.seconds,
            "seconds_exhaustive": plain.seconds,
            "ratio": plain.seconds / ours.seconds,
            "peak_mb": ours.peak_mb,
        }
        detail = {
            "seconds_exhaustive_shared": shared.seconds,
            "ratio_shared": shared.seconds / ours.seconds,
            "seconds_worst": ours.seconds + (len(points) - 1) * further,
            "peak_mb_exhaustive": plain.peak_mb,
            "largest_difference": difference,
            "pixels_different": pixels,
        }
        yield {**grid_of, **row}, {**grid_of, **detail}


def _further_mask(model: DeSAM, embeddings: ImageEmbeddings, options: Options) -> float:
    """Return the seconds of each mask that is drawn after the first."""
    points = point_grid(3, model.image_size, model.image_size)[:8]

    def seconds(settings: GridSettings) -> float:
        call = lambda: predict_slice(model, embeddings, "points", SIZE, settings, points=points)  # noqa: E731
        return statistics.median(options.seconds(call) for _ in range(3))

    seconds(USUAL)  # warms up
    return (seconds(WORST) - seconds(USUAL)) / 7


@torch.no_grad()
def _exhaustive(
    model: DeSAM, embeddings: ImageEmbeddings, points: torch.Tensor, shared: bool, options: Options
) -> tuple[Cost, float, int]:
    """Draw the mask of every point; returns what it costs and how far `predict_slice` is from its best mask.

    Returns:
        Seconds and memory; the largest difference of the probability; pixels of the masks that differ.
    """
    at_once = AT_ONCE[options.device.type]
    limit = len(points) if options.on_gpu else 81 if model.backbone == "vit_b" else 9
    some = points if len(points) <= limit else points[:: len(points) // 9][:9]
    best: list[Prediction] = []
    warm_up = some[:at_once] if options.on_gpu else some[:2]
    peak = options.cost(lambda: _draw_every(model, embeddings, warm_up, shared, at_once), repeats=0).peak_mb
    drawing = options.seconds(lambda: best.append(_draw_every(model, embeddings, some, shared, at_once)))
    ours = predict_slice(model, embeddings, "points", SIZE, USUAL, points=some)
    difference = float(np.abs(ours.probability - best[0].probability).max())
    pixels = int((ours.mask != best[0].mask).sum())
    fixed = options.seconds(lambda: model.read_context(embeddings)) if shared else 0.0
    return Cost(fixed + (drawing - fixed) * len(points) / len(some), peak), difference, pixels


def _draw_every(
    model: DeSAM, embeddings: ImageEmbeddings, points: torch.Tensor, shared: bool, at_once: int
) -> Prediction:
    context = model.read_context(embeddings) if shared else None
    best_score, best = -np.inf, torch.zeros(1, *SIZE)
    for some in torch.split(points, at_once):
        repeated = (
            embeddings if shared or len(some) == 1 else embeddings[torch.zeros(len(some), dtype=torch.int64)]
        )
        out = model.decode(repeated, Prompts.points(some[:, None], torch.ones(len(some), 1)), context=context)
        assert out.iou is not None
        logits = unfit_square(out.mask_logits, SIZE, model.image_size)  # (B, 1, H, W)
        inner, outer = (logits > 1).sum((1, 2, 3)), (logits > -1).sum((1, 2, 3))
        stable = inner / outer.clamp_min(1) >= USUAL.stability_threshold
        score, place = torch.where(stable, out.iou[:, 0], -torch.inf).max(0)
        if score.item() > best_score:
            best_score, best = score.item(), logits[place]
    probability = best.sigmoid().cpu().numpy()
    side = max(SIZE) / 256  # minimal areas are given on a slice of this side
    mask, _ = remove_small(probability[0] > 0.5, USUAL.min_area * side * side)
    return Prediction(probability, mask[None], np.array([best_score], np.float32))


if __name__ == "__main__":
    main()
