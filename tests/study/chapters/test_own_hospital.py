"""The example of one's own data: a layout of its own, a label number of its own, and a scan without a label."""

from pathlib import Path

import pytest
from small_task import write_manifest

from desam_lite.data.index import build_index, list_faults
from desam_lite.data.manifest import load_manifest
from desam_lite.data.nifti import read_image
from desam_lite.study.chapters.own_hospital import HILL_LABEL, NEW_SCAN, make_example

PATHS = {
    "image": "{domain}/patients/{case}/t2.nii.gz",
    "label": "{domain}/patients/{case}/t2_prostate.nii.gz",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    make_example(folder, 1, progress=False)
    return folder


def faults(folder: Path, tmp_path: Path, hill: dict[str, object]) -> list[str]:
    domains = {"harbour": {"title": "Harbour"}, "hill": {"title": "Hill", **hill}}
    manifest = write_manifest(tmp_path / "own.yaml", name="own", domains=domains, **PATHS)
    index = build_index(load_manifest(manifest), folder, progress=False)
    assert len(index) == 2
    return list_faults(index)


def test_a_manifest_brings_it_in(folder: Path, tmp_path: Path) -> None:
    assert faults(folder, tmp_path, {"label_map": {HILL_LABEL: 1}}) == []


def test_without_its_map_of_labels_the_hill_is_at_fault(folder: Path, tmp_path: Path) -> None:
    (fault,) = faults(folder, tmp_path, {})
    assert "hill" in fault and str(HILL_LABEL) in fault


def test_the_new_scan_has_no_label_and_what_is_there_is_kept(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    assert len(before) == 5
    make_example(folder, 1, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    assert read_image(folder / NEW_SCAN).data.ndim == 3
