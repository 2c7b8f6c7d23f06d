"""Scoring first and drawing last gives the mask that drawing every point on its own and choosing gives, ties included."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_model import random_embeddings, use_micro
from torch.nn import functional

from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.predictor import GridSettings, point_grid, predict_slice
from desam_lite.model.prompts import ImageEmbeddings, Prompts

SIZE = (26, 40)
LOGITS = 1e-4  # how far logits may be apart; a probability is then at most a quarter of it apart
ROUNDING = 1e-5  # scores nearer than this may change places


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def varied_model(seed: int, n_classes: int = 1) -> DeSAM:
    """A random model whose prompts differ in score and in stability, norms and biases random too."""
    model = build_desam("micro", "desam" if seed % 3 else "no_fusion", n_classes=n_classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    assert model.prim is not None
    with torch.no_grad():
        model.pdmm.head.weight.mul_(20)
        for parameter in model.prim.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.mul_(1.5)
    return model


@torch.no_grad()
def drawn_alone(
    model: DeSAM, embeddings: ImageEmbeddings, points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(N, K, H, W)`` on the slice and IoU ``(N, K)`` of each point, from a pass through the model of its own."""
    height, width = round(32 * SIZE[0] / SIZE[1]), 32
    logits, scores = [], []
    for point in points:
        out = model.decode(embeddings, Prompts.points(point[None, None], torch.ones(1, 1)))
        assert out.iou is not None
        whole = functional.interpolate(out.mask_logits, (32, 32), mode="bilinear")
        logits.append(functional.interpolate(whole[..., :height, :width], SIZE, mode="bilinear")[0])
        scores.append(out.iou[0])
    return torch.stack(logits), torch.stack(scores)


def stability(logits: torch.Tensor) -> torch.Tensor:
    return (logits > 1).sum((2, 3)) / (logits > -1).sum((2, 3)).clamp_min(1)


def quantile(values: torch.Tensor, share: float) -> float:
    """A threshold about ``share`` of the way through the values, well between two of them, so that rounding does not decide."""
    ordered = values.flatten().sort().values
    bounds = torch.cat([ordered[:1] - 1, ordered, ordered[-1:] + 1])
    wide = (bounds.diff() > 1e-3).nonzero()[:, 0]
    gap = wide[(wide - share * len(ordered)).abs().argmin()]
    return float(bounds[gap : gap + 2].mean())


def cases() -> Iterator[tuple[int, int, int, float, float]]:
    """Yield seed, side of the grid, organs, and the shares of scores and of stabilities that are refused."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        yield (
            seed,
            int(rng.integers(1, 6)),
            int(rng.integers(1, 3)),
            float(rng.uniform(0, 0.9)),
            float(rng.uniform(0, 1)),
        )


@pytest.mark.parametrize(("seed", "side", "n_classes", "scores_cut", "stability_cut"), cases())
def test_the_mask_is_that_of_the_best_of_all_points_drawn_alone(
    seed: int, side: int, n_classes: int, scores_cut: float, stability_cut: float
) -> None:
    model, embeddings = varied_model(seed, n_classes), random_embeddings(seed=seed)
    points = point_grid(side, 32, round(32 * SIZE[0] / SIZE[1]))
    logits, scores = drawn_alone(model, embeddings, points)
    steady = stability(logits)
    grid = GridSettings(
        points_per_side=side,
        iou_threshold=quantile(scores, scores_cut),
        stability_threshold=quantile(steady, stability_cut),
        min_area=0,
        batch=1 + seed % 7,
    )
    found = predict_slice(model, embeddings, "points", SIZE, grid)
    for organ in range(n_classes):
        fit = (scores[:, organ] > grid.iou_threshold) & (steady[:, organ] >= grid.stability_threshold)
        fit &= (logits[:, organ] > 0).flatten(1).any(1)
        if not fit.any():
            assert not found.mask[organ].any()
            continue
        best = scores[fit, organ].max()
        assert found.iou[organ] == pytest.approx(best.item(), abs=ROUNDING)
        near = fit & (scores[:, organ] > best - ROUNDING)
        distances = (
            (logits[near, organ].sigmoid() - torch.from_numpy(found.probability[organ])).abs().amax((1, 2))
        )
        assert distances.min() < LOGITS / 4


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_where_all_points_are_judged_alike_the_first_that_passes_is_drawn(seed: int, batch: int) -> None:
    model, embeddings = varied_model(seed), random_embeddings(seed=seed)
    assert model.prim is not None
    assert model.prim.iou_head is not None
    torch.nn.init.zeros_(model.prim.iou_head.layers[-1].weight)
    points = point_grid(4, 32, 20)[torch.randperm(16, generator=torch.Generator().manual_seed(seed))]
    logits, scores = drawn_alone(model, embeddings, points)
    assert (scores == scores[0]).all()
    steady = stability(logits)
    limit = min(quantile(steady, 0.6), float(steady.max()) - 1e-3)  # at least one passes
    first = int((steady[:, 0] >= limit).float().argmax())
    grid = GridSettings(iou_threshold=-9, stability_threshold=limit, min_area=0, batch=batch)
    found = predict_slice(model, embeddings, "points", SIZE, grid, points=points)
    np.testing.assert_allclose(found.probability[0], logits[first, 0].sigmoid().numpy(), atol=LOGITS / 4)


@pytest.mark.parametrize("seed", range(6))
def test_a_point_asked_twice_changes_nothing(seed: int) -> None:
    model, embeddings = varied_model(seed), random_embeddings(seed=seed)
    points = point_grid(4, 32, 20)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(seed))
    grid = GridSettings(iou_threshold=-9, stability_threshold=0, min_area=0, batch=5)
    once = predict_slice(model, embeddings, "points", SIZE, grid, points=points)
    often = predict_slice(model, embeddings, "points", SIZE, grid, points=points.repeat(3, 1)[order])
    np.testing.assert_allclose(often.probability, once.probability, atol=LOGITS / 4)
    np.testing.assert_allclose(often.iou, once.iou, atol=ROUNDING)
