"""Files in, files out: which scans are predicted, what is written of each and where, and what is left alone."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from desam_lite.data.geometry import from_slices
from desam_lite.data.nifti import write_mask, write_volume
from desam_lite.methods import TrainedModel
from desam_lite.methods.model_card import ModelCard
from desam_lite.prediction.scan import ScanPrediction, predict_scan, scores_table
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path

_NIFTI = (".nii.gz", ".nii")
_SUFFIXES = {"mask": _NIFTI, "probability": _NIFTI, "scores": (".csv",), "preview": (".png",)}
"""What can be written of a scan; the name of a file in a folder is the scan's, ``_KIND`` and the first suffix."""


@dataclass(frozen=True)
class Job:
    """One scan and the files to be made of it.

    Attributes:
        scan: The scan's file.
        outputs: "mask", "probability", "scores", "preview" -> file; those that were asked for.
    """

    scan: Path
    outputs: Mapping[str, Path]

    @property
    def done(self) -> bool:
        """Whether every file is there."""
        return all(path.exists() for path in self.outputs.values())


def plan_jobs(inputs: Sequence[Path], wanted: Mapping[str, Path]) -> list[Job]:
    """Decide which scans are predicted and which files are made of each.

    Args:
        inputs: Files, and folders of which every NIfTI file is taken but those that end in ``_mask`` or ``_probability``.
        wanted: "mask" and others of `Job` -> a file for one scan; a folder for several, or where it is there already.

    Returns:
        A job per scan, in the order given.

    Raises:
        StudyError: There is no scan, a name does not fit, two scans would get one file, or a file would take the place of a scan.
    """
    scans = list({path.resolve(): path for given in inputs for path in _scans_of(given)}.values())
    several = len(inputs) > 1 or inputs[0].is_dir()
    jobs = [
        Job(scan, {kind: _place(kind, path, scan, several) for kind, path in wanted.items()})
        for scan in scans
    ]
    _refuse_collisions(jobs)
    return jobs


def _scans_of(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    files = [path for path in sorted(given.iterdir()) if path.name.endswith(_NIFTI) and path.is_file()]
    made_here = ("_mask", "_probability")
    scans = [p for p in files if not p.name.startswith(".") and not _stem(p).endswith(made_here)]
    if not scans:
        raise StudyError(f"there is no scan (.nii or .nii.gz) in the folder '{given}': check the path.")
    return scans


def _stem(path: Path) -> str:
    """Return the name of a file without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _place(kind: str, path: Path, scan: Path, several: bool) -> Path:
    """Return the file for one kind of output of one scan."""
    named = path.name.endswith(_SUFFIXES[kind])
    if path.is_dir() or (several and not named and not path.exists()):
        return path / f"{_stem(scan)}_{kind}{_SUFFIXES[kind][0]}"
    if several:
        raise StudyError(
            f"several scans need a folder for each kind of file, and '{path}' is the name of one."
        )
    if not named:
        raise StudyError(
            f"the {kind} cannot be written to '{path}': give a name that ends in {_SUFFIXES[kind][0]}, or an existing folder."
        )
    return path


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    scans = {(status.st_dev, status.st_ino) for job in jobs if (status := _status(job.scan))}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs.values():
            status = _status(path)  # tells the same file also under another name
            if status and (status.st_dev, status.st_ino) in scans:
                raise StudyError(f"'{path}' is a scan, and scans are never overwritten: give another name.")
            if path.resolve() in taken:
                raise StudyError(
                    f"'{path}' would be made twice (of '{taken[path.resolve()]}' and '{job.scan}'): give each its own name."
                )
            taken[path.resolve()] = job.scan


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def do_job(model: TrainedModel, job: Job, *, progress: bool = True) -> ScanPrediction:
    """Predict a scan and write its files, the mask last and each atomically.

    Raises:
        StudyError: The file is not one 3-D scan, or scores are wanted of a model that gives none.
    """
    found = predict_scan(model, job.scan, probability="probability" in job.outputs, progress=progress)
    for kind, path in sorted(job.outputs.items(), key=lambda output: output[0] == "mask"):
        _WRITERS[kind](path, found, model.card, job.scan.name)
    return found


def _write_mask(path: Path, found: ScanPrediction, card: ModelCard, name: str) -> None:
    write_mask(path, found.labels, found.geometry)


def _write_probability(path: Path, found: ScanPrediction, card: ModelCard, name: str) -> None:
    """Write one volume for one organ; for several, the organs are the fourth axis."""
    assert found.probability is not None
    organs = [from_slices(found.probability[:, k], found.geometry) for k in range(len(card.organs))]
    write_volume(path, organs[0] if len(organs) == 1 else np.stack(organs, axis=-1), found.geometry.affine)


def _write_scores(path: Path, found: ScanPrediction, card: ModelCard, name: str) -> None:
    with atomic_path(path) as temporary:
        scores_table(found, card).to_csv(temporary, index=False)


def _write_preview(path: Path, found: ScanPrediction, card: ModelCard, name: str) -> None:
    from desam_lite.study.report.contact_sheets import (  # matplotlib: only who wants a picture pays
        scan_sheet,
        write_png,
    )

    nothing = "" if found.labels.any() else " (no organ was found)"
    title = f"{name}{nothing}\n{card.title}"
    write_png(path, scan_sheet(found.images, found.labels, card.organs, found.geometry.spacing, title))


_WRITERS = {
    "mask": _write_mask,
    "probability": _write_probability,
    "scores": _write_scores,
    "preview": _write_preview,
}
