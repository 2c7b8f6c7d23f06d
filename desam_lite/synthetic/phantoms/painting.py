"""A grid that is painted on: structures over each other, each only in the part of the grid it can reach."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from desam_lite.synthetic.phantoms.fields import Field, Point, ellipsoid

TissueMap = npt.NDArray[np.uint8]
VoxelMask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]
RealArray = npt.NDArray[np.floating]


class Canvas:
    """A tissue map and an organ map that structures are painted into, the later over the earlier, on the tissue ``ground``.

    The axes are x, y, z in mm of every voxel of a ``(Z, H, W)`` grid, each broadcastable to it; ``where`` are the same, full
    arrays, in the patient's own frame: turned about z (radians, from x towards y) and warped, which carries a structure
    ``reach`` mm at most.
    """

    boxed = True
    """Whether structures are painted within their box alone; `benchmarks/phantoms.py` shows what that saves."""

    def __init__(
        self,
        ids: Mapping[str, int],
        axes: Sequence[Field],
        where: Sequence[Field],
        ground: str,
        *,
        turn: float = 0.0,
        reach: float = 12.0,
    ):
        self.ids, self.axes, self.where, self.turn, self.reach = ids, axes, list(where), turn, reach
        self.tissue = np.full(where[0].shape, ids[ground], np.uint8)
        self.organ = np.zeros(where[0].shape, np.uint8)

    def fill(self, inside: VoxelMask, tissue: str, *, box: Box = (slice(None),) * 3, organ: int = 0) -> None:
        """Paint where ``inside`` is true, an array of the shape of the box; what lay there is gone."""
        self.tissue[box][inside] = self.ids[tissue]
        self.organ[box][inside] = organ

    def box(self, centre: Point, reach: Point) -> Box:
        """Return the part of the grid that holds all within ``reach`` mm along x, y and z of a point."""
        if not self.boxed:
            return slice(None), slice(None), slice(None)
        cos, sin = float(np.cos(self.turn)), float(np.sin(self.turn))
        (x, y, z), (dx, dy, dz) = map(float, centre), map(float, reach)
        middle = (cos * x - sin * y, sin * x + cos * y, z)
        far = (abs(cos) * dx + abs(sin) * dy, abs(sin) * dx + abs(cos) * dy, dz)
        parts = []
        for axis, at, wide in zip(reversed(self.axes), reversed(middle), reversed(far), strict=True):
            near = np.flatnonzero(np.abs(axis.ravel() - at) <= wide + self.reach)
            parts.append(slice(near[0], near[-1] + 1) if len(near) else slice(0, 0))
        return parts[0], parts[1], parts[2]

    def within(self, box: Box) -> list[Field]:
        """Return x, y, z of the voxels of a box in the patient's frame."""
        return [w[box] for w in self.where]

    def solid(
        self,
        centre: Point,
        radii: Point,
        tissues: Sequence[tuple[str, float]],
        *,
        tilt: float = 0.0,
        power: float = 2.0,
        organ: int = 0,
        only: int | None = None,
    ) -> None:
        """Paint an ellipsoid as shells from the outside in: each tissue with its depth below the surface in mm.

        Centre and half axes ``radii`` are x, y, z in mm; tilt and power are those of `ellipsoid`. What is painted gets the label
        ``organ``, and with ``only`` it is painted only where this label lies.
        """
        wide = max(r for r in radii[:2])
        box = self.box(centre, (wide, wide, radii[2]) if tilt else radii)
        shape = ellipsoid(self.within(box), centre, radii, tilt=tilt, power=power)
        room = True if only is None else self.organ[box] == only
        for tissue, depth in tissues:
            self.fill(room & (shape < 1 - depth / min(radii)), tissue, box=box, organ=organ)

    def tube(
        self,
        points: Sequence[Point],
        radii: Sequence[float],
        tissues: Sequence[tuple[str, float]],
        *,
        organ: int = 0,
        only: int | None = None,
    ) -> None:
        """Paint a tube along points (x, y, z in mm), as wide at each as its radius in mm, in shells as `solid` does."""
        lines = list(zip(points, points[1:], radii, radii[1:], strict=False))
        boxes = []
        for first, last, start, end in lines:
            low, high = np.minimum(first, last), np.maximum(first, last)
            box = self.box((low + high) / 2, (high - low) / 2 + max(start, end))
            depth = self._depth(box, np.asarray(first), np.asarray(last), start, end)
            room = True if only is None else self.organ[box] == only
            boxes.append((box, depth, room))
        # Shell by shell, so that the wall of a piece does not cross the inside of the next.
        for tissue, below in tissues:
            for box, depth, room in boxes:
                self.fill(room & (depth > below), tissue, box=box, organ=organ)

    def _depth(self, box: Box, first: RealArray, last: RealArray, start: float, end: float) -> Field:
        """Return how far below the surface of one straight piece of a tube each voxel of a box lies, mm."""
        along = (last - first).astype(np.float32)
        away = [w - np.float32(c) for w, c in zip(self.within(box), first, strict=True)]
        length = max(float(along @ along), 1e-6)
        part = sum(a * d for a, d in zip(away, along, strict=True)) / np.float32(length)
        part = np.clip(part, 0, 1)
        square = sum((a - part * d) ** 2 for a, d in zip(away, along, strict=True))
        return np.asarray(np.float32(start) + part * np.float32(end - start) - np.sqrt(square), np.float32)
