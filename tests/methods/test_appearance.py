"""Random appearances: structures stay, contrast goes; images of labels hold nothing of the slice but its borders."""

import numpy as np
import pytest
import torch

from desam_lite.methods.appearance import LABELS, recolour, synthesise


def phantom(size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc (the organ) in a body before air, and its mask: ``(1, S, S)`` each."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    radius = np.hypot(x, y) / size
    image = np.select([radius < 0.15, radius < 0.4], [2.0, 1.0], 0.0)
    tensor = torch.from_numpy((image - image.mean()) / image.std()).float()[None]
    return tensor, torch.from_numpy((radius < 0.15).astype(np.float32))[None]


def draw(kind: str, seed: int) -> torch.Tensor:
    image, mask = phantom()
    rng = np.random.default_rng(seed)
    return recolour(image, rng) if kind == "random" else synthesise(image, mask, rng)


@pytest.mark.parametrize("kind", ["random", "synthetic"])
def test_only_the_generator_of_the_slice_draws(kind: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = draw(kind, 0)
    torch.manual_seed(2)
    np.random.seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    assert torch.equal(draw(kind, 0), first) and not torch.equal(draw(kind, 1), first)
    assert torch.equal(torch.rand(3), expected)  # the global stream goes on as if nothing had been drawn


@pytest.mark.parametrize("kind", ["random", "synthetic"])
def test_mean_and_spread_are_those_of_the_slice_and_the_contrast_is_not(kind: str) -> None:
    image, mask = phantom()
    body = (image > image.min()) & (mask == 0)
    brighter = 0
    for seed in range(40):
        drawn = draw(kind, seed)
        assert drawn.shape == image.shape and drawn.dtype == torch.float32 and drawn.isfinite().all()
        assert drawn.mean().item() == pytest.approx(0, abs=1e-4)
        assert drawn.std().item() == pytest.approx(image.std().item(), rel=1e-3)
        brighter += int(drawn[mask > 0].mean() > drawn[body].mean())
    assert 8 <= brighter <= 32  # the organ is as often darker


def test_an_image_of_labels_is_the_same_whatever_unit_the_slice_has() -> None:
    image, mask = phantom()
    first, second = (synthesise(i, mask, np.random.default_rng(4)) for i in (image, 2 * image + 1))
    torch.testing.assert_close(2 * first + 1, second, atol=1e-3, rtol=1e-3)


def test_every_organ_is_a_region_of_its_own() -> None:
    image, mask = phantom()
    many = torch.zeros(14, *mask.shape[1:])
    for k in range(14):
        many[k, 2 * k : 2 * k + 2, 10:30] = 1
    assert synthesise(image, many, np.random.default_rng(0)).isfinite().all()
    assert LABELS > 7 + 2 * 14
