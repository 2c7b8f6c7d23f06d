"""Prediction keeps the best prompt, draws as few masks as it can, and comes back on the grid of the slice."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from segment_anything.utils.amg import batched_mask_to_box
from small_model import random_embeddings, use_micro
from torch.nn import functional
from torchvision.ops import nms

from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import Selection, Variant
from desam_lite.model.predictor import GridSettings, Prediction, point_grid, predict_slice, remove_small
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts
from desam_lite.training.method import combine_organs

HIGHEST = GridSettings(selection="iou", min_area=0)
ANYTHING = replace(HIGHEST, points_per_side=3, iou_threshold=-9)
SIDE = 64  # of the model's square in these tests


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


class Drawer:
    """Stands in for a model: predicts for the point at x the IoU ``scores[x]``, and draws ``maps[x]``."""

    def __init__(self, scores: dict[int, float], maps: dict[int, torch.Tensor]):
        self.scores, self.maps, self.drawn = scores, maps, []
        self.image_size, self.n_classes, self.predicts_iou = SIDE, 1, True

    def read_context(self, embeddings: ImageEmbeddings) -> None:
        return None

    def score_prompts(self, embeddings: ImageEmbeddings, prompts: Prompts, *, batch: int) -> torch.Tensor:
        return torch.tensor([[self.scores[x]] for x in self._columns(prompts)])

    def decode(self, embeddings: ImageEmbeddings, prompts: Prompts, *, context: None) -> Decoded:
        columns = self._columns(prompts)
        self.drawn += columns
        return Decoded(torch.stack([self.maps[x] for x in columns])[:, None], None)

    @staticmethod
    def _columns(prompts: Prompts) -> list[int]:
        assert prompts.xy is not None
        return prompts.xy[:, 0, 0].int().tolist()


def square(size: int, logit: float = 9.0) -> torch.Tensor:
    """Logits of a ``size x size`` square in the corner of an otherwise empty map."""
    logits = torch.full((SIDE, SIDE), -9.0)
    logits[:size, :size] = logit
    return logits


def predict_with(drawer: Drawer, grid: GridSettings, slice_side: int = SIDE) -> Prediction:
    points = torch.tensor([[float(x), 0.0] for x in drawer.scores])
    model = cast(DeSAM, drawer)
    return predict_slice(model, random_embeddings(), "points", (slice_side, slice_side), grid, points=points)


def test_the_best_scored_point_is_drawn_and_no_other() -> None:
    drawer = Drawer({1: 0.6, 2: 0.9, 3: 0.8}, {1: square(10), 2: square(20), 3: square(30)})
    prediction = predict_with(drawer, GridSettings(min_area=0))
    assert drawer.drawn == [2]
    assert prediction.mask[0].sum() == 400
    assert prediction.iou.tolist() == pytest.approx([0.9])


def test_an_unstable_mask_gives_way_to_the_next() -> None:
    # All of the best map lies between -1 and +1: it is there above -1 and gone above +1.
    drawer = Drawer({1: 0.9, 2: 0.7}, {1: square(20, 0.5), 2: square(10)})
    assert predict_with(drawer, GridSettings(min_area=0, stability_threshold=0.6)).mask[0].sum() == 100
    assert drawer.drawn == [1, 2]
    usual = predict_with(
        Drawer(drawer.scores, drawer.maps), GridSettings(min_area=0)
    )  # no filter, as published
    assert usual.mask[0].sum() == 400


def test_stability_is_the_share_of_the_outer_mask_that_the_inner_one_has() -> None:
    logits = square(20, 0.5)
    logits[:20, :13] = 9.0  # 260 of 400 pixels are above +1: a score of 0.65
    drawer = Drawer({1: 0.9}, {1: logits})
    for threshold, kept in ((0.64, 400), (0.65, 400), (0.66, 0)):
        prediction = predict_with(drawer, GridSettings(min_area=0, stability_threshold=threshold))
        assert prediction.mask[0].sum() == kept


def test_nothing_above_the_threshold_is_an_empty_mask() -> None:
    drawer = Drawer({1: 0.5, 2: 0.3}, {1: square(10), 2: square(10)})
    prediction = predict_with(drawer, GridSettings(iou_threshold=0.5))  # above, not at, the threshold
    assert not drawer.drawn
    assert not prediction.mask.any()
    assert not prediction.probability.any()
    assert prediction.iou.tolist() == [0]
    assert prediction.mask.shape == prediction.probability.shape == (1, SIDE, SIDE)


def test_a_point_that_draws_nothing_gives_way_to_the_next() -> None:
    drawer = Drawer({1: 0.9, 2: 0.7}, {1: square(0), 2: square(10)})
    prediction = predict_with(drawer, replace(HIGHEST, iou_threshold=0.5))
    assert prediction.mask[0].sum() == 100
    drawer = Drawer(drawer.scores, drawer.maps)
    published = predict_with(drawer, GridSettings(iou_threshold=0.5))  # an empty mask needs no clean-up
    assert not published.mask.any() and published.iou.tolist() == pytest.approx([0.9])


def block(left: int, size: int, *, hole: bool = False, crumb: int = -1) -> torch.Tensor:
    """Logits of a square whose left edge is at a column, with a hole, or with an island of one pixel in another column."""
    logits = torch.full((SIDE, SIDE), -9.0)
    logits[4 : 4 + size, left : left + size] = 9.0
    if hole:
        logits[6, left + 2] = -9.0
    if crumb >= 0:
        logits[40, crumb] = 9.0
    return logits


PUBLISHED = GridSettings(min_area=160)  # 10 pixels of these slices


@pytest.mark.parametrize(
    ("maps", "kept"),
    [
        ([block(0, 10), block(30, 12)], 0),  # both clean: the better
        ([block(0, 10, hole=True), block(30, 12)], 1),  # a hole: the next that has none
        ([block(0, 10, crumb=9), block(30, 12)], 1),  # an island
        ([block(0, 3), block(30, 12)], 1),  # the only island, too small: it stays, but counts as cleaned
        ([block(0, 10, hole=True), block(30, 12, hole=True)], 0),  # none is clean: the better
        ([block(0, 10, hole=True), block(0, 10)], 0),  # of the same box as a better mask: dropped before
        ([block(0, 10, hole=True), block(0, 10), block(30, 12)], 2),
        ([block(0, 10, hole=True), block(0, 0)], 1),  # an empty mask is clean
        ([block(0, 0), block(30, 12)], 0),
    ],
)
def test_as_published_the_first_mask_that_needs_no_clean_up_is_kept(
    maps: list[torch.Tensor], kept: int
) -> None:
    scores = {x: 0.9 - 0.1 * x for x in range(len(maps))}
    prediction = predict_with(Drawer(scores, dict(enumerate(maps))), PUBLISHED)
    assert prediction.iou[0] == pytest.approx(scores[kept])
    cleaned = remove_small(maps[kept].numpy() > 0, 10)[0]
    assert np.array_equal(prediction.mask[0], cleaned)


def list_as_published(
    maps: torch.Tensor, scores: torch.Tensor, area: float
) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The public code's list after both suppressions, everything decoded: the places, and the cleaned masks, in its order."""
    ranked = torch.sort(scores, descending=True, stable=True).indices
    masks = maps[ranked] > 0
    kept = nms(batched_mask_to_box(masks).float(), scores[ranked], 0.7)
    ranked, masks = ranked[kept], masks[kept]
    cleaned = [remove_small(mask.numpy(), area)[0] for mask in masks]
    changed = [
        any(part.sum() < area for part in (*parts(mask.numpy()), *parts(~mask.numpy()))) for mask in masks
    ]
    clean = torch.tensor([0.0 if change else 1.0 for change in changed])
    order = nms(batched_mask_to_box(torch.from_numpy(np.stack(cleaned))).float(), clean, 0.7)
    return ranked[order], [cleaned[place] for place in order]


