"""CHAOS: DICOM slices and label images."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from layout_files import (
    COLUMNS,
    GREYS,
    PLANES,
    ROWS,
    SERIES,
    bring,
    files,
    organs,
    volume,
    write_chaos_ct,
    write_chaos_mr,
    write_picture,
    write_slice,
)
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1, generate_uid

from desam_lite.data.cases import load_case
from desam_lite.data.manifest import load_manifest
from desam_lite.utils.errors import StudyError


def test_chaos_mr_lies_as_scanned_with_each_organ_on_its_slice(tmp_path: Path) -> None:
    write_chaos_mr(tmp_path / "in")
    assert bring("chaos", tmp_path / "in", tmp_path / "out").cases == {"MR": 1}
    row = {"domain": "MR", "case": "7", "image": "MR/7.nii.gz", "label": "MR/7_segmentation.nii.gz"}
    case = load_case(load_manifest("abdomen"), tmp_path / "out", row)
    assert np.array_equal(case.image, volume()) and np.array_equal(case.labels, organs())
    assert case.geometry.spacing == pytest.approx((7.7, 1.5, 1.25))
    assert case.geometry.affine[:3, 3] == pytest.approx([30.0, 20.0, 100.0])  # RAS+


def test_chaos_ct_is_in_hounsfield_units_with_its_liver(tmp_path: Path) -> None:
    write_chaos_ct(tmp_path / "in")
    assert bring("chaos", tmp_path / "in", tmp_path / "out").cases == {"CT_liver": 1}
    image, label = (
        nib.load(tmp_path / "out" / "CT_liver" / f"3{end}.nii.gz") for end in ("", "_segmentation")
    )
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.asanyarray(image.dataobj).transpose(2, 1, 0), volume() - 1024)
    assert np.array_equal(np.asanyarray(label.dataobj).transpose(2, 1, 0), organs() == 1)


def test_names_of_dicom_files_do_not_matter_only_their_places(tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    names = [path.stem for path in sorted((base / "DICOM_anon").iterdir())]
    for folder, end in (("DICOM_anon", "dcm"), ("Ground", "png")):
        for number, name in enumerate(names):
            (base / folder / f"{name}.{end}").rename(base / folder / f"x{(number * 5) % 6}-{name}.{end}")
    bring("chaos", tmp_path / "in", tmp_path / "out")
    image = np.asanyarray(nib.load(tmp_path / "out" / "MR" / "7.nii.gz").dataobj)
    label = np.asanyarray(nib.load(tmp_path / "out" / "MR" / "7_segmentation.nii.gz").dataobj)
    assert np.array_equal(image.transpose(2, 1, 0), volume())
    assert np.array_equal(label.transpose(2, 1, 0), organs())


def test_tilted_sagittal_series_keeps_its_place_in_the_patient(tmp_path: Path) -> None:
    base = tmp_path / "in" / "MR" / "1" / "T2SPIR"
    turn = np.array([0.0, 0.8, 0.6])
    orientation = [*turn, 0.0, 0.6, -0.8]  # rows run back and up, columns back and down
    normal = np.cross(orientation[:3], orientation[3:])
    for z in range(PLANES):
        place = (np.array([5.0, 6.0, 7.0]) + 4.0 * z * normal).tolist()
        write_slice(base / "DICOM_anon" / f"{z}.dcm", volume()[z], place, ImageOrientationPatient=orientation)
        write_picture(base / "Ground" / f"{z}.png", GREYS[organs()[z]])
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()
    image = nib.load(tmp_path / "out" / "MR" / "1.nii.gz")
    column, row, z = 11, 3, 2
    lps = (
        np.array([5.0, 6.0, 7.0])
        + 1.25 * column * turn
        + 1.5 * row * np.array(orientation[3:])
        + 4.0 * z * normal
    )
    assert (image.affine @ [column, row, z, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-4)
    assert np.asanyarray(image.dataobj)[column, row, z] == volume()[z, row, column]


def test_real_scan_survives_the_way_through_chaos_files(realdata: Path, tmp_path: Path) -> None:
    manifest = load_manifest("abdomen")
    row = {
        "domain": "MR",
        "case": "Case20",
        "image": "MR/Case20.nii.gz",
        "label": "MR/Case20_segmentation.nii.gz",
    }
    real = load_case(manifest, realdata / "abdomen", row)
    base = tmp_path / "in" / "MR" / "20" / "T2SPIR"
    for z, (pixels, labels) in enumerate(zip(real.image, real.labels, strict=True)):
        name = f"IMG-0001-{len(real.image) - z:05}"
        write_slice(base / "DICOM_anon" / f"{name}.dcm", pixels, [0, 0, 7.7 * z], PixelSpacing=[1.25, 1.25])
        write_picture(base / "Ground" / f"{name}.png", GREYS[labels])
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()
    again = load_case(
        manifest, tmp_path / "out", {**row, "image": "MR/20.nii.gz", "label": "MR/20_segmentation.nii.gz"}
    )
    assert np.array_equal(again.image, real.image) and np.array_equal(again.labels, real.labels)
    assert again.geometry.spacing == pytest.approx(real.geometry.spacing)


def double(base: Path) -> None:
    write_slice(base / "DICOM_anon" / "IMG-0004-99999.dcm", volume()[2], [-30.0, -20.0, 100.0 + 7.7 * 2])


def lose(base: Path) -> None:
    (base / "DICOM_anon" / "IMG-0004-00003.dcm").unlink()
    (base / "Ground" / "IMG-0004-00003.png").unlink()


def second_series(base: Path) -> None:
    for z in (20, 21):
        write_slice(
            base / "DICOM_anon" / f"b{z}.dcm",
            volume()[0],
            [-30, -20, 7.7 * z],
            SeriesInstanceUID=SERIES + ".9",
        )


def other_grid(base: Path) -> None:
    write_slice(base / "DICOM_anon" / "IMG-0004-00001.dcm", volume()[0][:5], [-30.0, -20.0, 138.5])


def no_place(base: Path) -> None:
    path = base / "DICOM_anon" / "IMG-0004-00001.dcm"
    item = pydicom.dcmread(path)
    del item.ImagePositionPatient
    item.save_as(path)


def empty_place(base: Path) -> None:
    for path in (base / "DICOM_anon").iterdir():
        item = pydicom.dcmread(path)
        item.PixelSpacing = None
        item.save_as(path)


def only_slice_of_unknown_thickness(base: Path) -> None:
    for path in sorted((base / "DICOM_anon").iterdir())[1:]:
        path.unlink()
        (base / "Ground" / f"{path.stem}.png").unlink()


def low_is_bright(base: Path) -> None:
    path = base / "DICOM_anon" / "IMG-0004-00001.dcm"
    item = pydicom.dcmread(path)
    item.PhotometricInterpretation = "MONOCHROME1"
    item.save_as(path)


def lossless_jpeg(base: Path) -> None:
    path = base / "DICOM_anon" / "IMG-0004-00001.dcm"
    item = pydicom.dcmread(path)
    item.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    item.PixelData = encapsulate([b"\xff\xd8" + b"\0" * 200])
    item["PixelData"].is_undefined_length = True
    item.save_as(path)


def wide_picture(base: Path) -> None:
    pixels = np.full((ROWS, COLUMNS), 1000, np.uint16)
    Image.fromarray(pixels).save(base / "Ground" / "IMG-0004-00003.png")


def coloured_picture(base: Path) -> None:
    pixels = np.full((ROWS, COLUMNS, 3), (0, 255, 255), np.uint8)  # of the luminance of a kidney
    Image.fromarray(pixels).save(base / "Ground" / "IMG-0004-00003.png")


def cut_slice(base: Path) -> None:
    path = base / "DICOM_anon" / "IMG-0004-00001.dcm"
    path.write_bytes(path.read_bytes()[:-100])


def text_slice(base: Path) -> None:
    (base / "DICOM_anon" / "IMG-0004-00001.dcm").write_text("no scan")


def no_slices(base: Path) -> None:
    for path in (base / "DICOM_anon").iterdir():
        path.unlink()


def lose_picture(base: Path) -> None:
    (base / "Ground" / "IMG-0004-00003.png").unlink()


def rename_picture(base: Path) -> None:
    (base / "Ground" / "IMG-0004-00003.png").rename(base / "Ground" / "other.png")


def small_picture(base: Path) -> None:
    write_picture(base / "Ground" / "IMG-0004-00003.png", np.zeros((4, 4)))


def unknown_grey(base: Path) -> None:
    write_picture(base / "Ground" / "IMG-0004-00003.png", np.full((ROWS, COLUMNS), 90))


def broken_picture(base: Path) -> None:
    (base / "Ground" / "IMG-0004-00003.png").write_bytes(b"\x89PNG cut")


def no_ground(base: Path) -> None:
    (base / "Ground").rename(base / "Elsewhere")


CHAOS_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "slice twice": (double, r"holds a slice twice \(.* lie at one place\): remove one"),
    "slice missing": (lose, r"lacks a slice: .* lie 15.4 mm apart, the others 7.7 mm"),
    "two series": (second_series, r"holds 2 DICOM series: keep one per folder.*\n.* 6 slices.*\n.* 2 slices"),
    "slice of another grid": (other_grid, r"has another grid than"),
    "slice without a place": (no_place, r"lacks ImagePositionPatient, so its place is unknown"),
    "slice with an empty tag": (empty_place, r"lacks PixelSpacing, so its place is unknown"),
    "only slice": (only_slice_of_unknown_thickness, r"is the only slice and has no SliceThickness"),
    "low is bright": (low_is_bright, r"IMG-0004-00001.dcm is stored as MONOCHROME1, not as MONOCHROME2"),
    "broken JPEG": (lossless_jpeg, r"cannot be read .* compressed \(JPEG Lossless.*\), so export it again"),
    "picture of 16 bits": (wide_picture, r"IMG-0004-00003.png holds values over 255"),
    "picture in colour": (coloured_picture, r"IMG-0004-00003.png is in colour: export it in grey"),
    "slice cut": (cut_slice, r"the pixels of .*IMG-0004-00001.dcm cannot be read"),
    "slice that is text": (text_slice, r"IMG-0004-00001.dcm is not a DICOM file"),
    "no slice": (no_slices, r"holds no DICOM slice with an image"),
    "picture missing": (lose_picture, r"holds 5 label images for 6 slices"),
    "picture named otherwise": (rename_picture, r"no label image for slice IMG-0004-00003.dcm"),
    "picture of another size": (small_picture, r"is \(4, 4\) pixels but its slice \(10, 12\)"),
    "unknown grey": (unknown_grey, r"holds the grey value 90, which stands for no organ"),
    "picture broken": (broken_picture, r"IMG-0004-00003.png cannot be read"),
    "no pictures": (no_ground, r"has no folder Ground"),
}


@pytest.mark.parametrize("name", CHAOS_FAULTS)
def test_broken_chaos_case_is_named_and_stops_no_other(name: str, tmp_path: Path) -> None:
    breaker, sentence = CHAOS_FAULTS[name]
    breaker(write_chaos_mr(tmp_path / "in", "7"))
    write_chaos_mr(tmp_path / "in", "8", volume(8))
    summary = bring("chaos", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"MR": 1} and len(summary.faults) == 1
    with pytest.raises(StudyError, match=sentence):
        raise StudyError(summary.faults[0])
    assert files(tmp_path / "out") == ["MR/8.nii.gz", "MR/8_segmentation.nii.gz", "import.csv"]


@pytest.mark.parametrize("factor", [1, 257])
def test_label_pictures_of_more_bits_hold_the_same_organs(factor: int, tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    for path in (base / "Ground").iterdir():
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * np.uint16(factor)).save(path)
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()
    label = np.asanyarray(nib.load(tmp_path / "out" / "MR" / "7_segmentation.nii.gz").dataobj)
    assert np.array_equal(label.transpose(2, 1, 0), organs())


def test_files_that_are_no_slices_are_passed_over(tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    (base / "DICOM_anon" / "readme.txt").write_text("hello")
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()


def test_series_anonymised_into_one_series_per_slice_is_one(tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    for path in (base / "DICOM_anon").iterdir():
        item = pydicom.dcmread(path)
        item.SeriesInstanceUID = generate_uid()
        item.save_as(path)
    assert bring("chaos", tmp_path / "in", tmp_path / "out").cases == {"MR": 1}
