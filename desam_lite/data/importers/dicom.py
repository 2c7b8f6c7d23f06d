"""One DICOM series, one slice per file, to one volume; and the label images (PNG) that go with its slices.

Read with pydicom and checked here: MONAI's ``PydicomReader`` (1.6) orders slices by their number instead of their position,
refuses a series without numbers, and reads a series with a doubled or missing slice, or two series, as if it were sound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.errors import InvalidDicomError

from desam_lite.data.geometry import Array
from desam_lite.data.index import natural
from desam_lite.utils.errors import StudyError

_ALIKE = 1e-3  # direction cosines and pixel spacings of one series differ by less
_GAP = 0.1  # how far a slice may lie off even spacing, in parts of it
_SAME_PLACE = 1e-4  # mm
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Series:
    """A volume read from a folder of DICOM slices.

    Attributes:
        data: ``(columns, rows, slices)``, rescaled to the modality's unit; int16 where no value is lost by it.
        affine: ``(4, 4)`` float64, voxel indices -> mm, RAS+.
        files: The slices' files, in the order of the third axis.
    """

    data: Array
    affine: npt.NDArray[np.float64]
    files: tuple[Path, ...]


def read_series(folder: Path) -> Series:
    """Read the one series in a folder; slices are ordered by their position, whatever their names.

    Args:
        folder: Holds one file per slice; files without pixels (a DICOMDIR) are passed over.

    Returns:
        The volume.

    Raises:
        StudyError: No slice, an unreadable one, two series, slices of different grids, a doubled or a missing slice.
    """
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    slices = [(path, item) for path in files if (item := _read_slice(path)) is not None]
    if not slices:
        raise StudyError(f"{folder} holds no DICOM slice with an image: check the path.")
    _require_single_series(folder, slices)
    _, first = slices[0]
    normal = np.cross(first.ImageOrientationPatient[:3], first.ImageOrientationPatient[3:])
    slices.sort(key=lambda item: float(np.dot(normal, item[1].ImagePositionPatient)))
    _require_even_spacing(folder, normal, slices)
    data: Array = np.stack([_pixels(path, item).T for path, item in slices], axis=-1)
    small = data.astype(np.int16) if np.abs(data).max() < 2**15 else data
    data = small if np.array_equal(small, data) else data.astype(np.float32)
    return Series(data, _affine(normal, slices), tuple(path for path, _ in slices))


def _read_slice(path: Path) -> Any | None:
    """Return the content of a slice's file; None of a file that is none."""
    try:
        item = pydicom.dcmread(path)
        if "PixelData" not in item:
            return None
        missing = [key for key in _PLACE if key not in item]
    except InvalidDicomError:
        if path.suffix.lower() != ".dcm":  # a readme or a thumbnail may lie among the slices
            return None
        raise StudyError(f"{path} is not a DICOM file: copy it again from its source.") from None
    except (OSError, ValueError, AttributeError, NotImplementedError, EOFError) as error:
        raise StudyError(
            f"{path} cannot be read as DICOM ({error}): copy it again from its source."
        ) from error
    if missing:
        raise StudyError(f"{path} lacks {missing[0]}, so its place is unknown: export the series again.")
    return item


def _require_single_series(folder: Path, slices: list[tuple[Path, Any]]) -> None:
    """Refuse a mixture. Anonymisers may give each file a series of its own (CHAOS has such): all different is one."""
    series = {str(item.get("SeriesInstanceUID", "")) for _, item in slices}
    if 1 < len(series) < len(slices):
        raise StudyError(f"{folder} holds {len(series)} DICOM series: keep one series per folder.")
    first_path, first = slices[0]
    for path, item in slices[1:]:
        same = (item.Rows, item.Columns) == (first.Rows, first.Columns) and all(
            np.allclose(item[key].value, first[key].value, atol=_ALIKE)
            for key in ("ImageOrientationPatient", "PixelSpacing")
        )
        if not same:
            raise StudyError(
                f"{path} has another grid than {first_path.name} in the same folder (two series?): keep one series per folder."
            )


def _require_even_spacing(folder: Path, normal: Array, slices: list[tuple[Path, Any]]) -> None:
    steps = np.diff([float(np.dot(normal, item.ImagePositionPatient)) for _, item in slices])
    usual = float(np.median(steps)) if len(steps) else 0.0
    pairs = [(path.name, other.name) for (path, _), (other, _) in pairwise(slices)]
    for step, (name, other) in zip(steps, pairs, strict=True):
        if step < max(_GAP * usual, _SAME_PLACE):
            raise StudyError(
                f"{folder} holds a slice twice ({name} and {other} lie at one place): remove one."
            )
    for step, (name, other) in zip(steps, pairs, strict=True):
        if abs(step - usual) > _GAP * usual:
            raise StudyError(
                f"{folder} lacks a slice: {name} and {other} lie {step:.3g} mm apart, the others {usual:.3g} mm. "
                "Export the series again."
            )


