"""SAM's weights and the published DeSAM's fill a model, or one sentence says which tensor does not fit."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from small_model import (
    MICRO,
    parts_that_differ,
    published_pdmm,
    published_shapes,
    published_tensors,
    random_embeddings,
    random_pixels,
    sam_decoder,
    sam_tensors,
    save_own,
    use_micro,
)

from desam_lite.model.build import build_desam
from desam_lite.model.checkpoints import load_checkpoint, match_published, random_weights
from desam_lite.model.desam import DeSAM
from desam_lite.model.download import PUBLIC, PublicWeights
from desam_lite.model.names import Variant
from desam_lite.model.prompts import Prompts
from desam_lite.model.sam import BACKBONES, BackboneSpec, MedSAMSpec, get_backbone
from desam_lite.model.weights import SHIPPED, read_tensors
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

POINTS = Prompts.points(torch.tensor([[[5.0, 9.0]], [[20.0, 12.0]]]), torch.ones(2, 1))


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def on_meta(tensors: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}


# MedSAM's, in SAM's format


def test_medsams_file_fills_the_backbone_of_its_name_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "medsam", MedSAMSpec(**vars(MICRO)))
    medsam, sam = save(tmp_path / "a.pth", sam_tensors(seed=1)), save(tmp_path / "b.pth", sam_tensors(seed=2))
    for backbone, path in (("medsam", medsam), ("micro", sam)):
        published = PublicWeights(backbone, f"{backbone}.pth", path.stat().st_size, sha256_file(path), "page")
        monkeypatch.setitem(PUBLIC, backbone, published)
    model = build_desam("medsam", checkpoint=medsam)
    assert model.spec.unit_range
    assert torch.equal(model.image_encoder.pos_embed, sam_tensors(seed=1)["image_encoder.pos_embed"])
    with pytest.raises(
        StudyError, match=r"b\.pth' is the published micro\.pth, the run needs medsam: set back"
    ):
        build_desam("medsam", checkpoint=sam)
    with pytest.raises(StudyError, match=r"a\.pth' is the published medsam\.pth, the run needs micro: set b"):
        build_desam("micro", checkpoint=medsam)
    lacks = {name: value for name, value in sam_tensors().items() if "neck.0" not in name}
    with pytest.raises(StudyError, match=r"lacks tensor 'image_encoder\.neck\.0\.weight'.* medsam with"):
        build_desam("medsam", checkpoint=save(tmp_path / "cut.pth", lacks))


# SAM's own checkpoint


@torch.no_grad()
def test_sam_fills_the_encoders_and_is_where_prim_starts(tmp_path: Path) -> None:
    tensors = sam_tensors()
    model = build_desam("micro", checkpoint=save(tmp_path / "sam.pth", tensors))
    assert parts_that_differ(model, build_desam("micro")) == {"image_encoder", "prompt_encoder", "prim"}
    frozen = {
        n: t for n, t in model.state_dict().items() if n.startswith(("image_encoder.", "prompt_encoder."))
    }
    assert all(torch.equal(value, tensors[name]) for name, value in frozen.items())
    image = {
        n.removeprefix("image_encoder."): t for n, t in tensors.items() if n.startswith("image_encoder.")
    }
    encoder = build_desam("micro", seed=9).image_encoder
    encoder.load_state_dict(image)
    torch.testing.assert_close(model.encode(random_pixels()).neck, encoder(random_pixels()))
    decoder = sam_decoder(MICRO).eval()
    decoder.load_state_dict({n[13:]: t for n, t in tensors.items() if n.startswith("mask_decoder.")})
    sparse, dense = model.prompt_encoder(points=(POINTS.xy, POINTS.labels), boxes=None, masks=None)
    neck = random_embeddings().neck
    expected = decoder.predict_masks(neck, model.prompt_encoder.get_dense_pe(), sparse, dense)[1][:, :1]
    torch.testing.assert_close(model.decode(random_embeddings(), POINTS).iou, expected)


def test_with_sam_the_seed_governs_pdmm_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "sam.pth", sam_tensors())
    single, other = (build_desam("micro", checkpoint=path, seed=seed) for seed in (1, 2))
    assert parts_that_differ(single, other) == {"pdmm"}


def test_more_organs_than_sam_has_masks_take_its_four_first(tmp_path: Path) -> None:
    tensors = sam_tensors()
    path = save(tmp_path / "sam.pth", tensors)
    model, fresh = build_desam("micro", n_classes=6, checkpoint=path), build_desam("micro", n_classes=6)
    for kind in ("weight", "bias"):
        name = f"prim.iou_head.layers.2.{kind}"
        row = model.state_dict()[name]
        assert torch.equal(row[:4], tensors[f"mask_decoder.iou_prediction_head.layers.2.{kind}"])
        assert torch.equal(row[4:], fresh.state_dict()[name][4:])


@pytest.mark.parametrize("variant", ["no_iou_head", "no_fusion", "pdmm_only"])
def test_variants_leave_aside_what_they_do_not_have(variant: Variant, tmp_path: Path) -> None:
    path = save(tmp_path / "sam.pth", sam_tensors())
    model = build_desam("micro", variant, checkpoint=path)
    differing = parts_that_differ(model, build_desam("micro", variant))
    assert differing == {"image_encoder", "prompt_encoder"} | ({"prim"} if model.prim is not None else set())


# The published DeSAM


def test_the_shapes_of_these_tests_are_those_of_the_published_state_dict() -> None:
    listing = ROOT.parent / "shared" / "official_state_dict_vit_b.txt"
    if not listing.is_file():
        pytest.skip(f"no listing of the published state dict at {listing}")
    lines = [line.split("\t") for line in listing.read_text().splitlines()]
    published = {name: tuple(map(int, re.findall(r"\d+", shape))) for name, shape in lines}
    assert published_shapes(get_backbone("vit_b")) == published


@pytest.mark.parametrize("backbone", ["vit_b", "vit_l", "vit_h"])
def test_the_published_names_and_shapes_fill_the_whole_decoder_at_full_size(backbone: str) -> None:
    with torch.device("meta"):
        model = DeSAM(backbone)
    plan = match_published(model, Path("desam.pth"), on_meta(published_shapes(get_backbone(backbone))))
    assert plan.keys() == {n for n in model.state_dict() if not n.startswith("image_encoder.")}


@torch.no_grad()
def test_the_published_weights_draw_what_their_description_says(tmp_path: Path) -> None:
    tensors = published_tensors()
    model = build_desam("micro", checkpoint=save(tmp_path / "desam.pth", tensors))
    decoder, updated = sam_decoder(MICRO).eval(), []
    decoder.load_state_dict(
        {n[13:]: t for n, t in tensors.items() if n.startswith("mask_decoder.") and ".pimm." not in n}
    )
    decoder.transformer.register_forward_hook(lambda _m, _i, out: updated.append(out[1]))
    single = random_embeddings()
    sparse, dense = model.prompt_encoder(points=(POINTS.xy, POINTS.labels), boxes=None, masks=None)
    iou = decoder.predict_masks(single.neck, model.prompt_encoder.get_dense_pe(), sparse, dense)[1]
    embedding = updated[0].transpose(1, 2).unflatten(2, (4, 4))
    levels = tuple(level.expand(2, -1, -1, -1) for level in single.levels)
    out = model.decode(single, POINTS)
    torch.testing.assert_close(out.iou, iou[:, :1])
    torch.testing.assert_close(
        out.mask_logits, published_pdmm(tensors, levels, embedding), rtol=1e-3, atol=1e-4
    )
    assert torch.equal(
        model.prompt_encoder.no_mask_embed.weight, tensors["prompt_encoder.no_mask_embed.weight"]
    )


def test_the_published_weights_may_hold_the_image_encoder(tmp_path: Path) -> None:
    without = build_desam("micro", checkpoint=save(tmp_path / "a.pth", published_tensors()))
    whole = build_desam("micro", checkpoint=save(tmp_path / "b.pth", published_tensors(encoder=True)))
    fresh = build_desam("micro")
    assert parts_that_differ(without, fresh) == {"prompt_encoder", "prim", "pdmm"}
    assert parts_that_differ(whole, without) == {"image_encoder"}


def test_where_an_image_encoder_is_needed_a_file_without_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "desam.pth", published_tensors())
    with pytest.raises(StudyError, match=r"lacks tensor 'image_encoder.pos_embed' of shape \(1, 4, 4, 24\)"):
        load_checkpoint(build_desam("micro"), path, encoder=True)


def test_wrapped_and_distributed_published_weights_are_read(tmp_path: Path) -> None:
    tensors = published_tensors()
    wrapped = {"model": {f"module.{name}": value for name, value in tensors.items()}, "epoch": 49}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    plain = build_desam("micro", checkpoint=save(tmp_path / "plain.pth", tensors))
    assert not parts_that_differ(build_desam("micro", checkpoint=tmp_path / "wrapped.pth"), plain)


def test_the_published_weights_serve_a_variant_without_iou_head(tmp_path: Path) -> None:
    path = save(tmp_path / "desam.pth", published_tensors())
    model = build_desam("micro", "no_iou_head", checkpoint=path)
    assert model.prim is not None
    whole = build_desam("micro", checkpoint=path)
    assert torch.equal(
        model.decode(random_embeddings(), POINTS).mask_logits,
        whole.decode(random_embeddings(), POINTS).mask_logits,
    )
    with pytest.raises(StudyError, match=r"mask_embedding_fusion.*variant no_fusion for 1 organ"):
        build_desam("micro", "no_fusion", checkpoint=path)
    with pytest.raises(
        StudyError, match=r"seg_outputs.1.weight' of shape \(1, 16, 1, 1\) where \(3, 16, 1, 1\)"
    ):
        build_desam("micro", n_classes=3, checkpoint=path)


# What does not fit


def test_a_missing_tensor_is_named_as_the_file_would(tmp_path: Path) -> None:
    tensors = sam_tensors()
    del tensors["mask_decoder.iou_prediction_head.layers.1.bias"]
    with pytest.raises(
        StudyError,
        match=r"sam.pth' lacks tensor 'mask_decoder.iou_prediction_head.layers.1.bias' of shape \(256,\)",
    ):
        build_desam("micro", checkpoint=save(tmp_path / "sam.pth", tensors))


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    tensors = {**sam_tensors(), "mask_decoder.hf_token.weight": torch.ones(1, 256)}
    with pytest.raises(
        StudyError, match=r"'mask_decoder.hf_token.weight' of shape \(1, 256\), for which there is no place"
    ):
        build_desam("micro", checkpoint=save(tmp_path / "sam.pth", tensors))


def test_the_first_tensor_of_another_shape_is_named_and_nothing_is_filled(tmp_path: Path) -> None:
    tensors = sam_tensors()
    for name in ("mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight"):
        tensors[name] = torch.ones(3, 7)
    model = build_desam("micro")
    with pytest.raises(
        StudyError,
        match=r"'prompt_encoder.no_mask_embed.weight' of shape \(3, 7\) where \(1, 64\) is expected",
    ):
        load_checkpoint(model, save(tmp_path / "sam.pth", tensors))
    assert not parts_that_differ(model, build_desam("micro"))


@pytest.mark.parametrize("published", [False, True])
def test_weights_of_another_backbone_say_which(
    published: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wider = BackboneSpec(**{**vars(MICRO), "width": 36})
    monkeypatch.setitem(BACKBONES, "micro_wide", wider)
    tensors = published_tensors(wider) if published else sam_tensors(wider)
    path = save(tmp_path / "w.pth", tensors)
    with pytest.raises(
        StudyError, match="that is a micro_wide, the run needs micro: set backbone=micro_wide"
    ) as caught:
        build_desam("micro", checkpoint=path)
    assert re.search(r"tensor '.+' of shape \(.*36.*\) where \(.*24.*\) is expected", str(caught.value))
    build_desam("micro_wide", checkpoint=path)


@pytest.mark.parametrize("backbone", ["vit_b", "vit_h"])
def test_the_encoder_of_sam_vit_l_is_recognised(backbone: str) -> None:
    with torch.device("meta"):
        model, other = DeSAM(backbone, "pdmm_only"), DeSAM("vit_l", "pdmm_only")
    frozen = {n: t for n, t in other.state_dict().items() if not n.startswith("pdmm.")}
    with pytest.raises(StudyError, match=f"that is a vit_l, the run needs {backbone}: set backbone=vit_l"):
        match_published(model, Path("sam.pth"), frozen)
    assert match_published(other, Path("sam.pth"), frozen).keys() == frozen.keys()


def test_tensors_of_something_else_are_named_by_the_first(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"neither SAM's checkpoint nor a DeSAM's: its first tensor is 'conv1.weight'"
    ):
        build_desam("micro", checkpoint=save(tmp_path / "r.pth", {"conv1.weight": torch.ones(2)}))


def test_a_stated_hash_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "sam.pth", sam_tensors())
    build_desam("micro", checkpoint=f"{path}#sha256={sha256_file(path)}")
    with pytest.raises(StudyError, match="not the stated file"):
        build_desam("micro", checkpoint=f"{path}#sha256={'0' * 64}")


def test_checking_on_the_meta_device_fills_nothing(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = DeSAM("micro")
    load_checkpoint(model, save(tmp_path / "sam.pth", sam_tensors()))
    assert all(p.is_meta for p in model.parameters())


# The weights of one of our runs


def save_sam(folder: Path, seed: int = 1) -> Path:
    torch.save(sam_tensors(seed=seed), folder / "sam.pth")
    return folder / "sam.pth"


@pytest.mark.parametrize("variant", ["desam", "no_iou_head", "no_fusion", "pdmm_only"])
def test_a_run_on_random_weights_comes_back_whole(variant: Variant, tmp_path: Path) -> None:
    trained = build_desam("micro", variant, 2, seed=5)
    path = save_own(tmp_path, trained, weights_hash=random_weights("micro"))
    assert not parts_that_differ(build_desam("micro", variant, 2, checkpoint=path), trained)


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_on_sam_comes_back_with_its_frozen_weights(moved: bool, tmp_path: Path) -> None:
    sam = save_sam(tmp_path)
    trained = build_desam("micro", checkpoint=sam, seed=5)
    assert trained.prim is not None
    torch.nn.init.normal_(trained.prim.iou_token.weight)
    stated = f"{sam}#sha256={sha256_file(sam)}"
    path = save_own(tmp_path / "run", trained, stated, sha256_file(sam)[:16])
    if moved:  # to another machine, with the frozen weights beside
        sam.rename(tmp_path / "run" / "sam.pth")
    assert not parts_that_differ(build_desam("micro", checkpoint=path), trained)


def test_frozen_weights_that_are_gone_or_changed_are_asked_for(tmp_path: Path) -> None:
    sam = save_sam(tmp_path)
    path = save_own(tmp_path / "run", build_desam("micro"), str(sam), sha256_file(sam)[:16])
    save_sam(tmp_path, seed=8)
    with pytest.raises(
        StudyError, match=r"trained on the frozen weights '.*sam.pth' \(SHA-256 .*put that file there"
    ):
        build_desam("micro", checkpoint=path)


def test_another_random_encoder_than_that_of_the_run_is_not_used(tmp_path: Path) -> None:
    path = save_own(tmp_path, build_desam("micro"), weights_hash="0" * 16)
    with pytest.raises(StudyError, match="random micro of another version"):
        build_desam("micro", checkpoint=path)


def test_a_card_that_names_its_own_file_ends_in_an_error(tmp_path: Path) -> None:
    path = save_own(tmp_path, build_desam("micro"))
    save_own(tmp_path, build_desam("micro"), str(path), sha256_file(path)[:16])
    with pytest.raises(StudyError, match="names the file itself"):
        build_desam("micro", checkpoint=path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"variant": "no_fusion"},
            "trained with variant no_fusion, the run needs desam: set variant=no_fusion",
        ),
        ({"backbone": "vit_l"}, "trained with backbone vit_l, the run needs micro: set backbone=vit_l"),
    ],
)
def test_our_weights_of_another_kind_say_which(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = save_own(tmp_path, build_desam("micro"), weights_hash=random_weights("micro"), **changes)
    with pytest.raises(StudyError, match=fault):
        build_desam("micro", checkpoint=path)


def test_our_weights_for_another_number_of_organs_are_refused(tmp_path: Path) -> None:
    path = save_own(tmp_path, build_desam("micro", n_classes=2), weights_hash=random_weights("micro"))
    with pytest.raises(
        StudyError, match=r"'model.pdmm.head.weight' of shape \(2, .*where \(3, .*for 3 organ"
    ):
        build_desam("micro", n_classes=3, checkpoint=path)


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        (None, "lacks its card: put 'model.json'"),
        ("{", "card '.*model.json' is damaged"),
        ("[]", "card '.*model.json' is damaged"),
        ('{"run": {}}', "card '.*model.json' is damaged"),
        (
            json.dumps(
                {
                    "run": {
                        "identity": {"settings": {"backbone": None, "variant": None}, "weights": None},
                        "files": {"weights": None},
                    }
                }
            ),
            "is damaged or not of a DeSAM run",
        ),
    ],
)
def test_a_card_that_is_missing_or_damaged_is_named(card: str | None, fault: str, tmp_path: Path) -> None:
    path = save_own(tmp_path, build_desam("micro"))
    (tmp_path / "model.json").unlink()
    if card is not None:
        (tmp_path / "model.json").write_text(card)
    with pytest.raises(StudyError, match=fault):
        build_desam("micro", checkpoint=path)


@pytest.mark.parametrize("on_sam", [False, True])
def test_what_a_run_wrote_predicts_what_the_run_predicted(
    on_sam: bool, tiny_task: tuple[Path, Path], tmp_path: Path
) -> None:
    from desam_lite.data.tasks import open_task
    from desam_lite.methods.desam import DeSAMMethod
    from desam_lite.methods.frozen_encoder import open_embeddings
    from desam_lite.methods.run_spec import make_spec
    from desam_lite.model.predictor import GridSettings
    from desam_lite.study.run import execute_run

    spec = make_spec(
        manifest=tiny_task[0],
        data_root=tiny_task[1],
        source="A",
        method="desam",
        prompt_mode="box",
        backbone="micro",
        weights=str(save_sam(tmp_path)) if on_sam else "random",
        split="70_10_20",
        train_slices="all",
        epochs=2,
        learning_rate=1e-3,
        min_area=1,
    )
    run = execute_run(spec, tmp_path, accelerator="cpu", progress=False)
    model = build_desam("micro", checkpoint=run.directory / "model.safetensors")
    task = open_task(*tiny_task, tmp_path, progress=False)
    store = open_embeddings(spec, task.slices, tmp_path, torch.device("cpu"), progress=False)
    method = DeSAMMethod(model, "box", GridSettings(min_area=1))
    drawn = method.predict(task.slices.load("B", "B0").images, partial(store.load, "B", "B0"))
    again = np.stack([prediction.labels for prediction in drawn])
    assert again.any()
    assert np.array_equal(again, run.prediction("B", "B0"))
    fresh = build_desam("micro", checkpoint=tmp_path / "sam.pth" if on_sam else None)
    assert parts_that_differ(model, fresh) == {"prim", "pdmm"}


# The weights that come with the package


def test_a_model_is_filled_from_the_shipped_weights_by_name() -> None:
    model = build_desam("sam_tiny", checkpoint="shipped")
    tensors = read_tensors(SHIPPED)
    for part in ("image_encoder", "prompt_encoder"):
        for name, value in getattr(model, part).state_dict().items():
            assert torch.equal(value, tensors[f"{part}.{name}"].float()), name
    assert model.prim is not None
    assert torch.equal(model.prim.iou_token.weight.detach(), tensors["mask_decoder.iou_token.weight"].float())
