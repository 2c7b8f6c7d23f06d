"""Synthetic abdomens: organs where they belong, in the size they have, the same on every grid, and varied enough."""

from functools import cache

import numpy as np
import pytest

from desam_lite.synthetic.phantoms.abdomen import draw_abdomen, paint_abdomen
from desam_lite.synthetic.phantoms.fields import Field
from desam_lite.synthetic.phantoms.painting import Canvas
from desam_lite.synthetic.phantoms.tissues import ABDOMEN_TISSUES
from desam_lite.synthetic.phantoms.trunk import IDS, ORGANS, AbdomenPatient

NAMES = np.array(list(ABDOMEN_TISSUES))
STEP, THICK = 4.0, 6.0
MADE_OF = {
    "liver": {"liver", "portal blood", "caval blood"},
    "right kidney": {"renal cortex", "renal medulla"},
    "left kidney": {"renal cortex", "renal medulla"},
    "spleen": {"spleen"},
}
SEEDS = range(4)


def grid(shape: tuple[int, int, int], step: float = STEP, thick: float = THICK) -> tuple[Field, Field, Field]:
    """x, y, z in mm of a grid around a point 20 mm above the origin."""
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s + m).astype(np.float32)
        for n, s, m in zip(shape, (thick, step, step), (20, 0, 0), strict=True)
    )
    return x[None, None, :], y[None, :, None], z[:, None, None]


@cache
def a_patient(seed: int) -> AbdomenPatient:
    return draw_abdomen(np.random.default_rng(seed))


