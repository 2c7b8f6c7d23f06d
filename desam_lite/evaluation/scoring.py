"""Predicting the test cases of every domain and scoring them, case by case, resumable."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from desam_lite.data.embeddings import EmbeddingStore, ReadEmbeddings
from desam_lite.data.geometry import to_slices
from desam_lite.data.nifti import read_label, write_mask
from desam_lite.data.slices import CaseSlices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import PROTOCOLS, score_case
from desam_lite.utils.errors import StudyError
from desam_lite.utils.memory import keep_freed_memory
from desam_lite.utils.progress import track

OrganIds = npt.NDArray[np.uint8]
"""Organ ids of a scan ``(Z, H, W)``."""


def prediction_path(directory: Path, domain: str, case: str) -> Path:
    """Return where a run directory keeps the prediction of a case."""
    return directory / "predictions" / domain / f"{case}.nii.gz"


def read_prediction(path: Path) -> OrganIds:
    """Read the organ ids ``(Z, H, W)`` of a prediction."""
    scan = read_label(path)
    return to_slices(scan.data, scan.geometry).astype(np.uint8)


def score_domains(
    label: Callable[[CaseSlices, ReadEmbeddings | None], OrganIds],
    task: Task,
    cases: Mapping[str, Sequence[str]],
    embeddings: EmbeddingStore | None,
    directory: Path,
    *,
    progress: bool,
) -> pd.DataFrame:
    """Predict and score cases, by domain; a prediction that is already in ``predictions`` of the run directory is not made again.

    What is scored is a function from a case, and its embeddings for methods on these, to its organ ids.

    Returns:
        One row per case, organ and protocol: ``target``, ``case``, ``organ``, ``protocol``, ``dice``, ``hd95``, ``hd``,
        ``assd`` (mm), ``reference_voxels``, ``predicted_voxels``.
    """
    pairs = [(domain, case) for domain, names in cases.items() for case in names]
    organs = [organ.name for organ in task.manifest.organs]
    rows = []
    with keep_freed_memory():
        for domain, case in track(pairs, "scoring cases", enabled=progress):
            slices = task.slices.load(domain, case)
            path = prediction_path(directory, domain, case)
            prediction = _read_earlier(path, slices)
            if prediction is None:
                stored = None if embeddings is None else partial(embeddings.load, domain, case)
                prediction = label(slices, stored)
                write_mask(path, prediction, slices.geometry, task.header(domain, case))
            rows += _score_rows(slices, prediction, organs)
    return pd.DataFrame(rows)


def _read_earlier(path: Path, slices: CaseSlices) -> OrganIds | None:
    """Read an earlier prediction of this case; None if there is none or it cannot be read."""
    try:
        prediction = read_prediction(path)
    except StudyError:
        return None
    return prediction if prediction.shape == slices.labels.shape else None


def _score_rows(slices: CaseSlices, prediction: OrganIds, organs: Sequence[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for organ, name in enumerate(organs, start=1):
        voxels = [int((volume == organ).sum()) for volume in (slices.labels, prediction)]
        counts = dict(zip(("reference_voxels", "predicted_voxels"), voxels, strict=True))
        for protocol in PROTOCOLS:
            score = score_case(prediction, slices.labels, slices.spacing, organ, protocol)
            place = {"target": slices.domain, "case": slices.case, "organ": name, "protocol": protocol}
            rows.append({**place, **score._asdict(), **counts})
    return rows
