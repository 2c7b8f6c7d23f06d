"""A small multi-site set as somebody might have it: folders, file names and label numbers of its own, and hospitals of its own.

Made for the chapter about one's own data, so that it runs everywhere. The two labelled hospitals and the third, whose one scan
has no label, are synthetic: their scanners lie between those of ``phantom_prostate``, and none is one of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from desam_lite.data.geometry import from_slices
from desam_lite.data.nifti import write_mask, write_volume
from desam_lite.study.report.sentences import count, out_of_domain, say_pairs
from desam_lite.synthetic.phantoms import PROSTATE_SITES, dialled, make_case
from desam_lite.synthetic.phantoms.making import case_geometry
from desam_lite.utils.progress import track

HILL_LABEL = 7
"""The number that the files of one of the hospitals have for the organ."""

NEW_SCAN = "valley/new_patient.nii.gz"
"""The scan without a label, of the third hospital."""

_EXAMPLE_STREAM = 99  # names the random streams of this set among those of the package


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


def say_against_prior(differences: pd.DataFrame, summary: pd.DataFrame, label: str) -> str:
    """Say what a method and the prior score at each target, of `statistics.summarise`, and the verdict out of domain."""
    means = summary.groupby(["label", "target"], sort=False)["mean"].mean() * 100
    shared = [target for name, target in means.index if name == label and ("Prior", target) in means.index]
    if not shared or label == "Prior":
        return "There is no method to compare with the prior here."
    each = "; ".join(
        f"{means[label, target]:.0f} and {means['Prior', target]:.0f} at {target}" for target in shared
    )
    rows = out_of_domain(differences).to_dict("records")
    verdict = f" Out of domain, {say_pairs(rows)}, n = {count(rows[0]['cases'], 'case')}." if rows else ""
    return f"Dice (%) of {label} and of the prior: {each}.{verdict}"


def say_volume(predicted: float, labelled: Sequence[float]) -> str:
    """Say whether a predicted volume lies in the range of the labelled cases, in ml."""
    low, high = min(labelled), max(labelled)
    inside = low <= predicted <= high
    told = "within" if inside else "outside"
    advice = (
        "which does not show that the mask is right" if inside else "so look at this mask before you use it"
    )
    cases = f"the {count(len(labelled), 'labelled case')}, {low:.0f} to {high:.0f} ml"
    return f"{predicted:.0f} ml is {told} the range of {cases}, {advice}."


def make_example(folder: Path | str, cases: int, *, progress: bool = True) -> None:
    """Write ``<hospital>/patients/<patient>/t2.nii.gz`` with ``t2_prostate.nii.gz``, and `NEW_SCAN`; what exists is kept."""
    folder = Path(folder)
    labelled = [(name, number) for name in ("harbour", "hill") for number in range(cases)]
    scans = {
        (name, number): folder / name / "patients" / f"P{number + 1:02d}" / "t2.nii.gz"
        for name, number in labelled
    }
    scans["valley", 0] = folder / NEW_SCAN
    missing = [key for key, path in scans.items() if not path.exists()]
    for name, number in track(missing, "making patients", enabled=progress and bool(missing)):
        _write_patient(scans[name, number], name, number)


def _write_patient(scan: Path, name: str, number: int) -> None:
    """Write the label, if the hospital has one, and then the scan."""
    hospital = _HOSPITALS[name]
    site = dialled(PROSTATE_SITES[hospital.first], PROSTATE_SITES[hospital.second], hospital.dials)
    stream = np.random.SeedSequence(0, spawn_key=(_EXAMPLE_STREAM, list(_HOSPITALS).index(name), number))
    case = make_case(site, np.random.default_rng(stream))
    geometry = case_geometry(case)
    scan.parent.mkdir(parents=True, exist_ok=True)
    if hospital.label:
        label = np.where(case.label > 0, hospital.label, 0).astype(np.uint8)
        write_mask(scan.with_name("t2_prostate.nii.gz"), label, geometry)
    write_volume(scan, from_slices(case.image, geometry), geometry.affine)
