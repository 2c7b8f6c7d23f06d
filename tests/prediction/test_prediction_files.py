"""What is written of a scan lies where the scan lies, and nothing that was there is lost."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from saved_model import bright_model, lopsided, places, save_scan

from desam_lite.prediction.files import ScanJob, plan_jobs, predict_files, skipped_labels
from desam_lite.utils.errors import StudyError


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def oblique(spacing: tuple[float, float, float], degrees: float = 17) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 12.25, 470)
    return affine


def predicted(folder: Path, data: np.ndarray, affine: np.ndarray, organs: int = 1) -> nib.Nifti1Image:
    scan = save_scan(folder / "scan.nii.gz", data, affine)
    predict_files(bright_model(organs), ScanJob(scan, {"mask": folder / "mask.nii.gz"}), progress=False)
    return nib.load(folder / "mask.nii.gz")


# The mask and its scan

SPACINGS = {"isotropic": (1.0, 1.0, 1.0), "thick slices": (0.6, 0.6, 5.0), "thick sagittal": (4.0, 0.5, 0.7)}


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("stored", ["RAS", "LPS", "PIR", "SLA", "ALI", "IPL"])
def test_however_a_scan_is_stored_its_mask_is_at_the_same_place(
    stored: str, spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    first = nib.Nifti1Image(lopsided(), oblique(spacing))
    other = first.as_reoriented(nib.orientations.axcodes2ornt(stored))
    mask = predicted(tmp_path, np.asarray(other.dataobj), other.affine, organs=2)
    for value, level in ((1, 150), (2, 250)):
        where = places(np.asarray(mask.dataobj), mask.affine, value)
        np.testing.assert_allclose(where, places(lopsided(), first.affine, level), atol=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
def test_a_mask_has_the_grid_of_its_scan(spacing: tuple[float, float, float], tmp_path: Path) -> None:
    mask = predicted(tmp_path, lopsided(), oblique(spacing))
    scan = nib.load(tmp_path / "scan.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)
    np.testing.assert_allclose(mask.header.get_zooms(), scan.header.get_zooms(), rtol=1e-6)
    assert mask.get_data_dtype() == np.uint8
    assert (mask.header["scl_slope"] == 1 or np.isnan(mask.header["scl_slope"])) and mask.header[
        "sform_code"
    ] > 0
    np.testing.assert_array_equal(np.asarray(mask.dataobj), lopsided() > 100)


def test_a_scan_that_knows_its_place_by_quaternion_only_keeps_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(lopsided(), None)
    image.set_qform(oblique((0.5, 0.5, 3.0)), code=1)
    nib.save(image, tmp_path / "scan.nii.gz")
    predict_files(
        bright_model(), ScanJob(tmp_path / "scan.nii.gz", {"mask": tmp_path / "mask.nii"}), progress=False
    )
    mask, scan = nib.load(tmp_path / "mask.nii"), nib.load(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    np.testing.assert_allclose(mask.get_qform(), scan.get_qform(), atol=1e-4)


# The other files


@pytest.mark.parametrize("organs", [1, 2])
def test_probabilities_lie_on_the_grid_of_the_scan_organs_last(organs: int, tmp_path: Path) -> None:
    affine = oblique((1, 1, 2)) @ np.diag([-1, 1, -1, 1])
    scan = save_scan(tmp_path / "scan.nii.gz", lopsided(), affine)
    paths = {"mask": tmp_path / "mask.nii.gz", "probability": tmp_path / "p.nii.gz"}
    predict_files(bright_model(organs), ScanJob(scan, paths), progress=False)
    image = nib.load(paths["probability"])
    assert image.get_data_dtype() == np.float32
    assert image.shape == lopsided().shape + ((organs,) if organs > 1 else ())
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    stacked = np.asarray(image.dataobj).reshape(*lopsided().shape, organs)
    for organ, cut in enumerate((100, 200)[:organs]):
        expected = np.where(lopsided() > cut, np.float32(0.9), np.float32(0.1))
        np.testing.assert_array_equal(stacked[..., organ], expected)


def test_scores_and_preview_are_written_when_they_have_a_place(tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "scan.nii.gz", lopsided())
    paths = {k: tmp_path / n for k, n in {"mask": "m.nii", "scores": "s.csv", "preview": "p.html"}.items()}
    drawn = []
    prediction = predict_files(
        bright_model(2), ScanJob(scan, paths), draw=lambda *given: drawn.append(given), progress=False
    )
    assert len(pd.read_csv(paths["scores"])) == 7 * 2
    ((path, shown, organs, title),) = drawn
    assert path == paths["preview"] and shown is prediction and list(organs) == ["blob", "core"]
    assert title.startswith("scan.nii.gz\n")


def test_the_mask_is_written_last(tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "scan.nii.gz", lopsided())
    paths = {"mask": tmp_path / "m.nii", "scores": tmp_path / "file" / "s.csv"}
    (tmp_path / "file").touch()  # no folder can be made here
    with pytest.raises(OSError, match="file"):
        predict_files(bright_model(), ScanJob(scan, paths), progress=False)
    assert not paths["mask"].exists()


# Which scans, which files


def test_one_scan_gets_the_files_that_are_named(tmp_path: Path) -> None:
    places = {"mask": tmp_path / "m.nii", "scores": tmp_path / "x.csv"}
    assert plan_jobs([tmp_path / "scan.nii"], places) == [ScanJob(tmp_path / "scan.nii", places)]


def test_a_folder_that_is_there_gets_files_named_after_the_scan(tmp_path: Path) -> None:
    (job,) = plan_jobs([Path("scan.nii.gz")], {"mask": tmp_path, "preview": tmp_path})
    assert job.outputs == {
        "mask": tmp_path / "scan_mask.nii.gz",
        "preview": tmp_path / "scan_preview.html",
    }


def test_files_and_folders_are_taken_once_each_and_own_masks_are_no_scans(tmp_path: Path) -> None:
    for name in ("b.nii", "a.nii.gz", "a_mask.nii.gz", "a_probability.nii.gz", ".a-x.tmp.nii.gz", "a.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    inputs = [tmp_path / "c.v2.nii.gz", tmp_path / "in", tmp_path / "in" / ".." / "in" / "b.nii"]
    jobs = plan_jobs(inputs, {"mask": tmp_path / "out"})
    assert [job.outputs["mask"].name for job in jobs] == [
        "c.v2_mask.nii.gz",
        "a_mask.nii.gz",
        "b_mask.nii.gz",
    ]
    assert {job.outputs["mask"].parent for job in jobs} == {tmp_path / "out"}


def test_a_folder_without_scans_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=rf"no scan \(.nii, .nii.gz or DICOM\) in the folder '{tmp_path}'"):
        plan_jobs([tmp_path], {"mask": tmp_path / "out"})


@pytest.mark.parametrize("out", ["mask.nii.gz", "exists"])
def test_several_scans_need_a_folder(out: str, tmp_path: Path) -> None:
    (tmp_path / "exists").touch()
    with pytest.raises(StudyError, match=f"several scans need a folder .*{out}"):
        plan_jobs([Path("a.nii"), Path("b.nii")], {"mask": tmp_path / out})


@pytest.mark.parametrize(
    ("kind", "name", "suffix"),
    [
        ("mask", "mask", ".nii.gz"),
        ("probability", "p.png", ".nii.gz"),
        ("scores", "s.tsv", ".csv"),
        ("preview", "p.jpg", ".html"),
    ],
)
def test_a_name_must_say_what_the_file_is(kind: str, name: str, suffix: str) -> None:
    with pytest.raises(StudyError, match=f"the {kind} cannot be written to '{name}': .*ends in {suffix}"):
        plan_jobs([Path("scan.nii")], {"mask": Path("m.nii"), kind: Path(name)})


@pytest.mark.parametrize("other_name", ["same", "through a folder", "hard link", "symbolic link"])
def test_a_scan_is_never_overwritten(other_name: str, tmp_path: Path) -> None:
    scan = save_scan(tmp_path / "scan.nii.gz", lopsided())
    out = tmp_path / "out.nii.gz"
    if other_name == "same":
        out = scan
    elif other_name == "through a folder":
        out = tmp_path / "x" / ".." / scan.name
        (tmp_path / "x").mkdir()
    elif other_name == "hard link":
        os.link(scan, out)
    else:
        out.symlink_to(scan)
    with pytest.raises(StudyError, match="is a scan, and scans are never overwritten"):
        plan_jobs([scan], {"mask": out})


def test_one_scan_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    scan, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    for path in (scan, other):
        save_scan(path, lopsided())
    with pytest.raises(StudyError, match="scans are never overwritten"):
        plan_jobs([scan], {"mask": tmp_path / "m.nii", "probability": scan})
    with pytest.raises(StudyError, match=r"m\.nii' would be made twice"):
        plan_jobs([scan], {"mask": tmp_path / "m.nii", "probability": tmp_path / "m.nii"})
    for site in "12":
        save_scan(tmp_path / site / "a.nii.gz", lopsided())
    with pytest.raises(StudyError, match=r"a_mask.nii.gz' would be made twice \(of .*1/a.* and .*2/a"):
        plan_jobs([tmp_path / "1", tmp_path / "2"], {"mask": tmp_path / "out"})


def test_a_job_is_done_when_every_file_is_there(tmp_path: Path) -> None:
    job = ScanJob(tmp_path / "scan.nii", {"mask": tmp_path / "m.nii", "preview": tmp_path / "p.html"})
    job.outputs["mask"].touch()
    assert not job.done
    job.outputs["preview"].touch()
    assert job.done


def test_of_a_folder_scans_are_taken_whatever_the_case_of_their_suffix_and_labels_are_not(
    tmp_path: Path,
) -> None:
    scans = ["B.NII.GZ", "Case00.nii.gz", "a.nii", "c.NII", "img0001.nii.gz", "mask_study.nii"]
    labels = ["Case00_segmentation.nii.gz", "c-label.nii", "label0001.nii.gz", "q_SEG.NII", "z_mask.nii"]
    own = ["B_mask.nii.gz", "a_probability.nii.gz"]
    for name in [*scans, *labels, *own, "._a.nii", "readme.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "gone.nii").symlink_to("nowhere.nii")  # taken, so that its fault is told
    jobs = plan_jobs([tmp_path], {"mask": tmp_path / "out"})
    assert sorted(job.scan.name for job in jobs) == sorted([*scans, "gone.nii"])
    assert sorted(skipped_labels(tmp_path)) == sorted(labels)
    names = {job.outputs["mask"].name for job in jobs}
    assert {"B_mask.nii.gz", "c_mask.nii.gz"} <= names
    assert [job.scan for job in plan_jobs([tmp_path / labels[0]], {"mask": tmp_path / "m.nii"})] == [
        tmp_path / labels[0]
    ]
