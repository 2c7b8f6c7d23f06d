"""What readers build in the chapters from scratch is what the package computes, here on random input."""

import numpy as np
import pytest
import torch
from notebook_code import definitions

from desam_lite.data.manifest import Intensity
from desam_lite.data.slices import prepare_intensity
from desam_lite.evaluation.metrics import score_volume
from desam_lite.methods.unet import build_unet
from desam_lite.model.sam import build_image_encoder, build_transformer, get_backbone
from desam_lite.synthetic.phantoms import PROSTATE_SITES
from desam_lite.synthetic.phantoms.scanner import relaxation_signal
from desam_lite.synthetic.phantoms.tissues import TISSUES
from desam_lite.training.losses import mask_loss


def test_windows_and_signals_are_the_scanners() -> None:
    built = definitions("mri_and_ct")
    image = np.random.default_rng(0).normal(50, 200, (3, 9, 9)).astype(np.float32)
    for ends in ((-125.0, 275.0), (0.0, 1.0)):
        assert np.array_equal(built.window(image, *ends), prepare_intensity(image, Intensity(window=ends)))
    for site in PROSTATE_SITES.values():
        contrast = site.scanner.field_strength, site.scanner.repetition, site.scanner.echo
        signals = [built.spin_echo(tissue, site.scanner) for tissue in TISSUES.values()]
        assert np.allclose(signals, relaxation_signal(TISSUES.values(), *contrast), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_scores_by_hand_are_those_of_the_package(seed: int) -> None:
    built = definitions("scores_by_hand")
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 5, 12, 12)) > 0.6
    spacing = (3.5, 0.7, 0.9)
    scores = score_volume(first, second, spacing)
    assert built.dice(first, second) == pytest.approx(scores.dice)
    assert built.hd95(first, second, spacing) == pytest.approx(scores.hd95)
    assert built.assd(first, second, spacing) == pytest.approx(scores.assd)


def test_scores_of_two_empty_masks_are_perfect() -> None:
    built = definitions("scores_by_hand")
    empty = np.zeros((2, 3, 3), bool)
    assert built.dice(empty, empty) == built.iou(empty, empty) == 1
    assert built.dice(empty, ~empty) == built.iou(empty, ~empty) == 0


def test_unet_and_loss_are_those_of_the_package() -> None:
    built = definitions("unet_from_scratch")
    network = build_unet(1, 4, 32, seed=1)
    copied = built.copy_weights(built.UNet([4, 8, 16, 32]), network)
    slices = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(copied(slices), network(slices), atol=1e-5)
    masks = (slices > 0.5).float()
    both = built.dice_loss(slices, masks) + built.cross_entropy(slices, masks)
    assert torch.isclose(both, mask_loss(slices, masks, "dice_ce"))


@torch.no_grad()
def test_attention_blocks_are_those_of_sam() -> None:
    built = definitions("attention_in_forty_lines")
    spec = get_backbone("sam_tiny")
    tokens = torch.randn(1, spec.grid, spec.grid, spec.width)
    for theirs in build_image_encoder(spec).blocks[:2]:  # a block with windows, a global one
        block = built.ViTBlock(spec.width, spec.heads, spec.grid, theirs.window_size)
        block.load_state_dict(theirs.state_dict())
        assert torch.allclose(block(tokens), theirs(tokens), atol=1e-4)
    points, image = torch.randn(2, 7, spec.neck), torch.randn(2, 64, spec.neck)
    sizes = spec.neck, spec.prim_heads, spec.prim_mlp, spec.prim_downsample
    for number, theirs in enumerate(build_transformer(spec).layers):
        two_way = built.TwoWayBlock(*sizes, first=number == 0)
        two_way.load_state_dict(theirs.state_dict())
        pairs = zip(two_way(points, image, points, image), theirs(points, image, points, image), strict=True)
        assert all(torch.allclose(mine, other, atol=1e-4) for mine, other in pairs)
