"""What makes a synthetic picture of a pelvis: fields, contrast, coils, blur, noise, ghosts, ringing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from desam_lite.synthetic.phantoms.fields import ellipsoid, smooth_field, smooth_noise
from desam_lite.synthetic.phantoms.scanner import Scanner, average_blocks, expose, ring
from desam_lite.synthetic.phantoms.tissues import TISSUES

PLAIN = Scanner(3.0, 4000, 100, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 180, 80, 0.0, 0.0)
"""A scanner without noise, bias, coil, blur, ghost or ringing."""
IDS = {name: number for number, name in enumerate(TISSUES)}
SHAPE, SPACING = (6, 48, 40), (3.0, 2.0, 2.0)


def picture(
    tissue: np.ndarray | str, scanner: Scanner = PLAIN, seed: int = 0, **changes: float
) -> np.ndarray:
    """Expose a tissue map ``SHAPE``, or one tissue everywhere, with some settings changed."""
    if isinstance(tissue, str):
        tissue = np.full(SHAPE, IDS[tissue], np.uint8)
    coil = (0.0, 20.0, 0.0)
    return expose(tissue, replace(scanner, **changes), axes(), SPACING, coil, np.random.default_rng(seed))


def axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y, z in mm of the grid of ``SHAPE``, its middle at the origin."""
    z, y, x = (
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)
    )
    return x[None, None, :], y[None, :, None], z[:, None, None]


@pytest.mark.parametrize(
    ("tesla", "t1", "t2"), [(1.5, 1010, 44), (3.0, 1420, 38), (2.25, 1215, 41), (7.0, 1420, 38)]
)
def test_a_tissue_gives_the_signal_of_a_spin_echo(tesla: float, t1: float, t2: float) -> None:
    measured = picture("muscle", field_strength=tesla, repetition=2000, echo=60)
    expected = 0.85 * (1 - np.exp(-2000 / t1)) * np.exp(-60 / t2)
    assert measured.mean() == pytest.approx(expected, rel=0.03)  # the muscle's own texture remains


def test_a_longer_echo_sets_fluid_off_from_muscle() -> None:
    contrast = [picture("urine", echo=te).mean() / picture("muscle", echo=te).mean() for te in (60, 100, 140)]
    assert 2 < contrast[0] < contrast[1] / 1.5 < contrast[2] / 3


def test_gamma_bends_the_grey_levels_and_leaves_the_brightest() -> None:
    halves = np.full(SHAPE, IDS["urine"], np.uint8)
    halves[:, :24] = IDS["marrow"]
    linear, bent = picture(halves), picture(halves, gamma=1.4)
    top = np.percentile(linear, 99.9)
    np.testing.assert_allclose(bent / top, (linear / top) ** 1.4, rtol=1e-5)


def test_where_there_is_no_signal_noise_has_the_mean_of_a_magnitude() -> None:
    sigma = 0.3 * 0.85 * (1 - np.exp(-4000 / 1420)) * np.exp(-100 / 38)  # a part of the signal of muscle
    assert picture("air", noise=0.3).mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)
    assert picture("air").max() == 0


def test_bias_is_the_spread_of_the_logarithm() -> None:
    assert np.log(picture("urine", bias=0.25)).std() == pytest.approx(0.25, rel=0.02)
    assert np.log(picture("urine")).std() < 0.02


def test_an_endorectal_coil_is_brightest_near_itself() -> None:
    measured = picture("urine", endorectal=1.0)
    x, y, z = axes()
    distance = np.sqrt(x**2 + (y - 20) ** 2 + z**2)
    near, middle, far = (measured[(distance > a) & (distance <= a + 8)].mean() for a in (0, 16, 36))
    assert near > 1.5 * middle > 1.5 * 1.5 * far


def test_surface_coils_see_the_skin_best() -> None:
    profile = picture("urine", surface=1.0).mean(
        axis=(0, 2)
    )  # anterior to posterior, -47 to 47 mm; the middle is at 12
    assert profile.argmin() == pytest.approx(29, abs=1)
    assert profile[0] > 1.2 * profile.min()
    assert np.ptp(picture("urine", surface=0.0).mean(axis=(0, 2))) < 0.02 * profile.max()


@pytest.mark.parametrize("blur", [3.0, 5.0])
def test_blur_is_the_spread_of_an_edge_in_mm(blur: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TISSUES, "urine", replace(TISSUES["urine"], texture=0.0))
    halves = np.full(SHAPE, IDS["air"], np.uint8)
    halves[:, :, 20:] = IDS["urine"]
    line = np.diff(picture(halves, blur=blur)[3, 24])
    x = (np.arange(39) - 19) * 2.0
    assert (line * x).sum() / line.sum() == pytest.approx(0, abs=1e-3)
    assert np.sqrt((line * x**2).sum() / line.sum()) == pytest.approx(blur, rel=0.03)


def test_a_ghost_is_the_picture_again_a_fifth_of_the_height_away_along_the_axis_that_rings() -> None:
    square = np.full(SHAPE, IDS["air"], np.uint8)
    square[:, 4:8, 20:28] = IDS["urine"]
    measured, away = picture(square, ghost=0.2), SHAPE[1] // 5
    ghost = measured[:, 4 + away : 8 + away, 20:28]
    np.testing.assert_allclose(ghost, 0.2 * measured[:, 4:8, 20:28], rtol=1e-5)
    assert measured[:, 8 + away :].max() == 0


