"""NIfTI files in and out, each checked before its voxels are used."""

import gzip
import hashlib
import io
import logging
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import psutil

from desam_lite.data.geometry import Array, Geometry, from_slices, same_grid
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path

_nifti: Any = nib  # Any: its functions carry no annotations, and strict typing calls none such
_quiet: Any = nib.imageglobals.LoggingOutputSuppressor
_PLAUSIBLE_MM = (0.05, 50.0)
_HEADER = 540  # bytes of the longer of the two headers, NIfTI-2's
_NIFTI_2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # how it begins, in either byte order: with its length
_GZIP = b"\x1f\x8b"
_MM = {"micron": 1e-3, "meter": 1e3}  # of the other units that a header may give
_QUATERNION = ["quatern_b", "quatern_c", "quatern_d"]
_GRID_FIELDS = ["pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"]
_GRID_FIELDS += [*_QUATERNION, "qoffset_x", "qoffset_y", "qoffset_z"]
"""Fields of a header that tell a viewer where the voxels lie."""
# What nibabel finds in a header is told in our sentence. While its output is suppressed it has no handler, and Python prints
# what has none: this one does nothing.
logging.getLogger("nibabel").addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class Scan:
    """A checked NIfTI file."""

    data: Array  #: ``geometry.shape``; float32 for images, integers for labels (the ids of the file)
    geometry: Geometry  #: its grid
    sha256: str  #: of the bytes of the file
    bytes: int  #: size of the file
    warnings: tuple[str, ...] = ()  #: what is odd but no fault
    header: Any = None  #: nibabel's, as stored, for :func:`write_mask`


def read_image(path: Path | str) -> Scan:
    """Read a scan, a ``.nii`` or ``.nii.gz`` file, and check it: its data are float32, every voxel finite, not all equal.

    Raises:
        StudyError: The file is missing, unreadable, truncated, no NIfTI, not 3-D, without a usable grid, holds NaN or infinite
            voxels or a single intensity.
    """
    scan = _read_scan(Path(path))
    with np.errstate(over="ignore"):
        data = scan.data.astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(data))):
        raise StudyError(f"image {path} holds {bad} NaN or infinite voxels: export it again from its source.")
    if data.min() == data.max():
        raise StudyError(
            f"image {path} has one intensity ({data.min():g}) everywhere: export it again from its source."
        )
    return replace(scan, data=data)


def read_label(path: Path | str) -> Scan:
    """Read a label file, a ``.nii`` or ``.nii.gz`` file, and check it; its data are int32, the ids of the file.

    Raises:
        StudyError: As :func:`read_image`, or voxels that are no whole numbers.
    """
    scan = _read_scan(Path(path))
    data = scan.data
    if data.dtype.kind == "f":
        data = np.round(data)
        with np.errstate(invalid="ignore"):  # inf - inf; NaN fails the comparison as it should
            fractional = ~(np.abs(data - scan.data) < 1e-3)
        if bad := int(np.count_nonzero(fractional)):
            raise StudyError(
                f"label {path} holds {bad} voxels that are no whole numbers: export it again as ids."
            )
    if data.size and (data.min() < -(2**31) or data.max() >= 2**31):
        raise StudyError(f"label {path} holds numbers too large for an id: export it again as ids.")
    return replace(scan, data=data.astype(np.int32))


def _read_scan(path: Path) -> Scan:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise StudyError(f"{path} does not exist: check the path.") from error
    except IsADirectoryError as error:
        raise StudyError(f"{path} is a folder, not a file: check the path.") from error
    except OSError as error:
        raise StudyError(
            f"{path} cannot be read ({error.strerror}): check it and its permissions."
        ) from error
    image, header = _parse(path, raw)
    geometry = _checked_geometry(path, image)
    data = np.asanyarray(image.dataobj).reshape(geometry.shape, order="A")
    oddities = _oddities(image, header, geometry)
    return Scan(data, geometry, hashlib.sha256(raw).hexdigest(), len(raw), tuple(oddities), header)


