"""Exports of hospitals: a folder per patient with a series, its DICOM Segmentation, and whatever else was exported."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import oblique_affine, write_series
from layout_files import bring, files

from desam_lite.data.dicom import read_series
from desam_lite.data.geometry import to_slices
from desam_lite.data.segmentations import write_segmentation

pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'desam-lite[dicom]'")


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, (9, 12, 6)).astype(np.int16)


def labels() -> np.ndarray:
    data = np.zeros((9, 12, 6), np.uint8)
    data[1:3, 2:7, 1:4], data[4:7, 2:4, 1:3] = 1, 2
    return data


def write_patient(folder: Path, seed: int, organs: tuple[str, str] = ("prostate", "bladder")) -> Path:
    """A scout, the series and its mask, sorted into folders by nobody."""
    write_series(folder / "SE1", volume(seed), oblique_affine(), number=1)
    write_series(folder / "SE5" / "DICOM", volume(seed), oblique_affine(), number=5)
    series = read_series(folder, "5")
    colors = dict(zip(organs, ("#e69f00", "#56b4e9"), strict=True))
    mask = to_slices(labels(), series.geometry)
    write_segmentation(folder / "x" / "SEG", mask, series.geometry, series.frames, colors, {}, "by hand")
    return folder


def write_export(source: Path) -> None:
    write_patient(source / "North ward" / "P1", 1)
    write_patient(source / "North ward" / "P2", 2, ("Prostate", "bladder"))
    write_patient(source / "South" / "P1", 3, ("bladder", "prostate"))


def test_each_patient_becomes_a_case_with_the_mask_on_the_voxels_it_was_drawn_on(tmp_path: Path) -> None:
    write_export(tmp_path / "in")
    summary = bring("dicom", tmp_path / "in", tmp_path / "out")
    assert summary.faults == () and summary.cases == {"North-ward": 2, "South": 1}
    assert summary.ids == {"North-ward": "1 prostate, 2 bladder", "South": "1 bladder, 2 prostate"}
    image, label = (
        nib.load(tmp_path / "out" / "North-ward" / f"P2{end}.nii.gz") for end in ("", "_segmentation")
    )
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume(2))
    np.testing.assert_array_equal(np.asarray(label.dataobj), labels())
    np.testing.assert_allclose(image.affine, oblique_affine(), atol=1e-4)
    np.testing.assert_array_equal(image.affine, label.affine)
    assert bring("dicom", tmp_path / "in", tmp_path / "out").made == 0


def no_mask(patient: Path) -> None:
    shutil.rmtree(patient / "x")


def two_masks(patient: Path) -> None:
    shutil.copy(patient / "x" / "SEG", patient / "x" / "SEG2")


def no_series(patient: Path) -> None:
    shutil.rmtree(patient / "SE5")


def contours(patient: Path) -> None:
    item = pydicom.dcmread(patient / "x" / "SEG")
    item.Modality = "RTSTRUCT"
    del item.PixelData, item.Rows
    item.save_as(patient / "x" / "SEG")


def other_numbers(patient: Path) -> None:
    shutil.rmtree(patient)
    write_patient(patient, 2, ("bladder", "prostate"))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no mask": (no_mask, "holds 0 DICOM Segmentations, not one: keep one per patient"),
    "two masks": (two_masks, "holds 2 DICOM Segmentations, not one"),
    "no series": (no_series, "refers to a series that is not in"),
    "contours": (contours, r"holds contours \(RTSTRUCT\), which cannot be imported: convert them"),
    "numbers of its own": (other_numbers, "calls segment 1 'bladder', but the one of P1 calls it 'prostate'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_patient_at_fault_is_told_and_stops_no_other(name: str, tmp_path: Path) -> None:
    breaker, sentence = FAULTS[name]
    write_export(tmp_path / "in")
    breaker(tmp_path / "in" / "North ward" / "P2")
    summary = bring("dicom", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"North-ward": 1, "South": 1}
    (fault,) = summary.faults
    assert re.search(sentence, fault)


def test_a_hospital_without_folders_of_patients_is_told(tmp_path: Path) -> None:
    write_patient(tmp_path / "in" / "South" / "P1", 3)
    write_series(tmp_path / "in" / "North", volume(1), oblique_affine())
    summary = bring("dicom", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"South": 1} and "North holds no folder per patient" in summary.faults[0]


def test_a_patient_who_was_taken_back_is_removed(tmp_path: Path) -> None:
    write_export(tmp_path / "in")
    bring("dicom", tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in" / "North ward" / "P2")
    summary = bring("dicom", tmp_path / "in", tmp_path / "out")
    assert summary.withdrawn == ("North-ward/P2",) and summary.cases == {"North-ward": 1, "South": 1}
    assert files(tmp_path / "out" / "North-ward") == ["P1.nii.gz", "P1_segmentation.nii.gz"]
