"""The weights of a run are named by content, checked before anything is written, and give its model and embeddings."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from small_model import parts_that_differ, published_tensors, sam_tensors, use_micro

from desam_lite.data.tasks import open_task
from desam_lite.methods.frozen_encoder import build_model, check_weights, open_embeddings, weights_hash
from desam_lite.methods.run_spec import RunSpec, make_spec
from desam_lite.model.build import build_desam
from desam_lite.model.checkpoints import random_weights
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.model.sam import preprocess
from desam_lite.model.weights import SHIPPED_SHA256
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

Place = tuple[Path, Path]


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


@pytest.fixture
def sam(tmp_path: Path) -> Path:
    torch.save(sam_tensors(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def spec_for(place: Place = (Path("m.yaml"), Path("d")), **fields: Any) -> RunSpec:
    settings = {"method": "desam", "backbone": "micro", "source": "A", **fields}
    return make_spec(manifest=place[0], data_root=place[1], **settings)


class Evil:
    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_weights_are_named_by_their_content(sam: Path) -> None:
    named = weights_hash(spec_for(weights=str(sam)))
    assert named == hashlib.sha256(sam.read_bytes()).hexdigest()[:16]
    assert weights_hash(spec_for(weights=str(sam.rename(sam.with_name("other.pth"))))) == named
    assert weights_hash(spec_for(method="unet")) is None


def test_a_stated_hash_does_not_change_the_name_of_a_run(sam: Path) -> None:
    stated = spec_for(weights=f"{sam}#sha256={sha256_file(sam)}")
    assert weights_hash(stated) == weights_hash(spec_for(weights=str(sam)))
    assert stated.settings() == spec_for(weights=str(sam)).settings()


def test_random_weights_are_named_by_the_sizes_of_their_backbone() -> None:
    assert weights_hash(spec_for()) == random_weights("micro")
    assert weights_hash(spec_for(backbone="sam_tiny")) != random_weights("micro")
    assert weights_hash(spec_for(seed=1)) == random_weights("micro")


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ("gone.pth", "'gone.pth' does not exist"),
        ("x.pth#sha256=1", "64 hexadecimal"),
    ],
)
def test_weights_that_are_not_there_are_named(weights: str, fault: str) -> None:
    with pytest.raises(StudyError, match=fault):
        weights_hash(spec_for(weights=weights))


def test_with_sam_prim_starts_from_its_mask_decoder_and_the_seed_governs_pdmm(sam: Path) -> None:
    one, other = (build_model(spec_for(weights=str(sam), seed=seed), 2) for seed in (1, 2))
    assert parts_that_differ(one, other) == {"pdmm"}
    assert one.prim is not None
    assert torch.equal(one.prim.mask_tokens.weight, sam_tensors()["mask_decoder.mask_tokens.weight"])
    random, drawn = build_model(spec_for(seed=1), 2), build_desam("micro", n_classes=2, seed=1)
    assert not parts_that_differ(random, drawn)
    assert parts_that_differ(one, random) == {"image_encoder", "prompt_encoder", "prim"}


@pytest.mark.parametrize("n_organs", [1, 3])
def test_weights_that_fit_pass_the_check(n_organs: int, sam: Path) -> None:
    check_weights(spec_for(weights=str(sam)), n_organs)
    check_weights(spec_for(), n_organs)
    check_weights(spec_for(method="unet"), n_organs)


def test_the_check_knows_how_many_organs_the_task_has(tmp_path: Path) -> None:
    torch.save(published_tensors(encoder=True), tmp_path / "desam.pth")
    spec = spec_for(weights=str(tmp_path / "desam.pth"))
    check_weights(spec, 1)
    with pytest.raises(StudyError, match="for 2 organ"):
        check_weights(spec, 2)


def test_a_run_needs_an_image_encoder(tmp_path: Path) -> None:
    torch.save(published_tensors(), tmp_path / "desam.pth")
    for refuse in (check_weights, build_model):
        with pytest.raises(StudyError, match="lacks tensor 'image_encoder"):
            refuse(spec_for(weights=str(tmp_path / "desam.pth")), 1)


def test_embeddings_are_those_of_the_weights_named(sam: Path, tiny_task: Place, tmp_path: Path) -> None:
    task, cpu = open_task(*tiny_task, tmp_path, progress=False), torch.device("cpu")
    images = torch.from_numpy(task.slices.load("B", "B0").images)
    folders, desam = set(), tmp_path / "desam.pth"
    torch.save(published_tensors(encoder=True), desam)  # of one organ, as the task
    for path in (None, sam, desam):
        weights, model = str(path or "random"), build_desam("micro", checkpoint=path)
        spec = spec_for(tiny_task, weights=weights, embedding_format="float32")
        store = open_embeddings(spec, task.slices, tmp_path, cpu, progress=False)
        expected = model.encode(preprocess(images, 32)).neck
        torch.testing.assert_close(store.load("B", "B0").neck, expected, rtol=1e-4, atol=1e-5)
        folders.add(store.folder)
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "embeddings"}


def test_whole_embeddings_need_no_model(
    sam: Path, tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, cpu = open_task(*tiny_task, tmp_path, progress=False), torch.device("cpu")
    first = open_embeddings(spec_for(weights=str(sam)), task.slices, tmp_path, cpu, progress=False)
    monkeypatch.setattr("desam_lite.methods.frozen_encoder.build_model", None)
    again = open_embeddings(spec_for(weights=str(sam), seed=4), task.slices, tmp_path, cpu, progress=False)
    assert again.path("A", "A0") == first.path("A", "A0")


@pytest.mark.parametrize("fault", ["hash", "pickle", "shape"])
def test_a_run_on_bad_weights_stops_before_anything_is_written(
    fault: str, tiny_task: Place, tmp_path: Path
) -> None:
    from desam_lite.study.run import execute_run

    tensors, trace = sam_tensors(), tmp_path / "it_ran"
    path = tmp_path / ("sam_vit_b_01ec64.pth" if fault == "hash" else "sam.pth")
    if fault == "shape":
        tensors["mask_decoder.iou_token.weight"] = torch.ones(1, 9)
    torch.save({**tensors, **({"x": Evil(trace)} if fault == "pickle" else {})}, path)
    message = {"hash": "not the published file", "pickle": "could run code", "shape": r"iou_token.*\(1, 9\)"}
    with pytest.raises(StudyError, match=message[fault]) as caught:
        execute_run(
            spec_for(tiny_task, weights=str(path)), tmp_path / "ws", accelerator="cpu", progress=False
        )
    assert path.name in str(caught.value)
    assert not (tmp_path / "ws" / "runs").exists()
    assert not (tmp_path / "ws" / "embeddings").exists()
    assert not trace.exists()


def test_a_run_names_the_shipped_weights_by_its_content() -> None:
    spec = spec_for(backbone="sam_tiny", weights=SHIPPED_WEIGHTS)
    assert weights_hash(spec) == SHIPPED_SHA256[:16] != random_weights("sam_tiny")
    check_weights(spec, 1)
    model, untrained = build_model(spec, 1), build_desam("sam_tiny")
    first = next(iter(untrained.image_encoder.parameters()))
    assert not torch.equal(next(iter(model.image_encoder.parameters())), first)


def test_shipped_weights_are_refused_for_another_backbone() -> None:
    with pytest.raises(StudyError, match="that is a sam_tiny, the run needs vit_b"):
        check_weights(spec_for(backbone="vit_b", weights=SHIPPED_WEIGHTS), 1)