@cache
def painted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Names of the tissues, and labels, of a whole abdomen."""
    tissue, organ = paint_abdomen(a_patient(seed), grid((56, 90, 110)))
    return NAMES[tissue], organ


def middle(where: np.ndarray) -> np.ndarray:
    """Mean x, y, z in mm of the voxels of a `grid`."""
    places = np.argwhere(where).mean(axis=0) - (np.array(where.shape) - 1) / 2
    return (places * (THICK, STEP, STEP) + (20, 0, 0))[::-1]


@pytest.mark.parametrize("organ", ORGANS)
def test_a_label_holds_the_tissues_of_its_organ(organ: str) -> None:
    for seed in SEEDS:
        names, labels = painted(seed)
        assert set(names[labels == ORGANS[organ]]) <= MADE_OF[organ]


def test_every_voxel_of_an_organs_own_tissue_is_labelled() -> None:
    for seed in SEEDS:
        names, labels = painted(seed)
        for tissue, ids in (
            ("liver", [1]),
            ("spleen", [4]),
            ("renal cortex", [2, 3]),
            ("renal medulla", [2, 3]),
        ):
            assert np.isin(labels[names == tissue], ids).all()


def test_organs_lie_on_their_sides_and_heights() -> None:
    for seed in SEEDS:
        names, labels = painted(seed)
        liver, right, left, spleen = (middle(labels == number) for number in (1, 2, 3, 4))
        assert liver[0] < -20 < 40 < spleen[0]  # x grows to the patient's left
        assert right[0] < -30 and left[0] > 30
        assert liver[2] > right[2] + 5 and spleen[2] > left[2] + 5  # z to superior
        assert right[1] > liver[1] + 10 and left[1] > 0  # y to posterior: the kidneys lie at the back
        cord, aorta = middle(names == "spinal fluid"), middle((names == "arterial blood") & (labels == 0))
        assert abs(cord[0]) < 20 and cord[1] > aorta[1] + 25
        assert middle(names == "lung")[2] > liver[2] and middle(names == "table")[1] > cord[1]


def test_gas_rises_in_one_who_lies_on_the_back() -> None:
    fronts = [[middle(painted(seed)[0] == name)[1] for name in ("gas", "fluid")] for seed in SEEDS]
    gas, fluid = np.mean(fronts, axis=0)
    assert gas < fluid - 10


def test_the_whole_inside_lies_within_the_body() -> None:
    outer = {"air", "table", "skin", "fat"}
    for seed in SEEDS:
        names, labels = painted(seed)
        rim = np.ones(names.shape, bool)
        rim[:, 1:-1, 1:-1] = False
        assert set(names[rim]) <= {"air", "table"}
        assert not labels[np.isin(names, list(outer))].any()


def test_everything_of_an_abdomen_is_there() -> None:
    seen = set().union(*(set(np.unique(painted(seed)[0])) for seed in SEEDS))
    assert seen == set(ABDOMEN_TISSUES)


def test_organs_have_the_volumes_of_adults() -> None:
    """Of the ten labelled scans of CHAOS at hand: liver 1.3 to 2.1 l, kidneys 160 to 250 ml, spleen 130 to 740 ml."""
    rows = []
    for seed in range(16):
        _, organ = paint_abdomen(a_patient(seed), grid((40, 60, 76), 6.0, 9.0))
        rows.append([(organ == number).sum() * 6 * 6 * 9 / 1000 for number in (1, 2, 3, 4)])
    low, median, high = np.percentile(rows, [5, 50, 95], axis=0)
    np.testing.assert_array_less([600, 80, 80, 80], low)
    np.testing.assert_array_less([1200, 120, 120, 150], median)
    np.testing.assert_array_less(median, [2100, 230, 230, 330])
    np.testing.assert_array_less(high, [3500, 330, 330, 800])
    assert (np.std(rows, axis=0) / np.mean(rows, axis=0)).min() > 0.2


def test_another_grid_shows_the_same_anatomy() -> None:
    coarse, few = paint_abdomen(a_patient(2), grid((9, 61, 61), 6.0, 8.0))
    fine, many = paint_abdomen(a_patient(2), grid((17, 121, 121), 3.0, 4.0))
    assert (coarse == fine[::2, ::2, ::2]).mean() > 0.9999
    assert (few == many[::2, ::2, ::2]).mean() > 0.9999


def test_painting_in_boxes_is_painting_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = grid((10, 48, 56), 8.0, 18.0)
    for seed in range(3):
        boxed = paint_abdomen(a_patient(seed), axes)
        with monkeypatch.context() as patch:
            patch.setattr(Canvas, "boxed", False)
            whole = paint_abdomen(a_patient(seed), axes)
        assert (boxed[0] == whole[0]).mean() > 0.9999
        assert (boxed[1] == whole[1]).mean() > 0.9999


def test_patients_differ_as_people_do() -> None:
    people = [draw_abdomen(np.random.default_rng(seed)) for seed in range(300)]
    assert len({p.seed for p in people}) == 300
    lowered = [min(shift[2] for shift in p.kidney_shift) < -30 for p in people]
    assert 0.05 < np.mean(lowered) < 0.4  # floating kidneys
    assert 0.05 < np.mean([p.gallbladder == 0 for p in people]) < 0.3
    assert 0.03 < np.mean([p.iron < 0.75 for p in people]) < 0.15
    assert 0.1 < np.mean([max(p.spleen) > 1.35 for p in people]) < 0.4
    assert np.std([p.turn for p in people]) > 0.05
    thick = [p.under_skin for p in people]
    assert min(thick) < 8 < 25 < max(thick)


def canvas() -> Canvas:
    axes = grid((11, 21, 21), 2.0, 4.0)
    return Canvas(IDS, axes, np.broadcast_arrays(*axes), "fat")


def test_a_tube_is_a_capsule_with_shells() -> None:
    plain = canvas()
    plain.tube([(-8, 0, 20), (8, 0, 20)], [6, 6], [("bowel wall", 0), ("gas", 3)], organ=4)
    x, y, z = plain.where
    away = np.sqrt(np.maximum(np.abs(x) - 8, 0) ** 2 + y**2 + (z - 20) ** 2)
    assert np.array_equal(plain.organ == 4, away < 6)
    assert np.array_equal(plain.tissue == IDS["gas"], away < 3)
    assert np.array_equal(plain.tissue == IDS["bowel wall"], (away < 6) & (away >= 3))


def test_a_later_structure_takes_the_label_away_and_only_keeps_to_an_organ() -> None:
    plain = canvas()
    plain.solid((0, 0, 20), (14, 14, 14), [("liver", 0)], organ=1)
    before = plain.organ.copy()
    plain.tube([(0, 0, 0), (0, 0, 40)], [4, 4], [("portal blood", 0)], organ=1, only=1)
    assert np.array_equal(plain.organ, before)
    assert not (plain.tissue[before == 0] == IDS["portal blood"]).any()
    plain.solid((0, 0, 20), (5, 5, 5), [("bile", 0)])
    assert not plain.organ[plain.tissue == IDS["bile"]].any() and (plain.tissue == IDS["bile"]).any()