@pytest.mark.parametrize("seed", range(60))
def test_decoding_as_few_as_needed_gives_the_first_mask_of_the_public_list(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 9))
    maps = torch.full((count, SIDE, SIDE), -9.0)
    for each in maps:
        for _ in range(rng.integers(0, 4)):
            top, left = rng.integers(0, 3, 2) * 8 + rng.integers(0, 3, 2)
            height, width = rng.integers(1, 20, 2)
            each[top : top + height, left : left + width] = 9.0 if rng.random() < 0.8 else -9.0
    scores = torch.from_numpy(rng.permutation(count).astype(np.float32)) / 10 + 0.05
    drawer = Drawer({x: float(s) for x, s in enumerate(scores)}, dict(enumerate(maps)))
    prediction = predict_with(drawer, replace(PUBLISHED, iou_threshold=0.0))
    order, masks = list_as_published(maps, scores, 10)
    assert prediction.iou[0] == pytest.approx(float(scores[order[0]]))
    assert np.array_equal(prediction.mask[0], masks[0])


@pytest.mark.parametrize("selection", ["published", "iou"])
@pytest.mark.parametrize("seed", range(5))
def test_the_fast_and_the_plain_way_keep_the_same_mask(seed: int, selection: Selection) -> None:
    embeddings = random_embeddings(seed=seed)
    grid = GridSettings(points_per_side=4, iou_threshold=-9, selection=selection, min_area=2000)
    fast, plain = varied_model(seed, 2), varied_model(seed, 2)
    plain.fast = False
    one, other = (predict_slice(model, embeddings, "points", EXACT_SIZE, grid) for model in (fast, plain))
    np.testing.assert_allclose(one.iou, other.iou, atol=ROUNDING)
    np.testing.assert_allclose(one.probability, other.probability, atol=LOGITS / 4)
    assert np.array_equal(one.mask, other.mask)


