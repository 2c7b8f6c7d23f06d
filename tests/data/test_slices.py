import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_task import image_data, label_data, save, write_manifest, write_task

from desam_lite.data.index import build_index
from desam_lite.data.manifest import Intensity, load_manifest
from desam_lite.data.slices import SliceStore, prepare_intensity, prepare_slices, select_slices, split_cases
from desam_lite.utils.errors import StudyError


def prepare(manifest: Path, root: Path, cache: Path) -> SliceStore:
    task = load_manifest(manifest)
    return prepare_slices(task, root, build_index(task, root, progress=False), cache, progress=False)


def states(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_prepared_case_is_in_the_frame_of_the_slices(tmp_path: Path) -> None:
    case = prepare(*write_task(tmp_path), tmp_path / "slices").load("A", "Case00")
    assert case.images.shape == case.labels.shape == (6, 10, 12)
    assert case.images.dtype == case.labels.dtype == np.uint8
    assert np.array_equal(case.labels, label_data().transpose(2, 1, 0))
    assert (case.images.min(), case.images.max()) == (0, 255)
    assert case.spacing == (3.0, 1.0, 1.0) and (case.task, case.domain, case.case) == ("tiny", "A", "Case00")


def test_store_lists_cases_and_patients_by_domain(tmp_path: Path) -> None:
    store = prepare(*write_task(tmp_path), tmp_path / "slices")
    assert store.cases() == [("A", "Case00"), ("A", "Case01"), ("B", "Case00"), ("B", "Case01")]
    assert store.cases("B") == [("B", "Case00"), ("B", "Case01")]
    assert store.patients("B") == {"Case00": "Case00", "Case01": "Case01"}
    assert len({store.key(*pair) for pair in store.cases()}) == 4


def test_unknown_case_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="task 'tiny' has no case A/Case77"):
        prepare(*write_task(tmp_path), tmp_path / "slices").load("A", "Case77")