def _parse(path: Path, raw: bytes) -> tuple[Any, Any]:
    """Return nibabel's image of the bytes of a file, all its voxels there, and the header as stored, not as nibabel mends it."""
    packed = raw[:2] == _GZIP
    try:
        with gzip.open(io.BytesIO(raw)) if packed else io.BytesIO(raw) as file:
            begin = file.read(_HEADER)
            kind, header = _parse_header(begin)
            expected = _checked_size(path, header)
            free = psutil.virtual_memory().available
            if packed and expected > free:  # before it is unpacked: a header may claim any size
                raise StudyError(
                    f"{path} unpacks to {expected / 1e9:.3g} GB but {free / 1e9:.3g} GB of memory are free: "
                    "crop the scan, use a larger machine, or copy the file again if it should be smaller."
                )
            content = begin + file.read(max(0, expected - _HEADER))
            file.read(1)  # at the end of a gzip file its checksum is compared
        if len(content) < expected:
            raise StudyError(
                f"{path} is truncated ({len(content)} of {expected} bytes): copy it again from its source."
            )
        _scale_quaternion(path, header)
        with _quiet():  # what it mends in a header it also prints
            block = header.binaryblock
            return kind.from_bytes(block + content[len(block) :]), header
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise StudyError(
            f"{path} is truncated or damaged ({error}): copy it again from its source."
        ) from error
    except StudyError:
        raise
    except Exception as error:  # nibabel raises many kinds on bytes that are no NIfTI
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudyError(f"{path} is not a NIfTI file ({reason}): convert the scan to .nii.gz.") from error


def _parse_header(begin: bytes) -> tuple[Any, Any]:
    """Return nibabel's kind of image of a file that begins so, and its header as stored."""
    kind = _nifti.Nifti2Image if begin[:4] in _NIFTI_2 else _nifti.Nifti1Image
    return kind, kind.header_class(begin[: kind.header_class.template_dtype.itemsize], check=False)


def read_grid_header(path: Path) -> Any:
    """Return the header of a checked scan without its voxels, for :func:`write_mask`."""
    try:
        with path.open("rb") as raw, gzip.open(raw) if raw.read(2) == _GZIP else raw as file:
            raw.seek(0)
            _, header = _parse_header(file.read(_HEADER))
    except (OSError, EOFError, zlib.error, nib.wrapstruct.WrapStructError) as error:
        raise StudyError(f"{path} cannot be read any more ({error}): check it.") from error
    _scale_quaternion(path, header)
    return header


def _checked_size(path: Path, raw: Any) -> int:
    """Return the bytes that a file has by its header, after checking what nibabel would mend or find out only later."""
    with _quiet():
        header = type(raw)(raw.binaryblock, raw.endianness)
    dtype = header.get_data_dtype()
    if dtype.kind not in "uif":
        raise StudyError(f"{path} holds {dtype} voxels, not intensities: convert it to a scalar image.")
    # nibabel turns a spacing of 0 into 1 mm; that matters where the affine is made from it.
    if int(raw["sform_code"]) == 0 and not raw["pixdim"][1:4].all():
        raise StudyError(f"{path} has a zero voxel spacing in its header: repair it.")
    voxels, offset = math.prod(max(0, int(n)) for n in header.get_data_shape()), int(raw["vox_offset"])
    if offset < raw.single_vox_offset:
        raise StudyError(
            f"{path} says that its voxels begin at byte {offset}, within its header: export it again from its source."
        )
    return offset + voxels * int(dtype.itemsize)


def _scale_quaternion(path: Path, header: Any) -> None:
    """Bring a quaternion that rounding made longer than 1 to length 1; nibabel stops at it."""
    length = math.hypot(*(float(header[name]) for name in _QUATERNION))
    if not length**2 - 1 >= abs(header.quaternion_threshold):
        return
    if length > 1.01 and int(header["sform_code"]) == 0 < int(header["qform_code"]):
        raise StudyError(f"{path} has a quaternion of length {length:.3g}, no rotation: repair its header.")
    for name in _QUATERNION:
        header[name] = float(header[name]) / length