def test_of_equal_scores_the_first_point_wins() -> None:
    drawer = Drawer(dict.fromkeys(range(1, 82), 0.8), {x: square(min(x, SIDE)) for x in range(1, 82)})
    assert predict_with(drawer, GridSettings(min_area=0)).mask[0].sum() == 1


def test_the_smallest_area_is_that_of_a_slice_of_256_pixels() -> None:
    logits = square(40)
    logits[10:15, 10:15] = -9  # a hole of 25 pixels of the square
    logits[-4:, -4:] = 9  # an island of 16
    drawer = Drawer({1: 0.9}, {1: logits})
    # In a slice of 64 pixels 256 pixels of the stated area are 16: the hole and the island are not smaller.
    areas = {256: 1600 - 25 + 16, 272: 1600 - 25, 400: 1600 - 25, 416: 1600}
    for area, expected in areas.items():
        assert predict_with(drawer, GridSettings(min_area=area)).mask[0].sum() == expected
    # In a slice twice as large everything has four times the pixels, the stated area too.
    doubled = predict_with(drawer, GridSettings(min_area=416), slice_side=2 * SIDE)
    assert doubled.mask[0].sum() == pytest.approx(4 * 1600, rel=0.05)


def test_what_is_filled_and_removed_is_so_in_the_organ_ids_too() -> None:
    logits = square(40)
    logits[10:15, 10:15] = -9
    logits[-4:, -4:] = 9
    prediction = predict_with(Drawer({1: 0.9}, {1: logits}), GridSettings(min_area=1000))
    assert (prediction.probability[0, 10:15, 10:15] < 0.5).all()
    assert np.array_equal(combine_organs(prediction.masked) == 1, prediction.mask[0])
    assert prediction.masked.dtype == np.float32


def picky_model(n_classes: int) -> DeSAM:
    """A model whose prompts differ in score and in stability."""
    model = build_desam("micro", n_classes=n_classes, seed=2)
    with torch.no_grad():
        model.pdmm.head.weight.mul_(30)
        for parameter in (model.prim or model).parameters():
            parameter.mul_(2)
    return model


def between(values: torch.Tensor) -> float:
    """A threshold that drops half of the values and is none of them."""
    middle = values.flatten().sort().values[values.numel() // 2 - 1 :][:2]
    return float(middle.mean())


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("size", [(20, 28), (40, 40)])
def test_decoding_as_few_as_needed_gives_what_decoding_every_mask_gives(
    size: tuple[int, int], n_classes: int
) -> None:
    model = picky_model(n_classes)
    height, width = (round(32 * side / max(size)) for side in size)
    for seed in range(3):
        embeddings, points = random_embeddings(seed=seed), point_grid(4, width, height)
        out = model.decode(embeddings, Prompts.points(points[:, None], torch.ones(16, 1)))
        assert out.iou is not None
        square = torch.nn.functional.interpolate(out.mask_logits, (32, 32), mode="bilinear")
        logits = torch.nn.functional.interpolate(square[..., :height, :width], size, mode="bilinear")
        stability = (logits > 1).sum((2, 3)) / (logits > -1).sum((2, 3))  # (16, K)
        limits = {"iou_threshold": between(out.iou), "stability_threshold": between(stability)}
        lazy = replace(HIGHEST, points_per_side=4, batch=5, **limits)
        prediction = predict_slice(model, embeddings, "points", size, lazy)
        for organ in range(n_classes):
            fits = (out.iou[:, organ] > lazy.iou_threshold) & (
                stability[:, organ] >= lazy.stability_threshold
            )
            best = torch.where(fits, out.iou[:, organ], -torch.inf).argmax()
            drawn = logits[best, organ].sigmoid() if fits.any() else torch.zeros(size)
            np.testing.assert_allclose(prediction.probability[organ], drawn.numpy(), atol=1e-3)


@torch.no_grad()
def test_the_kept_point_is_the_one_of_the_highest_predicted_iou() -> None:
    model, embeddings = build_desam("micro"), random_embeddings()
    points = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)) * 32
    out = model.decode(embeddings, Prompts.points(points[:, None], torch.ones(7, 1)))
    assert out.iou is not None
    best = int(out.iou[:, 0].argmax())
    prediction = predict_slice(model, embeddings, "points", (32, 32), ANYTHING, points=points)
    assert prediction.iou.item() == pytest.approx(out.iou.max().item(), abs=1e-5)
    upsampled = torch.nn.functional.interpolate(out.mask_logits[best : best + 1], (32, 32), mode="bilinear")
    np.testing.assert_allclose(prediction.probability[0], upsampled[0, 0].sigmoid().numpy(), atol=1e-4)


@pytest.mark.parametrize("size", [(20, 32), (32, 20), (33, 7), (64, 64)])
@pytest.mark.parametrize("mode", ["points", "box"])
def test_the_result_is_on_the_grid_of_the_slice(mode: Any, size: tuple[int, int]) -> None:
    prediction = predict_slice(build_desam("micro", n_classes=2), random_embeddings(), mode, size, ANYTHING)
    assert prediction.mask.shape == prediction.probability.shape == (2, *size)
    assert prediction.mask.dtype == bool
    assert prediction.probability.dtype == prediction.iou.dtype == np.float32
    assert prediction.iou.shape == (2,)


@torch.no_grad()
def test_a_box_is_the_whole_image_and_nothing_is_filtered_by_score() -> None:
    model, embeddings = build_desam("micro"), random_embeddings()
    out = model.decode(embeddings, Prompts.box(torch.tensor([[0.0, 0.0, 32.0, 32.0]])))
    assert out.iou is not None
    strict = GridSettings(iou_threshold=1, stability_threshold=1, min_area=0)
    prediction = predict_slice(model, embeddings, "box", (32, 32), strict)
    upsampled = torch.nn.functional.interpolate(out.mask_logits, (32, 32), mode="bilinear")[0]
    np.testing.assert_allclose(prediction.probability, upsampled.sigmoid().numpy(), atol=1e-5)
    assert np.array_equal(prediction.mask, (upsampled > 0).numpy())
    assert prediction.iou.item() == pytest.approx(out.iou.item())


