"""Which slices a page shows: of every domain, of a case with the prediction of its run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from desam_lite.study.report.style import UNITS

if TYPE_CHECKING:
    from desam_lite.data.slices import CaseSlices
    from desam_lite.data.tasks import Task
    from desam_lite.study.run import Run

Image = npt.NDArray[np.uint8]


class Example(NamedTuple):
    """One slice to be shown.

    Attributes:
        title: Over the image.
        note: Under it; may be empty.
        image: ``(H, W)`` uint8, intensities 0..255.
        reference: ``(H, W)`` uint8, organ ids.
        prediction: ``(H, W)`` uint8, organ ids; None where only the reference is to be shown.
        spacing: ``(y, x)`` in mm.
        prompt: A box ``(4,)``, or clicks ``(N, 3)``: x, y, and 1 inside or 0 outside the object; pixels of the slice.
    """

    title: str
    note: str
    image: Image
    reference: Image
    prediction: Image | None
    spacing: tuple[float, float]
    prompt: npt.NDArray[np.float64] | None = None


def largest_slice(labels: Image) -> int:
    """Return the index of the slice of ``(Z, H, W)`` with the most organ pixels; the first of equals."""
    return int(np.argmax((labels > 0).sum(axis=(1, 2))))


def slice_example(case: "CaseSlices", prediction: Image | None, z: int, title: str, note: str) -> Example:
    """Return slice ``z`` of a case with its prediction ``(Z, H, W)``, ready to be drawn."""
    shown = None if prediction is None else prediction[z]
    return Example(title, note, case.images[z], case.labels[z], shown, case.spacing[1:])


def site_examples(task: "Task") -> list[Example]:
    """Return one slice per domain: of the case with the median organ volume, the slice with most organ in it."""
    examples = []
    for name, domain in task.manifest.domains.items():
        rows = task.index[task.index["domain"] == name]
        volume = rows.filter(like="voxels_").sum(axis=1).sort_values()
        case = task.slices.load(name, str(rows.loc[volume.index[(len(volume) - 1) // 2], "case"]))
        strength = " or ".join(f"{tesla:g} T" for tesla in domain.field_strength)
        scanner = ", ".join(filter(None, (domain.vendor, strength)))
        note = f"{scanner}\n{domain.coil}".strip()
        examples.append(slice_example(case, None, largest_slice(case.labels), domain.title, note))
    return examples


def case_example(task: "Task", runs: "Sequence[Run]", row: pd.Series, rule: str) -> Example:
    """Return the slice with most organ of the case of a row of scores, with its prediction; the rule of choice is noted."""
    case = task.slices.load(row["target"], row["case"])
    title, factor = UNITS[row["metric"]]
    place = f"{row['case']} of {row['target']},\ntrained on {row['source']}, seed {row['seed']}"
    note = f"{rule}: {title} {row['value'] * factor:.0f}\n{place}"
    return slice_example(
        case, predicted_labels(task, runs, row), largest_slice(case.labels), row["label"], note
    )


def _runs_of(runs: "Sequence[Run]", row: pd.Series) -> "list[Run]":
    key = tuple(row[["label", "source", "seed"]])
    return [run for run in runs if (run.spec.label, run.spec.source, run.spec.seed) == key]


def select_run(runs: "Sequence[Run]", row: pd.Series) -> "Run":
    """Return the run that a row of scores (``label``, ``source``, ``seed``) is of; of models of single organs the first."""
    return _runs_of(runs, row)[0]


def predicted_labels(task: "Task", runs: "Sequence[Run]", row: pd.Series) -> Image:
    """Return the organ ids ``(Z, H, W)`` predicted in the case of a row of scores, as the task numbers them.

    Where each organ has a model of its own, their masks are laid over each other; where two overlap, the later organ is shown.
    """
    first = select_run(runs, row)
    if first.spec.organs is None:
        return first.prediction(row["target"], row["case"])
    ids = {organ.name: number for number, organ in enumerate(task.manifest.organs, start=1)}
    merged = np.zeros_like(first.prediction(row["target"], row["case"]))
    for run in _runs_of(runs, row):
        labels = run.prediction(row["target"], row["case"]) if run.finished else np.zeros_like(merged)
        for number, organ in enumerate(task.only(run.spec.organs).manifest.organs, start=1):
            merged[labels == number] = ids[organ.name]
    return merged
