"""The whole model: what is frozen, what each variant has, what prompts are, and how batches go together."""

from typing import get_args

import pytest
import torch
from small_model import MICRO, random_embeddings, random_pixels, use_micro

from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import Variant
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.training.losses import mask_loss

VARIANTS = get_args(Variant)


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def points(count: int = 3, seed: int = 0) -> Prompts:
    xy = torch.rand(count, 1, 2, generator=torch.Generator().manual_seed(seed)) * MICRO.image_size
    return Prompts.points(xy, torch.ones(count, 1))


def test_a_new_model_evaluates_and_training_leaves_the_encoders_so() -> None:
    model = build_desam("micro")
    assert not any(module.training for module in model.modules())
    model.train()
    assert model.prim is not None
    assert model.prim.training
    assert model.pdmm.training
    frozen = (*model.image_encoder.modules(), *model.prompt_encoder.modules())
    assert not any(module.training for module in frozen)


def test_only_the_decoder_is_trainable() -> None:
    model = build_desam("micro")
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"prim", "pdmm"}


def test_encoding_gives_four_maps_without_gradient_and_slice_by_slice() -> None:
    model, pixels = build_desam("micro"), random_pixels(3)
    both = model.encode(pixels)
    assert [tuple(m.shape) for m in both.levels] == [(3, 24, 4, 4)] * 3
    assert both.neck.shape == (3, 64, 4, 4)
    assert not both.neck.requires_grad
    for row in range(3):
        torch.testing.assert_close(model.encode(pixels[row : row + 1]).neck, both.neck[row : row + 1])


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 24)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"micro takes pixels \(B, 3, 32, 32\)"):
        build_desam("micro").encode(torch.zeros(shape))


def test_the_seed_names_the_decoder_and_not_the_encoder() -> None:
    first, again, other = (build_desam("micro", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], other[name])}
    assert changed == {"prim", "pdmm"}


@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_decodes_masks_and_iou_as_it_should(variant: Variant, n_classes: int) -> None:
    model = build_desam("micro", variant, n_classes)
    with torch.no_grad():
        out = model.decode(random_embeddings(), points(5))
    assert out.mask_logits.shape == (5, n_classes, 16, 16)
    assert (out.iou is not None) == model.predicts_iou == (variant in ("desam", "no_fusion"))
    assert out.iou is None or out.iou.shape == (5, n_classes)
    prompt_matters = not torch.allclose(out.mask_logits[0], out.mask_logits[1], atol=1e-4)
    assert prompt_matters == (variant in ("desam", "no_iou_head"))


def test_parts_that_a_variant_does_not_use_do_not_exist() -> None:
    names = {v: {n for n, p in DeSAM("micro", v).named_parameters() if p.requires_grad} for v in VARIANTS}
    assert not any(name.startswith("prim.") for name in names["pdmm_only"])
    assert not any("iou_head" in name for name in names["no_iou_head"])
    assert {"prim.iou_head.layers.0.weight"} <= names["desam"] & names["no_fusion"]
    width = {v: DeSAM("micro", v).pdmm.fusion.conv1.in_channels for v in VARIANTS}
    assert width == {"desam": 48 + 64, "no_iou_head": 48 + 64, "no_fusion": 48, "pdmm_only": 48}


@pytest.mark.parametrize("variant", VARIANTS)
def test_mask_and_iou_loss_reach_every_trainable_weight(variant: Variant) -> None:
    model = build_desam("micro", variant, 2).train()
    out = model.decode(random_embeddings(2), points(2))
    loss = mask_loss(out.mask_logits, (torch.rand(out.mask_logits.shape) > 0.5).float())
    if out.iou is not None:
        loss = loss + (out.iou - 0.3).abs().mean()
    loss.backward()
    untouched = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    # The last attention updates tokens only, which nothing reads without an IoU head.
    last = {name for name in untouched if "final_attn" in name}
    assert (len(last) > 0) == (variant == "no_iou_head")
    # But for rounding, two kinds have no gradient: a bias of keys shifts all scores of a softmax alike, and the published
    # squeeze-and-excitation sees the mean of a normalised map, which is zero.
    silent = ("k_proj.bias", "squeeze.weight", "excite.weight")
    assert not [name for name in untouched - last if not name.endswith(silent)]
    assert not any(p.grad is not None for n, p in model.named_parameters() if not p.requires_grad)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_slice_with_many_prompts_is_that_slice_repeated(variant: Variant) -> None:
    model, single = build_desam("micro", variant), random_embeddings()
    repeated = ImageEmbeddings.stack([single] * 3)
    shared, each = model.decode(single, points()), model.decode(repeated, points())
    torch.testing.assert_close(shared.mask_logits, each.mask_logits, rtol=1e-4, atol=1e-4)
    if shared.iou is not None:
        torch.testing.assert_close(shared.iou, each.iou)


@torch.no_grad()
def test_a_context_at_hand_changes_nothing() -> None:
    model, single = build_desam("micro"), random_embeddings()
    context = model.read_context(single)
    assert torch.equal(
        model.decode(single, points(), context=context).mask_logits,
        model.decode(single, points()).mask_logits,
    )


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts need 1 or 3 slices, not 2"):
        build_desam("micro").decode(random_embeddings(2), points(3))


@torch.no_grad()
def test_scores_without_masks_are_those_with_masks() -> None:
    model = build_desam("micro", n_classes=3)
    expected = model.decode(random_embeddings(), points()).iou
    scores = model.score_prompts(random_embeddings(), points())
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_prompts_are_scored_on_one_slice() -> None:
    with pytest.raises(ValueError, match="scored on one slice, not on 3: use decode"):
        build_desam("micro").score_prompts(random_embeddings(3), points())


@pytest.mark.parametrize("variant", ["no_iou_head", "pdmm_only"])
def test_a_variant_without_iou_head_cannot_score(variant: Variant) -> None:
    with pytest.raises(ValueError, match=f"variant {variant} .*has no IoU head"):
        build_desam("micro", variant).score_prompts(random_embeddings(), points())


@torch.no_grad()
def test_the_whole_image_is_the_box_around_it() -> None:
    model, single = build_desam("micro"), random_embeddings()
    box = Prompts.box(torch.tensor([[0, 0, 32, 32]]).expand(2, -1))
    whole = model.decode(single, Prompts.whole_image(2))
    assert torch.equal(model.decode(single, box).mask_logits, whole.mask_logits)
    smaller = model.decode(single, Prompts.box(torch.tensor([[4.0, 4.0, 20.0, 20.0]])))
    assert not torch.allclose(smaller.mask_logits, whole.mask_logits[:1], atol=1e-4)


def test_a_label_says_inside_or_outside() -> None:
    model, single = build_desam("micro"), random_embeddings()
    xy = torch.full((1, 1, 2), 10.0)
    inside, outside = (model.score_prompts(single, Prompts.points(xy, torch.full((1, 1), v))) for v in (1, 0))
    assert not torch.allclose(inside, outside, atol=1e-5)


def test_sizes_are_those_of_the_backbone() -> None:
    model = build_desam("micro")
    assert (model.image_size, model.embedding_size) == (32, 4)
