"""Scoring: every case predicted once, scored from what is on disk, under every protocol."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation.scoring import prediction_path, read_prediction, score_domains
from desam_lite.training.method import Predictor, SlicePrediction
from desam_lite.utils.errors import StudyError

CASES = {"A": ["A3"], "B": ["B0", "B1"]}


class Shifted(Predictor):
    """Draws the reference one pixel too far back, and remembers whom it was asked about."""

    def __init__(self, task: Task, shift: int = 1) -> None:
        self.cases = [task.slices.load(*pair) for pair in task.slices.cases()]
        self.shift = shift
        self.asked: list[str] = []

    def predict(self, images: np.ndarray, embeddings: object) -> Iterator[SlicePrediction]:
        case = next(case for case in self.cases if np.array_equal(case.images, images))
        self.asked.append(case.case)
        for labels in np.roll(case.labels, self.shift, axis=1):
            yield SlicePrediction(labels, np.zeros((1, *labels.shape), np.float32), np.zeros(1, np.float32))

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def task(tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Task:
    return open_task(*tiny_task, tmp_path_factory.mktemp("ws"), progress=False)


def scored(task: Task, folder: Path, predictor: Predictor | None = None, **cases: list[str]) -> pd.DataFrame:
    label = (predictor or Shifted(task)).label
    return score_domains(label, task, cases or CASES, None, folder, progress=False)


def test_every_case_is_scored_by_organ_and_protocol(task: Task, tmp_path: Path) -> None:
    frame = scored(task, tmp_path)
    keys = list(frame[["target", "case", "organ", "protocol"]].itertuples(index=False, name=None))
    assert keys == [
        (domain, case, "blob", protocol)
        for domain, cases in CASES.items()
        for case in cases
        for protocol in ("whole_volume", "published")
    ]


def test_scores_are_those_of_the_prediction(task: Task, tmp_path: Path) -> None:
    row = scored(task, tmp_path, B=["B1"]).query("protocol == 'whole_volume'").iloc[0]
    labels = task.slices.load("B", "B1").labels == 1
    moved = np.roll(labels, 1, axis=1)
    assert row["dice"] == pytest.approx(2 * (labels & moved).sum() / (2 * labels.sum()))
    assert (row["hd95"], row["hd"]) == (1.0, 1.0)  # a pixel is 1 mm
    assert 0 < row["assd"] < 1
    assert row["reference_voxels"] == row["predicted_voxels"] == labels.sum()


def test_a_perfect_prediction_scores_perfectly(task: Task, tmp_path: Path) -> None:
    frame = scored(task, tmp_path, Shifted(task, 0)).query("protocol == 'whole_volume'")
    assert (frame["dice"] == 1).all() and (frame[["hd95", "hd", "assd"]] == 0).all().all()


def test_a_prediction_lies_on_the_grid_of_its_scan(
    task: Task, tiny_task: tuple[Path, Path], tmp_path: Path
) -> None:
    scored(task, tmp_path, B=["B0"])
    path = prediction_path(tmp_path, "B", "B0")
    written, scan = nib.load(path), nib.load(tiny_task[1] / "B" / "B0.nii.gz")
    np.testing.assert_array_equal(written.affine, scan.affine)
    assert written.shape == scan.shape
    np.testing.assert_array_equal(
        read_prediction(path), np.roll(task.slices.load("B", "B0").labels, 1, axis=1)
    )


def test_a_prediction_has_the_header_of_its_scan(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_task[1], tmp_path / "data")
    path = tmp_path / "data" / "B" / "B1.nii.gz"
    image = nib.load(path)
    image.set_sform(image.affine, code=2)
    image.set_qform(image.affine, code=0)
    image.header.set_xyzt_units("unknown")
    nib.save(image, path)
    task = open_task(tiny_task[0], tmp_path / "data", tmp_path / "ws", progress=False)
    scored(task, tmp_path, B=["B1"])
    mask = nib.load(prediction_path(tmp_path, "B", "B1"))
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(mask.header[name], nib.load(path).header[name], err_msg=name)
    path.unlink()
    with pytest.raises(StudyError, match=r"B1.nii.gz cannot be read any more .*: check it"):
        task.header("B", "B1")


def test_what_is_predicted_already_is_not_predicted_again(task: Task, tmp_path: Path) -> None:
    first = scored(task, tmp_path)
    again = Shifted(task)
    pd.testing.assert_frame_equal(scored(task, tmp_path, again), first)
    assert again.asked == []


@pytest.mark.parametrize("harm", ["cut", "gone", "text", "other shape"])
def test_a_damaged_prediction_is_made_again_and_no_other(harm: str, task: Task, tmp_path: Path) -> None:
    first = scored(task, tmp_path)
    path = prediction_path(tmp_path, "B", "B0")
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "other shape":
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), path)
    else:
        path.write_bytes(whole[:-40] if harm == "cut" else b"half")
    again = Shifted(task)
    pd.testing.assert_frame_equal(scored(task, tmp_path, again), first)
    assert again.asked == ["B0"]
    assert path.read_bytes() == whole


def test_a_prediction_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.nii\.gz does not exist"):
        read_prediction(tmp_path / "nowhere.nii.gz")
