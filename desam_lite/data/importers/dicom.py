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
from pydicom.pixels.decoders.base import get_decoder

from desam_lite.data.geometry import Array
from desam_lite.data.index import natural
from desam_lite.utils.errors import StudyError

_ALIKE = 1e-3  # direction cosines and pixel spacings of one series differ by less
_GAP = 0.1  # how far a slice may lie off even spacing, in parts of it
_SAME_PLACE = 1e-4  # mm
_PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # with how many numbers
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
        missing = [key for key, count in _PLACE.items() if not _has_numbers(item.get(key), count)]
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


def _has_numbers(value: Any, count: int) -> bool:
    """Whether a tag is there with a value, not only there."""
    numbers = np.asarray(value, dtype=np.float64)  # None is NaN
    return numbers.size == count and bool(np.isfinite(numbers).all())


def _require_single_series(folder: Path, slices: list[tuple[Path, Any]]) -> None:
    """Refuse a mixture. Anonymisers may give each file a series of its own (CHAOS has such): all different is one."""
    series = {str(item.get("SeriesInstanceUID", "")) for _, item in slices}
    if 1 < len(series) < len(slices):
        raise StudyError(f"{folder} holds {len(series)} DICOM series: keep one series per folder.")
    first_path, first = slices[0]
    for path, item in slices[1:]:
        same = all(item.get(key) == first.get(key) for key in ("Rows", "Columns")) and all(
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
    if (kind := item.get("PhotometricInterpretation")) and kind != "MONOCHROME2":
        raise StudyError(
            f"{path} is stored as {kind}, not as MONOCHROME2 (high is bright): export the series as MONOCHROME2."
        )
    _require_decoder(path, item)
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


def _require_decoder(path: Path, item: Any) -> None:
    syntax = item.file_meta.get("TransferSyntaxUID")
    try:
        missing = syntax and syntax.is_compressed and not get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):  # a video, or a syntax of a maker's own
        missing = True
    if missing:
        raise StudyError(
            f"{path} is compressed ({syntax.name}), and no decoder for it is installed: decompress the series (gdcmconv --raw), "
            "or try pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg."
        )


def _affine(normal: Array, slices: list[tuple[Path, Any]]) -> npt.NDArray[np.float64]:
    """Return the affine of ``(columns, rows, slices)``; the measured step between slices suits a tilted gantry too."""
    first, last = slices[0][1], slices[-1][1]
    between_rows, between_columns = (float(value) for value in first.PixelSpacing)
    start = np.asarray(first.ImagePositionPatient, dtype=np.float64)
    if len(slices) > 1:
        step = (np.asarray(last.ImagePositionPatient, dtype=np.float64) - start) / (len(slices) - 1)
    elif thickness := first.get("SliceThickness"):
        step = np.asarray(normal) * float(thickness)
    else:
        raise StudyError(
            f"{slices[0][0]} is the only slice and has no SliceThickness: export the series again."
        )
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
            wide = image.mode.startswith("I")  # more than 8 bits, which "L" would cut off at 255
            pixels = np.asarray(image if wide else image.convert("RGB")).astype(np.int64)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise StudyError(
            f"label picture {path} cannot be read ({error}): copy it again from its source."
        ) from error
    intensities = pixels if wide else pixels[..., 0]
    if wide and pixels.max() > 255:
        if (pixels % 257).any():
            raise StudyError(f"label picture {path} holds values over 255: export it with 8 bits.")
        intensities = pixels // 257  # 0..255 stretched to 0..65535
    elif not wide and np.ptp(pixels, axis=-1).any():
        raise StudyError(f"label picture {path} is in colour: export it in grey.")
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
