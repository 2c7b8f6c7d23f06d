"""Smooth random fields and soft shapes: the brushes that anatomy is painted with.

Data made on two machines should be the same to the last bit. Processors differ in the last digits of single-precision sums,
powers and exponentials, so these are taken in double precision and rounded: then a difference is lost in the rounding.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Point = Sequence[float] | npt.NDArray[np.floating]
"""x, y, z in mm."""


def smooth_noise(shape: tuple[int, ...], scale: Sequence[float], rng: np.random.Generator) -> Field:
    """Return a random field of mean 0 and standard deviation 1, smooth on a length of ``scale`` voxels per axis.

    Random knots a ``scale`` apart are joined by cubic B-splines, axis by axis: cheap whatever the scale.
    """
    weights = [_spline_weights(np.arange(n) / s, (n - 1) / s) for n, s in zip(shape, scale, strict=True)]
    field = _random_spline(weights, rng)
    middle, spread = (float(f(field, dtype=np.float64)) for f in (np.mean, np.std))
    return np.asarray((field - middle) / max(spread, 1e-6), dtype=np.float32)


def smooth_field(
    axes: Sequence[Field], scale: float, reach: Sequence[float], rng: np.random.Generator
) -> Field:
    """Return a random field ``(Z, H, W)`` over space, mean 0 and standard deviation about 1: one place has one value on any grid.

    Args:
        axes: x, y, z in mm of every voxel of a ``(Z, H, W)`` grid, each broadcastable to it.
        scale: Distance of the random knots, mm.
        reach: How far the knots go on each side of the origin in x, y and z, mm; the field is constant beyond.
        rng: Names the field.
    """
    weights = []
    for axis, far in zip(reversed(axes), reversed(reach), strict=True):
        places = (np.clip(axis.ravel(), -far, far) + far) / scale
        weights.append(_spline_weights(places, 2 * far / scale))
    return np.asarray(_random_spline(weights, rng) * _UNIT_SPREAD ** len(weights), dtype=np.float32)


_UNIT_SPREAD = (
    315 / 151
) ** 0.5  # a sum of cubic B-splines with random weights spreads this much less, per axis


def warp(
    coordinates: Sequence[Field],
    axes: Sequence[Field],
    wide: tuple[float, float],
    near: tuple[float, float],
    reach: Sequence[float],
    rng: np.random.Generator,
) -> list[Field]:
    """Shift every voxel by two smooth random fields, of a scale and a strength in mm: no structure is a geometric one."""
    warped = []
    for axis in coordinates:
        first, second = (smooth_field(axes, scale, reach, rng) for scale, _ in (wide, near))
        shifted = axis + np.float32(wide[1]) * first + np.float32(near[1]) * second
        warped.append(shifted.astype(np.float32))
    return warped


def _random_spline(weights: Sequence[npt.NDArray[np.float64]], rng: np.random.Generator) -> Field:
    """Return a sum of cubic B-splines with random weights, from each axis's ``(places, knots)``."""
    field = rng.standard_normal([w.shape[1] for w in weights])
    for axis, weight in enumerate(weights):
        field = np.moveaxis(np.tensordot(weight, field, axes=(1, axis)), 0, axis)
    return np.asarray(field, dtype=np.float32)


def _spline_weights(places: npt.NDArray[np.floating], end: float) -> npt.NDArray[np.float64]:
    """Return the weights ``(places, knots)`` of cubic B-splines with knots at the whole numbers around 0 to ``end``."""
    knots = np.arange(-1, int(np.ceil(end)) + 2)
    t = np.abs(places[:, None] - knots[None])
    near, far = 2 / 3 - t**2 + t**3 / 2, (2 - t) ** 3 / 6
    return np.asarray(np.where(t < 1, near, np.where(t < 2, far, 0)), dtype=np.float64)


def ellipsoid(
    where: Sequence[Field], centre: Point, radii: Point, *, tilt: float = 0.0, power: float = 2.0
) -> Field:
    """Return the radius function of an ellipsoid: below 1 inside, 1 on its surface.

    Args:
        where: x, y, z of every voxel in mm, arrays that broadcast to one shape.
        centre: x, y, z in mm.
        radii: Half axes in mm; infinite for a cylinder.
        tilt: Rotation about z, radians, from x towards y.
        power: 2 for an ellipsoid, more for a boxier shape; 2.5 is the cheapest of those.
    """
    x, y, z = (w - c for w, c in zip(where, centre, strict=True))
    cos, sin = np.cos(tilt), np.sin(tilt)
    parts = (cos * x + sin * y, -sin * x + cos * y, z)
    total = np.zeros(np.broadcast_shapes(*(p.shape for p in parts)), np.float32)
    for part, radius in zip(parts, radii, strict=True):
        if np.isfinite(radius):
            total += _power(part / np.float32(radius), power)
    if power == 2:
        return np.asarray(np.sqrt(total), dtype=np.float32)
    if power == 2.5:  # the root to first order around the surface, where it is asked for
        root = np.sqrt(total)
        return np.asarray(np.float32(0.6) * root + np.float32(0.4) * np.sqrt(root), dtype=np.float32)
    return _power(total, 1 / power)


def _power(base: Field, exponent: float) -> Field:
    """Return ``|base|`` to a power; 2 and 2.5 by square roots, which are quick and equal on every machine."""
    if exponent == 2:
        return base * base
    if exponent == 2.5:
        return base * base * np.sqrt(np.abs(base))
    return np.asarray(np.power(np.abs(base), exponent, dtype=np.float64), dtype=np.float32)
