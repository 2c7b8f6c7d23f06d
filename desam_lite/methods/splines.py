"""Smooth random surfaces over a slice: B-splines through the grid of a few control points."""

from functools import cache

import numpy as np
import torch
from scipy.interpolate import BSpline


def control_shape(cells: int, order: int) -> tuple[int, int]:
    """Return how many control points a spline of this order over ``cells`` x ``cells`` cells has."""
    return cells + order, cells + order


def spline_field(control: torch.Tensor, size: int, order: int) -> torch.Tensor:
    """Return the uniform tensor-product B-spline of control points ``(B, c, c)`` on a square of pixels, ``(B, 1, size, size)``.

    Its weights are positive and sum to one at every pixel: the field stays within the range of its control points, is continuous
    with ``order - 1`` derivatives (3 is cubic), and differentiable in the control points. `control_shape` gives c.
    """
    weights = torch.from_numpy(_basis(control.shape[-1] - order, size, order)).to(control)  # (size, c)
    return (weights @ control @ weights.T)[:, None]


def unit_spline_field(control: torch.Tensor, size: int, order: int) -> torch.Tensor:
    """Return the field of `spline_field` brought to the range 0 to 1."""
    field = spline_field(control, size, order)
    low, high = (extreme(field, dim=(2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    return (field - low) / (high - low).clamp_min(1e-20)


@cache
def _basis(cells: int, size: int, order: int) -> np.ndarray:
    """Return the weight of each control point at each pixel's centre: ``(size, cells + order)`` float32."""
    knots = np.arange(-order, cells + order + 1, dtype=float)
    places = (np.arange(size) + 0.5) / size * cells
    return BSpline.design_matrix(places, knots, order).toarray().astype(np.float32)
