"""A DICOM series becomes the volume it was, however it is stored, and a series at fault is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import jpeg_lossless, oblique_affine, write_enhanced, write_series
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid

import desam_lite.data.dicom as dicom
from desam_lite.data.dicom import list_series, read_series
from desam_lite.utils.errors import StudyError

LOW, HIGH = -(2**11), 2**11


def volume(seed: int = 0) -> np.ndarray:
    """(columns, rows, slices), alike under no flip."""
    return np.random.default_rng(seed).integers(LOW, HIGH, (9, 12, 5)).astype(np.int16)


@pytest.mark.parametrize("tilt", [0.0, 1.5])
def test_a_series_lies_where_it_was_scanned(tilt: float, tmp_path: Path) -> None:
    affine = oblique_affine(tilt=tilt)
    write_series(tmp_path, volume(), affine)
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.data, volume())
    np.testing.assert_allclose(series.geometry.affine, affine, atol=1e-6)
    assert series.data.dtype == np.int16
    assert [("gantry tilt" in warning) for warning in series.warnings] == [True] * (tilt > 0)


def test_an_enhanced_file_lies_where_it_was_scanned_in_the_unit_of_its_groups(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "DICOM" / "IM1", volume(), oblique_affine())
    for source in (tmp_path, path):
        series = read_series(source)
        np.testing.assert_array_equal(series.data, volume() * 2 - 7)
        np.testing.assert_allclose(series.geometry.affine, oblique_affine(), atol=1e-6)
        assert [frame.number for frame in series.frames] == [4, 3, 2, 1, 0]


def test_an_enhanced_file_may_hold_a_single_frame(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "x.dcm", volume()[..., :1], oblique_affine(), edit=thick)
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.data, volume()[..., :1] * 2 - 7)
    assert series.geometry.spacing[0] == pytest.approx(4) and "a single slice" in series.warnings[0]


def thick(item: Any) -> None:
    item.SliceThickness = 4


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
@pytest.mark.parametrize("frames", ["slices", "frames"])
def test_compressed_pixels_are_the_same_pixels(syntax: pydicom.uid.UID, frames: str, tmp_path: Path) -> None:
    pytest.importorskip("openjpeg", reason="the decoders are not installed: pip install 'desam-lite[dicom]'")

    def compress(item: Any, _: int = 0) -> None:
        item.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        if syntax != JPEGLosslessSV1:
            return item.compress(syntax, generate_instance_uid=False)
        stored = np.frombuffer(item.PixelData, "<u2").reshape(-1, item.Rows, item.Columns)
        item.file_meta.TransferSyntaxUID = syntax
        item.PixelData = encapsulate([jpeg_lossless(plane) for plane in stored])
        item["PixelData"].is_undefined_length = True
        return None

    data = np.tile(volume(), (4, 3, 1))  # JPEG 2000 cannot be smaller
    if frames == "slices":
        write_series(tmp_path, data, oblique_affine(), edit=compress)
    else:
        write_enhanced(tmp_path / "x.dcm", data, oblique_affine(), edit=compress)
    expected = data if frames == "slices" else data * 2 - 7
    np.testing.assert_array_equal(read_series(tmp_path).data, expected)


def test_a_missing_decoder_is_named_with_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing:
        is_available = False

    def label(item: Any, _: int) -> None:
        item.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        item.PixelData = encapsulate([jpeg_lossless(np.zeros((12, 9), np.uint16))])
        item["PixelData"].is_undefined_length = True

    write_series(tmp_path, volume(), oblique_affine(), edit=label)
    monkeypatch.setattr(dicom, "get_decoder", lambda _: Missing)
    with pytest.raises(StudyError, match=r"JPEG Lossless.*no decoder .* pip install 'desam-lite\[dicom\]'"):
        read_series(tmp_path)


def test_of_several_series_one_is_chosen_by_number_or_uid_and_otherwise_all_are_listed(
    tmp_path: Path,
) -> None:
    uid = generate_uid()
    write_series(tmp_path / "S1", volume(1), oblique_affine(), number=3, description="loc", uid=uid)
    write_series(tmp_path / "S2", volume(2), oblique_affine(), number=11)
    write_enhanced(tmp_path / "S3" / "x.dcm", volume(3), oblique_affine(), number=20)
    (tmp_path / "readme.txt").write_text("no scan")
    assert len(list_series(tmp_path)) == 3
    with pytest.raises(StudyError) as told:
        read_series(tmp_path)
    lines = str(told.value).splitlines()
    assert "holds 3 DICOM series" in lines[0] and "--series" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["3", "11", "20"]
    assert f"loc, MR, 5 slices, UID {uid}" in lines[1] and "enhanced, MR, 5 slices" in lines[3]
    np.testing.assert_array_equal(read_series(tmp_path, "11").data, volume(2))
    np.testing.assert_array_equal(read_series(tmp_path, uid).data, volume(1))
    with pytest.raises(StudyError, match="holds 0 DICOM series 4: "):
        read_series(tmp_path, "4")
    write_series(tmp_path / "S4", volume(4), oblique_affine(), number=11)
    with pytest.raises(StudyError, match="holds 2 DICOM series 11: "):
        read_series(tmp_path, "11")


def test_files_that_are_each_a_series_are_one_where_they_are_named_as_one(tmp_path: Path) -> None:
    def rename(item: Any, z: int) -> None:
        item.SeriesInstanceUID = generate_uid()

    write_series(tmp_path / "a", volume(), oblique_affine(), edit=rename)
    np.testing.assert_array_equal(read_series(tmp_path / "a").data, volume())
    for number in (1, 2):
        write_series(tmp_path / "b", volume()[..., :1], oblique_affine(), number=number)
    with pytest.raises(StudyError, match="holds 2 DICOM series"):
        read_series(tmp_path / "b")


def lose(folder: Path, paths: list[Path]) -> None:
    paths[2].unlink()


def double(folder: Path, paths: list[Path]) -> None:
    (folder / "again").write_bytes(paths[2].read_bytes())


def edited(number: int, **tags: Any) -> Callable[[Path, list[Path]], None]:
    def edit(folder: Path, paths: list[Path]) -> None:
        item = pydicom.dcmread(paths[number])
        for tag, value in tags.items():
            setattr(item, tag, value)
        item.save_as(paths[number])

    return edit


def shift(folder: Path, paths: list[Path]) -> None:
    item = pydicom.dcmread(paths[2])
    place = np.array(item.ImagePositionPatient, float) + 2 * np.array(item.ImageOrientationPatient[:3], float)
    item.ImagePositionPatient = [f"{value:.6f}" for value in place]
    item.save_as(paths[2])


def black(folder: Path, paths: list[Path]) -> None:
    for path in paths:
        edited(0, PixelData=b"\0" * 216)(folder, [path])


FAULTS: dict[str, tuple[Callable[[Path, list[Path]], None], str]] = {
    "slice missing": (lose, r"lacks a slice: .* lie 8 mm apart, the others 4 mm"),
    "slice twice": (double, r"holds a slice twice .*: remove one"),
    "slice aside": (shift, r"slices that are not in line: .* lies 2 mm aside"),
    "scout": (edited(1, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), r"another grid .* or a scout"),
    "no place": (
        edited(1, ImagePositionPatient=None),
        r"lacks ImagePositionPatient, so its place is unknown",
    ),
    "low is bright": (edited(1, PhotometricInterpretation="MONOCHROME1"), r"stored as MONOCHROME1, not as"),
    "frames without places": (edited(1, NumberOfFrames=3), r"holds frames without a place each"),
    "one grey level": (black, r"has one intensity \(0\) everywhere"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_series_at_fault_is_told(name: str, tmp_path: Path) -> None:
    breaker, sentence = FAULTS[name]
    breaker(tmp_path, write_series(tmp_path, volume(), oblique_affine()))
    with pytest.raises(StudyError, match=sentence):
        read_series(tmp_path)


def test_two_times_in_one_enhanced_file_are_told(tmp_path: Path) -> None:
    twice = np.concatenate([volume(), volume(1)], axis=2)

    def fold(item: Any) -> None:
        for frame, other in zip(
            item.PerFrameFunctionalGroupsSequence[:5], item.PerFrameFunctionalGroupsSequence[5:], strict=True
        ):
            frame.PlanePositionSequence = other.PlanePositionSequence

    write_enhanced(tmp_path / "x.dcm", twice, oblique_affine(), edit=fold)
    with pytest.raises(StudyError, match=r"frame \d+ of x.dcm and frame \d+ of x.dcm lie at one place"):
        read_series(tmp_path)
