"""What models draw for one good and one poor prompt of a slice, as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from desam_lite.data.tasks import Task
from desam_lite.study.chapters.prompt_maps import Asked, Kind, draw_all, good_and_poor, slice_embeddings
from desam_lite.study.report.slice_figures import Example

_NAMED = {"points": "point", "box": "box"}


class View(NamedTuple):
    """One answer.

    Attributes:
        example: The slice with the reference and what was drawn.
        prompt: What it was drawn for: a point ``(2,)`` or a box ``(4,)``, pixels of the slice.
        dice: Of what was drawn.
    """

    example: Example
    prompt: npt.NDArray[np.float64]
    dice: float


def good_and_poor_views(
    asked: Sequence[Asked], task: Task, workspace: Path | str, domain: str, case: str, row: int
) -> list[View]:
    """Ask models for the organ that is largest in a slice, each with its own kind of prompt, good and poor.

    Args:
        asked: The models.
        task: Where the case is.
        workspace: Folder for results and caches.
        domain: The case's domain.
        case: The case.
        row: The slice; it must hold an organ.

    Returns:
        Points before boxes; of each kind the good prompt of every model, then the poor one of every model.
    """
    found = task.slices.load(domain, case)
    labels = found.labels[row]
    number = int(np.bincount(labels[labels > 0]).argmax())
    reference = labels == number
    views = []
    for kind in get_args(Kind):
        for quality, prompt in good_and_poor(reference, kind).items():
            for model in (one for one in asked if one.kind == kind):
                (emb,) = slice_embeddings(model, task, workspace, domain, case, [row])
                size = (labels.shape[0], labels.shape[1])
                mask = draw_all(model, emb, prompt[None], size, number - 1)[0][0]
                dice = 2 * float((mask & reference).sum()) / float(mask.sum() + reference.sum())
                title = model.run.spec.label.replace(" (oracle)", "\n(oracle)")
                note = f"{quality} {_NAMED[kind]}: Dice (%) {dice * 100:.0f}"
                shown = [(one * number).astype(np.uint8) for one in (reference, mask)]
                example = Example(title, note, found.images[row], shown[0], shown[1], found.spacing[1:])
                views.append(View(example, prompt, dice))
    return views