def _checked_geometry(path: Path, image: Any) -> Geometry:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise StudyError(f"{path} is {len(shape)}-D {shape}, not one 3-D volume: export one volume per file.")
    if min(shape) < 1:
        raise StudyError(f"{path} has no voxels {shape}: export it again from its source.")
    affine = _in_mm(image, image.affine)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    usable = bool(np.isfinite(affine).all()) and bool((sides > 0).all())
    if not usable or abs(np.linalg.det(affine[:3, :3] / np.where(sides > 0, sides, 1))) < 1e-3:
        raise StudyError(f"{path} has a zero voxel spacing or a collapsed affine: repair its header.")
    return Geometry((shape[0], shape[1], shape[2]), affine)


def _in_mm(image: Any, affine: Any) -> npt.NDArray[np.float64]:
    """Return an affine in mm that is in the unit of the header."""
    scale = _MM.get(image.header.get_xyzt_units()[0], 1.0)
    return np.asarray(affine, dtype=np.float64) * [[scale], [scale], [scale], [1.0]]


def _oddities(image: Any, header: Any, geometry: Geometry) -> list[str]:
    oddities = []
    sides = np.linalg.norm(image.affine[:3, :3], axis=0)
    codes = [int(image.header[name]) for name in ("sform_code", "qform_code")]
    if codes == [0, 0]:
        oddities.append("its header gives no orientation, so left and right, front and back are a guess")
    # A quaternion knows no shear: the two are compared as far as it can tell.
    elif all(codes) and not same_grid(geometry, Geometry(geometry.shape, _in_mm(image, image.get_qform()))):
        oddities.append(
            "its header gives two orientations (sform and qform) that disagree, and the sform is used: "
            "check left and right, front and back"
        )
    elif codes[0] and not np.allclose(np.abs(header["pixdim"][1:4]), sides, rtol=0.01):
        oddities.append(
            "its header gives two voxel sizes (pixdim and sform) that disagree: check its spacing"
        )
    if (header["pixdim"][1:4] < 0).any():
        oddities.append(
            "its header gives a negative voxel size, which some programs take for a mirrored axis: check left and right"
        )
    if (unit := image.header.get_xyzt_units()[0]) in _MM:
        oddities.append(f"its header gives lengths in {unit}s, and they are read as such: check its spacing")
    low, high = _PLAUSIBLE_MM
    if not all(low <= side <= high for side in geometry.spacing):
        sides = " x ".join(f"{side:g}" for side in geometry.spacing)
        oddities.append(f"its voxel spacing {sides} mm is unlikely, so it may be in another unit")
    return oddities


def write_volume(path: Path | str, data: Array, affine: npt.NDArray[np.float64], header: Any = None) -> None:
    """Write stored voxels, three axes and perhaps one of organs, as NIfTI, atomically; equal content gives equal bytes.

    The affine is from voxel indices to mm, RAS+. Of the header of the scan that the voxels belong to, what it says of their
    place is copied, and counts in place of the affine.
    """
    if header is None:
        image = _nifti.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)  # the same, but for shear, to readers that look at it first
    else:
        copied = type(header)()
        copied.set_data_dtype(data.dtype)
        for field in _GRID_FIELDS:
            copied[field] = header[field]
        kind = _nifti.Nifti2Image if isinstance(header, _nifti.Nifti2Header) else _nifti.Nifti1Image
        image = kind(data, None, copied)
    with atomic_path(path) as temporary:
        _nifti.save(image, temporary)


def write_mask(path: Path | str, mask: Array, geometry: Geometry, header: Any = None) -> None:
    """Write organ ids ``(Z, H, W)``, in the frame of the slices, as NIfTI on the grid of the scan they belong to, atomically.

    The header is the scan's, where it was read: see :func:`write_volume`.
    """
    write_volume(path, from_slices(mask.astype(np.uint8), geometry), geometry.affine, header)
