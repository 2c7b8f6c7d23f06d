"""One DICOM series, one slice per file or all in one enhanced multi-frame file, to one volume.

Read with pydicom and checked here: MONAI's ``PydicomReader`` (1.6) orders slices by their number instead of their position,
refuses a series without numbers, and reads a series with a doubled or missing slice, or two series, as if it were sound.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder

from desam_lite.data.geometry import Array, Geometry
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import walk

_ALIKE = 1e-3  # direction cosines and pixel spacings of one series differ by less
_GAP = 0.1  # how far a slice may lie off even spacing, in parts of it
_SAME_PLACE = 1e-4  # mm
_PLACE = {
    "ImagePositionPatient": ("PlanePositionSequence", 3),
    "ImageOrientationPatient": ("PlaneOrientationSequence", 6),
    "PixelSpacing": ("PixelMeasuresSequence", 2),
}
"""Tags of a slice's place, the functional group that has each in a multi-frame file, and their count of numbers."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NO_IMAGE = {"SEG", "RTDOSE", "RTIMAGE", "PR", "KO", "SR", "DOC"}  # modalities of files that are no scan


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice of a series."""

    path: Path  #: its file
    number: int | None  #: which frame of a multi-frame file it is, from 0; None in a file with one slice
    header: Any  #: the file's tags, without pixels
    place: Array  #: the first voxel's centre, mm, LPS
    turn: Array  #: direction cosines of the row, then of the column
    sides: Array  #: distance between rows and between columns, mm
    rescale: tuple[float, float]  #: slope and intercept from stored values to the modality's unit

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        return self.path.name if self.number is None else f"frame {self.number + 1} of {self.path.name}"

    @property
    def height(self) -> float:
        """Its place along its own normal, mm."""
        return float(np.dot(np.cross(self.turn[:3], self.turn[3:]), self.place))


@dataclass(frozen=True, eq=False)
class Series:
    """A volume read from a DICOM series."""

    #: ``(columns, rows, slices)``, rescaled to the modality's unit; int16 where no value is lost by it, else float32
    data: Array
    geometry: Geometry  #: its grid, RAS+
    frames: tuple[Frame, ...]  #: the slices, in the order of the third axis
    warnings: tuple[str, ...] = ()  #: what is odd but no fault


def list_series(source: Path) -> dict[str, dict[Path, Any]]:
    """Return the image series below a folder, or in a file: UID -> file -> its tags without pixels.

    Anonymisers may give each file a series of its own (CHAOS has such): all files different, of one number and description,
    are one series.
    """
    series: dict[str, dict[Path, Any]] = defaultdict(dict)
    for path in filter(Path.is_file, walk(source) if source.is_dir() else [source]):
        header = read_header(path)
        if header is not None and "Rows" in header and header.get("Modality") not in _NO_IMAGE:
            series[str(header.get("SeriesInstanceUID", ""))][path] = header
    slices = {path: header for group in series.values() for path, header in group.items()}
    apart = len(series) == len(slices) > 1 and not any("NumberOfFrames" in each for each in slices.values())
    names = {(str(h.get("SeriesNumber")), str(h.get("SeriesDescription"))) for h in slices.values()}
    return {"": slices} if apart and len(names) == 1 else dict(series)


def read_header(path: Path) -> Any | None:
    """Return the tags of a DICOM file, without pixels; None of a file that is none and does not call itself ``.dcm``."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        if path.suffix.lower() != ".dcm":  # a readme or a thumbnail may lie among the slices
            return None
        raise StudyError(f"{path} is not a DICOM file: copy it again from its source.") from None
    except (OSError, ValueError, AttributeError, NotImplementedError, EOFError) as error:
        raise StudyError(
            f"{path} cannot be read as DICOM ({error}): copy it again from its source."
        ) from error