def test_whole_files_are_not_made_again(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    prepare(manifest, root, tmp_path / "slices")
    before = states(tmp_path / "slices")
    prepare(manifest, root, tmp_path / "slices")
    assert states(tmp_path / "slices") == before and len(before) == 4


def damage_end(content: bytes) -> bytes:
    return content[:-10]


def damage_voxel(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def damage_header(content: bytes) -> bytes:
    return b"\xff" * 16 + content[16:]


def drop_checksum(content: bytes) -> bytes:
    return content.replace(b"crc32", b"other")


def empty(_content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [damage_end, damage_voxel, damage_header, drop_checksum, empty])
def test_damaged_file_is_refused_and_then_made_again_alone(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    manifest, root = write_task(tmp_path)
    store = prepare(manifest, root, tmp_path / "slices")
    path, others = store.path("A", "Case01"), states(tmp_path / "slices")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(StudyError, match=r"prepared slices .*A/Case01 are missing or damaged: run again"):
        store.load("A", "Case01")
    prepare(manifest, root, tmp_path / "slices")
    assert path.read_bytes() == whole
    after = states(tmp_path / "slices")
    assert [name for name in after if after[name] != others[name]] == [path.name]


def test_changed_scan_is_never_served_from_the_cache(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    before = prepare(manifest, root, tmp_path / "slices")
    save(root / "A" / "Case00.nii.gz", image_data(seed=99))
    after = prepare(manifest, root, tmp_path / "slices")
    assert before.key("A", "Case00") != after.key("A", "Case00")
    assert before.key("A", "Case01") == after.key("A", "Case01")
    assert not np.array_equal(before.load("A", "Case00").images, after.load("A", "Case00").images)


def test_scan_that_changes_between_index_and_preparation_is_refused(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    task = load_manifest(manifest)
    index = build_index(task, root, progress=False)
    save(root / "A" / "Case00.nii.gz", image_data(seed=99))
    with pytest.raises(StudyError, match=r"Case00.nii.gz has changed since it was indexed"):
        prepare_slices(task, root, index, tmp_path / "slices", progress=False)


def test_preparation_of_one_domain_leaves_the_others_cached(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    before = prepare(manifest, root, tmp_path / "slices")
    window = {"title": "A", "intensity": {"window": [0, 500]}}
    write_manifest(manifest, domains={"A": window, "B": {"title": "B"}})
    after = prepare(manifest, root, tmp_path / "slices")
    assert before.key("A", "Case00") != after.key("A", "Case00")
    assert before.key("B", "Case00") == after.key("B", "Case00")


def test_faults_stop_preparation_before_anything_is_written(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (root / "B" / "Case01.nii.gz").write_bytes(b"no scan")
    with pytest.raises(StudyError, match="B/Case01"):
        prepare(manifest, root, tmp_path / "slices")
    assert not (tmp_path / "slices").exists()


def test_crc_of_a_cached_file_is_that_of_its_pixels(tmp_path: Path) -> None:
    store = prepare(*write_task(tmp_path), tmp_path / "slices")
    case = store.load("A", "Case00")
    assert str(zlib.crc32(case.images.tobytes())).encode() in store.path("A", "Case00").read_bytes()


def test_window_maps_its_ends_to_black_and_white() -> None:
    image = np.array([-3000, -125, 75, 275, 3000], np.float32).reshape(1, 1, 5)
    assert prepare_intensity(image, Intensity(window=(-125, 275))).ravel().tolist() == [0, 0, 128, 255, 255]


def test_percentiles_ignore_a_few_extreme_voxels() -> None:
    image = np.linspace(0, 100, 10_000, dtype=np.float32).reshape(1, 100, 100)
    plain = prepare_intensity(image, Intensity(percentiles=(0.5, 99.5)))
    image[0, 0, 0], image[0, -1, -1] = -1e9, 1e9
    spiked = prepare_intensity(image, Intensity(percentiles=(0.5, 99.5)))
    assert np.array_equal(plain, spiked)


def test_mostly_empty_volume_still_shows_its_content() -> None:
    image = np.zeros((1, 100, 100), np.float32)
    image[0, 50, 50:53] = [1, 2, 4]
    prepared = prepare_intensity(image, Intensity(percentiles=(0.5, 99.5)))
    assert prepared[0, 50, 50:53].tolist() == [64, 128, 255]


@given(st.floats(0.01, 1e4), st.floats(-1e4, 1e4), st.integers(0, 1000))
def test_percentiles_do_not_see_scale_and_offset(scale: float, offset: float, seed: int) -> None:
    image = np.random.default_rng(seed).uniform(0, 100, (2, 8, 8)).astype(np.float64)
    intensity = Intensity(percentiles=(0.5, 99.5))
    first, second = prepare_intensity(image, intensity), prepare_intensity(image * scale + offset, intensity)
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


def planes(*foreground: int, count: int = 8) -> np.ndarray:
    labels = np.zeros((count, 3, 3), np.uint8)
    labels[list(foreground), 1, 1] = 2
    return labels


def test_slice_rules() -> None:
    labels = planes(2, 3, 4, 6)
    assert select_slices(labels, "all") == list(range(8))
    assert select_slices(labels, "foreground") == [2, 3, 4, 6]
    assert select_slices(labels, "published") == [2, 3, 4]
    assert select_slices(planes(), "published") == select_slices(planes(5), "published") == []
    with pytest.raises(StudyError, match="no slice rule 'every': choose from all, foreground, published"):
        select_slices(labels, "every")


CASES = st.lists(st.text("abc0123456789", min_size=1, max_size=6), min_size=1, max_size=40, unique=True)


@given(CASES, st.integers(0, 2**32 - 1))
def test_70_10_20_is_seeded_complete_and_blind_to_order(cases: list[str], seed: int) -> None:
    parts = split_cases(cases, "70_10_20", seed)
    assert list(parts) == cases and set(parts.values()) <= {"train", "val", "test"}
    assert split_cases(cases[::-1], "70_10_20", seed) == parts
    assert "train" in parts.values()
    if len(cases) >= 3:
        assert {"train", "val", "test"} == set(parts.values())
    for part, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs(list(parts.values()).count(part) - share * len(cases)) <= 1.5


def test_seeds_draw_different_splits() -> None:
    cases = [f"Case{number:02}" for number in range(20)]
    drawn = {tuple(split_cases(cases, "70_10_20", seed).values()) for seed in range(10)}
    assert len(drawn) == 10


@pytest.mark.parametrize(("count", "train"), [(1, 1), (2, 1), (10, 9), (12, 10), (13, 11), (30, 27)])
def test_published_rule_takes_the_first_nine_tenths(count: int, train: int) -> None:
    parts = list(split_cases([f"{n}" for n in range(count)], "published_90_10", seed=5).values())
    assert parts == ["train"] * train + ["val"] * (count - train)


@pytest.mark.parametrize(
    ("count", "parts"), [(20, (8, 2, 10)), (8, (3, 1, 4)), (3, (1, 1, 1)), (1, (1, 0, 0))]
)
def test_the_last_half_is_tested_whatever_the_seed(count: int, parts: tuple[int, ...]) -> None:
    cases = [f"{n}" for n in range(count)]
    drawn = [split_cases(cases, "half_tested", seed=seed) for seed in range(8)]
    for split in drawn:
        assert tuple(list(split.values()).count(part) for part in ("train", "val", "test")) == parts
        assert [case for case in cases if split[case] == "test"] == cases[count - parts[2] :]
    assert len({tuple(split.values()) for split in drawn}) > (1 if count > 3 else 0)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 99))
def test_no_patient_is_on_both_sides_of_a_split(owners: list[int], seed: int) -> None:
    patients = {f"scan{number}": f"patient{owner}" for number, owner in enumerate(owners)}
    for rule in ("published_90_10", "80_10_10", "70_10_20", "half_tested"):
        parts = split_cases(list(patients), rule, seed, patients=patients)
        assert list(parts) == list(patients)
        homes = {
            patient: {parts[scan] for scan in parts if patients[scan] == patient}
            for patient in patients.values()
        }
        assert all(len(home) == 1 for home in homes.values())


def test_unknown_split_rule_is_named() -> None:
    with pytest.raises(
        StudyError,
        match="no split rule '80_20': choose from published_90_10, 80_10_10, 70_10_20, half_tested",
    ):
        split_cases(["a"], "80_20", 0)


def test_real_scan_is_prepared_with_full_contrast(realdata: Path, tmp_path: Path) -> None:
    task = load_manifest("promise12_small")
    index = build_index(task, realdata / "prostate", progress=False).groupby("domain").head(2)
    store = prepare_slices(task, realdata / "prostate", index, tmp_path, progress=False)
    for pair in store.cases():
        case = store.load(*pair)
        assert case.images.shape == (32, 128, 128) and 20 < case.images.mean() < 130
        assert set(np.unique(case.labels)) == {0, 1}
