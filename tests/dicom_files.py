"""DICOM series as hospitals export them, written from a volume and its affine: one slice per file, or one file of frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

STUDY, PLACE_FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame"])
CLASSES = {"MR": (MRImageStorage, EnhancedMRImageStorage), "CT": (CTImageStorage, EnhancedCTImageStorage)}


def oblique_affine(
    sides: tuple[float, float, float] = (1.5, 1.25, 4.0),
    turns: tuple[float, float, float] = (0.1, -0.2, 0.3),
    start: tuple[float, float, float] = (12.0, -34.0, 56.0),
    tilt: float = 0.0,
) -> np.ndarray:
    """Affine (columns, rows, slices) -> mm RAS+, right-handed in LPS as scanners have it; the tilt shears the slices."""
    lps = np.eye(4)
    a, b, c = turns
    turn = (
        np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        @ np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    )
    lps[:3, :3], lps[:3, 3] = turn * sides, start
    lps[:3, 2] += lps[:3, 1] / np.linalg.norm(lps[:3, 1]) * tilt
    return np.diag([-1, -1, 1, 1]) @ lps


def write_series(
    folder: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "MR",
    number: int = 5,
    description: str = "T2 tra",
    uid: str | None = None,
    edit: Callable[[Any, int], None] | None = None,
) -> list[Path]:
    """One file per slice of ``(columns, rows, slices)`` int16, named without any order that tells their places."""
    folder.mkdir(parents=True, exist_ok=True)
    uid, paths, count = uid or generate_uid(), [], data.shape[2]
    for z in range(count):
        item = _header(CLASSES[modality][0], modality, number, description, uid, data)
        item.InstanceNumber = count - z
        for tag, value in _place(affine, z).items():
            setattr(item, tag, value)
        item.RescaleSlope, item.RescaleIntercept = 1, 0
        item.PixelData = np.ascontiguousarray(data[..., z].T).astype("<i2").tobytes()
        if edit:
            edit(item, z)
        paths.append(folder / f"IM{(z * 7919) % 1000:04}{number}")
        item.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(
    path: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "MR",
    number: int = 5,
    edit: Callable[[Any], None] | None = None,
) -> Path:
    """One file with a frame per slice, the highest first, each with its functional groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    item = _header(CLASSES[modality][1], modality, number, "enhanced", generate_uid(), data)
    order = list(range(data.shape[2]))[::-1]
    place = _place(affine, 0)
    shared, transformation = Dataset(), Dataset()
    shared.PixelMeasuresSequence = [_group(place, "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_group(place, "ImageOrientationPatient")]
    transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 2, -7, "US"
    shared.PixelValueTransformationSequence = [transformation]
    item.SharedFunctionalGroupsSequence, item.PerFrameFunctionalGroupsSequence = [shared], []
    for z in order:
        own = Dataset()
        own.PlanePositionSequence = [_group(_place(affine, z), "ImagePositionPatient")]
        item.PerFrameFunctionalGroupsSequence.append(own)
    item.NumberOfFrames = len(order)
    item.PixelData = np.ascontiguousarray(data[..., order].transpose(2, 1, 0)).astype("<i2").tobytes()
    if edit:
        edit(item)
    item.save_as(path, enforce_file_format=True)
    return path


def _group(place: dict[str, Any], *tags: str) -> Dataset:
    group = Dataset()
    for tag in tags:
        setattr(group, tag, place[tag])
    return group


def _place(affine: np.ndarray, z: int) -> dict[str, Any]:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    place, turn = (lps @ [0, 0, z, 1])[:3], (lps[:3, :2] / sides[:2]).T.ravel()
    return {
        "ImagePositionPatient": _texts(place),
        "ImageOrientationPatient": _texts(turn),
        "PixelSpacing": _texts([sides[1], sides[0]]),
        "SliceThickness": _texts([sides[2]])[0],
    }


def _texts(values: Any) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM stores them."""
    return [np.format_float_positional(value, precision=10, trim="-")[:16] for value in values]


def _header(
    sop_class: str, modality: str, number: int, description: str, uid: str, data: np.ndarray
) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    item.SOPClassUID, item.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = STUDY, uid, PLACE_FRAME
    item.Modality, item.SeriesNumber, item.SeriesDescription = modality, number, description
    item.PatientID, item.PatientName = "P1", "Doe^Jane"
    item.Columns, item.Rows = data.shape[:2]
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    return item


def jpeg_lossless(plane: np.ndarray) -> bytes:
    """A plane of 16-bit values as JPEG lossless, first-order prediction (ITU-T T.81, process 14, selection value 1)."""
    rows, columns = plane.shape
    values = plane.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[0, 0], predicted[0, 1:] = 1 << 15, values[0, :-1]
    predicted[1:, 0], predicted[1:, 1:] = values[:-1, 0], values[1:, :-1]
    bits = []
    for difference in ((values - predicted + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist():
        size = abs(difference).bit_length()  # the category; all 17 have a code of five bits
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = bytes(int(text[n : n + 8], 2) for n in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")
    frame = bytes([16, *rows.to_bytes(2, "big"), *columns.to_bytes(2, "big"), 1, 1, 0x11, 0])
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    parts = [(0xC3, frame), (0xC4, table), (0xDA, bytes([1, 1, 0, 1, 0, 0]))]
    segments = b"".join(
        bytes([0xFF, mark]) + (len(body) + 2).to_bytes(2, "big") + body for mark, body in parts
    )
    return b"\xff\xd8" + segments + scan + b"\xff\xd9"