def holds_dicom(source: Path) -> bool:
    """Whether a file is DICOM, or one below a folder is."""
    return any(map(_is_dicom, walk(source) if source.is_dir() else [source]))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_series(source: Path, choice: str | None = None) -> Series:
    """Read a series below a folder, or of a file; slices are ordered by their position, whatever their names.

    The choice is the UID or number of the series, where there are several. What holds no image (a DICOMDIR) is passed over.

    Raises:
        StudyError: No slice, an unreadable one, several series, slices of different grids, a doubled or a missing slice.
    """
    headers = _choose_series(source, list_series(source), choice)
    frames = [frame for path, header in headers.items() for frame in _frames(path, header)]
    _require_same_grid(frames)
    frames.sort(key=lambda frame: frame.height)
    _require_even_spacing(source, frames)
    affine, warnings = _affine(frames)
    data = _stack(frames)
    if data.min() == data.max():
        raise StudyError(
            f"{source} has one intensity ({data.min():g}) everywhere: export it again from its source."
        )
    columns, rows, slices = data.shape
    return Series(data, Geometry((columns, rows, slices), affine), tuple(frames), warnings)


def _choose_series(source: Path, series: dict[str, dict[Path, Any]], choice: str | None) -> dict[Path, Any]:
    """Return the files of the one series, or of the chosen one."""
    if not series:
        raise StudyError(f"{source} holds no DICOM slice with an image: check the path.")
    firsts = {uid: next(iter(files.values())) for uid, files in series.items()}
    numbers = {uid: str(first.get("SeriesNumber") or "") for uid, first in firsts.items()}
    chosen = [uid for uid in series if choice in (None, uid, numbers[uid])]
    if len(chosen) == 1:
        return series[chosen[0]]
    listing = "\n".join(
        f"  {numbers[uid] or '-'}: {first.get('SeriesDescription') or 'without description'}, {first.get('Modality')}, "
        f"{sum(int(header.get('NumberOfFrames') or 1) for header in series[uid].values())} slices, UID {uid}"
        for uid, first in sorted(firsts.items(), key=lambda item: (len(numbers[item[0]]), numbers[item[0]]))
    )
    problem = f"{len(series)} DICOM series" if choice is None else f"{len(chosen)} DICOM series {choice}"
    raise StudyError(
        f"{source} holds {problem}: keep one per folder, or choose one in 'predict' with --series (number or UID).\n{listing}"
    )


def _frames(path: Path, header: Any) -> list[Frame]:
    """Return the slices of a file."""
    if (kind := header.get("PhotometricInterpretation")) and kind != "MONOCHROME2":
        raise StudyError(
            f"{path} is stored as {kind}, not as MONOCHROME2 (high is bright): export the series as MONOCHROME2."
        )
    if groups := header.get("PerFrameFunctionalGroupsSequence"):
        shared = list(header.get("SharedFunctionalGroupsSequence") or [])
        return [_frame(path, n, header, [own, *shared]) for n, own in enumerate(groups)]
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise StudyError(f"{path} holds frames without a place each: export one slice per file.")
    return [_frame(path, None, header, [])]


def _frame(path: Path, number: int | None, header: Any, groups: list[Any]) -> Frame:
    def find(tag: str, sequence: str) -> Any:
        inner = (group[sequence][0] for group in groups if group.get(sequence))
        return next((item[tag].value for item in inner if tag in item), header.get(tag))

    values = {tag: np.asarray(find(tag, sequence), np.float64) for tag, (sequence, _) in _PLACE.items()}
    for tag, (_, count) in _PLACE.items():  # a tag may be there without a value, which becomes NaN
        if values[tag].size != count or not np.isfinite(values[tag]).all():
            raise StudyError(f"{path} lacks {tag}, so its place is unknown: export the series again.")
    transformation = "PixelValueTransformationSequence"
    slope, intercept = (find(f"Rescale{name}", transformation) for name in ("Slope", "Intercept"))
    rescale = float(slope or 1), float(intercept or 0)
    place, turn, sides = values.values()
    return Frame(path, number, header, place, turn, sides, rescale)


def _require_same_grid(frames: list[Frame]) -> None:
    def shape(frame: Frame) -> tuple[Any, Any]:
        return frame.header.get("Rows"), frame.header.get("Columns")

    first = frames[0]
    for frame in frames[1:]:
        pairs = ((frame.turn, first.turn), (frame.sides, first.sides))
        if shape(frame) != shape(first) or not all(np.allclose(*pair, atol=_ALIKE) for pair in pairs):
            raise StudyError(
                f"{frame.path} has another grid than {first.path.name} in the same series (two series, or a scout?): "
                "keep one series per folder."
            )


