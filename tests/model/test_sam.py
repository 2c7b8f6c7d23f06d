"""The frozen half has SAM's sizes, and gives the maps after the global blocks and the neck's."""

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide
from small_model import MICRO, random_pixels

from desam_lite.model.resize import fit_square
from desam_lite.model.sam import (
    BACKBONES,
    PIXEL_MEAN,
    PIXEL_STD,
    build_image_encoder,
    build_prompt_encoder,
    encode_levels,
    get_backbone,
    preprocess,
)
from desam_lite.utils.errors import StudyError


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    built = build_image_encoder(MICRO).eval()
    torch.nn.init.normal_(built.pos_embed)  # zero when new: a forgotten one would go unseen
    return built


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_encoders_have_the_tensors_of_segment_anything(name: str) -> None:
    spec = get_backbone(name)
    with torch.device("meta"):
        sam = sam_model_registry[name]()
        image, prompt = build_image_encoder(spec), build_prompt_encoder(spec)
    for ours, theirs in ((image, sam.image_encoder), (prompt, sam.prompt_encoder)):
        expected = {n: t.shape for n, t in theirs.state_dict().items()}
        assert {n: t.shape for n, t in ours.state_dict().items()} == expected
    windows = [block.window_size for block in image.blocks]
    assert windows == [block.window_size for block in sam.image_encoder.blocks]
    assert tuple(i for i, side in enumerate(windows) if side == 0) == spec.global_blocks
    assert prompt.input_image_size == sam.prompt_encoder.input_image_size


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match=r"no backbone 'vit_x'.*sam_tiny, vit_b"):
        get_backbone("vit_x")


@torch.no_grad()
def test_levels_are_the_tokens_after_the_first_three_global_blocks(encoder: torch.nn.Module) -> None:
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, number=number: seen.update({number: out}))
        for number, block in enumerate(encoder.blocks)
    ]
    neck = encoder(random_pixels())
    tokens = dict(seen)
    for hook in hooks:
        hook.remove()
    levels, ours = encode_levels(encoder, random_pixels(), MICRO.global_blocks)
    assert [tuple(level.shape) for level in levels] == [(2, 24, 4, 4)] * 3
    for level, number in zip(levels, (0, 2, 3), strict=True):
        torch.testing.assert_close(level, tokens[number].movedim(-1, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, neck, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_encoder_without_position_embedding_is_run_without(encoder: torch.nn.Module) -> None:
    kept, encoder.pos_embed = encoder.pos_embed, None
    try:
        neck = encode_levels(encoder, random_pixels(), MICRO.global_blocks)[1]
        torch.testing.assert_close(neck, encoder(random_pixels()), rtol=1e-4, atol=1e-4)
    finally:
        encoder.pos_embed = kept


def test_preprocessing_is_that_of_segment_anything() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (24, 16)).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    sized = ResizeLongestSide(48).apply_image(rgb)  # Pillow's antialiased bilinear, on integers
    expected = torch.zeros(3, 48, 48)
    scaled = torch.from_numpy(sized).permute(2, 0, 1).float()
    expected[:, :, :32] = (scaled - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[
        :, None, None
    ]
    made = preprocess(torch.from_numpy(grey)[None], 48)[0]
    assert made.shape == (3, 48, 48)
    assert (made[:, :, 32:] == 0).all()
    assert (made - expected).abs().max() < 0.02  # one half of a grey level is 0.009


def test_medsam_sees_each_slice_from_zero_to_one() -> None:
    """MedSAM's public code: longest side aside, (image - min) / (max - min) of the slice, no mean or deviation."""
    assert BACKBONES["medsam"].unit_range and not BACKBONES["vit_b"].unit_range
    assert vars(BACKBONES["medsam"]) == vars(BACKBONES["vit_b"])  # its size is ViT-B's
    slices = torch.randint(
        40, 200, (2, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    made = preprocess(slices, 48, unit_range=True)
    scaled = fit_square(slices[:, None].float(), 48)[..., :32]
    for row in range(2):
        low, high = slices[row].min(), slices[row].max()
        expected = ((scaled[row] - low) / (high - low)).expand(3, -1, -1)
        torch.testing.assert_close(made[row, :, :, :32], expected)
    assert (made[..., 32:] == 0).all()
    assert preprocess(torch.full((1, 8, 8), 7, dtype=torch.uint8), 16, unit_range=True).isfinite().all()
