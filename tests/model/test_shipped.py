"""The weights that come with the package: what their card says, read like SAM's, and better than no training."""

import json
from pathlib import Path

import pytest
import torch

from desam_lite.methods.frozen_encoder import build_model, check_weights, weights_hash
from desam_lite.methods.run_spec import make_spec
from desam_lite.model.build import build_desam
from desam_lite.model.checkpoints import random_weights
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.model.sam import get_backbone
from desam_lite.model.shipped import SHIPPED, SHIPPED_SHA256, shipped_card
from desam_lite.model.weights import find_weights, read_tensors
from desam_lite.synthetic.pretraining.loop import Pretraining
from desam_lite.synthetic.pretraining.probe import probe
from desam_lite.synthetic.pretraining.promptable_sam import PromptableSAM
from desam_lite.synthetic.pretraining.recipe import Recipe
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

WHERE = {"manifest": Path("m.yaml"), "data_root": Path("d"), "source": "A", "method": "desam"}
MOST_BYTES = 25_000_000


def test_the_file_is_the_one_that_code_and_card_name() -> None:
    assert sha256_file(SHIPPED) == SHIPPED_SHA256 == shipped_card()["sha256"]
    assert find_weights(SHIPPED_WEIGHTS) == SHIPPED
    assert SHIPPED.stat().st_size < MOST_BYTES


def test_another_file_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / SHIPPED.name
    other.write_bytes(SHIPPED.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr("desam_lite.model.weights.SHIPPED", other)
    with pytest.raises(StudyError, match=rf"{SHIPPED.name}' has SHA-256"):
        build_desam("sam_tiny", checkpoint="shipped")


def test_it_holds_every_tensor_of_sam_in_half_precision() -> None:
    tensors = read_tensors(SHIPPED)
    own = PromptableSAM(get_backbone("sam_tiny")).state_dict()
    assert {name: value.shape for name, value in tensors.items()} == {n: v.shape for n, v in own.items()}
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in tensors.values())


def test_card_tells_recipe_data_limits_and_licence() -> None:
    card = shipped_card()
    assert card["sizes"] == json.loads(json.dumps(vars(get_backbone("sam_tiny"))))
    assert card["pictures"] > 0
    assert card["curve"][-1]["step"] == card["steps"]
    assert card["licence"] == "MIT"
    assert all(card[key] for key in ("recipe", "data", "limits", "device", "probe"))


def test_a_model_is_filled_from_it_by_name() -> None:
    model = build_desam("sam_tiny", checkpoint="shipped")
    tensors = read_tensors(SHIPPED)
    for part in ("image_encoder", "prompt_encoder"):
        for name, value in getattr(model, part).state_dict().items():
            assert torch.equal(value, tensors[f"{part}.{name}"].float()), name
    assert model.prim is not None
    assert torch.equal(model.prim.iou_token.weight.detach(), tensors["mask_decoder.iou_token.weight"].float())


def test_a_run_names_it_by_its_content() -> None:
    spec = make_spec(**WHERE, weights=SHIPPED_WEIGHTS)
    assert weights_hash(spec) == SHIPPED_SHA256[:16] != random_weights("sam_tiny")
    check_weights(spec, 1)
    model, untrained = build_model(spec, 1), build_desam("sam_tiny")
    first = next(iter(untrained.image_encoder.parameters()))
    assert not torch.equal(next(iter(model.image_encoder.parameters())), first)


def test_another_backbone_is_refused_with_the_one_it_fits() -> None:
    with pytest.raises(StudyError, match="that is a sam_tiny, the run asks for vit_b"):
        check_weights(make_spec(**WHERE, backbone="vit_b", weights=SHIPPED_WEIGHTS), 1)


def test_it_answers_on_held_out_scenes_better_than_no_training_and_a_filled_box() -> None:
    run = Pretraining(Recipe(), torch.device("cpu"))
    settings = {"batches": 2, "clicks": 3}
    untrained = probe(run.model.eval(), 256, **settings)
    run.begin_with("shipped")
    shipped = probe(run.model.eval(), 256, **settings)
    assert shipped["box"] > max(untrained["box"] + 0.4, shipped["filled_box"])
    assert shipped["best_of_three"] > untrained["best_of_three"] + 0.25
    assert shipped["contrast"] > untrained["contrast"]


def test_its_parts_without_use_in_desam_need_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    build_desam("sam_tiny", checkpoint="shipped")
    assert "left aside" not in capfd.readouterr().err
