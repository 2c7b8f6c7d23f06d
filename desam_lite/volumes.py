"""NIfTI volumes in and out, each checked; an image and its label made one case in the frame of the slices."""

import gzip
import hashlib
import logging
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from desam_lite.errors import StudyError
from desam_lite.files import atomic_path
from desam_lite.geometry import Array, Geometry, from_slices, same_grid, to_slices
from desam_lite.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CaseVolume",
    "Geometry",
    "Scan",
    "from_slices",
    "load_case",
    "pair_faults",
    "read_image",
    "read_label",
    "to_organ_ids",
    "to_slices",
    "write_mask",
    "write_volume",
]

_nifti: Any = nib  # Any: its functions carry no annotations, and strict typing calls none such
_PLAUSIBLE_MM = (0.05, 50.0)
# What nibabel finds in a header is said in our sentence. While its output is suppressed it has no handler, and Python prints what
# has none: this one does nothing.
logging.getLogger("nibabel").addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class Scan:
    """A checked NIfTI file.

    Attributes:
        data: ``geometry.shape``; float32 for images, integers for labels (the ids of the file).
        geometry: Its grid.
        sha256: Of the bytes of the file.
        bytes: Size of the file.
        warnings: What is odd but no fault.
    """

    data: Array
    geometry: Geometry
    sha256: str
    bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CaseVolume:
    """A case in the frame of the slices.

    Attributes:
        domain: Its domain.
        case: Its id.
        image: ``(Z, H, W)`` float32, the grey levels of the file.
        labels: ``(Z, H, W)`` uint8: 0 background, 1..K the organs in the order of the manifest.
        geometry: The stored grid, for the way back.
    """

    domain: str
    case: str
    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    geometry: Geometry


def read_image(path: Path | str) -> Scan:
    """Read a scan and check it.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.

    Returns:
        The scan; data float32, every voxel finite, not all equal.

    Raises:
        StudyError: The file is missing, unreadable, truncated, no NIfTI, not 3-D, without a usable grid,
            holds NaN or infinite voxels or a single grey level.
    """
    path = Path(path)
    scan = _read(path)
    with np.errstate(over="ignore"):
        data = scan.data.astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(data))):
        raise StudyError(f"image {path} holds {bad} NaN or infinite voxels: export it again from its source.")
    if data.min() == data.max():
        raise StudyError(
            f"image {path} has one grey level ({data.min():g}) everywhere: export it again from its source."
        )
    return Scan(data, scan.geometry, scan.sha256, scan.bytes, scan.warnings)


def read_label(path: Path | str) -> Scan:
    """Read a label file and check that it holds whole numbers.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.

    Returns:
        The labels; data int32, the ids of the file.

    Raises:
        StudyError: As :func:`read_image`, or voxels that are no whole numbers.
    """
    path = Path(path)
    scan = _read(path)
    data = scan.data
    if data.dtype.kind == "f":
        whole = np.round(data)
        with np.errstate(invalid="ignore"):  # inf - inf; NaN fails the comparison as it should
            fractional = ~(np.abs(data - whole) < 1e-3)
        if bad := int(np.count_nonzero(fractional)):
            raise StudyError(
                f"label {path} holds {bad} voxels that are no whole numbers: export it again as ids."
            )
        data = whole
    if data.size and (data.min() < -(2**31) or data.max() >= 2**31):
        raise StudyError(f"label {path} holds numbers too large for an id: export it again as ids.")
    return Scan(data.astype(np.int32), scan.geometry, scan.sha256, scan.bytes, scan.warnings)


