"""Spline fields: as smooth as they claim, within their control points, and straight through a plane."""

import numpy as np
import pytest
import torch

from desam_lite.methods.splines import control_shape, spline_field

SETTINGS = [(2, 3), (4, 2)]  # cells, order: of AdvBias and of CSDG


def field(cells: int, order: int, size: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(cells)
    return spline_field(torch.from_numpy(rng.uniform(-1, 1, (3, *control_shape(cells, order)))), size, order)


@pytest.mark.parametrize(("cells", "order"), SETTINGS)
def test_a_field_stays_within_its_control_points(cells: int, order: int) -> None:
    control = torch.rand(3, *control_shape(cells, order), generator=torch.Generator().manual_seed(0))
    predicted = spline_field(control, 48, order)
    assert predicted.shape == (3, 1, 48, 48)
    assert (predicted.amin((1, 2, 3)) >= control.amin((1, 2))).all()
    assert (predicted.amax((1, 2, 3)) <= control.amax((1, 2))).all()


@pytest.mark.parametrize(("cells", "order"), SETTINGS)
def test_equal_control_points_give_a_flat_field_and_a_slope_a_plane(cells: int, order: int) -> None:
    shape = control_shape(cells, order)
    torch.testing.assert_close(
        spline_field(torch.full((1, *shape), 0.7), 32, order), torch.full((1, 1, 32, 32), 0.7)
    )
    slope = torch.arange(shape[0]).float()[None, :, None].expand(1, *shape)
    predicted = spline_field(slope, 32, order)[0, 0]
    assert torch.allclose(predicted[:, :1], predicted)
    torch.testing.assert_close(predicted.diff(dim=0), torch.full((31, 32), cells / 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("cells", "order"), SETTINGS)
def test_a_field_is_a_piecewise_polynomial_without_kinks(cells: int, order: int) -> None:
    """Between knots the differences of one order more vanish; the slope jumps nowhere."""
    whole = field(cells, order, 64)[:, 0]
    per_cell = 64 // cells
    inside = whole[:, :, :per_cell].diff(n=order + 1, dim=2)
    assert inside.abs().max() < 1e-5
    slope = whole.diff(dim=2)
    assert slope.diff(dim=2).abs().max() < 4 * (cells / 64) ** 2 * 2


def test_a_field_has_a_gradient_at_every_control_point() -> None:
    control = torch.zeros(1, *control_shape(2, 3), requires_grad=True)
    spline_field(control, 32, 3).sum().backward()
    assert control.grad is not None and (control.grad > 0).all()
