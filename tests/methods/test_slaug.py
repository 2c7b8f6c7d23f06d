"""SLAug: curves are monotone, each class changes on its own, and the gradient decides which version is seen where."""

import numpy as np
import pytest
import torch
from four_slices import four_slices, streams

from desam_lite.data.datasets import Batch
from desam_lite.methods import slaug
from desam_lite.methods.slaug import (
    DARK,
    SALIENCY_CELLS,
    SLAug,
    bezier_curve,
    change_intensities,
    restyle,
    saliency_map,
)
from desam_lite.training.losses import mask_loss


@pytest.fixture(scope="module")
def prepared() -> Batch:
    return SLAug(2, 4, 32, 0).prepare(four_slices(2)[1], streams(0), augment=True)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_curve_is_monotone_and_keeps_the_range(inverted: bool) -> None:
    values = np.linspace(0.2, 0.7, 101)
    for seed in range(50):
        curved = bezier_curve(values, np.random.default_rng(seed).random((2, 2)), inverted=inverted)
        steps = np.diff(curved) * (-1 if inverted else 1)
        assert (steps >= -1e-12).all()
        assert sorted([curved[0], curved[-1]]) == pytest.approx([0.2, 0.7])


def test_a_curve_goes_through_the_points_of_de_casteljau() -> None:
    inner = np.array([[0.9, 0.1], [0.3, 0.8]])
    points = np.array([[0.0, 0.0], *inner, [1.0, 1.0]])
    for t in (0.25, 0.5, 0.75):
        between = points
        while len(between) > 1:
            between = (1 - t) * between[:-1] + t * between[1:]
        x, y = between[0]
        # The ends give the range, which is 0 to 1.
        assert bezier_curve(np.array([0.0, x, 1.0]), inner)[1] == pytest.approx(y, abs=1e-4)


def test_without_contrast_at_most_a_fifth_of_the_pixels_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slaug, "SCALE_LIMIT", 0.0)
    values = np.random.default_rng(0).random(2000)
    for seed in range(50):
        changed = change_intensities(values, np.random.default_rng(seed), 0.0)
        assert changed.min() >= 0 and changed.max() <= 1
        assert (changed == 0).mean() <= 0.2 and (changed == 1).mean() <= 0.2


def test_the_background_is_inverted_and_organs_half_the_time() -> None:
    ramp = np.tile(np.linspace(0, 1, 32), (32, 1))
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 8:24, 8:24] = True
    falls = []
    for seed in range(60):
        alike, by_class = restyle(ramp, mask, np.random.default_rng(seed))
        assert (np.diff(alike, axis=1) >= -1e-9).all()
        assert by_class[0, 1] >= by_class[0, -1]
        assert (by_class[ramp <= DARK] == ramp[ramp <= DARK]).all()
        falls.append(by_class[16, 8] > by_class[16, 23])
    assert 15 < sum(falls) < 45


def test_saliency_is_high_where_the_gradient_is() -> None:
    gradient = torch.zeros(2, 1, 48, 48)
    gradient[0, :, :16, :16], gradient[1, :, 32:, 16:32] = -1.0, 2.0  # the sign does not count
    saliency = saliency_map(gradient)
    assert saliency.shape == gradient.shape
    assert torch.equal(saliency.amin((1, 2, 3)), torch.zeros(2))
    torch.testing.assert_close(saliency.amax((1, 2, 3)), torch.ones(2))
    middles = saliency[:, 0, 8::16, 8::16].flatten(1)
    assert middles.shape == (2, SALIENCY_CELLS**2) and middles.argmax(1).tolist() == [0, 7]


def test_slices_keep_their_scale_and_their_labels(prepared: Batch) -> None:
    images, masks = four_slices(2)[1].images, four_slices(2)[1].masks
    assert images is not None and torch.equal(prepared.masks, masks)
    for version in prepared.drawn.values():
        assert version.shape == images.shape and version.dtype == torch.float32
        assert (version.amin((1, 2, 3)) >= images.amin((1, 2, 3)) - 1e-5).all()
        assert (version.amax((1, 2, 3)) <= images.amax((1, 2, 3)) + 1e-5).all()
        assert (version - images).abs().mean() > 0.05


def test_the_loss_is_that_of_the_first_version_and_of_the_fused_slices(prepared: Batch) -> None:
    method = SLAug(2, 4, 32, 0)
    alike, by_class = prepared.drawn["alike"], prepared.drawn["by_class"]
    pixels = alike.clone().requires_grad_(True)
    mask_loss(method.network(pixels), prepared.masks).backward()
    assert pixels.grad is not None
    method.module.zero_grad(set_to_none=True)
    share = saliency_map(pixels.grad)
    fused = by_class + share * (alike - by_class)
    torch.testing.assert_close(method.fuse(prepared), fused, rtol=1e-4, atol=1e-5)
    expected = sum(mask_loss(method.network(version), prepared.masks) for version in (alike, fused))
    torch.testing.assert_close(method.loss(method.module, prepared), expected, rtol=1e-4, atol=1e-5)
