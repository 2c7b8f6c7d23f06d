"""Synthetic patients: the label is the gland drawn, organs lie where they belong, every grid shows the same anatomy."""

import numpy as np
import pytest

from desam_lite.synthetic.phantoms import PROSTATE_SITES, make_case
from desam_lite.synthetic.phantoms.fields import Field
from desam_lite.synthetic.phantoms.pelvis import Patient, draw_patient, paint_pelvis
from desam_lite.synthetic.phantoms.tissues import TISSUES

GLAND = {
    *("capsule", "peripheral zone", "surgical capsule", "transition zone"),
    *("bright nodule", "dark nodule", "stroma", "urethra"),
}
NAMES = np.array(list(TISSUES))


def grid(shape: tuple[int, int, int], step: float = 2.0, thick: float = 3.0) -> tuple[Field, Field, Field]:
    """x, y, z in mm of a grid around the origin."""
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32)
        for n, s in zip(shape, (thick, step, step), strict=True)
    )
    return x[None, None, :], y[None, :, None], z[:, None, None]


def a_patient(seed: int = 0, *, balloon: bool = False) -> Patient:
    return draw_patient(np.random.default_rng(seed), balloon=balloon)


@pytest.mark.parametrize("balloon", [False, True])
def test_the_label_is_the_gland_that_is_drawn(balloon: bool) -> None:
    for seed in range(3):
        patient = a_patient(seed, balloon=balloon)
        tissue, label = paint_pelvis(patient, grid((26, 90, 90)))
        np.testing.assert_array_equal(label == 1, np.isin(NAMES[tissue], list(GLAND)))
        volume = label.sum() * 3 * 2 * 2 / (4 / 3 * np.pi * np.prod(patient.gland))
        assert 0.75 < volume < 1.15


@pytest.mark.parametrize(("balloon", "behind"), [(False, "rectal wall"), (True, "balloon")])
def test_bladder_lies_above_and_rectum_behind_the_gland(balloon: bool, behind: str) -> None:
    for seed in range(4):
        tissue, label = paint_pelvis(a_patient(seed, balloon=balloon), grid((30, 90, 90)))
        names, gland = NAMES[tissue], middle(label == 1)
        rectum = np.where(label.any(axis=(1, 2))[:, None, None], names == behind, False)
        assert middle(rectum)[1] > gland[1] + 8  # y grows to posterior
        assert middle(names == "urine")[2] > gland[2] + 15  # z grows to superior
        assert middle(names == "cartilage")[1] < gland[1] - 20  # the symphysis


def middle(where: np.ndarray) -> np.ndarray:
    """Mean x, y, z in mm of the voxels of a `grid`."""
    z, y, x = np.nonzero(where)
    steps = (2.0, 2.0, 3.0)
    return np.array([a.mean() * s for a, s in zip((x, y, z), steps, strict=True)])


def test_another_grid_shows_the_same_anatomy() -> None:
    for balloon in (False, True):
        patient = a_patient(3, balloon=balloon)
        coarse, _ = paint_pelvis(patient, grid((9, 61, 61), 2.0, 4.0))
        fine, _ = paint_pelvis(patient, grid((21, 141, 141), 1.0, 2.0))
        shared = fine[2:-2:2, 10:-10:2, 10:-10:2]
        assert (coarse == shared).mean() > 0.9999


def test_patients_differ_and_a_balloon_flattens_the_gland() -> None:
    free = [a_patient(seed) for seed in range(200)]
    pressed = [a_patient(seed, balloon=True) for seed in range(200)]
    volumes = [np.prod(p.gland) * 4 / 3 * np.pi / 1000 for p in free]  # ml
    assert 12 < np.percentile(volumes, 5) < 30 < np.percentile(volumes, 95) < 110
    shape = [np.mean([p.gland[1] / p.gland[0] for p in group]) for group in (free, pressed)]
    assert shape[1] < 0.85 * shape[0]
    assert all(p.balloon == 0 for p in free)
    assert all(18 <= p.balloon <= 25 for p in pressed)


def test_every_site_scans_the_whole_gland() -> None:
    for site in PROSTATE_SITES.values():
        for seed in range(12):
            label = make_case(site, np.random.default_rng(seed), matrix=16).label
            assert label.any() and not label[0].any() and not label[-1].any()
