"""A small multi-site set as somebody might have it: folders, file names and label numbers of its own, hospitals nobody has seen.

Made for the chapter about one's own data, so that it runs everywhere. The two labelled hospitals and the third, whose one scan
has no label, are synthetic: their scanners lie between those of ``phantom_prostate``, and none is one of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from desam_lite.data.geometry import Geometry, from_slices
from desam_lite.data.nifti import write_mask, write_volume
from desam_lite.synthetic.phantoms import PROSTATE_SITES, dialled, make_case
from desam_lite.synthetic.phantoms.cases import Case
from desam_lite.utils.progress import track

HILL_LABEL = 7
"""The number that the files of one of the hospitals have for the organ."""

NEW_SCAN = "valley/new_patient.nii.gz"
"""The scan without a label, of the third hospital."""


class _Hospital(NamedTuple):
    first: str
    second: str
    dials: Mapping[str, float]
    label: int


_HOSPITALS = {
    "harbour": _Hospital("A", "D", {"contrast": 0.5, "noise": 0.5, "bias": 0.5}, 1),
    "hill": _Hospital("C", "F", {"contrast": 0.5, "noise": 1.0, "resolution": 0.5}, HILL_LABEL),
    "valley": _Hospital("D", "A", {"contrast": 0.3, "noise": 0.6}, 0),
}


def make_example(folder: Path | str, cases: int, *, progress: bool = True) -> Path:
    """Write the set: ``<hospital>/patients/<patient>/t2.nii.gz`` with ``t2_prostate.nii.gz``, and `NEW_SCAN`.

    What is there is kept.

    Args:
        folder: Where to.
        cases: Patients of each labelled hospital.
        progress: Whether to show a bar.

    Returns:
        The folder.
    """
    folder = Path(folder)
    wanted = [(name, number) for name in ("harbour", "hill") for number in range(cases)] + [("valley", 0)]
    missing = [(name, number) for name, number in wanted if not _paths(folder, name, number)[-1].exists()]
    for name, number in track(missing, "making patients", enabled=progress and bool(missing)):
        _write(folder, name, number)
    return folder


def _paths(folder: Path, name: str, number: int) -> list[Path]:
    """Return the files of a patient, the one that is written last at the end."""
    if name == "valley":
        return [folder / NEW_SCAN]
    patient = folder / name / "patients" / f"P{number + 1:02d}"
    return [patient / "t2_prostate.nii.gz", patient / "t2.nii.gz"]


def _write(folder: Path, name: str, number: int) -> None:
    hospital = _HOSPITALS[name]
    site = dialled(PROSTATE_SITES[hospital.first], PROSTATE_SITES[hospital.second], hospital.dials)
    place = (99, list(_HOSPITALS).index(name), number)
    case = make_case(site, np.random.default_rng(np.random.SeedSequence(0, spawn_key=place)))
    geometry = _geometry(case)
    paths = _paths(folder, name, number)
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    if hospital.label:
        label = np.where(case.label > 0, hospital.label, 0).astype(np.uint8)
        write_mask(paths[0], label, geometry)
    write_volume(paths[-1], from_slices(case.image, geometry), geometry.affine)


def _geometry(case: Case) -> Geometry:
    z, y, x = case.spacing
    slices, rows, columns = case.image.shape
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = [x * (columns - 1) / 2, y * (rows - 1) / 2, -z * (slices - 1) / 2]
    return Geometry((columns, rows, slices), affine)
