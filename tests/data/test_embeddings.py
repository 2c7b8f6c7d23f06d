"""Embeddings are computed once, come back as they were, and a file is either right or not used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_model import MICRO, use_micro

from desam_lite.data import embeddings
from desam_lite.data.embedding_files import MAPS, Format, as_stored
from desam_lite.data.embeddings import EmbeddingStore, encode_on_demand, fill_store
from desam_lite.data.slices import SliceStore
from desam_lite.data.tasks import open_task
from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import preprocess
from desam_lite.utils.errors import StudyError


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
    return {path: path.stat().st_mtime_ns for path in store.folder.glob("[!.]*.safetensors")}


def maps_of(found: ImageEmbeddings) -> tuple[torch.Tensor, ...]:
    return (*found.levels, found.neck)


def equal(first: ImageEmbeddings, second: ImageEmbeddings) -> bool:
    return all(torch.equal(a, b) for a, b in zip(maps_of(first), maps_of(second), strict=True))


STEPS: dict[Format, float] = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3, "float8": 2**-4}


@pytest.mark.parametrize("fmt", STEPS)
def test_what_is_stored_is_what_the_encoder_gives(fmt: Format, slices: SliceStore, tmp_path: Path) -> None:
    store, model = fill(make_store(tmp_path, slices, fmt)), build_desam("micro")
    stored = store.load("B", "B2")
    images = slices.load("B", "B2").images
    fresh = model.encode(preprocess(torch.from_numpy(images), MICRO.image_size))
    for ours, expected in zip(maps_of(stored), maps_of(fresh), strict=True):
        assert ours.dtype == (torch.bfloat16 if fmt == "float8" else getattr(torch, fmt))
        smallest = expected.abs().amax() * 2**-15  # float8 has no finer step beside its largest value
        torch.testing.assert_close(
            ours.float(), expected, rtol=STEPS[fmt], atol=max(STEPS[fmt] ** 2, smallest)
        )
    computed = encode_on_demand(model, images, fmt)(range(2, 5))
    assert equal(
        computed, store.load("B", "B2", [2, 3, 4])
    )  # a new scan gives what a store of the format gives


@pytest.mark.parametrize("fmt", ["bfloat16", "float8", "float32"])
def test_where_products_are_reduced_maps_stay_close_and_float32_stays_exact(
    fmt: Format, slices: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(make_store(tmp_path / "exact", slices, fmt)).load("A", "A1")
    monkeypatch.setattr(embeddings, "_REDUCED_ON", ("cpu",))
    reduced = fill(make_store(tmp_path / "reduced", slices, fmt)).load("A", "A1")
    distance = (reduced.neck.float() - expected.neck.float()).norm() / expected.neck.float().norm()
    assert distance < (6e-2 if fmt == "float8" else 2e-2)  # float8 has steps of 6 %
    assert equal(reduced, expected) == (fmt == "float32")


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(-25, 28), seed=st.integers(0, 999))
def test_float8_is_as_close_at_any_size_of_the_numbers(exponent: int, seed: int) -> None:
    """Its nearest number is a sixteenth away at most, down to 2**-15 of the largest; stored again it is the same."""
    values = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    values[0] *= 1e3  # slices of one batch do not share a scale
    maps = ImageEmbeddings((values, -values, values * 0), values**3)
    found = as_stored(maps, "float8")
    for ours, expected in zip(maps_of(found), maps_of(maps), strict=True):
        floor = expected.abs().amax((1, 2, 3), keepdim=True) * 2.0**-15
        assert ((ours.float() - expected).abs() <= torch.maximum(expected.abs() / 16, floor)).all()
    assert equal(as_stored(found, "float8"), found)


@pytest.mark.parametrize(
    ("fmt", "share"), [("float32", 1), ("float16", 1 / 2), ("bfloat16", 1 / 2), ("float8", 1 / 4)]
)
def test_a_file_takes_its_share_of_the_bytes_of_float32(
    fmt: Format, share: float, slices: SliceStore, tmp_path: Path
) -> None:
    store = fill(make_store(tmp_path, slices, fmt))
    values = sum(m.numel() for m in maps_of(store.load("A", "A0")))
    scales, header = 6 * 4 * 4, 1024
    assert 0 <= store.path("A", "A0").stat().st_size - 4 * values * share <= scales + header


def test_rows_are_those_of_the_whole_case(slices: SliceStore, tmp_path: Path) -> None:
    store = fill(make_store(tmp_path, slices))
    whole, some = store.load("A", "A0"), store.load("A", "A0", [1, 4])
    assert (len(whole), len(some)) == (6, 2)
    assert equal(some, whole[torch.tensor([1, 4])])


def test_slices_of_several_cases_come_in_the_order_asked_for(slices: SliceStore, tmp_path: Path) -> None:
    store = fill(make_store(tmp_path, slices, "bfloat16"))
    wanted = [("B", "B1", 5), ("A", "A0", 2), ("B", "B1", 0), ("A", "A0", 2)]
    alone = ImageEmbeddings.stack([store.load(domain, case, [row]) for domain, case, row in wanted])
    assert equal(store.load_slices(wanted), alone)


def test_a_filled_store_lacks_nothing_and_is_not_filled_again(slices: SliceStore, tmp_path: Path) -> None:
    store = make_store(tmp_path, slices)
    assert store.missing() == slices.cases()
    before = times(fill(store))
    assert len(before) == 8
    assert store.missing() == []
    assert times(fill(store)) == before


def rename_field(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"neck"', b'"nick"', 1))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "zeros": lambda path: path.write_bytes(b"\0" * 500),
    "empty": lambda path: path.write_bytes(b""),
    "another tensor": lambda path: save_file({"weight": torch.zeros(3)}, path),
    "an array of the old format": lambda path: np.lib.format.write_array(path.open("wb"), np.zeros(3)),
    "another number format": lambda path: save_file(
        {name: torch.zeros(6, 2, 4, 4) for name in MAPS}, path, {"key": path.stem}
    ),
    "another field": rename_field,
    "of another case": lambda path: shutil.copy(
        next(p for p in path.parent.glob("*.safetensors") if p != path), path
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_then_made_again_alone(
    damage: str, slices: SliceStore, tmp_path: Path
) -> None:
    store = fill(make_store(tmp_path, slices))
    before, path = times(store), store.path("A", "A1")
    sound = store.load("A", "A1")
    kept = path.with_suffix(".kept")
    shutil.copy(path, kept)  # the broken file is another one: what is mapped from the sound one stays valid
    kept.replace(path)
    DAMAGE[damage](path)
    with pytest.raises(StudyError, match=r"embeddings of A/A1 cannot be read \(.+\): start the run again"):
        store.load("A", "A1")
    assert store.missing() == [("A", "A1")]
    after = times(fill(store))
    assert {p for p in after if after[p] != before[p]} == {path}
    assert equal(store.load("A", "A1"), sound)


def test_a_store_of_the_old_format_is_not_there_and_is_left_alone(slices: SliceStore, tmp_path: Path) -> None:
    store = make_store(tmp_path, slices)
    old = store.path("A", "A0").with_suffix(".npy")
    np.save(old, np.zeros(6))
    assert store.missing() == slices.cases()
    fill(store)
    assert store.missing() == [] and old.exists()


def test_a_killed_process_leaves_whole_cases_and_nothing_half(
    slices: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the kill: the third case stops in its second batch, its half file stays as it would."""
    store, model, encoded = make_store(tmp_path, slices), build_desam("micro"), []
    original = embeddings._encode

    def stop(model: DeSAM, images: torch.Tensor, fmt: Format, of: str) -> ImageEmbeddings:
        encoded.append(of)
        if len(encoded) == 6:
            (tmp_path / ".half-x.tmp.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        return original(model, images, fmt, of)

    monkeypatch.setattr(embeddings, "_encode", stop)
    with pytest.raises(KeyboardInterrupt):
        fill(store, model)
    before = times(store)
    assert len(before) == 2 and store.missing() == slices.cases()[2:]
    after = times(fill(store, model))
    assert encoded[6:] == [f"{d}/{c}" for d, c in slices.cases()[2:] for _ in range(2)]
    assert before.items() <= after.items() and len(after) == 8
    assert sorted(path.suffix for path in tmp_path.iterdir()) == sorted([".safetensors"] * 8 + [""])


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
