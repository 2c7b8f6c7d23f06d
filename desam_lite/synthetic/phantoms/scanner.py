"""From a tissue map to an image: spin-echo contrast, coils, bias field, point spread, noise and artefacts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from desam_lite.synthetic.phantoms.fields import Field, smooth_noise
from desam_lite.synthetic.phantoms.tissues import TISSUES, Tissue

SLICE_PROFILE = 0.35  # standard deviation of the slice profile, as a part of the distance between slices
_SAMPLED = 0.55  # part of the phase-encoding lines that a strongly truncated acquisition keeps


@dataclass(frozen=True)
class Scanner:
    """Settings of a T2-weighted fast spin echo and of the receive coils."""

    field_strength: float  # Tesla
    repetition: float  # TR, ms
    echo: float  # effective TE, ms
    gamma: float  # exponent of the reconstruction's intensity curve; 1 is linear
    noise: float  # standard deviation of the noise of each channel, as a part of the mean signal of muscle
    bias: float  # standard deviation of the logarithm of the smooth bias field
    endorectal: float  # weight of an endorectal coil's sensitivity, 0 to 1
    surface: float  # how much the sensitivity of surface coils falls from the skin to the middle, 0 to 1
    blur: float  # standard deviation of the point spread in the plane, mm
    # distance between slices, mm; the profile of a slice is a Gaussian whose standard deviation is 0.35 of it
    thickness: float
    field_of_view: float  # side of the square slice, mm
    coverage: float  # height of the scanned slab, mm
    ghost: float  # strength of motion ghosts along the phase direction (y), as a part of the signal
    gibbs: float  # strength of truncation (Gibbs) ringing along the phase direction (y), 0 to 1

    DIALS: ClassVar[dict[str, tuple[str, ...]]] = {
        "contrast": ("field_strength", "repetition", "echo", "gamma"),
        "noise": ("noise",),
        "bias": ("bias",),
        "coil": ("endorectal", "surface"),
        "resolution": ("blur", "thickness"),
        "field_of_view": ("field_of_view", "coverage"),
        "artefact": ("ghost", "gibbs"),
    }
    FIXED: ClassVar[tuple[str, ...]] = ("field_strength", "thickness")


def expose(
    tissue: npt.NDArray[np.uint8],
    scanner: Scanner,
    axes: Sequence[Field],
    spacing: Sequence[float],
    coil: tuple[float, float, float],
    rng: np.random.Generator,
) -> Field:
    """Acquire the image: intensities ``(Z, H, W)``, arbitrary unit, not negative.

    Tissue ids ``(Z, f H, f W)`` are painted f times finer in the plane than the image, whose grid has the axes x, y, z in mm,
    broadcastable, and the spacing z, y, x in mm. An endorectal coil lies at x, y, z in mm. The stream names texture, bias field,
    noise.
    """
    factor = tissue.shape[1] // axes[1].size
    fine = (spacing[0], spacing[1] / factor, spacing[2] / factor)
    contrast = scanner.field_strength, scanner.repetition, scanner.echo
    signals = relaxation_signal(TISSUES.values(), *contrast)
    signal = signals[tissue] * _texture(tissue, fine, rng)
    sigma = [SLICE_PROFILE * scanner.thickness / fine[0], scanner.blur / fine[1], scanner.blur / fine[2]]
    signal = average_blocks(ndimage.gaussian_filter(signal, sigma), factor)
    muscle = float(signals[list(TISSUES).index("muscle")])
    field = smooth_noise(signal.shape, [120 / s for s in spacing], rng).astype(np.float64)
    bias = np.exp(scanner.bias * field).astype(np.float32)
    received = signal * _sensitivity(scanner, axes, coil) * bias
    if scanner.ghost > 0:
        received = received + scanner.ghost * np.roll(received, signal.shape[1] // 5, axis=1)
    received = ring(received, scanner.gibbs)
    noise = scanner.noise * muscle * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    magnitude = np.sqrt((received + noise[0]).astype(np.float64) ** 2 + noise[1] ** 2)
    top = max(float(np.percentile(magnitude, 99.9)), 1e-12)  # not 0, where all is air
    return np.asarray(top * (magnitude / top) ** scanner.gamma, dtype=np.float32)


def average_blocks(fine: npt.NDArray[np.generic], factor: int) -> Field:
    """Average blocks of ``factor x factor`` pixels: ``(Z, f H, f W)`` to ``(Z, H, W)``."""
    slices, height, width = fine.shape
    blocks = fine.reshape(slices, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32))


def relaxation_signal(
    tissues: Iterable[Tissue], field_strength: float, repetition: float, echo: float
) -> Field:
    """Return each tissue's spin-echo signal: PD (1 - exp(-TR / T1)) exp(-TE / T2), relaxation times between 1.5 and 3 T."""
    part = np.clip((field_strength - 1.5) / 1.5, 0, 1)
    values = []
    for tissue in tissues:
        t1, t2 = (times[0] + part * (times[1] - times[0]) for times in (tissue.t1, tissue.t2))
        values.append(tissue.density * (1 - np.exp(-repetition / t1)) * np.exp(-echo / t2))
    return np.asarray(values, dtype=np.float32)


def ring(image: Field, strength: float) -> Field:
    """Let edges ring along y: the outer phase-encoding lines of ``(Z, H, W)`` are lost by ``strength``, 0 to 1."""
    if strength <= 0:
        return image
    lines = np.fft.rfft(image.astype(np.float64), axis=1)
    lines[:, round(_SAMPLED * lines.shape[1]) :] *= 1 - min(strength, 1)
    return np.asarray(np.fft.irfft(lines, image.shape[1], axis=1), dtype=np.float32)


def _texture(tissue: npt.NDArray[np.uint8], spacing: Sequence[float], rng: np.random.Generator) -> Field:
    """Return a factor around 1: every tissue uneven in its own measure, fat and muscle with strands."""
    strength = np.array([t.texture for t in TISSUES.values()], dtype=np.float32)[tissue]
    coarse = smooth_noise(tissue.shape, [5 / s for s in spacing], rng)
    fine = smooth_noise(tissue.shape, [max(1.6 / s, 1.0) for s in spacing], rng)
    strands = -np.abs(smooth_noise(tissue.shape, [14 / spacing[0], 5 / spacing[1], 8 / spacing[2]], rng))
    field = 0.6 * coarse + 0.6 * fine + 0.7 * (strands + 0.8)
    return np.asarray(np.clip(1 + strength * field, 0.1, 2.5), dtype=np.float32)


def _sensitivity(scanner: Scanner, axes: Sequence[Field], coil: tuple[float, float, float]) -> Field:
    """Return the receive sensitivity: flat, falling from the skin, or steeply from an endorectal coil."""
    x, y, z = axes
    from_skin = np.clip((118 - np.abs(y - 12)) / 118, 0, 1)
    surface = 1 - scanner.surface * 0.55 * from_skin
    distance = np.sqrt((x - coil[0]) ** 2 + (y - coil[1]) ** 2 + (0.6 * (z - coil[2])) ** 2)
    near = 5.5 / (1 + (distance / 23.0).astype(np.float64) ** 2.6) + 0.12
    blend = (1 - scanner.endorectal) * surface + scanner.endorectal * near
    return np.asarray(blend, dtype=np.float32)
