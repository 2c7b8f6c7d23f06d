"""The control that looks at no picture: the mean label of its cases, cut where it scores best."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import ndimage

from desam_lite.data.slices import CaseSlices
from desam_lite.methods.prior import Prior
from desam_lite.utils.errors import StudyError


def blob(shape: tuple[int, int, int], radius: float, organ: int = 1) -> np.ndarray:
    """A ball in the middle of a volume, its radius a part of the sides."""
    places = np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in shape), indexing="ij")
    return (organ * (sum(p**2 for p in places) < radius**2)).astype(np.uint8)


def a_case(labels: np.ndarray) -> CaseSlices:
    empty: Any = None
    return CaseSlices("t", "A", "c", np.zeros(labels.shape, np.uint8), labels, (1.0, 1.0, 1.0), empty)


def drawn_by(prior: Prior, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([predicted.labels for predicted in prior.predict(np.zeros(shape, np.uint8), None)])


def test_a_prior_of_one_case_is_that_case_on_any_grid() -> None:
    prior = Prior.fit([a_case(blob((20, 80, 60), 0.3))], 1)
    for shape in ((20, 80, 60), (30, 50, 90)):
        predicted, expected = drawn_by(prior, shape), blob(shape, 0.3)
        assert predicted.shape == shape
        assert 2 * (predicted & expected).sum() / (predicted.sum() + expected.sum()) > 0.95


def test_a_prior_is_the_mean_of_its_cases_cut_where_it_scores_best() -> None:
    shape = (24, 64, 64)  # the grid the prior works on: no interpolation
    cases = [blob(shape, radius) for radius in (0.2, 0.3, 0.3, 0.4)]
    predicted = drawn_by(Prior.fit([a_case(labels) for labels in cases], 1), shape)

    def mean_dice(drawn: np.ndarray) -> float:
        return float(np.mean([2 * (drawn & c).sum() / (drawn.sum() + c.sum()) for c in cases]))

    best = max((np.mean(cases, axis=0) > cut for cut in (0.0, 0.25, 0.5, 0.75)), key=mean_dice)
    np.testing.assert_array_equal(predicted, best)
    np.testing.assert_array_equal(predicted, cases[1])


def test_a_prior_draws_what_fewer_than_half_of_its_cases_have_where_that_scores_best() -> None:
    shape = (24, 64, 64)
    large, small = blob(shape, 0.3), blob(shape, 0.05)
    corners = [ndimage.shift(small, (0, dy, dx), order=0) for dy, dx in ((-26, -26), (-26, 26), (26, 26))]
    predicted = drawn_by(Prior.fit([a_case(labels) for labels in (large, large, *corners)], 1), shape)
    everything = np.maximum.reduce([large, *corners])  # every voxel scores something in one of the five
    np.testing.assert_array_equal(predicted, everything)


def test_a_prior_knows_organs_apart_and_looks_at_no_picture(tmp_path: Path) -> None:
    both = np.maximum(
        blob((24, 64, 64), 0.2), 2 * ndimage.shift(blob((24, 64, 64), 0.1), (0, 24, 0), order=0)
    )
    prior = Prior.fit([a_case(both)], 2)
    np.testing.assert_array_equal(drawn_by(prior, both.shape), both)
    prior.save(tmp_path, {"title": "prior"})
    again = Prior.fit([], 2)
    again.load(tmp_path)
    np.testing.assert_array_equal(drawn_by(again, (30, 70, 50)), drawn_by(prior, (30, 70, 50)))
    with pytest.raises(StudyError, match=r"does not fit its card: tensor 'mean' has shape \(24, 2, 64, 64\)"):
        Prior.fit([], 3).load(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["mean"].shape == (24, 2, 64, 64)
    assert saved["thresholds"].shape == (2,)