def test_ringing_overshoots_an_edge_by_a_tenth_and_keeps_the_mean() -> None:
    step = np.zeros((2, 64, 3), np.float32)
    step[:, 16:48] = 1
    measured = ring(step, 1.0)
    assert 0.06 < measured.max() - 1 < 0.14  # Gibbs: 9 % of the step for a continuous signal
    np.testing.assert_allclose(measured.mean(axis=1), step.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(ring(step, 0.5), (step + measured) / 2, atol=1e-6)
    assert np.array_equal(ring(step, 0.0), step)
    across = step.swapaxes(1, 2).repeat(8, axis=1)  # an edge along x does not ring: the lines are along y
    np.testing.assert_allclose(ring(across, 1.0), across, atol=1e-6)


def test_a_finer_tissue_map_is_averaged_into_the_picture() -> None:
    fine = np.full((6, 96, 80), IDS["air"], np.uint8)
    fine[:, :, 41:] = IDS["urine"]  # through the middle of column 20
    measured = picture(fine)
    half = measured[:, :, 20].mean() / measured[:, :, 30:].mean()
    assert half == pytest.approx(0.5, abs=0.03)
    assert measured[:, :, :20].max() < 1e-6


def test_average_is_the_mean_of_blocks() -> None:
    fine = np.random.default_rng(0).normal(size=(2, 6, 9))
    expected = ndimage.uniform_filter(fine, (0, 3, 3))[:, 1::3, 1::3]
    np.testing.assert_allclose(average_blocks(fine, 3), expected, rtol=1e-5)


def test_equal_streams_give_equal_pictures_and_others_do_not() -> None:
    first, again, other = (picture("fat", seed=seed, noise=0.1) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fat_is_uneven_and_urine_is_not() -> None:
    unevenness = {
        name: picture(name).std() / picture(name).mean() for name in ("urine", "muscle", "fat", "stool")
    }
    assert unevenness["urine"] < 0.02 < unevenness["muscle"] < unevenness["fat"] < unevenness["stool"]


def neighbours(field: np.ndarray, axis: int) -> float:
    """Correlation of voxels with the next along an axis."""
    ahead, behind = np.delete(field, 0, axis), np.delete(field, -1, axis)
    return float(np.corrcoef(ahead.ravel(), behind.ravel())[0, 1])


def test_smooth_noise_is_normed_and_smooth_along_each_axis_by_its_own_scale() -> None:
    field = smooth_noise((30, 40, 50), (1.0, 4.0, 12.0), np.random.default_rng(0))
    assert field.shape == (30, 40, 50)
    assert (field.mean(), field.std()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-4))
    assert neighbours(field, 0) < 0.7 < neighbours(field, 1) < 0.985 < neighbours(field, 2)


def test_a_field_over_space_is_the_same_on_every_grid() -> None:
    def on(n: int, step: float) -> np.ndarray:
        x = (np.arange(n, dtype=np.float32) - (n - 1) / 2) * step
        grid = (x[None, None, :], x[None, :, None], x[:, None, None])
        return smooth_field(grid, 9.0, (60, 60, 60), np.random.default_rng(5))

    np.testing.assert_allclose(on(21, 4.0), on(41, 2.0)[::2, ::2, ::2], atol=1e-5)
    np.testing.assert_allclose(on(21, 4.0)[5:16, 5:16, 5:16], on(11, 4.0), atol=1e-5)


def test_a_field_over_space_has_mean_zero_and_unit_spread() -> None:
    x = np.arange(-90, 91, 3, dtype=np.float32)
    grid: Any = (x[None, None, :], x[None, :, None], x[:20, None, None])
    several = np.stack([smooth_field(grid, 12.0, (90,) * 3, np.random.default_rng(s)) for s in range(8)])
    assert several.mean() == pytest.approx(0, abs=0.05)
    assert several.std() == pytest.approx(1, abs=0.05)
    far: Any = tuple(axis * 4 for axis in grid)
    wide = smooth_field(far, 12.0, (90,) * 3, np.random.default_rng(0))
    assert np.array_equal(wide[:, :, 0], wide[:, :, 1])  # constant beyond its reach


def test_an_ellipsoid_has_the_volume_of_one_however_it_lies() -> None:
    x, y, z = np.meshgrid(*(np.arange(-20, 21, dtype=np.float32),) * 3, indexing="ij")
    for tilt in (0.0, 0.7):
        inside = ellipsoid((x, y, z), (1, -2, 3), (12, 8, 5), tilt=tilt) < 1
        assert inside.sum() == pytest.approx(4 / 3 * np.pi * 12 * 8 * 5, rel=0.02)
        measured = [float(axis[inside].mean()) for axis in (x, y, z)]
        assert measured == pytest.approx([1, -2, 3], abs=0.1)
    assert (ellipsoid((x, y, z), (0, 0, 0), (12, 8, 5), power=4) < 1).sum() > 1.2 * inside.sum()


def test_an_ellipsoid_tilts_from_x_towards_y_and_an_endless_axis_is_a_cylinder() -> None:
    at = [np.float32(v) for v in (7.0, 7.0, 0.0)]
    assert ellipsoid(at, (0, 0, 0), (10, 2, 2), tilt=np.pi / 4) == pytest.approx(98**0.5 / 10)
    assert ellipsoid(at, (0, 0, 0), (10, 2, 2), tilt=-np.pi / 4) == pytest.approx(98**0.5 / 2)
    tube = ellipsoid([np.float32(v) for v in (3, 4, 1000)], (0, 0, 0), (5, 5, np.inf))
    assert tube == pytest.approx(1)
