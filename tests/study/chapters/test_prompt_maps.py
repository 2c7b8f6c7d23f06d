"""Every prompt of a slice asked of a model: places, masks, and tables that are made once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from saved_model import save_model, spec_of

from desam_lite.data.tasks import Task
from desam_lite.model.predictor import predict_slice
from desam_lite.study.chapters import number_of_points as grid_study
from desam_lite.study.chapters import prompt_maps as prompt_study
from desam_lite.study.chapters import prompt_views
from desam_lite.study.chapters.prompt_maps import Asked
from desam_lite.study.extents import get_extent
from desam_lite.study.run import Run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]
CASE = ("B", "B0")


def finished(folder: Path, name: str, place: Place) -> Run:
    save_model(folder, name, place)
    tested = [("A", "A3"), ("B", "B0"), ("B", "B1")]
    pd.DataFrame(tested, columns=["target", "case"]).to_csv(folder / "metrics.csv", index=False)
    (folder / "done").touch()
    return Run(spec_of(name, place), "tiny", folder)


@pytest.fixture(scope="module")
def asked(micro: None, tiny_task: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Asked]:
    names = ("points", "box", "tuned points", "grid")
    root = tmp_path_factory.mktemp("runs")
    return {
        name: prompt_study.open_asked(finished(root / name.replace(" ", ""), name, tiny_task))
        for name in names
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("asked")


def test_boxes_are_as_large_as_the_organ_and_stay_in_the_slice() -> None:
    reference = np.zeros((20, 30), bool)
    reference[5:11, 4:12] = True
    boxes = prompt_study.places(np.array([[15.0, 10.0], [0.0, 0.0]]), reference, "box")
    assert boxes.tolist() == [[11, 7, 19, 13], [0, 0, 4, 3]]
    assert prompt_study.places(np.array([[1.5, 2.5]]), reference, "points").tolist() == [[1.5, 2.5]]


@pytest.mark.parametrize(
    ("box", "moved"),
    [((2, 5, 10, 11), "right"), ((20, 5, 28, 11), "left"), ((4, 2, 26, 8), "down"), ((4, 13, 26, 19), "up")],
)
def test_a_poor_prompt_no_longer_means_the_organ_and_goes_where_there_is_room(
    box: tuple[int, int, int, int], moved: str
) -> None:
    left, top, right, bottom = box
    reference = np.zeros((20, 30), bool)
    reference[top:bottom, left:right] = True
    for kind in ("points", "box"):
        prompts = prompt_study.good_and_poor(reference, kind)  # type: ignore[arg-type]
        step = (prompts["poor"] - prompts["good"])[:2]
        named = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}
        assert named[tuple(np.sign(step).astype(int))] == moved
    assert prompts["good"].tolist() == list(box)
    x, y = prompt_study.good_and_poor(reference, "points")["poor"].astype(int)
    assert not reference[y, x]
    x0, y0, x1, y1 = prompts["poor"].astype(int)
    assert not reference[y0:y1, x0:x1].any() and min(x0, y0) >= 0 and x1 <= 30 and y1 <= 20


def test_each_prompt_of_a_map_gives_the_mask_a_prediction_with_it_gives(
    asked: dict[str, Asked], task: Task, workspace: Path
) -> None:
    model = asked["points"]
    row = prompt_study.spread_slices(task.slices.load(*CASE).labels, 1)[0]
    table = prompt_study.prompt_maps([model], task, workspace, [CASE], slices=[row], side=2, progress=False)
    (emb,) = prompt_study.slice_embeddings(model, task, workspace, *CASE, [row])
    reference = task.slices.load(*CASE).labels[row] == 1
    assert len(table) == 4
    for place, line in table.iterrows():
        xy = np.array([[line["x"], line["y"]]])
        scaled = prompt_study.torch.from_numpy(
            xy * model.predictor.model.image_size / max(reference.shape)
        ).float()
        found = predict_slice(
            model.predictor.model, emb, "points", reference.shape, model.predictor.grid, points=scaled
        )
        mask = found.mask[0]
        if found.iou[0] > 0:  # else the point was not good enough to be drawn
            assert line["dice"] == pytest.approx(
                2 * (mask & reference).sum() / (mask.sum() + reference.sum())
            ), place
            assert line["score"] == pytest.approx(found.iou[0], abs=1e-4)
        assert line["iou"] == pytest.approx(line["dice"] / (2 - line["dice"]))
        assert line["inside"] == reference[int(line["y"]), int(line["x"])]


def test_maps_are_read_back_without_the_models(
    asked: dict[str, Asked], task: Task, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = list(asked.values())
    first = prompt_study.prompt_maps(models, task, workspace, [CASE], slices=1, side=2, progress=False)
    monkeypatch.setattr(prompt_study, "ask_everywhere", None)
    again = prompt_study.prompt_maps(models, task, workspace, [CASE], slices=1, side=2, progress=False)
    pd.testing.assert_frame_equal(first, again)
    assert set(first["kind"]) == {"points", "box"}
    assert first[first["kind"] == "box"]["score"].isna().all()  # trained on one prompt: it judges nothing


def test_views_show_the_good_prompts_above_the_poor_ones(
    asked: dict[str, Asked], task: Task, workspace: Path
) -> None:
    models = [asked["points"], asked["tuned points"], asked["box"]]
    row = prompt_study.spread_slices(task.slices.load(*CASE).labels, 1)[0]
    views = prompt_views.good_and_poor_views(models, task, workspace, *CASE, row)
    assert [view.example.note.split(":")[0] for view in views] == [
        *["good point"] * 2,
        *["poor point"] * 2,
        "good box",
        "poor box",
    ]
    assert [len(view.prompt) for view in views] == [2, 2, 2, 2, 4, 4]


def test_grids_of_any_size_are_tried_on_the_same_slices(
    asked: dict[str, Asked], task: Task, workspace: Path
) -> None:
    cases = prompt_study.tested_cases(asked["points"].run, 1)
    assert cases == [("A", "A3"), ("B", "B0")]
    table = grid_study.compare_grids(
        [asked["points"]], task, workspace, cases, [1, 3], empty=1, protocol="whole_volume", progress=False
    )
    assert table["points"].tolist() == [1, 9, 1, 9]
    assert table["dice"].between(0, 1).all() and (table["seconds"] > 0).all()
    assert table["in_domain"].tolist() == [True, True, False, False]


def test_a_model_that_does_not_choose_points_is_refused(
    asked: dict[str, Asked], task: Task, workspace: Path
) -> None:
    with pytest.raises(StudyError, match=r"DeSAM-B.*does not choose among points"):
        grid_study.compare_grids([asked["box"]], task, workspace, [CASE], [1], empty=0, protocol="published")
    with pytest.raises(StudyError, match="at least 1 point"):
        grid_study.compare_grids(
            [asked["points"]], task, workspace, [CASE], [0], empty=0, protocol="published"
        )


def test_a_run_that_cannot_be_asked_is_refused(tiny_task: Place, tmp_path: Path, micro: None) -> None:
    unfinished = Run(spec_of("points", tiny_task), "tiny", tmp_path / "none")
    with pytest.raises(StudyError, match="not finished"):
        prompt_study.open_asked(unfinished)
    with pytest.raises(StudyError, match="takes no prompt"):
        prompt_study.open_asked(finished(tmp_path / "unet", "unet", tiny_task))


def maps(dice: list[float], score: list[float], inside: list[bool], label: str = "DeSAM-P") -> pd.DataFrame:
    who = {"label": label, "source": "A", "seed": 0, "target": "B", "in_domain": False, "case": "C0"}
    columns = {"dice": dice, "iou": dice, "score": score, "inside": inside, "x": range(len(dice))}
    return pd.DataFrame({**columns, "kind": "points", "slice": 3, "organ": "gland"}).assign(**who)


def test_a_judge_may_know_the_inside_and_not_the_dice() -> None:
    found = grid_study.per_slice(
        maps([0.2, 0.4, 0.8, 0.6], [0.9, 0.8, 0.1, 0.2], [True, True, False, False])
    ).iloc[0]
    assert found["auc"] == 1
    assert found["rank"] == pytest.approx(-1)
    assert (found["chosen"], found["best"]) == (0.2, 0.8)
    assert found["spread"] == pytest.approx(0.8 - found["low"])


def test_without_differences_there_is_no_rank() -> None:
    found = grid_study.per_slice(maps([0.5, 0.5], [0.1, 0.9], [True, True])).iloc[0]
    assert np.isnan(found["rank"]) and np.isnan(found["auc"])
    unjudged = grid_study.per_slice(maps([0.5, 0.7], [np.nan, np.nan], [True, False])).iloc[0]
    assert np.isnan(unjudged["chosen"]) and unjudged["spread"] == pytest.approx(0.18)


def test_ties_count_half() -> None:
    assert grid_study.auc(np.array([0.5, 0.5, 0.5]), np.array([True, False, False])) == 0.5


def test_calibration_puts_scores_beyond_the_ends_into_the_last_bins() -> None:
    table = grid_study.calibration(
        maps([0.5, 0.7, 0.9, 0.1], [1.2, 0.97, -0.3, 0.02], [True, False, False, False])
    )
    assert table["bin"].tolist() == [0, 9]
    assert table["prompts"].tolist() == [2, 2]
    assert table["inside"].tolist() == [0, 0.5]


def test_enough_is_said_by_paired_differences_to_the_best_grid() -> None:
    rows = [
        {
            "label": "DeSAM-P",
            "source": "A",
            "seed": 0,
            "target": t,
            "in_domain": False,
            "case": f"C{c}",
            "points": p,
        }
        | {"metric": "dice", "value": base + 0.1 * c}
        for t in "BC"
        for c in range(3)
        for p, base in ((1, 0.2), (4, 0.5), (9, 0.5))
    ]
    table = grid_study.enough_points(grid_study.pooled(pd.DataFrame(rows))).set_index("points")
    assert set(table["best"]) == {4}
    assert table.loc[1, "mean"] == pytest.approx(-0.3) and table.loc[1, "high"] < 0
    assert table.loc[9, "high"] == pytest.approx(0)


def test_slices_are_spread_over_the_organ() -> None:
    labels = np.zeros((12, 4, 4), np.uint8)
    labels[2:10] = 1
    assert prompt_study.spread_slices(labels, 1) == [6]
    assert prompt_study.spread_slices(labels, 2) == [4, 8]
    assert prompt_study.spread_slices(labels, 99) == list(range(2, 10))
    assert prompt_study.spread_slices(labels * 0, 3) == []


def test_every_profile_says_how_much_is_asked() -> None:
    assert get_extent("smoke").side < get_extent("teach").side < get_extent("paper").side
    assert max(get_extent("paper").sides) == 32
    with pytest.raises(StudyError, match="there is no profile 'huge'"):
        get_extent("huge")
