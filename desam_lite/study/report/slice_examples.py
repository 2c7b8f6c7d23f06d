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
        title: Over the picture.
        note: Under it; may be empty.
        image: ``(H, W)`` uint8, grey levels 0..255.
        reference: ``(H, W)`` uint8, organ ids.
        prediction: ``(H, W)`` uint8, organ ids; None where only the reference is to be shown.
        spacing: ``(y, x)`` in mm.
    """

    title: str
    note: str
    image: Image
    reference: Image
    prediction: Image | None
    spacing: tuple[float, float]


def largest_slice(labels: Image) -> int:
    """Return the index of the slice of ``(Z, H, W)`` with the most organ pixels; the first of equals."""
    return int(np.argmax((labels > 0).sum(axis=(1, 2))))


def site_examples(task: "Task") -> list[Example]:
    """Return one slice per domain: of the case with the median organ volume, the slice with most organ in it."""
    examples = []
    for name, domain in task.manifest.domains.items():
        rows = task.index[task.index["domain"] == name]
        volume = rows.filter(like="voxels_").sum(axis=1).sort_values()
        case = task.slices.load(name, str(rows.loc[volume.index[(len(volume) - 1) // 2], "case"]))
        z = largest_slice(case.labels)
        strength = " or ".join(f"{tesla:g} T" for tesla in domain.field_strength)
        scanner = ", ".join(fact for fact in (domain.vendor, strength) if fact)
        note = f"{scanner}\n{domain.coil}".strip()
        examples.append(Example(domain.title, note, case.images[z], case.labels[z], None, case.spacing[1:]))
    return examples


def case_example(task: "Task", runs: "Sequence[Run]", row: pd.Series, rule: str) -> Example:
    """Return the slice with most organ of a case that `results.pick_case` chose, with the prediction of its run.

    Args:
        task: Where the case is.
        runs: Among them the one that scored it.
        row: The chosen row of the scores.
        rule: How it was chosen; written under the picture.
    """
    case = task.slices.load(row["target"], row["case"])
    z = largest_slice(case.labels)
    title, factor = UNITS[row["metric"]]
    score = f"{rule}: {title} {row['value'] * factor:.0f}"
    note = f"{score}\n{row['case']} of {row['target']},\ntrained on {row['source']}, seed {row['seed']}"
    prediction = predicted_labels(task, runs, row)
    return slice_example(case, prediction, z, row["label"], note)


def select_run(runs: "Sequence[Run]", row: pd.Series) -> "Run":
    """Return the run that a row of scores (``label``, ``source``, ``seed``) is of."""
    wanted = (row["label"], row["source"], row["seed"])
    return next(run for run in runs if (run.spec.label, run.spec.source, run.spec.seed) == wanted)


def predicted_labels(task: "Task", runs: "Sequence[Run]", row: pd.Series) -> "npt.NDArray[np.uint8]":
    """Return the organ ids ``(Z, H, W)`` drawn into the case of a row of scores, as the task numbers them.

    Where each organ has a model of its own, their masks are laid over each other; where two overlap, the later organ is shown.
    """
    run = select_run(runs, row)
    if run.spec.organs is None:
        return run.prediction(row["target"], row["case"])
    ids = {organ.name: number for number, organ in enumerate(task.manifest.organs, start=1)}
    wanted = (run.spec.label, run.spec.source, run.spec.seed)
    own = [r for r in runs if (r.spec.label, r.spec.source, r.spec.seed) == wanted and r.finished]
    drawn = np.zeros_like(run.prediction(row["target"], row["case"]))
    for run in own:
        found = run.prediction(row["target"], row["case"])
        for number, organ in enumerate(task.only(run.spec.organs).manifest.organs, start=1):
            drawn[found == number] = ids[organ.name]
    return drawn


def slice_example(
    case: "CaseSlices", prediction: "npt.NDArray[np.uint8] | None", z: int, title: str, note: str
) -> Example:
    """Return slice ``z`` of a case with its prediction ``(Z, H, W)``, ready to be drawn."""
    drawn = None if prediction is None else prediction[z]
    return Example(title, note, case.images[z], case.labels[z], drawn, case.spacing[1:])
