"""RandConv: shapes stay, energy stays on average, and views of one slice differ."""

import numpy as np
import pytest
import torch
from four_slices import four_slices, streams

from desam_lite.methods.randconv import (
    RANDCONV_SIZES,
    RANDCONV_VIEWS,
    RANDCONV_WEIGHT,
    RandConv,
    convolve,
    random_kernel,
    random_views,
)
from desam_lite.training.losses import mask_loss


def pictures(seed: int = 0) -> torch.Tensor:
    """Two pictures (2, 1, 32, 32) of noise on black, with a rim as wide as the largest kernel reaches."""
    middle = torch.rand(2, 1, 22, 22, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.pad(middle, (5, 5, 5, 5))


@pytest.mark.parametrize("side", RANDCONV_SIZES)
def test_on_average_a_random_convolution_keeps_the_squared_frobenius_norm(side: int) -> None:
    draws = 3000
    kernels = np.stack([random_kernel(rng, (side,)) for rng in streams(0, draws)])
    weights = torch.from_numpy(
        np.pad(kernels, ((0, 0), ((7 - side) // 2,) * 2, ((7 - side) // 2,) * 2))
    ).float()
    image = pictures()[:1]
    views = convolve(image.expand(draws, -1, -1, -1), weights, torch.ones(draws))
    filtered = views.square().sum((1, 2, 3)).mean().item()
    assert filtered == pytest.approx(image.square().sum().item(), rel=0.1)


def test_kernels_have_all_sizes_and_stand_in_the_middle() -> None:
    seen = set()
    for rng in streams(1, 60):
        rows, columns = np.nonzero(random_kernel(rng))
        assert rows.min() + rows.max() == columns.min() + columns.max() == 6
        seen.add(int(rows.max() - rows.min() + 1))
    assert seen == set(RANDCONV_SIZES)


def test_the_first_view_is_the_convolution_of_its_own_slice_and_the_others_that_of_the_first() -> None:
    images = pictures()
    generator = torch.Generator().manual_seed(1)
    kernels, mix = torch.randn(2, 3, 7, 7, generator=generator), torch.rand(2, 3, generator=generator)
    views = random_views(images, kernels, mix)
    assert views.shape == (2, 3, 32, 32)
    for slice_, view in np.ndindex(2, 3):
        before = images[slice_] if view == 0 else views[slice_, :1]
        alone = torch.nn.functional.conv2d(before, kernels[slice_, view][None, None], padding=3)[0]
        expected = mix[slice_, view] * alone + (1 - mix[slice_, view]) * before[0]
        torch.testing.assert_close(views[slice_, view], expected, atol=1e-5, rtol=1e-5)


def test_without_share_of_the_convolution_every_view_is_the_slice() -> None:
    images = pictures()
    views = random_views(images, torch.randn(2, 3, 7, 7), torch.zeros(2, 3))
    assert torch.equal(views, images.expand(-1, 3, -1, -1))


def test_views_change_grey_levels_and_no_label() -> None:
    _, batch = four_slices()
    method = RandConv(1, 4, 32, 0)
    prepared = method.prepare(batch, streams(0), augment=True)
    assert torch.equal(prepared.masks, batch.masks)
    views = random_views(prepared.images, prepared.drawn["kernels"], prepared.drawn["mix"])  # type: ignore[arg-type]
    assert views.shape == (4, RANDCONV_VIEWS, 32, 32)
    assert all(not torch.equal(views[:, a], views[:, b]) for a, b in ((0, 1), (1, 2), (0, 2)))


def test_the_loss_is_that_of_the_first_view_and_the_distance_from_the_mean_of_all() -> None:
    _, batch = four_slices()
    method = RandConv(1, 4, 32, 0)
    prepared = method.prepare(batch, streams(0), augment=True)
    views = random_views(prepared.images, prepared.drawn["kernels"], prepared.drawn["mix"])  # type: ignore[arg-type]
    with torch.no_grad():
        logits = torch.stack([method.network(views[:, v : v + 1]) for v in range(RANDCONV_VIEWS)])
        loss = method.loss(method.module, prepared).item()
    p = logits.sigmoid().double().numpy()
    mean = p.mean(axis=0)
    apart = p * np.log(p / mean) + (1 - p) * np.log((1 - p) / (1 - mean))
    assert loss == pytest.approx(
        mask_loss(logits[0], batch.masks).item() + RANDCONV_WEIGHT * apart.mean(), rel=1e-4
    )
