"""SAM with its own decoder: it predicts what segment-anything's does, and is filled from SAM's own files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from small_model import MICRO, published_tensors, random_embeddings, sam_tensors, use_micro

from desam_lite.model.checkpoints import load_checkpoint
from desam_lite.model.prompted_sam import FROZEN_SEED
from desam_lite.model.prompts import Prompts
from desam_lite.model.sam import SAM_MASKS
from desam_lite.model.sam_decoder import SAM
from desam_lite.utils.errors import StudyError

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def varied(n_classes: int = 1, seed: int = 0) -> SAM:
    """A model in which no bias and no norm is at its first value."""
    model, generator = SAM("micro", n_classes, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.mask_decoder.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def some_prompts(kind: str) -> Prompts:
    generator = torch.Generator().manual_seed(2)
    if kind == "points":
        return Prompts.points(32 * torch.rand(3, 2, 2, generator=generator), torch.tensor([[1, 0]] * 3))
    if kind == "boxes":
        return Prompts.box(torch.tensor([[1.0, 2, 20, 30], [4, 4, 9, 9], [0, 0, 31, 12]]))
    return Prompts.whole_image(3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["points", "boxes", "whole"])
@pytest.mark.parametrize("slices", [1, 3])
def test_masks_and_iou_are_those_of_segment_anything(kind: str, slices: int) -> None:
    model, emb, prompts = varied(), random_embeddings(slices), some_prompts(kind)
    ours = model.decode(emb, prompts, n_masks=SAM_MASKS)
    assert ours.iou is not None
    box = torch.tensor([[0.0, 0, 32, 32]] * 3) if kind == "whole" else prompts.xyxy
    points = None if prompts.xy is None else (prompts.xy, prompts.labels)
    sparse, dense = model.prompt_encoder(points=points, boxes=box, masks=None)
    for number in range(3):
        row = slice(number, number + 1)
        neck = emb.neck[row] if slices == 3 else emb.neck
        position = model.prompt_encoder.get_dense_pe()
        many, few = (
            model.mask_decoder(neck, position, sparse[row], dense[row], multimask_output=several)
            for several in (True, False)
        )
        for place, theirs in enumerate((torch.cat([few[0], many[0]], 1), torch.cat([few[1], many[1]], 1))):
            torch.testing.assert_close(ours[place][row], theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [1, 3, 6])
def test_an_organ_is_a_mask_token_of_its_own(n_classes: int) -> None:
    model, emb, prompts = varied(n_classes), random_embeddings(), some_prompts("points")
    before = model.decode(emb, prompts)
    assert before.mask_logits.shape == (3, n_classes, 16, 16)
    assert before.iou is not None and before.iou.shape == (3, n_classes)
    torch.testing.assert_close(model.score_prompts(emb, prompts), before.iou, rtol=1e-4, atol=1e-5)
    last = n_classes - 1
    model.mask_decoder.output_hypernetworks_mlps[last].layers[-1].weight.mul_(2)
    changed = (model.decode(emb, prompts).mask_logits != before.mask_logits).flatten(2).any(2).any(0)
    assert changed.tolist() == [k == last for k in range(n_classes)]


def test_a_seed_names_the_decoder_and_never_the_encoders() -> None:
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    first, again, other = (SAM("micro", seed=seed).state_dict() for seed in (3, 3, 5))
    assert torch.equal(torch.rand(2), expected)
    differ = {name.split(".")[0] for name in first if not torch.equal(first[name], other[name])}
    assert differ == {"mask_decoder"}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert FROZEN_SEED == 0


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
def test_at_sams_sizes_the_tensors_are_sams(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = SAM(name).state_dict(), sam_model_registry[name]().state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


# From files


def save(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path)
    return path


def test_a_checkpoint_of_sam_fills_everything(tmp_path: Path) -> None:
    tensors, model = sam_tensors(), SAM("micro", 2)
    load_checkpoint(model, save(tmp_path / "sam.pth", tensors))
    own = model.state_dict()
    assert own.keys() == tensors.keys()
    assert all(torch.equal(own[name], tensors[name]) for name in own)


def test_organs_beyond_sams_masks_start_at_random(tmp_path: Path) -> None:
    tensors, model = sam_tensors(), SAM("micro", 6, seed=3)
    fresh = {name: t.clone() for name, t in model.state_dict().items()}
    load_checkpoint(model, save(tmp_path / "sam.pth", tensors))
    own = model.state_dict()
    tokens = own["mask_decoder.mask_tokens.weight"]
    assert torch.equal(tokens[:4], tensors["mask_decoder.mask_tokens.weight"])
    assert torch.equal(tokens[4:], fresh["mask_decoder.mask_tokens.weight"][4:])
    name = "mask_decoder.output_hypernetworks_mlps.{}.layers.0.weight"
    assert torch.equal(own[name.format(3)], tensors[name.format(3)])
    assert torch.equal(own[name.format(5)], fresh[name.format(5)])


def _without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_without("mask_decoder"), "lacks tensor 'mask_decoder.*SAM's mask decoder for 1 organ"),
        (_without("image_encoder.neck.0"), "lacks tensor 'image_encoder.neck.0.weight'"),
        (lambda t: {**t, "image_encoder.more": torch.ones(2)}, "'image_encoder.more'.* there is no place"),
        (lambda _: published_tensors(MICRO, encoder=True), "mask_decoder.pimm.* there is no place"),
        (
            lambda t: {**t, "prompt_encoder.no_mask_embed.weight": torch.ones(1, 3)},
            r"\(1, 3\) where \(1, 64\)",
        ),
    ],
)
def test_what_is_not_sam_is_refused_before_anything_is_filled(
    change: Callable[[Tensors], Tensors], fault: str, tmp_path: Path
) -> None:
    path, model = save(tmp_path / "sam.pth", change(sam_tensors())), SAM("micro")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(StudyError, match=fault):
        load_checkpoint(model, path)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_safetensors_are_read_as_well(tmp_path: Path) -> None:
    save_file(sam_tensors(), tmp_path / "sam.safetensors")
    model = SAM("micro")
    load_checkpoint(model, tmp_path / "sam.safetensors")
    assert torch.equal(
        model.state_dict()["mask_decoder.iou_token.weight"], sam_tensors()["mask_decoder.iou_token.weight"]
    )
