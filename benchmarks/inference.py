"""Seconds and peak memory of one slice with a point grid: `predict_slice` against drawing the mask of every point.

    python benchmarks/inference.py            # a few minutes; --quick: seconds

The model has random weights and random embeddings: the arithmetic is the same whatever they are, but for how many masks are
drawn. `seconds` is the usual case, in which the mask of the best point is stable; `details` adds the worst, in which none is.
"""

import statistics

import numpy as np
import torch
from common import Cost, Options, read_options, write_result
from tqdm import tqdm

from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.predictor import GridSettings, Prediction, point_grid, predict_slice
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import unfit_square

SIZE = (384, 384)  # of the slice, in pixels
USUAL = GridSettings(iou_threshold=-1e9, stability_threshold=0)
WORST = GridSettings(iou_threshold=-1e9, stability_threshold=2)  # a stability is at most 1
BASELINE = (
    "seconds_exhaustive: one pass through the whole decoder for each point on its own (context of PDMM, PRIM, mask brought to "
    "the slice, stability), as the published code does; the mask of the best point alone is cleaned, which is less than it does. "
    "Timed on the whole grid up to 81 points (9 for other backbones than vit_b), above on 9 of its points and multiplied; memory "
    "on 2. "
    "seconds_exhaustive_shared (details): the same with the context computed once for all points."
)
USUAL_CASE = (
    "seconds: the mask of the best point passes (one mask is drawn). seconds_worst (details): no mask passes and all are "
    "drawn; from the second mask on one mask's seconds, measured on 8 points, multiplied."
)


def main() -> None:
    options = read_options(__doc__ or "")
    backbones = ("sam_tiny",) if options.quick else ("vit_b", "vit_h")
    sides = (1, 3) if options.quick else (1, 3, 9, 16, 32)
    rows, details = [], []
    for backbone in backbones:
        for row, detail in _backbone(backbone, sides, options):
            rows.append(row)
            details.append(detail)
    notes = {"exhaustive": BASELINE, "lazy": USUAL_CASE}
    write_result("inference", options, rows, details=details, notes=notes)


def _backbone(name: str, sides: tuple[int, ...], options: Options) -> list[tuple[dict, dict]]:
    torch.manual_seed(0)
    model = build_desam(name, device=options.device)
    grid, width, neck = model.embedding_size, model.spec.width, model.spec.neck
    maps = [torch.randn(1, c, grid, grid, device=options.device) for c in (width, width, width, neck)]
    embeddings = ImageEmbeddings((maps[0], maps[1], maps[2]), maps[3])
    further = _further_mask(model, embeddings, options)
    found = []
    for side in tqdm(sides, f"point grids with {name}"):
        points = point_grid(side, model.image_size, model.image_size)
        lazy = options.cost(
            lambda p=points: predict_slice(model, embeddings, "points", SIZE, USUAL, points=p)
        )
        every = {shared: _exhaustive(model, embeddings, points, shared, options) for shared in (False, True)}
        found.append(_rows(name, len(points), lazy, every, further))
    return found


def _rows(
    name: str, count: int, lazy: Cost, every: dict[bool, tuple[Cost, float]], further: float
) -> tuple[dict, dict]:
    (plain, difference), (shared, _) = every[False], every[True]
    known = {"backbone": name, "points": count}
    row = {
        "seconds": lazy.seconds,
        "seconds_exhaustive": plain.seconds,
        "ratio": plain.seconds / lazy.seconds,
        "peak_mb": lazy.peak_mb,
    }
    detail = {
        "seconds_exhaustive_shared": shared.seconds,
        "ratio_shared": shared.seconds / lazy.seconds,
        "seconds_worst": lazy.seconds + (count - 1) * further,
        "peak_mb_exhaustive": plain.peak_mb,
        "largest_difference": difference,
    }
    return {**known, **row}, {**known, **detail}


def _further_mask(model: DeSAM, embeddings: ImageEmbeddings, options: Options) -> float:
    """Return the seconds of each mask that is drawn after the first."""
    points = point_grid(3, model.image_size, model.image_size)[:8]

    def took(settings: GridSettings) -> float:
        call = lambda: predict_slice(model, embeddings, "points", SIZE, settings, points=points)  # noqa: E731
        return statistics.median(options.seconds(call) for _ in range(3))

    return (took(WORST) - took(USUAL)) / 7


@torch.no_grad()
def _exhaustive(
    model: DeSAM, embeddings: ImageEmbeddings, points: torch.Tensor, shared: bool, options: Options
) -> tuple[Cost, float]:
    """Draw the mask of every point; returns what it costs and how far `predict_slice` is from its best mask."""
    limit = 81 if model.backbone == "vit_b" else 9
    some = points if len(points) <= limit else points[:: len(points) // 9][:9]
    kept: list[Prediction] = []
    peak = options.cost(lambda: _draw_every(model, embeddings, some[:2], shared), repeats=0).peak_mb
    drawn = options.seconds(lambda: kept.append(_draw_every(model, embeddings, some, shared)))
    lazy = predict_slice(model, embeddings, "points", SIZE, USUAL, points=some)
    difference = float(np.abs(lazy.probability - kept[0].probability).max())
    fixed = options.seconds(lambda: model.read_context(embeddings)) if shared else 0.0
    return Cost(fixed + (drawn - fixed) * len(points) / len(some), peak), difference


def _draw_every(model: DeSAM, embeddings: ImageEmbeddings, points: torch.Tensor, shared: bool) -> Prediction:
    context = model.read_context(embeddings) if shared else None
    best_score, best = -np.inf, torch.zeros(1, *SIZE)
    for point in points:
        prompt = Prompts.points(point[None, None], torch.ones(1, 1))
        out = model.decode(embeddings, prompt, context=context)
        assert out.iou is not None
        logits = unfit_square(out.mask_logits, SIZE, model.image_size)[0]
        stability = (logits > 1).sum() / (logits > -1).sum().clamp_min(1)
        if out.iou.item() > best_score and stability >= USUAL.stability_threshold:
            best_score, best = out.iou.item(), logits
    probability = best.sigmoid().cpu().numpy()
    return Prediction(probability, probability > 0.5, np.array([best_score], np.float32))


if __name__ == "__main__":
    main()
