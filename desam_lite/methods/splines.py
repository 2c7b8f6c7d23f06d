"""Smooth random surfaces over a slice: B-splines through the grid of a few control points."""

from functools import cache

import numpy as np
import torch
from scipy.interpolate import BSpline


def control_shape(cells: int, order: int) -> tuple[int, int]:
    """Return how many control points a spline of this order over ``cells`` x ``cells`` cells has."""
    return cells + order, cells + order


def spline_field(control: torch.Tensor, size: int, order: int) -> torch.Tensor:
    """Return the uniform tensor-product B-spline of control points on a square of pixels.

    Its weights are positive and sum to one at every pixel: the field stays within the range of its control points, and is
    continuous with ``order - 1`` derivatives.

    Args:
        control: ``(B, c, c)``, c as `control_shape` says.
        size: Side of the square, in pixels.
        order: Degree of the polynomial pieces; 3 is cubic.

    Returns:
        ``(B, 1, size, size)``, differentiable in the control points.
    """
    weights = torch.from_numpy(_basis(control.shape[-1] - order, size, order)).to(control)  # (size, c)
    return (weights @ control @ weights.T)[:, None]


@cache
def _basis(cells: int, size: int, order: int) -> np.ndarray:
    """Return the weight of each control point at each pixel's centre: ``(size, cells + order)`` float32."""
    knots = np.arange(-order, cells + order + 1, dtype=float)
    places = (np.arange(size) + 0.5) / size * cells
    return BSpline.design_matrix(places, knots, order).toarray().astype(np.float32)