@torch.no_grad()
def test_a_variant_without_iou_head_draws_with_the_centre_of_the_slice() -> None:
    model, embeddings = build_desam("micro", "no_iou_head"), random_embeddings()
    prediction = predict_slice(model, embeddings, "points", (16, 32), ANYTHING)
    centre = torch.tensor([[16.0, 8.0]])  # the slice fills the upper half of the square
    same = predict_slice(model, embeddings, "points", (16, 32), ANYTHING, points=centre)
    elsewhere = predict_slice(
        model, embeddings, "points", (16, 32), ANYTHING, points=torch.tensor([[3.0, 3.0]])
    )
    assert np.array_equal(prediction.probability, same.probability)
    assert not np.allclose(prediction.probability, elsewhere.probability, atol=1e-4)
    assert np.isnan(prediction.iou).all()


@torch.no_grad()
@pytest.mark.parametrize("variant", ["pdmm_only", "no_iou_head", "no_fusion", "desam"])
def test_every_variant_predicts_with_default_settings(variant: Variant) -> None:
    assert predict_slice(build_desam("micro", variant), random_embeddings(), "points", (8, 8)).mask.shape == (
        1,
        8,
        8,
    )


@pytest.mark.parametrize(("size", "filled"), [((20, 32), (40, 64)), ((32, 16), (64, 32))])
def test_prompts_of_a_slice_that_is_not_square_stay_out_of_the_padding(
    size: tuple[int, int], filled: tuple[int, int]
) -> None:
    scored: list[torch.Tensor] = []
    drawer = Drawer({}, {})

    def score(embeddings: ImageEmbeddings, prompts: Prompts, *, batch: int) -> torch.Tensor:
        assert batch == 10
        assert prompts.xy is not None
        assert prompts.labels is not None
        assert prompts.labels.eq(1).all()
        scored.append(prompts.xy[:, 0])
        return torch.zeros(prompts.count, 1)

    drawer.score_prompts = score  # type: ignore[method-assign]
    predict_slice(cast(DeSAM, drawer), random_embeddings(), "points", size, GridSettings(batch=10))
    points = torch.cat(scored)
    assert len(points) == 81
    torch.testing.assert_close(points.amin(0), torch.tensor([filled[1], filled[0]]) / 18)
    torch.testing.assert_close(points.amax(0), torch.tensor([filled[1], filled[0]]) * 17 / 18)


MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@given(st.integers(1, 9), st.integers(1, 200), st.integers(1, 200))
def test_grid_points_lie_inside_the_slice_in_equal_steps(n: int, height: int, width: int) -> None:
    grid = point_grid(n, width, height).reshape(n, n, 2)
    assert (grid > 0).all()
    assert (grid[..., 0] < width).all()
    assert (grid[..., 1] < height).all()
    # Reflected in the centre of the slice the grid is itself.
    torch.testing.assert_close(torch.tensor([width, height]) - grid.flip(0, 1), grid)
    if n > 1:
        torch.testing.assert_close(grid[0].diff(dim=0)[:, 0], torch.full((n - 1,), width / n))
        torch.testing.assert_close(grid[:, 0].diff(dim=0)[:, 1], torch.full((n - 1,), height / n))


def parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask, pixels touching at corners included."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [labels == number for number in range(1, count + 1)]