def _read(path: Path) -> Scan:
    raw = _read_bytes(path)
    try:
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, OSError, zlib.error) as error:
        raise StudyError(
            f"{path} is truncated or damaged ({error}): copy it again from its source."
        ) from error
    image = _parse(path, content)
    geometry = _checked_geometry(path, image)
    warnings = list(_oddities(image, geometry))
    data = np.asanyarray(image.dataobj).reshape(geometry.shape, order="A")
    return Scan(data, geometry, hashlib.sha256(raw).hexdigest(), len(raw), tuple(warnings))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StudyError(f"{path} does not exist: check the path.") from error
    except IsADirectoryError as error:
        raise StudyError(f"{path} is a folder, not a file: check the path.") from error
    except OSError as error:
        raise StudyError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error


def _parse(path: Path, content: bytes) -> Any:
    """Return nibabel's image of the bytes of a NIfTI file; its data are not read yet but all there."""
    try:
        second = content[:4] in (
            b"\x1c\x02\0\0",
            b"\0\0\x02\x1c",
        )  # its header is 540 bytes long, in either byte order
        kind = _nifti.Nifti2Image if second else _nifti.Nifti1Image
        with _nifti.imageglobals.LoggingOutputSuppressor():  # what it mends in a header it also prints
            image = kind.from_bytes(content)
        raw_header = kind.header_class(content[: kind.header_class.template_dtype.itemsize], check=False)
    except Exception as error:  # nibabel raises many kinds on bytes that are no NIfTI
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudyError(f"{path} is not a NIfTI file ({reason}): convert the scan to .nii.gz.") from error
    dtype = image.header.get_data_dtype()
    if dtype.kind not in "uif":
        raise StudyError(f"{path} holds {dtype} voxels, not grey levels: convert it to a scalar image.")
    # nibabel turns a spacing of 0 into 1 mm; that matters where the affine is made from it.
    if int(raw_header["sform_code"]) == 0 and not raw_header["pixdim"][1:4].all():
        raise StudyError(f"{path} has a zero voxel spacing in its header: repair it.")
    # A header may claim any size: compare with what is there before memory is asked for.
    voxels = math.prod(int(n) for n in image.shape)
    expected = int(image.dataobj.offset) + voxels * dtype.itemsize
    if len(content) < expected:
        raise StudyError(
            f"{path} is truncated ({len(content)} of {expected} bytes): copy it again from its source."
        )
    return image


def _checked_geometry(path: Path, image: Any) -> Geometry:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise StudyError(f"{path} is {len(shape)}-D {shape}, not one 3-D volume: export one volume per file.")
    if min(shape) < 1:
        raise StudyError(f"{path} has no voxels {shape}: export it again from its source.")
    affine = np.asarray(image.affine, dtype=np.float64)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    usable = bool(np.isfinite(affine).all()) and bool((sides > 0).all())
    if not usable or abs(np.linalg.det(affine[:3, :3] / np.where(sides > 0, sides, 1))) < 1e-3:
        raise StudyError(f"{path} has a zero voxel spacing or a collapsed affine: repair its header.")
    i, j, k = shape
    return Geometry((i, j, k), affine)


def _oddities(image: Any, geometry: Geometry) -> list[str]:
    found = []
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        found.append("its header gives no orientation, so left and right, front and back are a guess")
    low, high = _PLAUSIBLE_MM
    if not all(low <= side <= high for side in geometry.spacing):
        sides = " x ".join(f"{side:g}" for side in geometry.spacing)
        found.append(f"its voxel spacing {sides} mm is unlikely: is it in another unit?")
    return found


