"""DICOM Segmentations, out and in: made and read by highdicom, which the extra ``dicom`` installs."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from desam_lite.data.dicom import LPS_TO_RAS, Frame, Series
from desam_lite.data.geometry import Array, Geometry, from_slices
from desam_lite.data.manifest import Term
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = [
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
]
_OWN_SCHEME = "99DESAMLITE"  # DICOM leaves names that begin with 99 to everybody


def require_highdicom() -> Any:
    """Return the library; a StudyError tells that it is not installed."""
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise StudyError(
            "a DICOM Segmentation needs highdicom, which is not installed: pip install 'desam-lite[dicom]', or use NIfTI."
        ) from error
    return highdicom


def write_segmentation(
    path: Path,
    mask: npt.NDArray[np.uint8],
    geometry: Geometry,
    frames: Sequence[Frame],
    organs: Mapping[str, str],
    terms: Mapping[str, Term],
    algorithm: str,
) -> None:
    """Write organ ids ``(Z, H, W)`` as a DICOM Segmentation (``.dcm``) of the series they were predicted of, atomically.

    Every slice is there, also where it holds no organ, so that readers that know no segments find the series' own grid. Organs
    are name -> colour (``#rrggbb``) in the order of their ids 1..K; one without a term of SNOMED CT gets a code of this
    package's own. The frames are the series' slices, in the order of its third axis; ``algorithm`` is what made the mask.
    """
    hd = require_highdicom()
    planes = from_slices(mask, geometry).transpose(2, 1, 0)
    if frames[0].number is not None:  # in the order of the file
        planes = planes[np.argsort([frame.number or 0 for frame in frames])]
    sources = list({frame.path: frame.header for frame in frames}.values())
    for source in sources:
        if missing := [tag for tag in _NEEDED if not source.get(tag)]:
            raise StudyError(
                f"{frames[0].path} lacks {missing[0]}, which a DICOM Segmentation must refer to: write the mask as NIfTI."
            )
        for tag in _MAY_BE_EMPTY:
            source.setdefault(tag, None)
    try:
        segments = [
            _segment(hd, number, name, color, terms.get(name), algorithm)
            for number, (name, color) in enumerate(organs.items(), start=1)
        ]
        series_number = int(sources[0].get("SeriesNumber") or 0) % 10_000 + 10_000  # apart from scanners' own
        segmentation = hd.seg.Segmentation(
            sources,
            planes,
            hd.seg.SegmentationTypeValues.BINARY,
            segments,
            series_instance_uid=hd.UID(),
            series_number=series_number,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="DeSAM Lite",
            manufacturer_model_name="DeSAM Lite",
            software_versions=version("desam-lite"),
            device_serial_number="0",
            pixel_measures=_pixel_measures(hd, frames),
            omit_empty_frames=False,
            content_label="ORGANS",
            content_creator_name="DeSAM Lite^",
            content_description=algorithm[:64],
            series_description="DeSAM Lite: not for use in patients",
        )
    except (ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(
            f"no DICOM Segmentation of {frames[0].path.parent} can be made ({reason}): write the mask as NIfTI."
        ) from error
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _segment(hd: Any, number: int, name: str, color: str, term: Term | None, algorithm: str) -> Any:
    """Return the description of one organ."""
    from pydicom.sr.codedict import codes

    code = (str(number), _OWN_SCHEME, name)
    if term:
        code = (term.snomed, "SCT", name.replace(f"{term.side} ", "").capitalize())
    made_by = hd.AlgorithmIdentificationSequence(
        algorithm[:64], codes.DCM.ArtificialIntelligence, version("desam-lite")
    )
    segment = hd.seg.SegmentDescription(
        number,
        name,
        codes.SCT.AnatomicalStructure,
        hd.sr.CodedConcept(*code),
        hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        made_by,
        display_color=hd.color.CIELabColor.from_string(color),
    )
    if term and term.side:
        side = {"left": codes.SCT.Left, "right": codes.SCT.Right}[term.side]
        segment.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept.from_code(side)]
    return segment


def _pixel_measures(hd: Any, frames: Sequence[Frame]) -> Any:
    """Return spacing and thickness; a single slice is as thick as it says, which the reader of series has required."""
    first, count = frames[0], len(frames)
    step = (frames[-1].height - first.height) / (count - 1) if count > 1 else None
    thickness = first.header.get("SliceThickness") or step or first.header.get("SpacingBetweenSlices")
    return hd.PixelMeasuresSequence([float(side) for side in first.sides], float(thickness), step)


def is_segmentation(header: Any) -> bool:
    """Whether the tags of a file are a Segmentation's."""
    return header is not None and header.get("Modality") == "SEG"


def segment_names(header: Any) -> dict[int, str]:
    """Return number -> label of the segments of a Segmentation."""
    return {int(item.SegmentNumber): str(item.SegmentLabel) for item in header.SegmentSequence}


def read_segmentation(path: Path, series: Series) -> Array:
    """Read the segments of a Segmentation, of any maker, onto the grid of a series: their numbers, 0 where none is.

    The array is as ``series.data``; the slices of the file may be some of the series', in any order. A StudyError says that
    segments overlap, or that the file does not lie on the grid of the series.
    """
    hd = require_highdicom()
    try:
        volume = hd.seg.segread(path).get_volume(combine_segments=True, rescale_fractional=False)
        # highdicom counts (slices, rows, columns) in LPS.
        affine = (LPS_TO_RAS @ series.geometry.affine)[:, [2, 1, 0, 3]]
        reference = series.frames[0].header.get("FrameOfReferenceUID")
        grid = hd.VolumeGeometry(affine, series.data.shape[::-1], "PATIENT", reference)
        labels: Array = volume.match_geometry(grid, tol=0.01).array
        if np.count_nonzero(labels) < np.count_nonzero(volume.array):
            raise ValueError("it reaches beyond the series")
    except (ValueError, RuntimeError, AttributeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(
            f"{path} cannot be brought onto the grid of its series ({reason}): export it again on the series' own slices."
        ) from error
    return labels.transpose(2, 1, 0)
