"""Distances between two predictions of one slice: loss terms for equal predictions on changed images.

The papers compare softmax outputs over classes. Here each organ has its own map with a sigmoid, so each pixel of a map is
organ or not: the divergences are those of these two outcomes, averaged over slices, organs and pixels.
"""

import torch
from torch.nn import functional

_SMALLEST = 1e-7  # probabilities nearer to 0 or 1 count as this near, as in RandConv's public code


def divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the mean divergence KL(first || second) of probabilities of two outcomes, of shapes that broadcast: a scalar."""
    first, second = (p.clamp(_SMALLEST, 1 - _SMALLEST) for p in (first, second))
    inside = first * (first.log() - second.log())
    outside = (1 - first) * ((1 - first).log() - (1 - second).log())
    return (inside + outside).mean()


def contour_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return half the sum of the mean squared differences of the two Sobel derivatives of maps ``(B, K, S, S)``."""
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], device=first.device)
    kernels = torch.stack([sobel, sobel.T])[:, None]
    difference = (first - second).flatten(0, 1)[:, None]
    return functional.conv2d(difference, kernels, padding=1).square().mean()
