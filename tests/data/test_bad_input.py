"""Broken data: each fault is one sentence that names the case, the file and the next step; all come in one listing.

Broken manifests are in test_manifest.py, broken imports in test_importing.py, the command line's side in test_cli.py.
"""

import re
import struct
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest
from bad_scans import FAULTS, HALF, IMAGE, LABEL, cut, edit_header, put
from small_task import LPS, image_data, save, save_case, write_manifest, write_task

from desam_lite.data.index import build_index, list_faults, require_sound
from desam_lite.data.manifest import load_manifest
from desam_lite.data.nifti import read_image, read_label
from desam_lite.utils.errors import StudyError


def faults(manifest: Path, root: Path) -> list[str]:
    return list_faults(build_index(load_manifest(manifest), root, progress=False))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_one_line_that_names_the_case_and_the_next_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker, case, sentence = FAULTS[name]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9))
    manifest, root = write_task(tmp_path)
    breaker(root / "A")
    found = faults(manifest, root)
    assert len(found) == 1, found
    assert found[0].startswith(f"{case}: ") and re.search(sentence, found[0]), found[0]
    assert "\n" not in found[0] and ": " in found[0].removeprefix(f"{case}: ") and found[0].endswith(".")


def test_the_table_of_faults_is_long_enough() -> None:
    assert len(FAULTS) >= 40


def test_every_fault_at_once_is_one_listing(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    breakers = [
        FAULTS[name][0] for name in ("NaN", "label elsewhere", "4-D", "unlabelled", "label ids unknown")
    ]
    for number, breaker in enumerate(breakers):
        folder = tmp_path / "one"
        save_case(folder, "Case00", seed=100 + number)
        breaker(folder)
        for file in folder.iterdir():
            file.rename(root / "B" / file.name.replace("Case00", f"Case1{number}"))
    with pytest.raises(StudyError) as caught:
        require_sound(build_index(load_manifest(manifest), root, progress=False))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [f"B/Case1{number}" for number in range(5)]


def test_image_and_label_at_fault_are_both_told(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    cut(IMAGE, 0.5)(root / "A")
    put(LABEL, HALF)(root / "A")
    assert re.search(r"Case00.nii.gz is truncated.*_segmentation.nii.gz holds", faults(manifest, root)[0])


def test_unreadable_file_is_named_with_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the system's refusal: tests may run as root, whom no permission stops."""
    manifest, root = write_task(tmp_path)
    original = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == IMAGE and path.parent.name == "A":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert re.search(
        r"A/Case00.nii.gz cannot be read \(Permission denied\): check it and its permissions",
        faults(manifest, root)[0],
    )


def test_missing_folder_tells_how_to_get_the_data(tmp_path: Path) -> None:
    manifest, _ = write_task(tmp_path)
    with pytest.raises(
        StudyError, match=r"no data folder .*/nowhere for task 'tiny'.* ask the maker of this test"
    ):
        faults(manifest, tmp_path / "nowhere")


def test_empty_folder_tells_what_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    manifest, _ = write_task(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        StudyError,
        match=r"no case of 'tiny' .* \(looked for A/{case}.nii.gz, found no file at all\).* ask the maker",
    ):
        faults(manifest, tmp_path / "empty")


def test_pattern_that_matches_nothing_is_a_fault_of_its_domain(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, domains={"A": {"title": "A"}, "C": {"title": "C"}})
    assert faults(manifest, root) == [
        "C/*: no file fits its pattern (C/{case}.nii.gz or C/{case}_segmentation.nii.gz): get this domain's data, "
        "or take it out of the manifest."
    ]


def test_one_patient_in_two_domains_is_a_fault_where_ids_are_people(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, unique_patients=True)
    found = faults(manifest, root)
    assert [line.split(":")[0] for line in found] == ["A/Case00", "A/Case01", "B/Case00", "B/Case01"]
    assert "patient 'Case00' is in domain B too: keep one of them" in found[0]


@pytest.mark.parametrize(("data", "warned"), [(image_data() % 256, True), (image_data() - 500, False)])
def test_eight_bit_values_where_hounsfield_units_are_expected_are_warned_of(
    data: np.ndarray, warned: bool, tmp_path: Path
) -> None:
    manifest, root = write_task(tmp_path, intensity={"window": [-125, 275]})
    save(root / "A" / IMAGE, data)
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    assert ("A/Case00: image: Hounsfield units expected" in " ".join(list_faults(index, "warning"))) is warned


def test_header_without_orientation_is_warned_of(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    for name in (IMAGE, LABEL):
        edit_header(root / "A" / name, 252, struct.pack("<2h", 0, 0))
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    assert "gives no orientation" in list_faults(index, "warning")[0]


@pytest.mark.parametrize(("turned", "warned"), [(False, False), (True, True)])
def test_two_orientations_that_disagree_are_warned_of(turned: bool, warned: bool, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    image = nib.load(root / "A" / IMAGE)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), LPS)
    image.set_qform(LPS @ np.diag([-1.0, 1, 1, 1]) if turned else LPS, code=1)
    nib.save(image, root / "A" / IMAGE)
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    found = " ".join(list_faults(index, "warning"))
    assert (
        "A/Case00: image: its header gives two orientations (sform and qform) that disagree" in found
    ) is warned


def test_spacing_that_cannot_be_millimetres_is_warned_of(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    save_case(root / "A", "Case00", 60, LPS / 1000)
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    assert "spacing 0.003 x 0.001 x 0.001 mm is unlikely" in list_faults(index, "warning")[0]


def test_nothing_of_the_data_is_written_to(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    cut(IMAGE, 0.5)(root / "A")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*.nii.gz")}
    faults(manifest, root)
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()
    } == before


def test_single_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"/scan.nii.gz does not exist"):
        read_image(tmp_path / "scan.nii.gz")
    with pytest.raises(StudyError, match=r"/mask.nii.gz does not exist"):
        read_label(tmp_path / "mask.nii.gz")
    assert write_manifest(tmp_path / "m.yaml").exists()
