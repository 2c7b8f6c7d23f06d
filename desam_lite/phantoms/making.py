"""Making the cases of a synthetic task on disk: seeded, resumable, with every parameter written beside them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from desam_lite.errors import StudyError
from desam_lite.files import sha256_file, write_json
from desam_lite.geometry import Geometry, from_slices
from desam_lite.nifti import write_mask, write_volume
from desam_lite.phantoms.fields import Field
from desam_lite.phantoms.pelvis import Patient, draw_patient, paint_pelvis
from desam_lite.phantoms.scanner import Scanner, average, expose, jitter
from desam_lite.phantoms.sites import PROSTATE_SITES, Site
from desam_lite.progress import track

PHANTOM_VERSION = 3
TASKS: dict[str, dict[str, Site]] = {"phantom_prostate": PROSTATE_SITES}
MATRIX = 128
"""Pixels along each side of a slice."""
_FINER = 2  # anatomy is painted this much finer than the picture, so that edges are soft
_OFF_CENTRE = np.array([2.0, 5.0, 4.0])  # how far a scan is put off the gland: x, y, z in mm
_GREY_TOP = 1500.0


@dataclass(frozen=True)
class Case:
    """One synthetic case.

    Attributes:
        image: Grey levels ``(Z, H, W)`` int16.
        label: ``(Z, H, W)`` uint8, 1 in the prostate.
        spacing: z, y, x in mm.
        patient: Whose anatomy it is.
        scanner: The settings that took the picture.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]
    patient: Patient
    scanner: Scanner


def make_case(site: Site, rng: np.random.Generator, *, matrix: int = MATRIX) -> Case:
    """Draw a patient and take the picture a site would take.

    Args:
        site: The hospital.
        rng: Names the patient and everything else that is random.
        matrix: Pixels along each side of a slice.

    Returns:
        The case, in the frame of the slices (`desam_lite.geometry`).
    """
    patient_rng, scan_rng, place_rng = rng.spawn(3)
    patient = draw_patient(patient_rng, balloon=site.balloon)
    scanner = jitter(site.scanner, scan_rng)
    pixel = scanner.field_of_view / matrix
    spacing = (scanner.thickness, pixel, pixel)
    middle = place_rng.normal(0, 1, 3) * _OFF_CENTRE
    axes = _axes((site.slices, matrix, matrix), spacing, middle)
    finer = (spacing[0], pixel / _FINER, pixel / _FINER)
    tissue, coverage = paint_pelvis(
        patient, _axes((site.slices, _FINER * matrix, _FINER * matrix), finer, middle)
    )
    label = (average(coverage, _FINER) >= 0.5).astype(np.uint8)
    coil = (patient.place[0], patient.place[1] + patient.gland[1] + 12, 0.0)
    picture = expose(tissue, scanner, axes, spacing, coil, scan_rng)
    top = float(np.percentile(picture, 99.5))
    image = np.clip(picture * (_GREY_TOP / top), 0, 32000).astype(np.int16)
    return Case(image, label, spacing, patient, scanner)


def _axes(
    shape: Sequence[int], spacing: Sequence[float], middle: Sequence[float]
) -> tuple[Field, Field, Field]:
    """Return x, y, z in mm of a ``(Z, H, W)`` grid around ``middle`` (x, y, z in mm), each broadcastable to it."""
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * s + m).astype(np.float32)
        for n, s, m in zip(shape, spacing, reversed(middle), strict=True)
    )
    return x[None, None, :], y[None, :, None], z[:, None, None]


def make_task(
    task: str,
    out: Path | str,
    *,
    cases: int = 10,
    seed: int = 0,
    domains: Sequence[str] | None = None,
    progress: bool = True,
) -> None:
    """Write a synthetic task: ``<domain>/CaseNN.nii.gz``, ``CaseNN_segmentation.nii.gz`` and ``CaseNN.json`` with all parameters.

    A case that is already there, whole and made the same way, is kept; anything else is made again.

    Args:
        task: Name of the task.
        out: Folder to write to.
        cases: Cases per domain.
        seed: Equal seeds give equal data; a case does not depend on how many others there are.
        domains: Which domains; all when None.
        progress: Whether to show a bar.

    Raises:
        StudyError: There is no such task or domain, or a number makes no sense.
    """
    if task not in TASKS:
        raise StudyError(f"there is no synthetic task '{task}': choose from {', '.join(TASKS)}.")
    sites = TASKS[task]
    unknown = [name for name in domains or [] if name not in sites]
    if unknown:
        raise StudyError(f"task '{task}' has no domain '{unknown[0]}': choose from {', '.join(sites)}.")
    if cases < 1 or seed < 0:
        raise StudyError(
            f"{cases} cases with seed {seed} cannot be made: use 1 case or more and seed 0 or more."
        )
    wanted = [(name, number) for name in dict.fromkeys(domains or sites) for number in range(cases)]
    missing = [pair for pair in wanted if not _is_made(Path(out), task, seed, *pair)]
    for domain, number in track(missing, f"making {task}", enabled=progress and bool(missing)):
        _write(Path(out), task, seed, domain, number, sites[domain])


def _paths(out: Path, domain: str, number: int) -> tuple[Path, Path, Path]:
    stem = f"Case{number:02d}"
    folder = out / domain
    return folder / f"{stem}.nii.gz", folder / f"{stem}_segmentation.nii.gz", folder / f"{stem}.json"


def _recipe(task: str, seed: int, domain: str, number: int) -> dict[str, Any]:
    site = asdict(TASKS[task][domain])
    return {
        "version": PHANTOM_VERSION,
        "task": task,
        "seed": seed,
        "domain": domain,
        "case": number,
        "site": site,
    }


def _is_made(out: Path, task: str, seed: int, domain: str, number: int) -> bool:
    """Tell whether a case is there, made by this very recipe, its files whole."""
    image, label, sidecar = _paths(out, domain, number)
    try:
        record = json.loads(sidecar.read_text())
        same = record["recipe"] == _recipe(task, seed, domain, number)
        whole = record["sha256"] == [sha256_file(image), sha256_file(label)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(same and whole)


def _write(out: Path, task: str, seed: int, domain: str, number: int, site: Site) -> None:
    place = (list(TASKS).index(task), list(TASKS[task]).index(domain), number)
    case = make_case(site, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place)))
    image, label, sidecar = _paths(out, domain, number)
    z, y, x = case.spacing
    slices, rows, columns = case.image.shape
    affine = np.diag([-x, -y, z, 1.0])  # stored as LPS: the way most scanners' axial series arrive
    affine[:3, 3] = [x * (columns - 1) / 2, y * (rows - 1) / 2, -z * (slices - 1) / 2]
    geometry = Geometry((columns, rows, slices), affine)
    sidecar.unlink(missing_ok=True)  # from here on the case is not whole until it is written last
    write_volume(image, from_slices(case.image, geometry), affine)
    write_mask(label, case.label, geometry)
    record = {
        "recipe": _recipe(task, seed, domain, number),
        "patient": asdict(case.patient),
        "scanner": asdict(case.scanner),
        "sha256": [sha256_file(image), sha256_file(label)],
    }
    write_json(sidecar, record)
