"""Slices of any size on the model's square and back: longest side, padding at the bottom and right, no shift."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from desam_lite.model.resize import fit_square, scaled_size, unfit_square

sides = st.integers(10, 400)


@given(height=sides, width=sides, side=st.sampled_from([64, 128, 1024]))
def test_the_longest_side_fills_the_square_and_the_shape_is_kept(height: int, width: int, side: int) -> None:
    restored = scaled_size((height, width), side)
    assert max(restored) == side
    assert restored[0] / side == pytest.approx(height / max(height, width), abs=0.5 / side + 1e-9)
    assert restored[1] / side == pytest.approx(width / max(height, width), abs=0.5 / side + 1e-9)


def test_even_the_thinnest_slice_keeps_a_pixel() -> None:
    assert scaled_size((1, 3000), 1024) == (1, 1024)
    assert fit_square(torch.ones(1, 1, 1, 3000), 64).sum() == pytest.approx(64)


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (300, 200), (64, 64), (7, 64)])
@pytest.mark.parametrize("nearest", [False, True])
def test_padding_is_zero_below_and_to_the_right_and_nowhere_else(
    height: int, width: int, nearest: bool
) -> None:
    square = fit_square(torch.full((2, 3, height, width), 5.0), 64, nearest=nearest)
    high, wide = scaled_size((height, width), 64)
    assert square.shape == (2, 3, 64, 64)
    torch.testing.assert_close(square[:, :, :high, :wide], torch.full((2, 3, high, wide), 5.0))
    assert square[:, :, high:].abs().sum() == 0
    assert square[:, :, :, wide:].abs().sum() == 0


def ramps(height: int, width: int) -> torch.Tensor:
    """Two maps that hold, at each pixel, the y and x of its centre as parts of the slice: (1, 2, H, W)."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]


@pytest.mark.parametrize(("height", "width"), [(40, 56), (56, 40), (90, 120), (33, 17)])
@pytest.mark.parametrize("factor", [1, 4])
def test_the_way_there_and_back_moves_nothing(height: int, width: int, factor: int) -> None:
    original = ramps(height, width)
    square = fit_square(original, 128)
    high, wide = scaled_size((height, width), 128)
    places = ramps(high, wide)[0]  # where these values lie on the square
    torch.testing.assert_close(
        square[0, :, 2 : high - 2, 2 : wide - 2], places[:, 2:-2, 2:-2], atol=0.006, rtol=0
    )
    small = torch.nn.functional.avg_pool2d(square, factor)  # a decoder's coarser map of the same square
    back = unfit_square(small, (height, width), 128)
    assert back.shape == original.shape
    edge = 8  # the padding bleeds in where the map is coarse
    inner = (..., slice(edge, height - edge), slice(edge, width - edge))
    torch.testing.assert_close(back[inner], original[inner], atol=0.012, rtol=0)


def test_without_a_side_the_map_itself_is_the_square() -> None:
    logits = torch.randn(1, 2, 64, 64)
    assert torch.equal(unfit_square(logits, (64, 64)), logits)
    assert torch.equal(unfit_square(logits, (64, 32)), logits[..., :32])
    assert torch.equal(unfit_square(logits, (64, 64)), unfit_square(logits, (64, 64), 64))


def test_a_slice_that_fits_is_left_as_it_is() -> None:
    slices = torch.randn(1, 1, 64, 48)
    assert torch.equal(fit_square(slices, 64)[..., :48], slices)
    assert torch.equal(unfit_square(fit_square(slices, 64), (64, 48)), slices)


@given(height=st.integers(20, 90), width=st.integers(20, 90), seed=st.integers(0, 9))
def test_labels_stay_labels_and_keep_their_share(height: int, width: int, seed: int) -> None:
    mask = torch.zeros(1, 1, height, width)
    generator = torch.Generator().manual_seed(seed)
    top, left = (int(torch.randint(0, n // 2, (1,), generator=generator)) for n in (height, width))
    mask[..., top : top + height // 2, left : left + width // 2] = 1
    square = fit_square(mask, 128, nearest=True)
    assert set(square.unique().tolist()) <= {0.0, 1.0}
    high, wide = scaled_size((height, width), 128)
    assert square.sum() / (high * wide) == pytest.approx(float(mask.mean()), abs=0.03)


def test_shrinking_averages_instead_of_picking() -> None:
    stripes = torch.zeros(1, 1, 256, 256)
    stripes[..., ::4] = 1.0  # one column in four
    shrunk = fit_square(stripes, 64)
    assert shrunk[..., 4:-4, 4:-4].std() < 0.02
    assert shrunk.mean() == pytest.approx(0.25, abs=0.02)
