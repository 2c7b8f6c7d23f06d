"""Smooth random fields and soft shapes: the brushes that anatomy is painted with."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def smooth_noise(shape: tuple[int, ...], scale: Sequence[float], rng: np.random.Generator) -> Field:
    """Return a random field of mean 0 and standard deviation 1, smooth on a length of ``scale`` voxels per axis.

    Random knots a ``scale`` apart are joined by cubic B-splines, axis by axis: cheap whatever the scale.
    """
    weights = [_spline_weights(np.arange(n) / s, (n - 1) / s) for n, s in zip(shape, scale, strict=True)]
    field = _random_spline(weights, rng)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def smooth_field(
    axes: Sequence[Field], scale: float, reach: Sequence[float], rng: np.random.Generator
) -> Field:
    """Return a random field over space: one place has one value, whatever grid asks for it.

    Args:
        axes: x, y, z in mm of every voxel of a ``(Z, H, W)`` grid, each broadcastable to it.
        scale: Distance of the random knots, mm.
        reach: How far the knots go on each side of the origin in x, y and z, mm; the field is constant beyond.
        rng: Names the field.

    Returns:
        ``(Z, H, W)``, mean 0 and standard deviation about 1 over many fields.
    """
    weights = []
    for axis, far in zip(reversed(axes), reversed(reach), strict=True):
        places = (np.clip(axis.ravel(), -far, far) + far) / scale
        weights.append(_spline_weights(places, 2 * far / scale))
    return np.asarray(_random_spline(weights, rng) * _UNIT_SPREAD ** len(weights), dtype=np.float32)


_UNIT_SPREAD = (
    315 / 151
) ** 0.5  # a sum of cubic B-splines with random weights spreads this much less, per axis


def _random_spline(weights: Sequence[Field], rng: np.random.Generator) -> Field:
    """Return a sum of cubic B-splines with random weights, from each axis's ``(places, knots)``."""
    field = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
    for axis, weight in enumerate(weights):
        field = np.moveaxis(np.tensordot(weight, field, axes=(1, axis)), 0, axis)
    return field


def _spline_weights(places: npt.NDArray[np.floating], end: float) -> Field:
    """Return the weights ``(places, knots)`` of cubic B-splines with knots at the whole numbers around 0 to ``end``."""
    knots = np.arange(-1, int(np.ceil(end)) + 2)
    t = np.abs(places[:, None] - knots[None])
    near, far = 2 / 3 - t**2 + t**3 / 2, (2 - t) ** 3 / 6
    return np.where(t < 1, near, np.where(t < 2, far, 0)).astype(np.float32)


def ellipsoid(
    where: Sequence[Field],
    centre: Sequence[float],
    radii: Sequence[float],
    *,
    tilt: float = 0.0,
    power: float = 2.0,
) -> Field:
    """Return the radius function of an ellipsoid: below 1 inside, 1 on its surface.

    Args:
        where: x, y, z of every voxel in mm, arrays that broadcast to one shape.
        centre: x, y, z in mm.
        radii: Half axes in mm; infinite for a cylinder.
        tilt: Rotation about z, radians, from x towards y.
        power: 2 for an ellipsoid, more for a boxier shape.
    """
    x, y, z = (w - c for w, c in zip(where, centre, strict=True))
    cos, sin = np.cos(tilt), np.sin(tilt)
    parts = (cos * x + sin * y, -sin * x + cos * y, z)
    total = np.zeros(np.broadcast_shapes(*(p.shape for p in parts)), np.float32)
    for part, radius in zip(parts, radii, strict=True):
        if np.isfinite(radius):
            scaled = part / np.float32(radius)
            total = total + (scaled * scaled if power == 2 else np.abs(scaled) ** np.float32(power))
    return np.asarray(np.sqrt(total) if power == 2 else total ** np.float32(1 / power), dtype=np.float32)
