"""The grid of a scan, and the one frame everything else uses.

A scan may be stored in any of the 48 orientations of its three axes. Here it becomes *slices*: an array
``(Z, H, W)`` with Z from inferior to superior, rows H from anterior to posterior and columns W from the
patient's right to the left, which is how a radiologist looks at it. Only whole axes are swapped and flipped,
nothing is resampled, so the way back is exact.
"""

import json
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from desam_lite.utils.errors import StudyError

Array = npt.NDArray[Any]
_axes: Any = nib.orientations  # Any: its functions carry no annotations, and strict typing calls none such
_SLICES_FRAME = "LPS"  # positive ends of the axes, in nibabel's letters; to_slices then reverses their order
# How far corners of label and image may lie apart, in parts of the smallest voxel side. Tools that write an affine as a
# rotation round it: 0.15 was seen in a sound public set. A label of another grid is off by a voxel or more somewhere.
_SAME_GRID = 0.5


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid a scan was stored on."""

    shape: tuple[int, int, int]  #: voxels along the three stored axes
    #: ``(4, 4)`` float64, stored voxel indices -> millimetres in RAS+ (the NIfTI convention)
    affine: npt.NDArray[np.float64]

    @property
    def orientation(self) -> str:
        """The positive ends of the stored axes, for instance ``LPS``; the nearest for an oblique scan."""
        return "".join(str(code) for code in _axes.aff2axcodes(self.affine))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sides ``(z, y, x)`` in mm, in the frame of the slices."""
        sides = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        x, y, z = (sides[axis] for axis in self._stored_axes)
        return z, y, x

    @property
    def slices_shape(self) -> tuple[int, int, int]:
        """``(Z, H, W)``."""
        x, y, z = (self.shape[axis] for axis in self._stored_axes)
        return z, y, x

    @property
    def _stored_axes(self) -> list[int]:
        """Which stored axis is nearest to each of the patient's x, y, z."""
        order: list[int] = np.argsort(_axes.io_orientation(self.affine)[:, 0]).tolist()
        return order

    def to_json(self) -> str:
        """Return the geometry as JSON that :meth:`from_json` reads back to the last bit."""
        return json.dumps({"shape": list(self.shape), "affine": self.affine.tolist()})

    @classmethod
    def from_json(cls, text: str) -> "Geometry":
        """Read what :meth:`to_json` wrote."""
        value = json.loads(text)
        i, j, k = value["shape"]
        return cls((int(i), int(j), int(k)), np.asarray(value["affine"], dtype=np.float64))


def same_grid(first: Geometry, second: Geometry) -> bool:
    """Whether two volumes have one shape, and corners that agree to half the smallest voxel side."""
    if first.shape != second.shape:
        return False
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(first.shape) - 1
    apart = np.linalg.norm((corners @ (first.affine - second.affine).T)[:, :3], axis=1)
    return bool(apart.max() <= _SAME_GRID * min(first.spacing))


def to_slices(data: Array, geometry: Geometry) -> Array:
    """Bring a volume from its stored axes to slices ``(Z, H, W)``: inferior to superior, anterior to posterior, right to left."""
    change = _axes.ornt_transform(_axes.io_orientation(geometry.affine), _axes.axcodes2ornt(_SLICES_FRAME))
    return np.ascontiguousarray(_axes.apply_orientation(data, change).transpose(2, 1, 0))


def in_slices_axes(geometry: Geometry) -> Geometry:
    """Return the grid of a volume with its axes turned as :func:`to_slices` turns them, before it reverses their order."""
    change = _axes.ornt_transform(_axes.io_orientation(geometry.affine), _axes.axcodes2ornt(_SLICES_FRAME))
    affine = geometry.affine @ _axes.inv_ornt_aff(change, geometry.shape)
    z, y, x = geometry.slices_shape
    return Geometry((x, y, z), affine)


def resample_nearest(data: Array, geometry: Geometry, target: Geometry) -> Array:
    """Bring ids from one grid to another by nearest neighbour; what lies outside of the first becomes 0."""
    to_voxels = np.linalg.inv(geometry.affine) @ target.affine
    matrix, offset = to_voxels[:3, :3], to_voxels[:3, 3]
    shape = target.shape
    return ndimage.affine_transform(data, matrix, offset, shape, order=0, mode="grid-constant")


def from_slices(slices: Array, geometry: Geometry) -> Array:
    """Bring slices ``(Z, H, W)`` back to the stored axes of a grid, contiguous; undoes :func:`to_slices` exactly.

    Raises:
        StudyError: The slices are not of this grid.
    """
    if slices.shape != geometry.slices_shape:
        raise StudyError(
            f"slices of shape {slices.shape} are not of a scan with slices {geometry.slices_shape}."
        )
    change = _axes.ornt_transform(_axes.axcodes2ornt(_SLICES_FRAME), _axes.io_orientation(geometry.affine))
    return np.ascontiguousarray(_axes.apply_orientation(slices.transpose(2, 1, 0), change))
