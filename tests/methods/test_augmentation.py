"""Augmentation: nnU-Net's probabilities and ranges, one generator per slice, masks moved with their pictures."""

import math

import numpy as np
import pytest
import torch
from four_slices import four_slices, streams

from desam_lite.methods import augmentation
from desam_lite.methods.augmentation import augment_batch


def test_none_is_the_batch_itself() -> None:
    _, batch = four_slices()
    assert augment_batch(batch, streams(0), "none") is batch


@pytest.mark.parametrize("kind", ["light", "nnunet", "random", "synthetic"])
def test_a_slice_is_changed_by_its_own_generator_alone(kind: str) -> None:
    _, batch = four_slices(organs=2)
    whole = augment_batch(batch, streams(3), kind)  # type: ignore[arg-type]
    assert whole.images is not None and batch.images is not None
    assert whole.images.shape == batch.images.shape and whole.masks.shape == batch.masks.shape
    assert whole.images.dtype == whole.masks.dtype == torch.float32
    for row in range(4):
        part = type(batch)(
            batch.cases[row : row + 1],
            batch.masks[row : row + 1],
            batch.sizes[:1],
            batch.images[row : row + 1],
        )
        alone = augment_batch(part, streams(3)[row : row + 1], kind)  # type: ignore[arg-type]
        assert alone.images is not None
        assert torch.equal(alone.images[0], whole.images[row])
        assert torch.equal(alone.masks[0], whole.masks[row])


def test_light_changes_grey_levels_and_no_label() -> None:
    _, batch = four_slices()
    changed = 0
    for step in range(20):
        augmented = augment_batch(batch, streams(step), "light")
        assert torch.equal(augmented.masks, batch.masks)
        assert augmented.images is not None and batch.images is not None
        changed += int((augmented.images != batch.images).flatten(1).any(dim=1).sum())
    expected = 1 - 0.9 * 0.85 * 0.85 * 0.7
    assert changed / 80 == pytest.approx(expected, abs=0.15)


def test_nnunet_keeps_masks_binary_and_on_their_organ() -> None:
    """The ellipse is brighter than its ground by more than any change of grey levels hides."""
    _, batch = four_slices()
    moved = 0
    for step in range(25):
        augmented = augment_batch(batch, streams(step), "nnunet")
        assert set(augmented.masks.unique().tolist()) <= {0.0, 1.0}
        assert augmented.images is not None
        for image, mask, before in zip(augmented.images, augmented.masks, batch.masks, strict=True):
            assert image[mask > 0].mean() > image[mask == 0].mean() + 0.5
            moved += not torch.equal(mask, before)
    assert moved / 100 == pytest.approx(1 - 0.8 * 0.8 * 0.25, abs=0.12)


def test_a_quarter_turn_and_a_scale_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.zeros(1, 16, 16)
    image[0, 2:5, 4:14] = 1
    monkeypatch.setattr(augmentation, "P_ROTATION", 1.0)
    monkeypatch.setattr(augmentation, "P_SCALING", 0.0)
    monkeypatch.setattr(augmentation, "ROTATION", (math.pi / 2, math.pi / 2))
    turned, mask = augmentation._rotate_and_scale(image, image, np.random.default_rng(0))
    torch.testing.assert_close(turned, mask, atol=1e-4, rtol=0)
    assert any(torch.equal(mask, image.rot90(k, (1, 2))) for k in (1, 3))
    monkeypatch.setattr(augmentation, "P_ROTATION", 0.0)
    monkeypatch.setattr(augmentation, "P_SCALING", 1.0)
    monkeypatch.setattr(augmentation, "SCALING", (2.0, 2.0))
    square = torch.zeros(1, 32, 32)
    square[0, 8:24, 8:24] = 1
    small = augmentation._rotate_and_scale(square, square, np.random.default_rng(0))[1]
    assert small.sum() == pytest.approx(64, abs=1)


CHANGES = {
    "brightness": lambda x, y: torch.allclose(y / x, (y / x).flatten()[0].expand_as(x), rtol=1e-3),
    "contrast": lambda x, y: bool((y >= x.min() - 1e-5).all() and (y <= x.max() + 1e-5).all()),
    "gamma": lambda x, y: abs(float(y.mean() - x.mean())) < 1e-3 and abs(float(y.std() / x.std() - 1)) < 1e-2,
    "inverted_gamma": lambda x, y: abs(float(y.mean() - x.mean())) < 1e-3,
    "blur": lambda x, y: bool(y.diff(dim=2).square().mean() < 0.9 * x.diff(dim=2).square().mean()),
    "low_resolution": lambda x, y: bool(y.diff(dim=2).square().mean() < x.diff(dim=2).square().mean()),
    "noise": lambda x, y: 0 < float((y - x).std()) < 0.11,
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_keeps_what_it_should(name: str) -> None:
    image = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    for rng in streams(0, 5):
        augmented = getattr(augmentation, f"_{name}")(image, rng)
        assert type(augmented) is torch.Tensor
        assert augmented.shape == image.shape and augmented.dtype == torch.float32
        assert not torch.equal(augmented, image)
        assert CHANGES[name](image, augmented)


def test_factors_are_as_often_above_one_as_below() -> None:
    factors = np.array([augmentation._draw_factor(rng, (0.7, 1.5)) for rng in streams(0, 2000)])
    assert factors.min() >= 0.7 and factors.max() <= 1.5
    assert (factors > 1).mean() == pytest.approx(0.5, abs=0.04)
    assert factors[factors > 1].mean() == pytest.approx(1.25, abs=0.02)
