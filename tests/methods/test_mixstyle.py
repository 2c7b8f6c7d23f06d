"""MixStyle: nothing without a partner, a weight or training; else the style of a mixture and the shape of its own."""

import numpy as np
import pytest
import torch
from four_slices import four_slices, streams

from desam_lite.methods.mixstyle import MIXSTYLE_LEVELS, MixStyle, draw_partners, mix_styles


def maps(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale, shift = (torch.rand(count, 4, 1, 1, generator=generator) * 3 + 0.5 for _ in range(2))
    return torch.randn(count, 4, 8, 8, generator=generator) * scale + shift


def test_one_slice_is_left_as_it_is() -> None:
    alone = maps(1)
    assert torch.equal(mix_styles(alone, torch.tensor([0.3]), torch.tensor([0])), alone)


def test_with_one_slice_the_network_in_training_is_the_plain_one() -> None:
    images, method = four_slices()[1].images, MixStyle(1, 4, 32, 0)
    assert images is not None
    method.module.train()
    with torch.no_grad():
        alone = method.module(images[:1], torch.zeros(1, MIXSTYLE_LEVELS), torch.rand(1, MIXSTYLE_LEVELS))
        assert torch.equal(alone, method.network(images[:1]))


def test_a_slice_that_keeps_its_style_is_left_as_it_is() -> None:
    mixed = mix_styles(maps(), torch.tensor([1.0, 0.2, 1.0]), torch.tensor([1, 2, 0]))
    assert torch.equal(mixed[[0, 2]], maps()[[0, 2]])
    assert not torch.equal(mixed[1], maps()[1])


@pytest.mark.parametrize("keep", [0.0, 0.4])
def test_mean_and_spread_become_those_of_the_mixture(keep: float) -> None:
    before, partner = maps(), torch.tensor([1, 2, 0])
    after = mix_styles(before, torch.full((3,), keep), partner)
    for measure in (torch.mean, torch.std):
        own, other = measure(before, dim=(2, 3)), measure(before[partner], dim=(2, 3))
        torch.testing.assert_close(
            measure(after, dim=(2, 3)), keep * own + (1 - keep) * other, rtol=1e-4, atol=1e-4
        )
    shapes = [(m - m.mean((2, 3), keepdim=True)) / m.std((2, 3), keepdim=True) for m in (before, after)]
    torch.testing.assert_close(shapes[0], shapes[1], rtol=1e-3, atol=1e-4)


def test_no_gradient_flows_through_the_statistics() -> None:
    leaf = maps().requires_grad_(True)
    mix_styles(leaf, torch.full((3,), 0.5), torch.tensor([1, 2, 0])).sum().backward()
    with torch.no_grad():
        deviation = leaf.std((2, 3), keepdim=True)
        scale = 0.5 + 0.5 * deviation[[1, 2, 0]] / deviation
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, scale.expand_as(leaf), rtol=1e-4, atol=1e-4)


def test_half_precision_stays_what_it_is() -> None:
    assert (
        mix_styles(maps().bfloat16(), torch.full((3,), 0.5), torch.tensor([1, 2, 0])).dtype == torch.bfloat16
    )


def test_styles_are_mixed_in_training_only() -> None:
    _, batch = four_slices()
    method = MixStyle(1, 4, 32, 0)
    keep, keys = (
        torch.zeros(4, MIXSTYLE_LEVELS),
        torch.tensor([3.0, 0.0, 1.0, 2.0])[:, None].expand(4, MIXSTYLE_LEVELS),
    )
    with torch.no_grad():
        plain = method.network(batch.images)
        assert torch.equal(method.module.eval()(batch.images, keep, keys), plain)
        assert torch.equal(method.module.train()(batch.images), plain)
        assert torch.equal(method.module(batch.images, torch.ones(4, MIXSTYLE_LEVELS), keys), plain)
        assert not torch.allclose(method.module(batch.images, keep, keys), plain, atol=1e-4)


def test_half_of_the_slices_are_mixed_and_all_partners_are_drawn() -> None:
    method = MixStyle(1, 4, 32, 0)
    drawn = [method.draw(rng) for rng in streams(0, 400)]
    keep = np.stack([d["keep"] for d in drawn])
    assert (keep == 1).mean() == pytest.approx(0.5, abs=0.06)
    assert ((keep >= 0) & (keep <= 1)).all()
    keys = torch.from_numpy(np.stack([d["keys"] for d in drawn])).reshape(100, 4, MIXSTYLE_LEVELS)
    partners = torch.stack([torch.stack([draw_partners(k) for k in batch.T]) for batch in keys])
    assert all(sorted(p.tolist()) == [0, 1, 2, 3] for p in partners[:, 0])
    assert (partners != torch.arange(4)).all()  # never its own partner
    assert len({tuple(p.tolist()) for p in partners[:, 0]}) == 6  # all ways round a circle
    assert not torch.equal(partners[:, 0], partners[:, 1])


def test_of_two_slices_each_is_the_others_partner_and_one_alone_its_own() -> None:
    assert draw_partners(torch.tensor([0.2, 0.7])).tolist() == [1, 0]
    assert draw_partners(torch.tensor([0.7, 0.2])).tolist() == [1, 0]
    assert draw_partners(torch.tensor([0.7])).tolist() == [0]
