"""A DICOM Segmentation says what SNOMED CT calls its organs, refers to its series, and lies on its voxels."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import PLACE_FRAME, STUDY, oblique_affine, write_enhanced, write_series
from pydicom.sr.codedict import codes

from desam_lite.data.dicom import Series, read_series
from desam_lite.data.geometry import to_slices
from desam_lite.data.manifest import Term, list_manifests, load_manifest
from desam_lite.data.segmentations import read_segmentation, require_highdicom, write_segmentation
from desam_lite.utils.errors import StudyError

ROOT = Path(__file__).resolve().parents[2]
needs_highdicom = pytest.mark.usefixtures("highdicom")
ORGANS = {"prostate": "#e69f00", "left kidney": "#56b4e9", "thing": "#009e73"}
TERMS = {"prostate": Term("41216001", ""), "left kidney": Term("64033007", "left")}


@pytest.fixture
def highdicom() -> Any:
    return pytest.importorskip(
        "highdicom", reason="highdicom is not installed: pip install 'desam-lite[dicom]'"
    )


def labels() -> np.ndarray:
    """(columns, rows, slices), alike under no flip; the lowest and the highest slice are empty."""
    data = np.zeros((9, 12, 6), np.uint8)
    data[1:3, 2:7, 1:4], data[4:7, 2:4, 1:3], data[5, 8:11, 3:5] = 1, 2, 3
    return data


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, labels().shape).astype(np.int16)


def write(path: Path, series: Series) -> Any:
    mask = to_slices(labels(), series.geometry)
    write_segmentation(path, mask, series.geometry, series.frames, ORGANS, TERMS, "U-Net of A")
    return pydicom.dcmread(path)


@needs_highdicom
@pytest.mark.parametrize("kind", ["slices", "frames"])
def test_it_comes_back_on_the_same_voxels(kind: str, tmp_path: Path) -> None:
    if kind == "slices":
        write_series(tmp_path / "in", volume(), oblique_affine())
    else:
        write_enhanced(tmp_path / "in" / "x.dcm", volume(), oblique_affine())
    series = read_series(tmp_path / "in")
    write(tmp_path / "mask.dcm", series)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm", series), labels())


@needs_highdicom
def test_it_says_what_its_organs_are_and_refers_to_each_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "in", volume(), oblique_affine())
    series = read_series(tmp_path / "in")
    item = write(tmp_path / "mask.dcm", series)
    assert (item.Modality, item.StudyInstanceUID, item.FrameOfReferenceUID) == ("SEG", STUDY, PLACE_FRAME)
    assert (item.PatientID, item.PatientName) == ("P1", "Doe^Jane")
    (referred,) = item.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == series.frames[0].header.SeriesInstanceUID
    instances = {each.ReferencedSOPInstanceUID for each in referred.ReferencedInstanceSequence}
    assert instances == {frame.header.SOPInstanceUID for frame in series.frames}
    segments = list(item.SegmentSequence)
    types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert [segment.SegmentLabel for segment in segments] == list(ORGANS)
    assert [(code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) for code in types] == [
        ("41216001", "SCT", "Prostate"),
        ("64033007", "SCT", "Kidney"),
        ("3", "99DESAMLITE", "thing"),
    ]
    (side,) = segments[1].SegmentedPropertyTypeModifierCodeSequence
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    assert all("RecommendedDisplayCIELabValue" in segment for segment in segments)
    assert segments[0].SegmentAlgorithmType == "AUTOMATIC"


@needs_highdicom
def test_a_tilted_series_gets_a_slice_of_mask_on_each_of_its_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "in", volume(), oblique_affine(tilt=1.5))
    series = read_series(tmp_path / "in")
    item = write(tmp_path / "mask.dcm", series)
    planes = {frame.header.SOPInstanceUID: z for z, frame in enumerate(series.frames)}
    for group, pixels in zip(item.PerFrameFunctionalGroupsSequence, item.pixel_array, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_allclose(place, series.frames[planes[source]].place, atol=1e-6)
        np.testing.assert_array_equal(pixels.T, labels()[..., planes[source]] == number)
    with pytest.raises(StudyError, match="cannot be brought onto the grid of its series"):
        read_segmentation(tmp_path / "mask.dcm", series)


@needs_highdicom
def test_slices_of_a_mask_may_lack_and_lie_in_any_order(highdicom: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "in", volume(), oblique_affine())
    series = read_series(tmp_path / "in")
    order = [3, 1, 2, 4]
    sources = [series.frames[z].header for z in order]
    for source in sources:
        for tag in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            source.setdefault(tag, None)
    description = highdicom.seg.SegmentDescription(
        1, "gland", codes.SCT.AnatomicalStructure, codes.SCT.Prostate, "MANUAL"
    )
    planes = (labels() == 1)[..., order].transpose(2, 1, 0)
    names = {"manufacturer": "x", "manufacturer_model_name": "x", "software_versions": "1"}
    uids = {"series_instance_uid": highdicom.UID(), "sop_instance_uid": highdicom.UID()}
    numbers = {"series_number": 9, "instance_number": 1, "device_serial_number": "1"}
    highdicom.seg.Segmentation(sources, planes, "BINARY", [description], **names, **uids, **numbers).save_as(
        tmp_path / "mask.dcm"
    )
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm", series), labels() == 1)


@needs_highdicom
def test_a_mask_of_another_grid_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", volume(), oblique_affine())
    write_series(tmp_path / "other", volume(), oblique_affine(start=(12.4, -34, 56)))
    write_series(tmp_path / "small", volume()[..., :3], oblique_affine())
    write(tmp_path / "mask.dcm", read_series(tmp_path / "in"))
    for name, reason in (("other", ""), ("small", "reaches beyond the series")):
        with pytest.raises(StudyError, match=f"cannot be brought onto the grid of its series .*{reason}"):
            read_segmentation(tmp_path / "mask.dcm", read_series(tmp_path / name))


@needs_highdicom
def test_a_series_that_cannot_be_referred_to_is_told(tmp_path: Path) -> None:
    def anonymise(item: Any, _: int) -> None:
        del item.FrameOfReferenceUID

    write_series(tmp_path / "in", volume(), oblique_affine(), edit=anonymise)
    with pytest.raises(StudyError, match=r"lacks FrameOfReferenceUID, .*: write the mask as NIfTI"):
        write(tmp_path / "mask.dcm", read_series(tmp_path / "in"))
    assert not (tmp_path / "mask.dcm").exists()


def test_without_highdicom_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(StudyError, match=r"pip install 'desam-lite\[dicom\]', or use NIfTI"):
        require_highdicom()


def test_the_codes_of_shipped_manifests_are_what_the_dicom_standard_calls_the_organs() -> None:
    """DICOM's part 16 has them; pydicom carries a copy."""
    organs = [
        organ
        for name in list_manifests()
        for organ in load_manifest(name).organs
        if (ROOT / "data_manifests" / f"{name}.yaml").exists()
    ]
    assert len(organs) >= 11
    for organ in organs:
        assert organ.term is not None
        name = organ.name.removeprefix(f"{organ.term.side} ").capitalize()
        assert organ.term.snomed == getattr(codes.SCT, name).value, organ.name
        assert bool(organ.term.side) == organ.name.startswith(("left ", "right "))


def test_the_extra_that_messages_name_brings_highdicom_and_the_decoders() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {line.split(">")[0] for line in extras["dicom"]}
    assert names == {"highdicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"}
