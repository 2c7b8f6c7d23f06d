"""Files in, files out: which scans are predicted, what is written of each and where, and what is left alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from desam_lite.data.dicom import holds_dicom, read_header
from desam_lite.data.geometry import from_slices
from desam_lite.data.nifti import write_mask, write_volume
from desam_lite.data.segmentations import is_segmentation, require_highdicom, write_segmentation
from desam_lite.methods import TrainedModel
from desam_lite.prediction.scan import ScanPrediction, doubt_of_slices, predict_scan, scores_table
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path

_NIFTI = (".nii.gz", ".nii")
_DICOM = ".dcm"
_SUFFIXES = {"mask": (*_NIFTI, _DICOM), "probability": _NIFTI, "scores": (".csv",), "preview": (".html",)}
"""What can be written of a scan; the name of a file in a folder is the scan's, ``_KIND`` and the first suffix."""
_NO_SCAN = re.compile(
    r"(^|[_. -])(mask|probability|segmentation|seg|labels?|gt)$|^(labels?|segmentation)[_. -]?\d+$", re.I
)
"""How names of masks and labels look, this package's and those of common data sets, without the suffix."""


@dataclass(frozen=True)
class ScanJob:
    """One scan and the files to be made of it."""

    scan: Path  # the scan's file, or the folder of its DICOM series
    outputs: Mapping[
        str, Path
    ]  # "mask", "probability", "scores", "preview" -> file, of those that are to be made

    @property
    def done(self) -> bool:
        """Whether every file is there."""
        return all(path.exists() for path in self.outputs.values())


def plan_jobs(inputs: Sequence[Path], places: Mapping[str, Path]) -> list[ScanJob]:
    """Decide which scans are predicted and which files are made of each: a job per scan, in the order given.

    Args:
        inputs: Files, and folders: of one, every NIfTI file is taken but those named as masks, labels or probabilities; one with
            DICOM files and no such file is one scan.
        places: "mask" and others of `ScanJob` -> a file for one scan; a folder for several, or where it is there already.

    Raises:
        StudyError: There is no scan, a name does not fit, two scans would get one file, a file would take the place of a scan,
            or a mask cannot be DICOM.
    """
    _refuse_slices(inputs)
    scans = list({path.resolve(): path for given in inputs for path in _scans_of(given)}.values())
    several = len(inputs) > 1 or scans != [*inputs]
    jobs = [
        ScanJob(scan, {kind: _output_path(kind, path, scan, several) for kind, path in places.items()})
        for scan in scans
    ]
    _refuse_collisions(jobs)
    for job in jobs:
        if job.outputs["mask"].suffix == _DICOM:
            require_highdicom()
            if not holds_dicom(job.scan):
                raise StudyError(
                    f"'{job.scan}' is no DICOM, so its mask can refer to no series: give --out a name in .nii.gz."
                )
    return jobs


def _refuse_slices(inputs: Sequence[Path]) -> None:
    """Refuse the slices of a series given file by file, as ``FOLDER/*`` gives them: each would be a scan."""
    folders: dict[Path, Path] = {}
    for path in inputs:
        if path.is_file() and holds_dicom(path) and folders.setdefault(path.parent, path) != path:
            raise StudyError(
                f"'{path.name}' and others are DICOM files of one folder: give the folder '{path.parent}', which is one scan."
            )


def _scans_of(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    scans = [path for path in _nifti_files(given) if not _NO_SCAN.search(_stem(path))]
    if scans and any(holds_dicom(path) for path in given.iterdir() if path.is_file()):
        raise StudyError(
            f"the folder '{given}' holds both NIfTI ({scans[0].name}) and DICOM: keep them apart, or give files by name."
        )
    if not scans and not holds_dicom(given):
        raise StudyError(
            f"there is no scan (.nii, .nii.gz or DICOM) in the folder '{given}': check the path."
        )
    return scans or [given]


def _nifti_files(folder: Path) -> list[Path]:
    names = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(_NIFTI)]
    return [path for path in names if not path.name.startswith(".") and not path.is_dir()]


def skipped_labels(folder: Path) -> list[str]:
    """Return the names of files in a folder that :func:`plan_jobs` takes for labels; its own masks of scans there aside."""
    stems = {path.name: _stem(path) for path in _nifti_files(folder)}
    own = {f"{stem}_{kind}" for stem in stems.values() for kind in ("mask", "probability")}
    return [name for name, stem in stems.items() if _NO_SCAN.search(stem) and stem not in own]


def _stem(path: Path) -> str:
    """Return the name of a scan without its suffix."""
    name = path.name
    return name if path.is_dir() else re.sub(r"(\.nii|\.dcm)?(\.gz)?$", "", name, count=1, flags=re.I)


def _output_path(kind: str, path: Path, scan: Path, several: bool) -> Path:
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


def _refuse_collisions(jobs: Sequence[ScanJob]) -> None:
    taken: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs.values():
            if path.exists():
                slice_there = path.suffix == _DICOM and not is_segmentation(read_header(path))
                if slice_there or any(each.scan.exists() and path.samefile(each.scan) for each in jobs):
                    raise StudyError(
                        f"'{path}' is a scan, and scans are never overwritten: give another name."
                    )
            if path.resolve() in taken:
                raise StudyError(
                    f"'{path}' would be made twice (of '{taken[path.resolve()]}' and '{job.scan}'): give each its own name."
                )
            taken[path.resolve()] = job.scan


def predict_files(
    model: TrainedModel,
    job: ScanJob,
    *,
    series: str | None = None,
    largest_part: bool = False,
    draw: Callable[[Path, ScanPrediction, Mapping[str, str], str], None] | None = None,
    progress: bool = True,
) -> ScanPrediction:
    """Predict a scan and write its files, the mask last and each atomically.

    ``draw`` draws the preview: called with its file, the prediction, name -> colour of the organs, and a title. For the other
    options see `predict_scan`.
    """
    options = {"probability": "probability" in job.outputs, "largest_part": largest_part}
    prediction = predict_scan(model, job.scan, series=series, progress=progress, **options)
    if path := job.outputs.get("probability"):
        assert prediction.probability is not None
        organs = [from_slices(each, prediction.geometry) for each in prediction.probability.swapaxes(0, 1)]
        stored = organs[0] if len(organs) == 1 else np.stack(organs, axis=-1)  # several are the fourth axis
        write_volume(path, stored, prediction.geometry.affine, prediction.header)
    if path := job.outputs.get("scores"):
        with atomic_path(path) as temporary:
            scores_table(prediction, model.card).to_csv(temporary, index=False)
    if (path := job.outputs.get("preview")) and draw is not None:
        nothing = "" if prediction.labels.any() else " (no organ was found)"
        title = f"{job.scan.name}{nothing}\n{model.card.title}\n{doubt_of_slices(model.card)}".rstrip()
        draw(path, prediction, model.card.organs, title)
    if job.outputs["mask"].suffix == _DICOM:
        if uncoded := [name for name in model.card.organs if name not in model.card.terms]:
            doubt = f"its mask names {', '.join(uncoded)} by a code of this package: the model's manifest gave no 'snomed'"
            prediction = replace(prediction, warnings=(*prediction.warnings, doubt))
        place, card = (prediction.geometry, prediction.frames), model.card
        write_segmentation(
            job.outputs["mask"], prediction.labels, *place, card.organs, card.terms, card.title
        )
    else:
        write_mask(job.outputs["mask"], prediction.labels, prediction.geometry, prediction.header)
    return prediction
