"""Every prompt of a slice put to a model: places, masks, and tables that are made once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from loaded_models import CASE, finished_run, load_models, prompt_table
from saved_model import spec_of

from desam_lite.data.slices import select_slices
from desam_lite.data.tasks import Task
from desam_lite.model.predictor import predict_slice
from desam_lite.study.report import prompt_maps
from desam_lite.study.report.prompt_maps import PromptableModel
from desam_lite.study.run import Run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]


@pytest.fixture(scope="module")
def models(
    micro: None, tiny_task: Place, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PromptableModel]:
    return load_models(tmp_path_factory.mktemp("runs"), tiny_task)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_boxes_are_as_large_as_the_organ_and_stay_in_the_slice() -> None:
    reference = np.zeros((20, 30), bool)
    reference[5:11, 4:12] = True
    boxes = prompt_maps.place_prompts(np.array([[15.0, 10.0], [0.0, 0.0]]), reference, "box")
    assert boxes.tolist() == [[11, 7, 19, 13], [0, 0, 4, 3]]
    assert prompt_maps.place_prompts(np.array([[1.5, 2.5]]), reference, "points").tolist() == [[1.5, 2.5]]


def test_each_prompt_of_a_map_gives_the_mask_a_prediction_with_it_gives(
    models: dict[str, PromptableModel], task: Task, workspace: Path
) -> None:
    model = models["points"]
    row = prompt_maps.spread_rows(select_slices(task.slices.load(*CASE).labels, "foreground"), 1)[0]
    table = prompt_maps.prompt_maps([model], task, workspace, [CASE], slices=[row], side=2, progress=False)
    (emb,) = prompt_maps.slice_embeddings(model, task, workspace, *CASE, [row])
    reference = task.slices.load(*CASE).labels[row] == 1
    assert len(table) == 4
    for place, line in table.iterrows():
        xy = np.array([[line["x"], line["y"]]])
        scaled = torch.from_numpy(xy * model.predictor.model.image_size / max(reference.shape)).float()
        summary = predict_slice(
            model.predictor.model, emb, "points", reference.shape, model.predictor.grid, points=scaled
        )
        mask = summary.mask[0]
        if summary.iou[0] > 0:  # else the point was not good enough to be drawn
            assert line["dice"] == pytest.approx(
                2 * (mask & reference).sum() / (mask.sum() + reference.sum())
            ), place
            assert line["score"] == pytest.approx(summary.iou[0], abs=1e-4)
        assert line["iou"] == pytest.approx(line["dice"] / (2 - line["dice"]))
        assert line["inside"] == reference[int(line["y"]), int(line["x"])]


def test_maps_are_read_back_without_the_models(
    models: dict[str, PromptableModel], task: Task, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = list(models.values())
    first = prompt_maps.prompt_maps(every, task, workspace, [CASE], slices=1, side=2, progress=False)
    monkeypatch.setattr(prompt_maps, "score_grid", None)
    again = prompt_maps.prompt_maps(every, task, workspace, [CASE], slices=1, side=2, progress=False)
    pd.testing.assert_frame_equal(first, again)
    assert set(first["kind"]) == {"points", "box"}
    assert first[first["kind"] == "box"]["score"].isna().all()  # trained on one prompt


def test_a_run_that_cannot_be_models_is_refused(tiny_task: Place, tmp_path: Path, micro: None) -> None:
    unfinished = Run(spec_of("points", tiny_task), "tiny", tmp_path / "none")
    with pytest.raises(StudyError, match="not finished"):
        prompt_maps.open_model(unfinished)
    with pytest.raises(StudyError, match="takes no prompt"):
        prompt_maps.open_model(finished_run(tmp_path / "unet", "unet", tiny_task))


def test_a_score_may_rank_the_inside_and_not_the_dice() -> None:
    summary = prompt_maps.per_slice(
        prompt_table([0.2, 0.4, 0.8, 0.6], [0.9, 0.8, 0.1, 0.2], [True, True, False, False])
    ).iloc[0]
    assert summary["auc"] == 1
    assert summary["rank"] == pytest.approx(-1)
    assert (summary["chosen"], summary["best"]) == (0.2, 0.8)
    assert summary["spread"] == pytest.approx(0.8 - summary["low"])


def test_without_differences_there_is_no_rank() -> None:
    summary = prompt_maps.per_slice(prompt_table([0.5, 0.5], [0.1, 0.9], [True, True])).iloc[0]
    assert np.isnan(summary["rank"]) and np.isnan(summary["auc"])
    without_scores = prompt_maps.per_slice(prompt_table([0.5, 0.7], [np.nan, np.nan], [True, False])).iloc[0]
    assert np.isnan(without_scores["chosen"]) and without_scores["spread"] == pytest.approx(0.18)


def test_ties_count_half() -> None:
    assert prompt_maps.auc(np.array([0.5, 0.5, 0.5]), np.array([True, False, False])) == 0.5


def test_slices_are_evenly_spread() -> None:
    assert prompt_maps.spread_rows(range(2, 10), 1) == [6]
    assert prompt_maps.spread_rows(range(2, 10), 2) == [4, 8]
    assert prompt_maps.spread_rows(range(2, 10), 99) == list(range(2, 10))
    assert prompt_maps.spread_rows([], 3) == prompt_maps.spread_rows([1], 0) == []
