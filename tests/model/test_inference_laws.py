"""Laws of the parts of prediction: where grid points lie, and what cleaning a mask may change."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from desam_lite.model.predictor import point_grid, remove_small

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
    cleaned = remove_small(mask, area)
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
    assert np.array_equal(remove_small(mask, 0), mask)
    assert np.array_equal(remove_small(mask, 1), mask)
