"""MaxStyle: no noise is no change, the search raises the loss, and slices are decoded as themselves."""

import pytest
import torch
from four_slices import four_slices, streams, train_steps

from desam_lite.methods.maxstyle import CODE_SIDE, STYLE_LAYERS, MaxStyle, Styles, apply_style
from desam_lite.methods.mixstyle import draw_partners, mix_styles
from desam_lite.training.losses import mask_loss


def styles(mix: float = 0.0, noise: float = 0.0, count: int = 4, channels: int = 8) -> Styles:
    shape = (count, STYLE_LAYERS, channels)
    generator = torch.Generator().manual_seed(0)
    return {
        "mix": torch.full((count, STYLE_LAYERS), mix),
        "keys": torch.rand(count, STYLE_LAYERS, generator=generator),
        **{name: noise * torch.randn(shape, generator=generator) for name in ("scale", "shift")},
    }


def maps(count: int = 4, channels: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shift = torch.rand(count, channels, 1, 1, generator=generator)
    return torch.randn(count, channels, 8, 8, generator=generator) * 2 + shift


@pytest.fixture(scope="module")
def trained() -> MaxStyle:
    method = MaxStyle(1, 8, 32, 1)
    train_steps(method, four_slices()[1], 40)
    return method


def test_no_noise_and_no_mixing_change_nothing() -> None:
    assert torch.equal(apply_style(maps(), styles(), 0), maps())


def test_one_slice_alone_has_no_other_style() -> None:
    alone = maps(1)
    assert torch.equal(apply_style(alone, styles(mix=0.7, noise=1.0, count=1), 1), alone)


def test_mixing_alone_is_that_of_mixstyle() -> None:
    chosen = styles(mix=0.3)
    expected = mix_styles(maps(), torch.full((4,), 0.7), draw_partners(chosen["keys"][:, 2]))
    torch.testing.assert_close(apply_style(maps(), chosen, 2), expected, rtol=1e-4, atol=1e-5)


def test_noise_moves_mean_and_spread_by_their_spread_over_the_batch() -> None:
    before, chosen = maps(), styles(noise=0.5)
    after = apply_style(before, chosen, 0)
    means, spreads = before.mean((2, 3)), (before.var((2, 3)) + 1e-6).sqrt()
    moved = means + chosen["shift"][:, 0, :6] * means.std(dim=0, correction=0)
    widened = spreads + chosen["scale"][:, 0, :6] * spreads.std(dim=0, correction=0)
    torch.testing.assert_close(after.mean((2, 3)), moved, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.std((2, 3)), widened.abs(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "level"), [(16, 1), (32, 1), (64, 2), (128, 3)])
def test_the_code_is_read_where_maps_are_sixteen_wide(size: int, level: int) -> None:
    method = MaxStyle(2, 4, size, 0)
    images = torch.zeros(2, 1, size, size)
    assert method.module.level == level
    with torch.no_grad():
        assert method.module.code(images).shape[-1] == min(CODE_SIDE, size // 2)
        logits, decoded = method.module(images, True)
    assert logits.shape == (2, 2, size, size)
    assert decoded.shape == images.shape


def test_the_search_raises_the_loss_of_the_network_it_attacks(trained: MaxStyle) -> None:
    _, batch = four_slices()
    assert batch.images is not None
    raised = 0
    for step in range(8):
        prepared = trained.prepare(batch, streams(step), augment=True)
        pictures = [trained.restyled(batch.images, trained.attack(prepared, steps)) for steps in (0, 5)]
        with torch.no_grad():
            before, after = (mask_loss(trained.network(p), batch.masks).item() for p in pictures)
        raised += after > before
        assert after >= before - 1e-3
    assert raised >= 6


def test_a_restyled_slice_has_its_own_mean_and_spread(trained: MaxStyle) -> None:
    images = four_slices()[1].images
    assert images is not None
    restyled = trained.restyled(3 * images + 5, styles(mix=0.6, noise=2.0))
    torch.testing.assert_close(restyled.mean((2, 3)), (3 * images + 5).mean((2, 3)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(restyled.std((2, 3)), 3 * images.std((2, 3)), atol=1e-3, rtol=1e-3)


def test_layers_that_are_not_drawn_keep_their_style(trained: MaxStyle) -> None:
    _, batch = four_slices()
    prepared = trained.prepare(batch, streams(0), augment=True)
    attacked, used = trained.attack(prepared), prepared.drawn["used"].bool()
    assert 0 < used.float().mean() < 1
    for name in ("mix", "scale", "shift"):
        assert (attacked[name][~used] == 0).all()
        assert torch.equal(attacked[name][~used], prepared.drawn[name][~used])
        assert not torch.equal(attacked[name][used], prepared.drawn[name][used])


def test_the_decoder_learns_to_redraw_slices(trained: MaxStyle) -> None:
    _, batch = four_slices()
    assert batch.images is not None
    decoded = trained.restyled(batch.images, styles())
    assert (decoded - batch.images).square().mean() < 0.5 * batch.images.var()


def test_the_loss_is_of_both_pictures_and_their_redrawing(trained: MaxStyle) -> None:
    _, batch = four_slices()
    assert batch.images is not None
    prepared = trained.prepare(batch, streams(3), augment=True)
    hard = trained.restyled(batch.images, trained.attack(prepared))
    expected = 0.0
    with torch.no_grad():
        for pictures in (batch.images, hard):
            expected += mask_loss(trained.network(pictures), batch.masks).item()
            decoded = trained.module.decoder(trained.module.code(pictures))
            expected += 0.5 * (decoded - batch.images).square().mean().item()
        assert trained.loss(trained.module, prepared).item() == pytest.approx(expected, rel=1e-4)
