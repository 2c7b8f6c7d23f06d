"""How different two drawings are: zero only for equal ones, and the divergence of a coin."""

import pytest
import torch

from desam_lite.methods.consistency import contour_distance, divergence


def test_divergence_is_that_of_two_coins() -> None:
    first, second = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.9])
    expected = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(first), torch.distributions.Bernoulli(second)
    ).mean()
    assert divergence(first, second).item() == pytest.approx(expected.item(), rel=1e-4)
    assert divergence(first, first).item() == pytest.approx(0, abs=1e-7)


def test_certainty_gives_a_finite_number() -> None:
    assert divergence(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).isfinite()


def test_contours_see_edges_and_no_shift_of_level() -> None:
    flat, edge = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    edge[..., 4:] = 1
    assert contour_distance(flat, flat).item() == 0
    assert contour_distance(edge, flat).item() > 0.1
    inner = contour_distance(edge[..., 1:-1, 1:-1] + 0.5, edge[..., 1:-1, 1:-1])
    assert inner < contour_distance(edge, flat) + 1.0
