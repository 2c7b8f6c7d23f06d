"""A DICOM series in, a DICOM Segmentation or NIfTI out: on the voxels that the NIfTI way gives, for other readers too."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_files import oblique_affine, write_enhanced, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_model import bright_model, lopsided, places, save_scan
from scipy.spatial import KDTree

from desam_lite.prediction.files import ScanJob, plan_jobs, predict_files
from desam_lite.utils.errors import StudyError

ANGLES = st.floats(-3, 3, width=32)
SIDES = st.floats(0.25, 6, width=32)


@pytest.fixture(scope="module")
def highdicom() -> Any:
    return pytest.importorskip(
        "highdicom", reason="highdicom is not installed: pip install 'desam-lite[dicom]'"
    )


@pytest.fixture(scope="module")
def other_reader() -> str:
    """dcmqi's converter, on DCMTK: it shares no code with what writes the masks."""
    name = "segimage2itkimage"
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        pytest.skip("dcmqi is not installed (it comes with the extra 'dev' on x86-64)")
    return path


def predicted(scan: Path, mask: Path, organs: int = 2) -> Path:
    predict_files(bright_model(organs), ScanJob(scan, {"mask": mask}), progress=False)
    return mask


def places_in(mask: Path, value: int) -> np.ndarray:
    image = nib.load(mask)
    return places(np.asarray(image.dataobj), image.affine, value)


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """As many places, and each with its partner within 2 thousandths of a mm, whatever their order."""
    assert len(actual) == len(expected) > 0
    distance, partner = KDTree(expected).query(actual)
    assert distance.max() < 2e-3 and len(set(partner)) == len(expected)


