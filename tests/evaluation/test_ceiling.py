"""The ceiling of a resolution: 1 where nothing is resampled, lower the coarser the maps, the mean over the organs there are."""

import numpy as np
import pytest

from desam_lite.evaluation.ceiling import label_ceiling


def discs(side: int = 96) -> np.ndarray:
    """Three slices of which the first is empty; organ 1 a disc of 20 pixels radius, organ 3 one of 4."""
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((3, side, side), np.uint8)
    labels[1:, np.hypot(y - 40, x - 37) < 20] = 1
    labels[2, np.hypot(y - 70, x - 75) < 4] = 3
    return labels


def test_maps_as_fine_as_the_slices_have_no_ceiling() -> None:
    assert label_ceiling(discs(), 3, 96, 96) == 1
    assert label_ceiling(discs(), 3, 96, 384) == 1  # SAM's maps are a quarter of its square


def test_the_coarser_the_maps_the_lower_the_ceiling() -> None:
    fine, coarse, coarser = (label_ceiling(discs(), 3, size, size) for size in (32, 16, 8))
    assert 1 > fine > coarse > coarser > 0.2


def test_it_is_the_mean_over_the_organs_that_are_there() -> None:
    labels = discs()
    alone = [label_ceiling(np.where(labels == organ, 1, 0).astype(np.uint8), 1, 32, 32) for organ in (1, 3)]
    assert label_ceiling(labels, 3, 32, 32) == pytest.approx(np.mean(alone), abs=1e-6)
    assert np.isnan(label_ceiling(np.zeros_like(labels), 3, 32, 32))