def to_organ_ids(labels: Array, manifest: Manifest, domain: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Renumber the ids of a label file to the organs of the manifest.

    Args:
        labels: Integers, any shape: the ids of the file.
        manifest: The task.
        domain: Whose ``label_map`` applies.

    Returns:
        The same shape as uint8 (0 background, 1..K in the order of ``manifest.organs``), and the ids of the
        file that the manifest does not know (they become background).
    """
    label_map = manifest.domain(domain).label_map
    organ_ids = {0: 0, **{organ.label: number for number, organ in enumerate(manifest.organs, start=1)}}
    unknown, organs = [], np.zeros(labels.shape, dtype=np.uint8)
    for value in _distinct(labels):
        target = label_map.get(value, value)
        if target not in organ_ids:
            unknown.append(value)
        elif organ_ids[target]:
            organs[labels == value] = organ_ids[target]
    return organs, unknown


def _distinct(labels: Array) -> list[int]:
    """Return the values of an integer array in ascending order; counting small ones beats sorting."""
    low, high = int(labels.min()), int(labels.max())
    if high - low < 1 << 16:
        return [int(i) + low for i in np.flatnonzero(np.bincount(labels.ravel() - low))]
    return [int(i) for i in np.unique(labels)]


def pair_faults(manifest: Manifest, domain: str, image: Scan, label: Scan, label_path: Path) -> list[str]:
    """Return what keeps an image and its label from being one case, a sentence each; empty when sound."""
    if image.geometry.shape != label.geometry.shape:
        return [
            f"label {label_path} has shape {label.geometry.shape} but its image {image.geometry.shape}: "
            "export the label on the image's grid."
        ]
    faults = []
    if not same_grid(image.geometry, label.geometry):
        faults.append(
            f"label {label_path} has another affine than its image (it lies elsewhere): "
            "export the label on the image's grid."
        )
    organs, unknown = to_organ_ids(label.data, manifest, domain)
    if unknown:
        ids = ", ".join(map(str, unknown[:10]))
        faults.append(
            f"label {label_path} holds ids the manifest does not know ({ids}): "
            f"add them to 'organs' or to the 'label_map' of domain {domain!r}."
        )
    if not organs.any():
        faults.append(f"label {label_path} marks no organ at all: draw the label, or take the case out.")
    return faults


def load_case(manifest: Manifest, root: Path | str, row: "Mapping[str, Any] | pd.Series[Any]") -> CaseVolume:
    """Read one case of an index into the frame of the slices.

    Args:
        manifest: The task.
        root: The data root that the index was made on.
        row: A row of :func:`desam_lite.index.build_index`; ``domain``, ``case``, ``image`` and ``label`` are
            used, and ``image_sha256`` and ``label_sha256`` are compared where given.

    Returns:
        The case.

    Raises:
        StudyError: A file is at fault, or has changed since it was indexed.
    """
    domain, label_path = str(row["domain"]), Path(root) / str(row["label"])
    image, label = read_image(Path(root) / str(row["image"])), read_label(label_path)
    for kind, scan in (("image", image), ("label", label)):
        if row.get(f"{kind}_sha256", scan.sha256) != scan.sha256:
            raise StudyError(
                f"{kind} {Path(root) / str(row[kind])} has changed since it was indexed: start again."
            )
    if faults := pair_faults(manifest, domain, image, label, label_path):
        raise StudyError(" ".join(faults))
    organs, _ = to_organ_ids(label.data, manifest, domain)
    pixels, masks = to_slices(image.data, image.geometry), to_slices(organs, image.geometry)
    return CaseVolume(domain, str(row["case"]), pixels, masks, image.geometry)


def write_volume(path: Path | str, data: Array, affine: npt.NDArray[np.float64]) -> None:
    """Write stored voxels as NIfTI, atomically; equal content gives equal bytes.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        data: Three axes, as stored; a fourth may hold one volume per organ.
        affine: ``(4, 4)``, voxel indices -> mm, RAS+.
    """
    image = _nifti.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)  # readers that look at the quaternion first find the same (rigid part)
    with atomic_path(path) as temporary:
        _nifti.save(image, temporary)


def write_mask(path: Path | str, mask: Array, geometry: Geometry) -> None:
    """Write organ ids as NIfTI on the grid of the scan they belong to, atomically.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        mask: ``(Z, H, W)`` bool or uint8, in the frame of the slices.
        geometry: The scan's grid.
    """
    write_volume(path, from_slices(mask.astype(np.uint8), geometry), geometry.affine)
