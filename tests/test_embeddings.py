"""Embeddings are computed once, come back as they were, and a file is either right or not used."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import MICRO, use_micro

from desam_lite.embeddings import EmbeddingStore, Format, fill_store
from desam_lite.errors import StudyError
from desam_lite.model import DeSAM, build_desam
from desam_lite.sam import preprocess
from desam_lite.slices import SliceStore
from desam_lite.tasks import open_task


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


@pytest.fixture(scope="module")
def slices(tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    return open_task(*tiny_task, tmp_path_factory.mktemp("ws"), progress=False).slices


def make_store(
    folder: Path, slices: SliceStore, fmt: Format = "float16", weights: str = "w"
) -> EmbeddingStore:
    return EmbeddingStore(folder, slices, "micro", weights, fmt)


def fill(store: EmbeddingStore, model: DeSAM | None = None) -> EmbeddingStore:
    fill_store(store, model or build_desam("micro"), batch_size=4, progress=False)
    return store


def times(store: EmbeddingStore) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.folder.glob("*.safetensors")}


@pytest.mark.parametrize("fmt", ["float16", "bfloat16", "float32"])
def test_what_is_stored_is_what_the_encoder_gives(fmt: Format, slices: SliceStore, tmp_path: Path) -> None:
    store, model = fill(make_store(tmp_path, slices, fmt)), build_desam("micro")
    stored = store.load("B", "B2")
    images = torch.from_numpy(slices.load("B", "B2").images)
    fresh = model.encode(preprocess(images, MICRO.image_size))
    step = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-5}[fmt]
    for ours, expected in zip((*stored.levels, stored.neck), (*fresh.levels, fresh.neck), strict=True):
        assert ours.dtype == getattr(torch, fmt)
        torch.testing.assert_close(ours.float(), expected, rtol=step, atol=step)


def test_rows_are_those_of_the_whole_case(slices: SliceStore, tmp_path: Path) -> None:
    store = fill(make_store(tmp_path, slices))
    whole, some = store.load("A", "A0"), store.load("A", "A0", [1, 4])
    assert (len(whole), len(some)) == (6, 2)
    for ours, expected in zip((*some.levels, some.neck), (*whole.levels, whole.neck), strict=True):
        assert torch.equal(ours, expected[[1, 4]])


def test_a_filled_store_lacks_nothing_and_is_not_filled_again(slices: SliceStore, tmp_path: Path) -> None:
    store = make_store(tmp_path, slices)
    assert store.missing() == slices.cases()
    before = times(fill(store))
    assert len(before) == 8
    assert store.missing() == []
    assert times(fill(store)) == before


@pytest.mark.parametrize("damage", ["gone", "short", "garbage", "empty", "incomplete"])
def test_a_damaged_file_is_refused_and_then_made_again_alone(
    damage: str, slices: SliceStore, tmp_path: Path
) -> None:
    store = fill(make_store(tmp_path, slices))
    before, path = times(store), store.path("A", "A1")
    sound, whole = load_file(path), path.read_bytes()
    path.unlink()  # what is mapped from the old file stays valid
    if damage == "incomplete":
        save_file({name: sound[name] for name in ("level0", "level1", "level2")}, path)
    elif damage != "gone":
        path.write_bytes({"short": whole[:-100], "garbage": b"\x00" * 500, "empty": b""}[damage])
    with pytest.raises(StudyError, match="embeddings of A/A1 cannot be read"):
        store.load("A", "A1")
    assert store.missing() == [("A", "A1")]
    after = times(fill(store))
    assert {p for p in after if after[p] != before[p]} == {path}
    again = load_file(path)
    assert all(torch.equal(again[name], sound[name]) for name in sound)


def test_other_weights_formats_and_backbones_have_other_files(slices: SliceStore, tmp_path: Path) -> None:
    stores = [
        make_store(tmp_path, slices),
        make_store(tmp_path, slices, weights="other"),
        make_store(tmp_path, slices, "float32"),
        EmbeddingStore(tmp_path, slices, "sam_tiny", "w"),
    ]
    paths = {store.path(*pair) for store in stores for pair in slices.cases()}
    assert len(paths) == 4 * len(slices.cases())
    assert {path.parent for path in paths} == {tmp_path}


def test_features_beyond_the_format_are_refused_and_not_written(slices: SliceStore, tmp_path: Path) -> None:
    model = build_desam("micro")
    torch.nn.init.constant_(model.image_encoder.neck[-1].bias, 1e5)  # float16 ends at 65504
    with pytest.raises(StudyError, match=r"features of A/A0 exceed float16: choose bfloat16 or float32"):
        fill(make_store(tmp_path, slices), model)
    assert times(make_store(tmp_path, slices)) == {}
    wide = fill(make_store(tmp_path, slices, "bfloat16"), model)
    assert wide.load("A", "A0").neck.isfinite().all()