def _pixels(path: Path, item: Any) -> npt.NDArray[np.float64]:
    """Return ``(rows, columns)`` in the modality's unit: rescale slope and intercept applied."""
    try:
        pixels = item.pixel_array
    except Exception as error:  # pydicom's decoders raise many kinds
        reason = " ".join(str(error).split())
        raise StudyError(
            f"the pixels of {path} cannot be read ({reason}): copy it again from its source."
        ) from error
    if pixels.ndim != 2:
        raise StudyError(
            f"{path} holds {pixels.shape} pixels, not one grey slice: export one slice per file."
        )
    slope, intercept = float(item.get("RescaleSlope", 1) or 1), float(item.get("RescaleIntercept", 0) or 0)
    result: npt.NDArray[np.float64] = pixels.astype(np.float64) * slope + intercept
    return result


def _affine(normal: Array, slices: list[tuple[Path, Any]]) -> npt.NDArray[np.float64]:
    """Return the affine of ``(columns, rows, slices)``; the measured step between slices suits a tilted gantry too."""
    first, last = slices[0][1], slices[-1][1]
    between_rows, between_columns = (float(value) for value in first.PixelSpacing)
    start = np.asarray(first.ImagePositionPatient, dtype=np.float64)
    if len(slices) > 1:
        step = (np.asarray(last.ImagePositionPatient, dtype=np.float64) - start) / (len(slices) - 1)
    else:
        step = np.asarray(normal) * float(first.get("SliceThickness", 1) or 1)
    lps = np.eye(4)
    lps[:3, 0] = np.asarray(first.ImageOrientationPatient[:3], dtype=np.float64) * between_columns
    lps[:3, 1] = np.asarray(first.ImageOrientationPatient[3:], dtype=np.float64) * between_rows
    lps[:3, 2], lps[:3, 3] = step, start
    result: npt.NDArray[np.float64] = _LPS_TO_RAS @ lps
    return result


def read_label_images(folder: Path, series: Series, ids: Mapping[range, int]) -> npt.NDArray[np.uint8]:
    """Read one label image per slice, in the pixel grid of the slices, onto the volume of a series.

    An image belongs to the slice of the same name; where names differ altogether, to the slice of the same rank, both in
    natural order of their names (CHAOS's CT: ``i0012,0000b.dcm`` and ``liver_GT_012.png``).

    Args:
        folder: Holds the PNG files.
        series: The volume.
        ids: Range of intensities -> label id; 0 is background.

    Returns:
        ``(columns, rows, slices)`` uint8, as ``series.data``.

    Raises:
        StudyError: Missing, surplus or unreadable images, another size, or an intensity that no range holds.
    """
    images = sorted(folder.glob("*.png"), key=_natural_stem) if folder.is_dir() else []
    by_slice = _match_images(folder, images, series.files)
    shape = (series.data.shape[1], series.data.shape[0])
    return np.stack([_read_label_image(by_slice[path], shape, ids).T for path in series.files], axis=-1)


def _match_images(folder: Path, images: list[Path], slices: tuple[Path, ...]) -> dict[Path, Path]:
    if len(images) != len(slices):
        raise StudyError(
            f"{folder} holds {len(images)} label pictures for {len(slices)} slices: one each is needed."
        )
    by_stem = {image.stem: image for image in images}
    alone = [path for path in slices if path.stem not in by_stem]
    if not alone:
        return {path: by_stem[path.stem] for path in slices}
    if len(alone) < len(slices):
        raise StudyError(
            f"{folder} has no label picture for slice {alone[0].name}, but has for others: name it alike."
        )
    return dict(zip(sorted(slices, key=_natural_stem), images, strict=True))


def _natural_stem(path: Path) -> list[tuple[int, int, str]]:
    return natural(path.stem)


def _read_label_image(path: Path, shape: tuple[int, int], ids: Mapping[range, int]) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            intensities = np.asarray(image.convert("L"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise StudyError(
            f"label picture {path} cannot be read ({error}): copy it again from its source."
        ) from error
    if intensities.shape != shape:
        raise StudyError(
            f"label picture {path} is {intensities.shape} pixels but its slice {shape}: export it on the slice's grid."
        )
    labels = np.zeros(shape, np.uint8)
    for value in np.unique(intensities[intensities > 0]).tolist():
        label = next((label for values, label in ids.items() if value in values), None)
        if label is None:
            raise StudyError(
                f"label picture {path} holds the grey value {value}, which stands for no organ: correct it."
            )
        labels[intensities == value] = label
    return labels