def _require_even_spacing(source: Path, frames: list[Frame]) -> None:
    steps = np.diff([frame.height for frame in frames])
    usual = float(np.median(steps)) if len(steps) else 0.0
    pairs = list(pairwise(frames))
    for step, (frame, other) in zip(steps, pairs, strict=True):
        if step < max(_GAP * usual, _SAME_PLACE):
            raise StudyError(
                f"{source} holds a slice twice ({frame.name} and {other.name} lie at one place): remove one; "
                "of a series with several times or echoes, export one."
            )
    for step, (frame, other) in zip(steps, pairs, strict=True):
        if abs(step - usual) > _GAP * usual:
            raise StudyError(
                f"{source} lacks a slice: {frame.name} and {other.name} lie {step:.3g} mm apart, the others {usual:.3g} mm. "
                "Export the series again."
            )
    places = np.stack([frame.place for frame in frames])
    off = np.linalg.norm(places - np.linspace(places[0], places[-1], len(frames)), axis=1)
    if off.max() > max(_GAP * usual, _SAME_PLACE):
        raise StudyError(
            f"{source} has slices that are not in line: {frames[int(off.argmax())].name} lies {off.max():.3g} mm aside. "
            "Export the series again."
        )


def _affine(frames: list[Frame]) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Return the affine of ``(columns, rows, slices)``, RAS+, and what is odd; the measured step suits a tilted gantry too."""
    first, count, warnings = frames[0], len(frames), []
    normal = np.cross(first.turn[:3], first.turn[3:])
    if count > 1:
        step = (frames[-1].place - first.place) / (count - 1)
        if abs(np.dot(normal, step)) < (1 - _ALIKE) * np.linalg.norm(step):
            warnings.append("its slices are tilted against their stack (gantry tilt): few viewers show that")
    else:
        thickness = abs(first.header.get("SpacingBetweenSlices") or first.header.get("SliceThickness") or 0)
        if not thickness:
            raise StudyError(
                f"{first.path} is the only slice and has no SliceThickness: export the series again."
            )
        step = normal * float(thickness)
        warnings.append(f"it is a single slice, taken to be {float(thickness):g} mm thick as it says")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = first.turn[:3] * first.sides[1], first.turn[3:] * first.sides[0]
    lps[:3, 2], lps[:3, 3] = step, first.place
    return LPS_TO_RAS @ lps, tuple(warnings)


def _stack(frames: list[Frame]) -> Array:
    """Return the voxels ``(columns, rows, slices)`` in the modality's unit: rescale slope and intercept applied."""
    files = {path: _pixels(path) for path in dict.fromkeys(frame.path for frame in frames)}
    slices = []
    for frame in frames:
        slope, intercept = frame.rescale
        pixels = files[frame.path] if frame.number is None else files[frame.path][frame.number]
        if pixels.ndim != 2:
            raise StudyError(
                f"{frame.path} holds {pixels.shape} pixels, not one grey slice: export one slice per file."
            )
        slices.append(pixels.T * np.float64(slope) + intercept)
    data: Array = np.stack(slices, axis=-1)
    small = data.astype(np.int16) if np.abs(data).max() < 2**15 else data
    return small if np.array_equal(small, data) else data.astype(np.float32)


def _pixels(path: Path) -> Array:
    """Return the stored values of a file, ``(rows, columns)`` or ``(frames, rows, columns)``."""
    item = pydicom.dcmread(path)
    syntax = item.file_meta.get("TransferSyntaxUID")
    _require_decoder(path, syntax)
    try:
        pixels: Array = item.pixel_array
    except Exception as error:  # pydicom's decoders raise many kinds
        reason = " ".join(str(error).split())
        step = "copy it again from its source"
        if syntax and syntax.is_compressed:
            step = f"it is compressed ({syntax.name}), so export it again, uncompressed"
        raise StudyError(f"the pixels of {path} cannot be read ({reason}): {step}.") from error
    if "PerFrameFunctionalGroupsSequence" in item and pixels.ndim == 2:
        return pixels[None]  # one frame alone
    return pixels


def _require_decoder(path: Path, syntax: Any) -> None:
    try:
        missing = syntax and syntax.is_compressed and not get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):  # a video, or a syntax of a maker's own
        missing = True
    if missing:
        raise StudyError(
            f"{path} is compressed ({syntax.name}), and no decoder for it is installed: pip install 'desam-lite[dicom]' brings "
            "those for JPEG, JPEG-LS and JPEG 2000, or decompress the series (gdcmconv --raw)."
        )
