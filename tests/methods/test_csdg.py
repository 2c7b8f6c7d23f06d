"""CSDG: GIN keeps labels, shape and Frobenius norm; IPA's maps are smooth, between 0 and 1, and blend both ways."""

import numpy as np
import pytest
import torch
from four_slices import four_slices, streams

from desam_lite.data.datasets import Batch
from desam_lite.methods.csdg import (
    CSDG,
    CSDG_VIEWS,
    CSDG_WEIGHT,
    GIN_CHANNELS,
    IPA_ORDER,
    random_appearances,
)
from desam_lite.methods.splines import unit_spline_field
from desam_lite.training.losses import mask_loss


@pytest.fixture(scope="module")
def prepared() -> Batch:
    return CSDG(1, 4, 32, 0).prepare(four_slices()[1], streams(0), augment=True)


def test_appearances_keep_shape_labels_and_the_frobenius_norm(prepared: Batch) -> None:
    assert prepared.images is not None
    appearances = random_appearances(prepared.images, dict(prepared.drawn))
    assert appearances.shape == (4, CSDG_VIEWS, 3, 32, 32)
    before = (3 * prepared.images.square().sum((2, 3))).sqrt()  # of a slice in three channels
    torch.testing.assert_close(
        appearances.square().sum((2, 3, 4)).sqrt(), before.expand(-1, CSDG_VIEWS), rtol=1e-4, atol=0
    )
    assert not torch.equal(appearances[:, :, 0], appearances[:, :, 1])  # a curve for each channel
    assert torch.equal(prepared.masks, four_slices()[1].masks)
    assert (appearances - prepared.images[:, None]).abs().mean() > 0.05


def test_each_look_is_the_random_network_applied_to_its_own_slice(prepared: Batch) -> None:
    assert prepared.images is not None
    appearances, drawn = random_appearances(prepared.images, dict(prepared.drawn)), prepared.drawn
    for row, view in np.ndindex(4, CSDG_VIEWS):
        slices = prepared.images[row : row + 1].expand(-1, 3, -1, -1)
        maps = slices
        for layer in range(len(GIN_CHANNELS) - 1):
            weights, shift = drawn[f"kernels{layer}"][row, view], drawn[f"shifts{layer}"][row, view]
            maps = torch.nn.functional.conv2d(maps, weights, shift, padding=1)
            maps = torch.nn.functional.leaky_relu(maps) if layer < 3 else maps
        share = drawn["mix"][row, view]
        mixed = (share * maps + (1 - share) * slices)[0]
        expected = mixed / mixed.norm() * slices.norm()
        torch.testing.assert_close(appearances[row, view], expected, rtol=1e-3, atol=1e-4)


def test_without_share_of_the_network_a_look_is_the_slice(prepared: Batch) -> None:
    assert prepared.images is not None
    draws = {**prepared.drawn, "mix": torch.zeros(4, CSDG_VIEWS)}
    torch.testing.assert_close(
        random_appearances(prepared.images, draws), prepared.images[:, None].expand(-1, CSDG_VIEWS, 3, -1, -1)
    )


def test_kernels_are_of_one_or_three_pixels() -> None:
    sides = set()
    for rng in streams(3, 20):
        for kernel in CSDG(1, 4, 32, 0).draw(rng)["kernels0"]:
            rim = np.ones((3, 3), bool)
            rim[1, 1] = False
            sides.add(3 if kernel[..., rim].any() else 1)
            assert kernel.shape == (2, 3, 3, 3) and (kernel[..., 1, 1] != 0).all()
    assert sides == {1, 3}


def test_blending_maps_run_smoothly_from_zero_to_one() -> None:
    control = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(0))
    maps = unit_spline_field(control, 64, IPA_ORDER)
    assert maps.shape == (5, 1, 64, 64)
    assert torch.equal(maps.amin((1, 2, 3)), torch.zeros(5))
    torch.testing.assert_close(maps.amax((1, 2, 3)), torch.ones(5))
    steps = torch.maximum(maps.diff(dim=2).abs().amax(), maps.diff(dim=3).abs().amax())
    assert steps < 0.15  # a quarter of the side, 16 pixels, lies between control points
    assert unit_spline_field(torch.zeros(1, 6, 6), 16, IPA_ORDER).isfinite().all()


def test_the_two_blended_views_share_out_both_appearances(prepared: Batch) -> None:
    assert prepared.images is not None
    views = CSDG(1, 4, 32, 0).views(prepared)
    appearances = random_appearances(prepared.images, dict(prepared.drawn))
    torch.testing.assert_close(views[:, 0] + views[:, 1], appearances[:, 0] + appearances[:, 1])
    low, high = (
        torch.minimum(appearances[:, 0], appearances[:, 1]),
        torch.maximum(appearances[:, 0], appearances[:, 1]),
    )
    assert ((views[:, :2] >= low[:, None] - 1e-5) & (views[:, :2] <= high[:, None] + 1e-5)).all()
    assert torch.equal(views[:, 2], appearances[:, 2])


def test_the_loss_is_that_of_the_first_view_and_the_distance_of_the_mean_from_all(prepared: Batch) -> None:
    method = CSDG(1, 4, 32, 0)
    views = method.views(prepared)
    with torch.no_grad():
        logits = torch.stack([method.network(views[:, v]) for v in range(CSDG_VIEWS)])
        loss = method.loss(method.module, prepared).item()
    p = logits.sigmoid().double().numpy()
    mean = p.mean(axis=0, keepdims=True)
    outcomes = [mean * np.log(mean / p), (1 - mean) * np.log((1 - mean) / (1 - p))]
    published = 10 * np.mean(outcomes)  # torch's KLDivLoss by default is a mean over outcomes too
    assert 2 * CSDG_WEIGHT == 10
    assert loss == pytest.approx(mask_loss(logits[0], prepared.masks).item() + published, rel=1e-4)
