"""SAM under training is SAM: the same answers as segment-anything's own code, and gradients everywhere."""

import pytest
import torch
from segment_anything.modeling import Sam
from small_model import MICRO

from desam_lite.model.sam import encode_levels
from desam_lite.synthetic.pretraining.promptable_sam import (
    BOTTOM_RIGHT,
    INSIDE,
    NO_POINT,
    OUTSIDE,
    TOP_LEFT,
    PromptableSAM,
)

SIDE = MICRO.image_size


@pytest.fixture(scope="module")
def model() -> PromptableSAM:
    made = PromptableSAM(MICRO, seed=3)
    with torch.no_grad():
        for block in made.image_encoder.blocks:  # zero in a new encoder
            block.attn.rel_pos_h.normal_(std=0.3)
            block.attn.rel_pos_w.normal_(std=0.3)
    return made


def images(side: int = SIDE, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_features_are_those_of_the_frozen_encoder(model: PromptableSAM) -> None:
    embeddings = model.encode_image(images())
    levels, neck = encode_levels(model.image_encoder, images(), MICRO.global_blocks)
    assert torch.allclose(embeddings.neck, neck, atol=1e-5)
    for own, expected in zip(embeddings.levels, levels, strict=True):
        assert torch.allclose(own, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("boxed", [True, False])
def test_masks_are_those_of_segment_anything(model: PromptableSAM, boxed: bool) -> None:
    sam = Sam(model.image_encoder, model.prompt_encoder, model.mask_decoder)
    neck = model.encode_image(images()).neck
    generator = torch.Generator().manual_seed(1)
    clicks = torch.rand(2, 3, 2, 2, generator=generator) * SIDE  # two images, three prompts, two clicks
    labels = torch.tensor([INSIDE, OUTSIDE]).expand(2, 3, 2)
    corners = torch.rand(2, 3, 4, generator=generator) * SIDE
    if boxed:
        points = torch.cat((clicks, corners.unflatten(-1, (2, 2))), 2)
        kinds = torch.cat((labels, torch.tensor([TOP_LEFT, BOTTOM_RIGHT]).expand(2, 3, 2)), 2)
    else:
        points = torch.cat((clicks, torch.zeros(2, 3, 1, 2)), 2)
        kinds = torch.cat((labels, torch.full((2, 3, 1), NO_POINT)), 2)
    logits, iou = model.predict_masks(neck, points, kinds)
    for b in range(2):
        sparse, dense = sam.prompt_encoder((clicks[b], labels[b]), corners[b] if boxed else None, None)
        place = sam.prompt_encoder.get_dense_pe()
        expected, expected_iou = sam.mask_decoder.predict_masks(neck[b : b + 1], place, sparse, dense)
        assert torch.allclose(logits[b], expected, atol=1e-4)
        assert torch.allclose(iou[b], expected_iou, atol=1e-4)


@torch.no_grad()
def test_an_earlier_mask_is_read_as_segment_anything_reads_it(model: PromptableSAM) -> None:
    neck = model.encode_image(images(count=1)).neck
    earlier = torch.randn(1, 1, 4 * MICRO.grid, 4 * MICRO.grid, generator=torch.Generator().manual_seed(2))
    click, label = torch.full((1, 1, 2), 9.0), torch.ones(1, 1, dtype=torch.int64)
    points, kinds = torch.tensor([[[[9.0, 9.0], [0.0, 0.0]]]]), torch.tensor([[[INSIDE, NO_POINT]]])
    logits, _ = model.predict_masks(neck, points, kinds, earlier)
    sparse, dense = model.prompt_encoder((click, label), None, earlier)
    place = model.prompt_encoder.get_dense_pe()
    expected, _ = model.mask_decoder.predict_masks(neck, place, sparse, dense)
    assert torch.allclose(logits[0], expected, atol=1e-4)


def test_smaller_images_give_smaller_maps_and_every_weight_has_a_gradient(model: PromptableSAM) -> None:
    embeddings = model.encode_image(images(SIDE // 2))
    assert embeddings.neck.shape == (2, MICRO.neck, MICRO.grid // 2, MICRO.grid // 2)
    points = torch.rand(2, 3, 4, 2) * SIDE
    kinds = torch.tensor([[INSIDE, OUTSIDE, TOP_LEFT, BOTTOM_RIGHT]]).expand(2, 3, 4)
    masks = torch.randn(2, 3, 2 * MICRO.grid, 2 * MICRO.grid)
    logits, iou = model.predict_masks(embeddings.neck, points, kinds, masks)
    more, _ = model.predict_masks(embeddings.neck, points[:, :, :1], torch.full((2, 3, 1), NO_POINT))
    (logits.square().mean() + iou.square().mean() + more.square().mean()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent
