"""AdvBias: fields are positive, smooth and small, and those of the search hurt more than those it started from."""

import pytest
import torch
from four_slices import four_slices, streams, train_steps

from desam_lite.methods.advbias import (
    ADVBIAS_WEIGHT,
    ASCENT_STEP,
    BIAS_MAGNITUDE,
    BIAS_ORDER,
    CONTOUR_WEIGHT,
    CONTROL_RANGE,
    AdvBias,
    apply_bias,
    bias_field,
    distance,
)
from desam_lite.methods.splines import spline_field
from desam_lite.training.losses import mask_loss


@pytest.fixture(scope="module")
def trained() -> AdvBias:
    method = AdvBias(1, 8, 32, 1)
    train_steps(method, four_slices()[1], 30)
    return method


def test_fields_are_positive_bounded_and_smooth() -> None:
    control = torch.randn(20, 5, 5, generator=torch.Generator().manual_seed(0)).clamp(*CONTROL_RANGE)
    field = bias_field(10 * control, 64)  # far beyond what the search gives
    assert field.min() == pytest.approx(1 - BIAS_MAGNITUDE) and field.max() == pytest.approx(
        1 + BIAS_MAGNITUDE
    )
    field = bias_field(control, 64)
    assert field.shape == (20, 1, 64, 64)
    assert (field > 0).all()
    assert field.diff(dim=2).abs().max() < 0.05 and field.diff(dim=3).abs().max() < 0.05


def test_without_clipping_the_control_points_alone_keep_a_field_within_its_bounds() -> None:
    for end, bound in zip(CONTROL_RANGE, (1 - BIAS_MAGNITUDE, 1 + BIAS_MAGNITUDE), strict=True):
        field = spline_field(torch.full((1, 5, 5), end), 32, BIAS_ORDER).exp()
        torch.testing.assert_close(field, torch.full_like(field, bound))


def test_no_control_no_shading() -> None:
    _, batch = four_slices()
    assert batch.images is not None
    torch.testing.assert_close(apply_bias(batch.images, bias_field(torch.zeros(4, 5, 5), 32)), batch.images)


def test_shading_leaves_black_black_and_orders_grey_levels() -> None:
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    biased = apply_bias(images, torch.full((2, 1, 16, 16), 1.3))
    torch.testing.assert_close(biased.amin((2, 3)), images.amin((2, 3)))
    torch.testing.assert_close(biased.std((2, 3)), 1.3 * images.std((2, 3)))


def test_the_attacking_field_raises_the_loss_of_the_network_it_attacks(trained: AdvBias) -> None:
    _, batch = four_slices()
    assert batch.images is not None
    with torch.no_grad():
        reference = trained.network(batch.images)
    farther, worse = 0, 0.0
    for step in range(10):
        start = trained.prepare(batch, streams(step), augment=True).drawn["control"]
        attacked = trained.attack(batch.images, start, reference)
        assert attacked.min() >= CONTROL_RANGE[0] and attacked.max() <= CONTROL_RANGE[1]
        gradient_step = (attacked - start).flatten(1).norm(dim=1)
        assert (gradient_step > 0.2).all() and (gradient_step <= ASCENT_STEP + 1e-5).all()
        with torch.no_grad():
            logits = [trained.network(apply_bias(batch.images, bias_field(c, 32))) for c in (start, attacked)]
        before, after = (distance(reference, other).item() for other in logits)
        farther += after > before
        worse += (mask_loss(logits[1], batch.masks) - mask_loss(logits[0], batch.masks)).item()
        assert mask_loss(logits[1], batch.masks) > mask_loss(reference, batch.masks)
    assert farther >= 9  # one long step may overshoot now and then
    assert worse > 0


def test_a_drawing_is_at_no_distance_from_itself() -> None:
    logits = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert distance(logits, logits).item() == pytest.approx(0, abs=1e-6)
    assert distance(logits, logits + 1).item() > 0.01


def test_the_loss_is_the_mask_loss_and_the_distance_of_the_shaded_slices(trained: AdvBias) -> None:
    _, batch = four_slices()
    assert batch.images is not None
    prepared = trained.prepare(batch, streams(5), augment=True)
    with torch.no_grad():
        clean = trained.network(batch.images)
    control = trained.attack(batch.images, prepared.drawn["control"], clean)
    with torch.no_grad():
        p, q = clean.sigmoid(), trained.network(apply_bias(batch.images, bias_field(control, 32))).sigmoid()
        loss = trained.loss(trained.module, prepared).item()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(p), torch.distributions.Bernoulli(q)
    ).mean()
    edges = [d.square().mean() for d in sobel(p - q)]
    expected = divergence + CONTOUR_WEIGHT * 0.5 * (edges[0] + edges[1])
    assert loss == pytest.approx((mask_loss(clean, batch.masks) + ADVBIAS_WEIGHT * expected).item(), rel=1e-3)


def sobel(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sobel derivatives by smoothing along one axis and differences along the other."""
    padded = torch.nn.functional.pad(maps, (1, 1, 1, 1))
    across = padded[..., :, :-2] - padded[..., :, 2:]
    down = padded[..., :-2, :] - padded[..., 2:, :]
    return (
        across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :],
        down[..., :, :-2] + 2 * down[..., :, 1:-1] + down[..., :, 2:],
    )