@settings(max_examples=15, deadline=None)
@given(
    sides=st.tuples(SIDES, SIDES, SIDES),
    turns=st.tuples(ANGLES, ANGLES, ANGLES),
    start=st.tuples(*[st.floats(-200, 200, width=32)] * 3),
    stored=st.sampled_from(["RAS", "LPS", "PIR", "SLA"]),
)
def test_the_dicom_way_and_the_nifti_way_mark_the_same_places(
    sides, turns, start, stored, highdicom: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ways")
    affine = oblique_affine(sides, turns, start)
    write_series(folder / "dicom", lopsided(), affine)
    nifti = nib.Nifti1Image(lopsided(), affine).as_reoriented(nib.orientations.axcodes2ornt(stored))
    save_scan(folder / "scan.nii.gz", np.asarray(nifti.dataobj), nifti.affine)
    predicted(folder / "scan.nii.gz", folder / "a.nii.gz")
    predicted(folder / "dicom", folder / "b.nii.gz")
    predicted(folder / "dicom", folder / "c.dcm")
    volume = highdicom.seg.segread(folder / "c.dcm").get_volume(combine_segments=True)
    for organ in (1, 2):
        expected = places_in(folder / "a.nii.gz", organ)
        assert_same(places_in(folder / "b.nii.gz", organ), expected)
        assert_same(places(volume.array, np.diag([-1, -1, 1, 1]) @ volume.affine, organ), expected)


@pytest.mark.parametrize("kind", ["slices", "frames"])
@pytest.mark.parametrize("scan", ["MR/Case20", "CT"])
def test_the_mask_of_a_real_scan_lies_on_its_voxels_in_another_reader(
    scan: str, kind: str, other_reader: str, highdicom: Any, realdata: Path, tmp_path: Path
) -> None:
    (path,) = [
        file
        for file in (realdata / "abdomen").glob(f"{scan}*" if "/" in scan else f"{scan}/*")
        if "segmentation" not in file.name
    ]
    image = nib.as_closest_canonical(nib.load(path)).as_reoriented(nib.orientations.axcodes2ornt("LPS"))
    data, modality = np.asarray(image.dataobj).astype(np.int16), scan[:2]
    if kind == "slices":
        write_series(tmp_path / "in", data, image.affine, modality=modality)
    else:
        write_enhanced(tmp_path / "in" / "x.dcm", data, image.affine, modality=modality)
    dicom_mask, nifti_mask = (predicted(tmp_path / "in", tmp_path / f"m{end}") for end in (".dcm", ".nii.gz"))
    (tmp_path / "read").mkdir()
    words = ["--inputDICOM", dicom_mask, "--outputDirectory", tmp_path / "read", "--outputType", "nii"]
    subprocess.run([other_reader, *words, "--prefix", "m"], check=True, capture_output=True)
    stored = nib.load(nifti_mask)
    assert stored.shape == image.shape
    np.testing.assert_allclose(stored.affine, image.affine, atol=1e-4)
    for organ in (1, 2):
        read = nib.load(tmp_path / "read" / f"m-{organ}.nii.gz")
        np.testing.assert_allclose(read.affine, stored.affine, atol=1e-3)
        same = np.asarray(read.dataobj) == organ * (np.asarray(stored.dataobj) == organ)
        assert same.all() and (np.asarray(read.dataobj) > 0).any()


def test_a_folder_of_dicom_is_one_scan_and_gets_one_mask(tmp_path: Path) -> None:
    write_series(tmp_path / "patient 7" / "SE1", lopsided(), oblique_affine())
    (job,) = plan_jobs([tmp_path / "patient 7"], {"mask": tmp_path / "m.nii.gz"})
    assert job == ScanJob(tmp_path / "patient 7", {"mask": tmp_path / "m.nii.gz"})
    (tmp_path / "out").mkdir()
    (job,) = plan_jobs([tmp_path / "patient 7"], {"mask": tmp_path / "out"})
    assert job.outputs["mask"] == tmp_path / "out" / "patient 7_mask.nii.gz"


def test_what_cannot_become_a_segmentation_is_told_before_the_work(highdicom: Any, tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "a" / "scan.nii.gz", lopsided())
    with pytest.raises(StudyError, match=r"is no DICOM, .*: give --out a name in .nii.gz"):
        plan_jobs([scan], {"mask": tmp_path / "m.dcm"})
    paths = write_series(tmp_path / "d", lopsided(), oblique_affine())
    paths[0].rename(tmp_path / "d" / "slice.dcm")
    with pytest.raises(StudyError, match="is a scan, and scans are never overwritten"):
        plan_jobs([tmp_path / "d"], {"mask": tmp_path / "d" / "slice.dcm"})
    shutil.copy(scan, tmp_path / "d" / "scan.nii.gz")
    with pytest.raises(StudyError, match=r"holds both NIfTI \(scan.nii.gz\) and DICOM: keep them apart"):
        plan_jobs([tmp_path / "d"], {"mask": tmp_path / "m.nii.gz"})
    save_scan(tmp_path / "x.nii", lopsided())
    (job,) = plan_jobs([tmp_path], {"mask": tmp_path / "out"})
    assert job.scan == tmp_path / "x.nii"  # DICOM deeper down is what it was converted from


def test_slices_given_file_by_file_are_told_to_be_one_scan(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "d", lopsided(), oblique_affine())
    with pytest.raises(StudyError, match=rf"DICOM files of one folder: give the folder '{tmp_path / 'd'}'"):
        plan_jobs(paths, {"mask": tmp_path / "m.nii.gz"})
    (job,) = plan_jobs(paths[:1], {"mask": tmp_path / "m.nii.gz"})
    assert job.scan == paths[0]


def test_a_mask_beside_its_series_is_no_part_of_it(highdicom: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "d", lopsided(), oblique_affine())
    for _ in range(2):
        (job,) = plan_jobs([tmp_path / "d"], {"mask": tmp_path / "d" / "mask.dcm"})
        predict_files(bright_model(), job, progress=False)
    assert len(list((tmp_path / "d").iterdir())) == lopsided().shape[2] + 1
