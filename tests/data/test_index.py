import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from small_task import LPS, image_data, label_data, save, save_case, write_manifest, write_task

import desam_lite.data.index as index_module
from desam_lite.data.cases import load_case
from desam_lite.data.index import build_index, index_hash, list_faults, natural, require_sound
from desam_lite.data.manifest import Manifest, load_manifest
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file


@pytest.fixture
def task(tmp_path: Path) -> tuple[Manifest, Path]:
    manifest, root = write_task(tmp_path)
    return load_manifest(manifest), root


def quiet(manifest: Manifest, root: Path, cache: Path | None = None) -> pd.DataFrame:
    return build_index(manifest, root, cache=cache, progress=False)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the image files that are really read."""
    names: list[str] = []
    original = index_module.read_image

    def spy(path: Path) -> object:
        names.append(f"{path.parent.name}/{path.name}")
        return original(path)

    monkeypatch.setattr(index_module, "read_image", spy)
    return names


def test_index_tells_all_of_a_case(task: tuple[Manifest, Path]) -> None:
    manifest, root = task
    index = quiet(manifest, root)
    assert list(zip(index["domain"], index["case"], strict=True)) == [
        ("A", "Case00"),
        ("A", "Case01"),
        ("B", "Case00"),
        ("B", "Case01"),
    ]
    row = index.iloc[0]
    files = [root / row["image"], root / row["label"]]
    assert row["bytes"] == sum(file.stat().st_size for file in files)
    assert [row["image_sha256"], row["label_sha256"]] == [sha256_file(file) for file in files]
    assert (row["shape"], row["spacing"], row["orientation"]) == ("6x10x12", "3x1x1", "LPS")
    assert row["voxels_gland"] == label_data().sum() and row["organs"] == "gland"
    assert row["fault"] == "" and row["warning"] == "" and row["patient"] == "Case00"
    require_sound(index)


def test_cases_are_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        save_case(tmp_path / "data" / "A", f"{number}", number)
    manifest = load_manifest(write_manifest(tmp_path / "m.yaml", domains={"A": {"title": "A"}}))
    assert list(quiet(manifest, tmp_path / "data")["case"]) == ["1", "9", "10"]
    assert sorted(["b", "a10", "a2", "7"], key=natural) == ["7", "a2", "a10", "b"]


def test_second_index_reads_nothing_and_is_equal(
    task: tuple[Manifest, Path], tmp_path: Path, reads: list[str]
) -> None:
    first = quiet(*task, cache=tmp_path / "index.json")
    assert len(reads) == 4
    second = quiet(*task, cache=tmp_path / "index.json")
    assert len(reads) == 4
    pd.testing.assert_frame_equal(first, second)


def test_an_index_that_says_the_same_is_not_written_again(
    task: tuple[Manifest, Path], tmp_path: Path
) -> None:
    manifest, root = task
    cache = tmp_path / "index.json"
    label = root / "A" / "Case00_segmentation.nii.gz"
    label.write_bytes(
        label.read_bytes()[:40]
    )  # faulty cases are looked at again each time, and found the same
    quiet(manifest, root, cache)
    before = cache.stat()
    quiet(manifest, root, cache)
    assert (cache.stat().st_ino, cache.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    save(root / "B" / "Case01.nii.gz", image_data(seed=99))
    quiet(manifest, root, cache)
    assert cache.stat().st_mtime_ns > before.st_mtime_ns


def test_changed_file_is_read_again_and_only_it(
    task: tuple[Manifest, Path], tmp_path: Path, reads: list[str]
) -> None:
    manifest, root = task
    before = quiet(manifest, root, tmp_path / "index.json")
    save(root / "B" / "Case01.nii.gz", image_data(seed=99))
    reads.clear()
    after = quiet(manifest, root, tmp_path / "index.json")
    assert reads == ["B/Case01.nii.gz"]
    changed = before["image_sha256"] != after["image_sha256"]
    assert changed.tolist() == [False, False, False, True]
    assert index_hash(before) != index_hash(after)


def test_file_replaced_by_one_of_the_same_size_is_noticed(
    task: tuple[Manifest, Path], tmp_path: Path
) -> None:
    manifest, root = task
    for number, name in enumerate(["A/Case00", "A/Case01"]):
        save(root / f"{name}.nii", image_data(seed=50 + number))
        (root / f"{name}.nii.gz").unlink()
    before = quiet(manifest, root, tmp_path / "index.json")
    path = root / "A" / "Case00.nii"
    size, modified = path.stat().st_size, path.stat().st_mtime_ns
    save(path, image_data(seed=98))
    os.utime(path, ns=(modified + 1, modified + 1))
    assert path.stat().st_size == size
    after = quiet(manifest, root, tmp_path / "index.json")
    assert after["image_sha256"][0] == sha256_file(path) != before["image_sha256"][0]


def test_file_touched_but_equal_gives_the_same_hash(task: tuple[Manifest, Path], tmp_path: Path) -> None:
    manifest, root = task
    before = quiet(manifest, root, tmp_path / "index.json")
    os.utime(root / "A" / "Case00.nii.gz", (1, 1))
    assert index_hash(quiet(manifest, root, tmp_path / "index.json")) == index_hash(before)


def test_another_manifest_does_not_get_the_remembered_counts(
    task: tuple[Manifest, Path], tmp_path: Path
) -> None:
    manifest, root = task
    quiet(manifest, root, tmp_path / "index.json")
    other = load_manifest(write_manifest(tmp_path / "other.yaml", organs=[{"name": "gland", "label": 2}]))
    assert len(list_faults(quiet(other, root, tmp_path / "index.json"))) == 4


@pytest.mark.parametrize("content", ["", "not,an,index\n1,2,3\n", "\x00\x01", '[{"fault": ""}]', "3"])
def test_damaged_cache_is_made_again(task: tuple[Manifest, Path], tmp_path: Path, content: str) -> None:
    cache = tmp_path / "index.json"
    cache.write_text(content)
    index = quiet(*task, cache=cache)
    pd.testing.assert_frame_equal(index, quiet(*task))
    assert "image_sha256" in cache.read_text()


def test_repaired_case_is_sound_on_the_next_look(task: tuple[Manifest, Path], tmp_path: Path) -> None:
    manifest, root = task
    label = root / "A" / "Case00_segmentation.nii.gz"
    whole = label.read_bytes()
    label.write_bytes(whole[:40])
    assert len(list_faults(quiet(manifest, root, tmp_path / "index.json"))) == 1
    label.write_bytes(whole)
    require_sound(quiet(manifest, root, tmp_path / "index.json"))


def test_index_hash_does_not_depend_on_where_the_data_lie(tmp_path: Path) -> None:
    hashes = [
        index_hash(quiet(load_manifest(m), root)) for m, root in map(write_task, [tmp_path, tmp_path / "b"])
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("end", [".NII.GZ", ".NII", ".Nii.gz"])
def test_suffix_may_be_in_capitals(end: str, tmp_path: Path) -> None:
    packed = ".nii.gz" if end.lower().endswith("gz") else ".nii"
    for name, data in (("p1", image_data()), ("p1_segmentation", label_data())):
        save(tmp_path / "data" / "A" / f"x{packed}", data).rename(tmp_path / "data" / "A" / f"{name}{end}")
    manifest = load_manifest(write_manifest(tmp_path / "m.yaml", domains={"A": {"title": "A"}}))
    index = quiet(manifest, tmp_path / "data")
    assert index["case"].tolist() == ["p1"] and list_faults(index) == []


def test_names_in_any_script_and_with_spaces_are_found(tmp_path: Path) -> None:
    save_case(tmp_path / "data" / "東京", "患者 01", 0)
    save_case(tmp_path / "data" / "Zürich", "Fall 01", 1)
    domains = {"東京": {"title": "東京病院"}, "Zürich": {"title": "Zürich"}}
    manifest = load_manifest(write_manifest(tmp_path / "m.yaml", domains=domains))
    index = quiet(manifest, tmp_path / "data", tmp_path / "index.json")
    assert list_faults(index) == [] and index["case"].tolist() == ["患者 01", "Fall 01"]
    pd.testing.assert_frame_equal(index, quiet(manifest, tmp_path / "data", tmp_path / "index.json"))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("float64", image_data() / 3),
        ("big-endian", image_data().astype(">i2")),
        ("unsigned", image_data().astype(np.uint16) + 40_000),
    ],
)
def test_numbers_of_any_kind_are_read_as_they_are(kind: str, values: np.ndarray, tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">" if kind == "big-endian" else "<")
    header.set_data_dtype(values.dtype)
    save_case(tmp_path / "data" / "A", "p1", 0)
    nib.save(nib.Nifti1Image(values, LPS, header), tmp_path / "data" / "A" / "p1.nii.gz")
    manifest = load_manifest(write_manifest(tmp_path / "m.yaml", domains={"A": {"title": "A"}}))
    assert list_faults(quiet(manifest, tmp_path / "data")) == []
    found = load_case(manifest, tmp_path / "data", quiet(manifest, tmp_path / "data").iloc[0])
    np.testing.assert_array_equal(found.image, values.transpose(2, 1, 0).astype(np.float32))


def test_half_written_files_are_not_cases(task: tuple[Manifest, Path]) -> None:
    manifest, root = task
    (root / "A" / ".Case02-x1.tmp.nii.gz").write_bytes(b"half")
    assert len(quiet(manifest, root)) == 4


def test_case_folders_and_special_letters_in_patterns_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "site [1]" / "p1"
    save(folder / "p1_T2.nii.gz", image_data())
    save(folder / "p1_seg+.nii", label_data())
    save(folder / "other_T2.nii.gz", image_data(5))
    domains = {"A": {"title": "A"}}
    patterns = {"image": "site [1]/{case}/{case}_T2.nii.gz", "label": "site [1]/{case}/{case}_seg+.nii.gz"}
    manifest = load_manifest(write_manifest(tmp_path / "m.yaml", domains=domains, **patterns))
    index = quiet(manifest, tmp_path / "data")
    assert index["case"].tolist() == ["p1"] and list_faults(index) == []


def test_scans_of_one_patient_are_told(tmp_path: Path) -> None:
    for number, name in enumerate(["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1"]):
        save_case(tmp_path / "data" / "A", name, number)
    changes = {"domains": {"A": {"title": "A"}}, "patient": "^(sub-[0-9]+)"}
    manifest = load_manifest(write_manifest(tmp_path / "m.yaml", **changes))
    assert quiet(manifest, tmp_path / "data")["patient"].tolist() == ["sub-1", "sub-1", "sub-2"]


@pytest.mark.parametrize(("pattern", "faults"), [("^(sub-[0-9]+)", 1), ("^([A-Z]+-[0-9]+)_ses", 0)])
def test_case_that_does_not_fit_the_patient_pattern_is_told(
    pattern: str, faults: int, tmp_path: Path
) -> None:
    for number, name in enumerate(["SUB-01_ses-1", "SUB-01_ses-2", "Case00"]):
        save_case(tmp_path / "data" / "A", name, number)
    changes = {"domains": {"A": {"title": "A"}}, "patient": pattern}
    index = quiet(load_manifest(write_manifest(tmp_path / "m.yaml", **changes)), tmp_path / "data")
    warnings = list_faults(index, "warning")
    assert len(warnings) == (3 if faults else 1) and "A/Case00: its name does not fit" in warnings[0]
    assert ["fits no case of the task" in fault for fault in list_faults(index)] == [True] * faults


@settings(max_examples=20, deadline=None)
@given(
    level=st.integers(1, 9),
    kind=st.sampled_from(["i2", ">i2", "i4", "f4", "f8"]),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
    axes=st.permutations(range(3)),
    packed=st.booleans(),
)
def test_scan_stored_another_way_is_the_same_scan(
    level: int,
    kind: str,
    flips: tuple[int, ...],
    axes: list[int],
    packed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("same")
    manifest, root = write_task(folder)
    orientation = np.array([axes, flips]).T
    data = apply_orientation(image_data(0), orientation).astype(kind)  # A/Case00 has the seed 0
    affine = LPS @ inv_ornt_aff(orientation, image_data(0).shape)
    header = nib.Nifti1Header(endianness=">" if kind.startswith(">") else "<")
    header.set_data_dtype(data.dtype)
    raw = nib.Nifti1Image(data, affine, header).to_bytes()
    (root / "B" / "Case00.nii.gz").write_bytes(gzip.compress(raw, level) if packed else raw)
    save(root / "B" / "Case00_segmentation.nii.gz", apply_orientation(label_data(), orientation), affine)
    assert list_faults(quiet(load_manifest(manifest), root)) == [
        "B/Case00: is the same scan as A/Case00, voxel by voxel: remove one of the two."
    ]


@given(st.lists(st.text(alphabet="a1٣²①½五-", min_size=1, max_size=6)))
def test_any_names_have_a_natural_order(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural) == sorted(backwards, key=natural)


def test_all_faults_of_a_task_come_in_one_listing(task: tuple[Manifest, Path]) -> None:
    manifest, root = task
    (root / "A" / "Case00.nii.gz").write_bytes(b"no scan")
    (root / "A" / "Case01_segmentation.nii.gz").unlink()
    save(root / "B" / "Case01_segmentation.nii.gz", label_data() * 0)
    with pytest.raises(StudyError) as caught:
        require_sound(quiet(manifest, root))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("3 fault(s)") and len(lines) == 4
    assert [line.split(":")[0] for line in lines[1:]] == ["A/Case00", "A/Case01", "B/Case01"]


def test_oblique_and_anisotropic_case_is_sound(task: tuple[Manifest, Path]) -> None:
    manifest, root = task
    affine = LPS.copy()
    affine[:3, :3] = [[-0.48, 0.14, 0], [-0.14, -0.48, 0.5], [0, 0.02, 5.0]]
    save_case(root / "A", "Case09", 70, affine)
    row = quiet(manifest, root).iloc[2]
    assert row["fault"] == "" and row["orientation"] == "LPS" and row["spacing"].startswith("5.025x")


def test_real_prostate_set_is_sound(realdata: Path) -> None:
    index = quiet(load_manifest("promise12_small"), realdata / "prostate")
    assert list_faults(index) == [] and list_faults(index, "warning") == []
    assert index.groupby("domain").size().to_dict() == {"BIDMC": 12, "UCL": 13}
    assert (index["voxels_prostate"] > 3000).all()


def test_real_abdomen_set_is_sound(realdata: Path) -> None:
    index = quiet(load_manifest("abdomen"), realdata / "abdomen")
    assert list_faults(index) == [] and list_faults(index, "warning") == []
    organs = [column for column in index if column.startswith("voxels_")]
    assert len(organs) == 4 and (index[organs] > 0).all(axis=None)
