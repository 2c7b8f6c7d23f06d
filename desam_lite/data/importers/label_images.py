"""The label images (PNG) that go with the slices of a DICOM series."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from desam_lite.data.dicom import Series
from desam_lite.data.index import natural
from desam_lite.utils.errors import StudyError


def read_label_images(folder: Path, series: Series, ids: Mapping[range, int]) -> npt.NDArray[np.uint8]:
    """Read one label image per slice, in the pixel grid of the slices, onto the volume of a series: uint8, as ``series.data``.

    An image belongs to the slice of the same name; where names differ altogether, to the slice of the same rank, both in
    natural order of their names (CHAOS's CT: ``i0012,0000b.dcm`` and ``liver_GT_012.png``). ``ids`` are label ids by range of
    intensities; 0 is background.
    """
    images = sorted(folder.glob("*.png"), key=_natural_stem) if folder.is_dir() else []
    files = tuple(frame.path for frame in series.frames)
    by_slice = _match_images(folder, images, files)
    shape = (series.data.shape[1], series.data.shape[0])
    return np.stack([_read_label_image(by_slice[path], shape, ids).T for path in files], axis=-1)


def _match_images(folder: Path, images: list[Path], slices: tuple[Path, ...]) -> dict[Path, Path]:
    if len(images) != len(slices):
        raise StudyError(
            f"{folder} holds {len(images)} label images for {len(slices)} slices: one each is needed."
        )
    by_stem = {image.stem: image for image in images}
    alone = [path for path in slices if path.stem not in by_stem]
    if not alone:
        return {path: by_stem[path.stem] for path in slices}
    if len(alone) < len(slices):
        raise StudyError(
            f"{folder} has no label image for slice {alone[0].name}, but has for others: name it alike."
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
            f"label image {path} cannot be read ({error}): copy it again from its source."
        ) from error
    intensities = pixels if wide else pixels[..., 0]
    if wide and pixels.max() > 255:
        if (pixels % 257).any():
            raise StudyError(f"label image {path} holds values over 255: export it with 8 bits.")
        intensities = pixels // 257  # 0..255 stretched to 0..65535
    elif not wide and np.ptp(pixels, axis=-1).any():
        raise StudyError(f"label image {path} is in colour: export it in grey.")
    if intensities.shape != shape:
        raise StudyError(
            f"label image {path} is {intensities.shape} pixels but its slice {shape}: export it on the slice's grid."
        )
    labels = np.zeros(shape, np.uint8)
    for value in np.unique(intensities[intensities > 0]).tolist():
        label = next((label for values, label in ids.items() if value in values), None)
        if label is None:
            raise StudyError(
                f"label image {path} holds the grey value {value}, which stands for no organ: correct it."
            )
        labels[intensities == value] = label
    return labels