@settings(max_examples=200, deadline=None)
@given(MASKS, st.floats(0.5, 60))
def test_small_holes_are_filled_and_of_small_islands_only_the_largest_stays(
    mask: np.ndarray, area: float
) -> None:
    cleaned, changed = remove_small(mask, area)
    assert changed == any(part.sum() < area for part in (*(parts(~mask) if mask.any() else []), *parts(mask)))
    holes = [hole for hole in parts(~mask) if hole.sum() < area] if mask.any() else []
    filled = np.any([mask, *holes], axis=0)
    islands, left = parts(filled), parts(cleaned)
    largest = max((part.sum() for part in islands), default=0)
    assert max((part.sum() for part in left), default=0) == largest
    assert all(part.sum() >= min(area, largest) for part in left)
    # Every part is kept or removed as a whole, and nothing else is added.
    assert all(cleaned[part].all() == cleaned[part].any() for part in islands)
    assert not (cleaned & ~filled).any()


@settings(max_examples=50, deadline=None)
@given(MASKS)
def test_a_smallest_area_of_zero_or_one_changes_nothing(mask: np.ndarray) -> None:
    assert np.array_equal(remove_small(mask, 0)[0], mask)
    assert np.array_equal(remove_small(mask, 1)[0], mask)


EXACT_SIZE = (26, 40)
LOGITS = 1e-4  # how far logits may be apart; a probability is then at most a quarter of it apart
ROUNDING = 1e-5  # scores nearer than this may change places


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
    height, width = round(32 * EXACT_SIZE[0] / EXACT_SIZE[1]), 32
    logits, scores = [], []
    for point in points:
        out = model.decode(embeddings, Prompts.points(point[None, None], torch.ones(1, 1)))
        assert out.iou is not None
        whole = functional.interpolate(out.mask_logits, (32, 32), mode="bilinear")
        logits.append(functional.interpolate(whole[..., :height, :width], EXACT_SIZE, mode="bilinear")[0])
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
    points = point_grid(side, 32, round(32 * EXACT_SIZE[0] / EXACT_SIZE[1]))
    logits, scores = drawn_alone(model, embeddings, points)
    steady = stability(logits)
    grid = replace(
        HIGHEST,
        points_per_side=side,
        iou_threshold=quantile(scores, scores_cut),
        stability_threshold=quantile(steady, stability_cut),
        batch=1 + seed % 7,
    )
    prediction = predict_slice(model, embeddings, "points", EXACT_SIZE, grid)
    for organ in range(n_classes):
        fit = (scores[:, organ] > grid.iou_threshold) & (steady[:, organ] >= grid.stability_threshold)
        fit &= (logits[:, organ] > 0).flatten(1).any(1)
        if not fit.any():
            assert not prediction.mask[organ].any()
            continue
        best = scores[fit, organ].max()
        assert prediction.iou[organ] == pytest.approx(best.item(), abs=ROUNDING)
        near = fit & (scores[:, organ] > best - ROUNDING)
        distances = (
            (logits[near, organ].sigmoid() - torch.from_numpy(prediction.probability[organ]))
            .abs()
            .amax((1, 2))
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
    grid = replace(HIGHEST, iou_threshold=-9, stability_threshold=limit, batch=batch)
    prediction = predict_slice(model, embeddings, "points", EXACT_SIZE, grid, points=points)
    np.testing.assert_allclose(prediction.probability[0], logits[first, 0].sigmoid().numpy(), atol=LOGITS / 4)


@pytest.mark.parametrize("seed", range(6))
def test_a_point_asked_twice_changes_nothing(seed: int) -> None:
    model, embeddings = varied_model(seed), random_embeddings(seed=seed)
    points = point_grid(4, 32, 20)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(seed))
    grid = replace(HIGHEST, iou_threshold=-9, batch=5)
    once = predict_slice(model, embeddings, "points", EXACT_SIZE, grid, points=points)
    often = predict_slice(model, embeddings, "points", EXACT_SIZE, grid, points=points.repeat(3, 1)[order])
    np.testing.assert_allclose(often.probability, once.probability, atol=LOGITS / 4)
    np.testing.assert_allclose(often.iou, once.iou, atol=ROUNDING)
