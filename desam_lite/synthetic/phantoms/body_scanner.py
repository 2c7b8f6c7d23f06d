"""CT and fat-suppressed T2 MRI of one body: intensities from Hounsfield units or relaxation, then what either machine adds.

Both are one scanner whose ``modality`` goes from 0 (CT) to 1 (MRI), so that a lesson can move the contrast alone, or all but the
contrast. In between lies an image that no machine takes, which is the point of a dial.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from desam_lite.synthetic.phantoms.fields import Field, smooth_field
from desam_lite.synthetic.phantoms.scanner import SLICE_PROFILE, average_blocks, relaxation_signal, ring
from desam_lite.synthetic.phantoms.tissues import ABDOMEN_TISSUES
from desam_lite.synthetic.phantoms.trunk import IDS, AbdomenPatient

WINDOW = (-125.0, 275.0)
"""The Hounsfield units that are black and white in the usual preparation of abdominal CT; grey 0 and 1 here."""
_REACH = (260.0, 260.0, 220.0)
_WHITE = "renal cortex"  # what is nearly white in T2-SPIR


@dataclass(frozen=True)
class BodyScanner:
    """Settings of a CT or of a fat-suppressed T2-weighted fast spin echo, moved by `DIALS`."""

    modality: float  # 0 for CT, 1 for MRI
    enhancement: float  # contrast medium in a CT, as a part of the portal venous phase
    field_strength: float  # Tesla
    repetition: float  # TR, ms
    echo: float  # effective TE, ms
    # part of the fat's signal that is suppressed in the middle of the magnet; less towards the edges
    suppression: float
    noise: float  # standard deviation of the noise, as a part of the grey scale (for CT 400 HU)
    grain: float  # standard deviation of the noise's own point spread, pixels
    bias: float  # standard deviation of the logarithm of the smooth bias field
    surface: float  # how much the sensitivity of surface coils falls from the skin to the middle, 0 to 1
    blur: float  # standard deviation of the point spread in the plane, mm
    # distance between slices, mm; the profile of a slice is a Gaussian whose standard deviation is 0.35 of it
    thickness: float
    field_of_view: float  # side of the square slice, mm
    coverage: float  # height of the scanned slab, mm
    streak: float  # strength of streaks along x, as from arms and ribs, as a part of the grey scale
    ghost: float  # strength of the ghosts of the breathing abdomen along y, as a part of the signal
    gibbs: float  # strength of truncation (Gibbs) ringing, 0 to 1

    DIALS: ClassVar[dict[str, tuple[str, ...]]] = {
        "contrast": ("modality", "enhancement", "field_strength", "repetition", "echo", "suppression"),
        "noise": ("noise", "grain"),
        "bias": ("bias",),
        "coil": ("surface",),
        "resolution": ("blur", "thickness"),
        "field_of_view": ("field_of_view", "coverage"),
        "artefact": ("streak", "ghost", "gibbs"),
    }
    FIXED: ClassVar[tuple[str, ...]] = ("modality", "field_strength", "suppression", "thickness")


def expose_body(
    tissue: npt.NDArray[np.uint8],
    patient: AbdomenPatient,
    scanner: BodyScanner,
    axes: Sequence[Field],
    finer: Sequence[Field],
    rng: np.random.Generator,
) -> Field:
    """Acquire the image: intensities ``(Z, H, W)``, 0 to 1 being the window of a CT, or none to the brightest organ of an MRI.

    Tissue ids ``(Z, f H, f W)`` are painted f times finer in the plane than the image; ``axes`` are x, y, z in mm of the image's
    grid, broadcastable, ``finer`` those of the tissue's. Iron and fat in the patient's liver change its intensity. The stream
    names texture, bias field, artefacts and noise.
    """
    texture_rng, bias_rng, noise_rng = rng.spawn(3)
    factor = tissue.shape[1] // axes[1].size
    signal = _intensities(tissue, patient, scanner, finer, texture_rng)
    pixel = float(finer[0].ravel()[1] - finer[0].ravel()[0])
    sigma = [SLICE_PROFILE, scanner.blur / pixel, scanner.blur / pixel]
    image = average_blocks(ndimage.gaussian_filter(signal, sigma), factor)
    field, fail = (smooth_field(axes, scale, _REACH, bias_rng) for scale in (130, 40))
    image *= np.exp(scanner.bias * field.astype(np.float64)).astype(np.float32) * _coils(scanner, axes)
    image += np.float32(scanner.streak) * _streaks(image.shape, axes, fail)
    image = ring(image, scanner.gibbs)
    return _noisy(_ghosted(image, scanner), scanner, noise_rng)


def _intensities(
    tissue: npt.NDArray[np.uint8],
    patient: AbdomenPatient,
    scanner: BodyScanner,
    axes: Sequence[Field],
    rng: np.random.Generator,
) -> Field:
    """Return the intensity of every voxel before anything is lost: CT and MRI mixed by the modality."""
    part = np.float32(scanner.modality)
    strength = np.array([t.texture for t in ABDOMEN_TISSUES.values()], dtype=np.float32)
    fine, coarse = (smooth_field(axes, scale, _REACH, rng) for scale in (5, 11))
    uneven = np.float32(0.75) * fine + np.float32(0.5) * coarse
    low, high = WINDOW
    units = np.array([t.hounsfield + scanner.enhancement * t.uptake for t in ABDOMEN_TISSUES.values()])
    units[IDS["liver"]] -= 45 * patient.steatosis
    units = (units - low) / (high - low)
    # Unevenness is a part of the signal in an MRI, and a part of the way to water and fat in a CT.
    ct = units.astype(np.float32)[tissue] + (0.3 * strength)[tissue] * uneven
    signal = _relaxed(patient, scanner)
    fatty = np.array([t.fat for t in ABDOMEN_TISSUES.values()], dtype=np.float32)[tissue]
    mr = signal[tissue] * np.clip(1 + strength[tissue] * uneven, 0.1, 2.5)
    mr = mr * (1 - fatty * _suppressed(scanner, axes, rng))
    return np.asarray((1 - part) * ct + part * mr, dtype=np.float32)


def _relaxed(patient: AbdomenPatient, scanner: BodyScanner) -> Field:
    """Return each tissue's spin-echo signal, the kidney's cortex near 1."""
    contrast = scanner.field_strength, scanner.repetition, scanner.echo
    signal = relaxation_signal(ABDOMEN_TISSUES.values(), *contrast)
    white = signal[IDS[_WHITE]] / 0.66
    for name in ("liver", "spleen"):
        tissue = ABDOMEN_TISSUES[name]
        t2 = float(np.interp(scanner.field_strength, (1.5, 3.0), tissue.t2))
        signal[IDS[name]] *= np.exp(-scanner.echo / t2 * (1 / patient.iron - 1))
    return np.asarray(signal / white, dtype=np.float32)


def _suppressed(scanner: BodyScanner, axes: Sequence[Field], rng: np.random.Generator) -> Field:
    """Return the part of the fat that is suppressed: nearly all, less far from the middle of the magnet and in patches."""
    x, y, z = axes
    patchy = smooth_field(axes, 70, _REACH, rng)
    far = np.sqrt((x / 185) ** 2 + (y / 150) ** 2 + (z / 260) ** 2)
    fails = np.clip((far - 0.78 + 0.1 * patchy) / 0.5, 0, 1)
    return np.asarray(scanner.suppression * (1 - 0.75 * fails**2), dtype=np.float32)


def _coils(scanner: BodyScanner, axes: Sequence[Field]) -> Field:
    """Return the sensitivity of a ring of surface coils: 1 at the sides, less in the middle and towards both ends."""
    x, y, z = axes
    deep = np.clip(1 - (x / 175) ** 2 - ((y - 12) / 125) ** 2, 0, 1)
    ends = np.clip((np.abs(z) - 60) / 120, 0, 1) ** 2
    return np.asarray(1 - scanner.surface * (0.5 * deep + 0.45 * ends), dtype=np.float32)


def _streaks(shape: tuple[int, ...], axes: Sequence[Field], slow: Field) -> Field:
    """Return streaks along x, strongest between the arms: fine across, long along."""
    y = axes[1]
    rows = np.sin(np.float64(0.62) * y + 3.1 * slow[:, :, :1].astype(np.float64)) + np.sin(1.27 * y + 1.3)
    level = np.exp(-(((y - 25) / 60.0) ** 2))
    return np.asarray(np.broadcast_to(rows * level, shape), dtype=np.float32) * (1 + np.float32(0.5) * slow)


def _ghosted(image: Field, scanner: BodyScanner) -> Field:
    """Add the ghosts of what moves with the breath, a quarter of the image away along the phase direction y."""
    away = image.shape[1] // 4
    ghosts = np.roll(image, away, axis=1) + np.roll(image, -away, axis=1)
    return np.asarray(image + np.float32(0.5 * scanner.ghost) * np.maximum(ghosts, 0), dtype=np.float32)


def _noisy(image: Field, scanner: BodyScanner, rng: np.random.Generator) -> Field:
    """Add noise: Gaussian to a CT, that of a magnitude to an MRI."""
    first, second = rng.standard_normal((2, *image.shape), dtype=np.float32)
    if scanner.grain > 0:
        first, second = (_grained(n, scanner.grain) for n in (first, second))
    sigma, part = np.float32(scanner.noise), np.float32(scanner.modality)
    straight = image + sigma * first
    magnitude = np.sqrt((np.maximum(image, 0) + sigma * first) ** 2 + (sigma * second) ** 2)
    return np.asarray((1 - part) * straight + part * magnitude, dtype=np.float32)


def _grained(noise: Field, grain: float) -> Field:
    """Blur white noise in the plane and give it back its standard deviation."""
    blurred = ndimage.gaussian_filter(noise, (0, grain, grain))
    impulse = np.zeros((33, 33))
    impulse[16, 16] = 1
    power = float((ndimage.gaussian_filter(impulse, grain) ** 2).sum())
    return np.asarray(blurred / np.float32(np.sqrt(power)), dtype=np.float32)
