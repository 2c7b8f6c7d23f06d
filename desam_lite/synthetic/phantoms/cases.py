"""One synthetic case: a random patient, painted and put under a site's scanner."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from desam_lite.synthetic.phantoms.abdomen import draw_abdomen, paint_abdomen
from desam_lite.synthetic.phantoms.body_scanner import WINDOW, BodyScanner, expose_body
from desam_lite.synthetic.phantoms.dials import jitter
from desam_lite.synthetic.phantoms.fields import Field
from desam_lite.synthetic.phantoms.pelvis import Patient, draw_patient, paint_pelvis
from desam_lite.synthetic.phantoms.scanner import Scanner, average_blocks, expose
from desam_lite.synthetic.phantoms.sites import Site
from desam_lite.synthetic.phantoms.trunk import AbdomenPatient

MATRIX = 128
"""Pixels along each side of a slice."""
_FINER = 2  # anatomy is painted this much finer than the image, so that edges are soft
_OFF_CENTRE = np.array([2.0, 5.0, 4.0])  # how far a scan of the pelvis is put off the gland: x, y, z in mm
_ABDOMEN_MIDDLE = np.array([0.0, 8.0, 26.0])  # of a scan of the abdomen: x, y, z in mm
_ABDOMEN_OFF_CENTRE = np.array([16.0, 16.0, 25.0])
_INTENSITY_TOP = 1500.0
Map = npt.NDArray[np.uint8]
Axes = tuple[Field, Field, Field]


@dataclass(frozen=True)
class Case:
    """One synthetic case."""

    image: npt.NDArray[np.int16]  # intensities ``(Z, H, W)`` int16
    label: Map  # ``(Z, H, W)`` uint8, the label of the organ, 0 elsewhere
    spacing: tuple[float, float, float]  # z, y, x in mm
    patient: Patient | AbdomenPatient  # whose anatomy it is
    scanner: Scanner | BodyScanner  # the settings of the acquisition


def make_case(site: Site, rng: np.random.Generator, *, matrix: int = MATRIX) -> Case:
    """Draw a patient and acquire the image of a site, in the frame of the slices (`desam_lite.data.geometry`).

    The stream names the patient and all else that is random; equal streams give one patient whatever the site. A slice has
    ``matrix`` pixels along each side.
    """
    streams = rng.spawn(3)
    if isinstance(site.scanner, BodyScanner):
        return _abdomen(site, site.scanner, streams, matrix)
    return _pelvis(site, site.scanner, streams, matrix)


def _pelvis(site: Site, scanner: Scanner, streams: list[np.random.Generator], matrix: int) -> Case:
    patient_rng, scan_rng, place_rng = streams
    patient = draw_patient(patient_rng, balloon=site.balloon or 0.0)
    scanner = jitter(scanner, scan_rng)
    middle = place_rng.normal(0, 1, 3) * _OFF_CENTRE
    # Whoever plans a scan of the prostate takes care to have all of it.
    spare = max(scanner.coverage / 2 - patient.gland[2] - 1.5 * scanner.thickness, 0)
    middle[2] = np.clip(middle[2], patient.place[2] - spare, patient.place[2] + spare)
    grid, finer, spacing = _grids(scanner, matrix, middle)
    tissue, organ = paint_pelvis(patient, finer)
    coil = (patient.place[0], patient.place[1] + patient.gland[1] + 12, 0.0)
    image = expose(tissue, scanner, grid, spacing, coil, scan_rng)
    return Case(_stored(image), _labels(organ), spacing, patient, scanner)


def _abdomen(site: Site, scanner: BodyScanner, streams: list[np.random.Generator], matrix: int) -> Case:
    patient_rng, scan_rng, place_rng = streams
    patient = draw_abdomen(patient_rng)
    scanner = _planned(jitter(scanner, scan_rng), patient, place_rng)
    middle = place_rng.normal(_ABDOMEN_MIDDLE, _ABDOMEN_OFF_CENTRE)
    grid, finer, spacing = _grids(scanner, matrix, middle)
    tissue, organ = paint_abdomen(patient, finer)
    image = expose_body(tissue, patient, scanner, grid, finer, scan_rng)
    low, high = WINDOW
    units = np.clip(np.rint(low + (high - low) * image), -1024, 3071).astype(np.int16)
    stored = units if site.hounsfield else _stored(image)
    return Case(stored, _labels(organ), spacing, patient, scanner)


def _planned(scanner: BodyScanner, patient: AbdomenPatient, rng: np.random.Generator) -> BodyScanner:
    """Return the scanner as planned for one patient: the field of view follows the girth and varies a little from day to day."""
    wide, high = np.exp(rng.normal(0, (0.12, 0.12)))
    girth = (patient.build * patient.girth[0] * 124 + patient.under_skin) / 140  # 1 for an average patient
    side = scanner.field_of_view * float(wide * girth**0.6)
    return replace(scanner, field_of_view=side, coverage=scanner.coverage * float(high))


def _stored(image: Field) -> npt.NDArray[np.int16]:
    """Return an MRI as scanners store one: whole numbers of no unit."""
    top = max(float(np.percentile(image, 99.5)), 1e-12)
    return np.asarray(np.clip(image * (_INTENSITY_TOP / top), 0, 32000), dtype=np.int16)


def _labels(organ: Map) -> Map:
    """Return the label that covers at least half of each pixel of the image."""
    label = np.zeros((organ.shape[0], organ.shape[1] // _FINER, organ.shape[2] // _FINER), np.uint8)
    for number in range(1, int(organ.max()) + 1):
        label[average_blocks(organ == number, _FINER) >= 0.5] = number
    return label


def _grids(
    scanner: Scanner | BodyScanner, matrix: int, middle: npt.NDArray[np.float64]
) -> tuple[Axes, Axes, tuple[float, float, float]]:
    """Return the grid of the image around a point, the finer one that anatomy is painted on, and the spacing (z, y, x)."""
    pixel, thick = scanner.field_of_view / matrix, scanner.thickness
    slices = max(round(scanner.coverage / thick), 1)
    grid = _grid_axes((slices, matrix, matrix), (thick, pixel, pixel), middle)
    side, step = _FINER * matrix, pixel / _FINER
    finer = _grid_axes((slices, side, side), (thick, step, step), middle)
    return grid, finer, (thick, pixel, pixel)


def _grid_axes(shape: Sequence[int], spacing: Sequence[float], middle: npt.NDArray[np.float64]) -> Axes:
    """Return x, y, z in mm of a ``(Z, H, W)`` grid around ``middle`` (x, y, z in mm), each broadcastable to it."""
    rows = zip(shape, spacing, middle[::-1], strict=True)
    z, y, x = (((np.arange(n) - (n - 1) / 2) * s + m).astype(np.float32) for n, s, m in rows)
    return x[None, None, :], y[None, :, None], z[:, None, None]
