"""Grids of any size on the same slices, and sentences that follow their numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from loaded_models import CASE, load_models, prompt_table
from notebook_code import definitions

from desam_lite.data.tasks import Task
from desam_lite.study.chapters import number_of_points
from desam_lite.study.report import prompt_maps
from desam_lite.study.report.prompt_maps import PromptableModel
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


def test_grids_of_any_size_are_tried_on_the_same_slices(
    models: dict[str, PromptableModel], task: Task, workspace: Path
) -> None:
    cases = prompt_maps.tested_cases(models["points"].run, 1)
    assert cases == [("A", "A3"), ("B", "B0")]
    table = number_of_points.compare_grids(
        [models["points"]], task, workspace, cases, [1, 3], empty=1, protocol="whole_volume", progress=False
    )
    assert table["points"].tolist() == [1, 9, 1, 9]
    assert table["dice"].between(0, 1).all() and (table["seconds"] > 0).all()
    assert table["in_domain"].tolist() == [True, True, False, False]


def test_a_model_that_does_not_choose_points_is_refused(
    models: dict[str, PromptableModel], task: Task, workspace: Path
) -> None:
    with pytest.raises(StudyError, match=r"DeSAM-B.*does not choose among points"):
        number_of_points.compare_grids(
            [models["box"]], task, workspace, [CASE], [1], empty=0, protocol="published"
        )
    with pytest.raises(StudyError, match="at least 1 point"):
        number_of_points.compare_grids(
            [models["points"]], task, workspace, [CASE], [0], empty=0, protocol="published"
        )


def test_calibration_puts_scores_beyond_the_ends_into_the_last_bins() -> None:
    table = definitions("number_of_points").calibration(
        prompt_table([0.5, 0.7, 0.9, 0.1], [1.2, 0.97, -0.3, 0.02], [True, False, False, False])
    )
    assert table["bin"].tolist() == [0, 9]
    assert table["prompts"].tolist() == [2, 2]
    assert table["inside"].tolist() == [0, 0.5]


def test_enough_is_said_by_paired_differences_to_the_best_grid() -> None:
    rows = [
        {
            "label": "DeSAM-P",
            "source": "A",
            "seed": seed,
            "target": t,
            "in_domain": False,
            "case": f"C{c}",
            "points": p,
        }
        | {"metric": "dice", "value": base + 0.1 * c}
        for seed in range(2)
        for t in "BC"
        for c in range(3)
        for p, base in ((1, 0.2), (4, 0.5), (9, 0.5))
    ]
    table = (
        definitions("number_of_points")
        .enough_points(prompt_maps.pool_targets(pd.DataFrame(rows)))
        .set_index("points")
    )
    assert set(table["best"]) == {4}
    assert table.loc[1, "mean"] == pytest.approx(-0.3) and table.loc[1, "high"] < 0
    assert table.loc[9, "high"] == pytest.approx(0)


def test_enough_points_are_the_fewest_that_the_rule_calls_not_worse() -> None:
    columns = {"value": [0.3, 0.58, 0.6], "best": 81, "mean": [-0.3, -0.02, 0], "low": [-0.4, -0.019, 0]}
    table = pd.DataFrame({"label": "DeSAM-P", "points": [1, 9, 81], **columns, "high": [-0.2, 0.005, 0]})
    cost = pd.DataFrame({"label": "DeSAM-P", "points": [1, 9, 81], "seconds": [0.05, 0.06, 0.2]})
    said = number_of_points.say_points(table, cost, label="DeSAM-P")
    assert (
        said.startswith("**9 points are enough**")
        and "58 with 9 and 60 with the best grid tried (81)" in said
    )
    assert "no answer yet" in number_of_points.say_points(table, cost, label="other")
    unsure = number_of_points.say_points(table.assign(low=[-0.4, -0.1, 0]), cost, label="DeSAM-P")
    assert (
        unsure.startswith("**81 points are enough**")
        and "It cannot tell whether 9 would be enough." in unsure
    )


def test_one_seed_does_not_say_how_many_points_are_enough() -> None:
    columns = {"value": [0.3, 0.6], "best": 81, "mean": [-0.3, 0], "low": np.nan, "high": np.nan}
    table = pd.DataFrame({"label": "DeSAM-P", "points": [1, 81], **columns})
    cost = pd.DataFrame({"label": "DeSAM-P", "points": [1, 81], "seconds": [0.05, 0.2]})
    said = number_of_points.say_points(table, cost, label="DeSAM-P")
    assert said.startswith("**One seed cannot tell**") and "30 with 1 to 60 with 81" in said


def test_the_sentence_on_ranking_says_what_cannot_be_computed() -> None:
    row = {"label": "DeSAM-P", "auc": 0.9, "rank": np.nan, "chosen": 0.6, "typical": 0.5, "best": 0.7}
    said = number_of_points.say_ranking(pd.DataFrame([row]))
    assert "in 90 % of pairs." in said and "with Dice is undefined." in said
    assert "Dice is 60 % with the chosen point, 50 % with the median point and 70 % with the best." in said
    blind = number_of_points.say_ranking(pd.DataFrame([row | {"auc": np.nan, "chosen": np.nan}]))
    assert (
        "in none of pairs" in blind
        and number_of_points.say_ranking(pd.DataFrame()) == "No model scores its prompts."
    )


def test_one_point_is_singular_and_two_equal_grids_need_the_smaller() -> None:
    columns = {"value": [0.6, 0.6], "best": 1, "mean": [0, 0], "low": [0, -0.01], "high": [0, 0.01]}
    table = pd.DataFrame({"label": "DeSAM-P", "points": [1, 81], **columns})
    cost = pd.DataFrame({"label": "DeSAM-P", "points": [1, 81], "seconds": [0.05, 0.2]})
    said = number_of_points.say_points(table, cost, label="DeSAM-P")
    assert (
        said.startswith("**1 point is enough**") and "60 with 1 and 60 with the best grid tried (1)" in said
    )
