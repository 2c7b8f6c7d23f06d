"""The weights of one of our runs come back as they were, on the frozen weights that their card names."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_model import parts_that_differ, sam_tensors, save_own, use_micro

from desam_lite.model.build import build_desam
from desam_lite.model.checkpoints import random_weights
from desam_lite.model.names import Variant
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


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
            "trained with variant no_fusion, the run asks for desam: set variant=no_fusion",
        ),
        ({"backbone": "vit_l"}, "trained with backbone vit_l, the run asks for micro: set backbone=vit_l"),
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
            "does not name backbone",
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
    again = np.stack([found.labels for found in drawn])
    assert again.any()
    assert np.array_equal(again, run.prediction("B", "B0"))
    fresh = build_desam("micro", checkpoint=tmp_path / "sam.pth" if on_sam else None)
    assert parts_that_differ(model, fresh) == {"prim", "pdmm"}
