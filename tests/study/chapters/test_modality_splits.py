"""A run on some organs knows no others, from the labels it learns from to the card it writes; tables keep the organs apart."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_tiny_task
from small_run import spec_for

from desam_lite.data.datasets import list_slices
from desam_lite.data.nifti import read_label, write_mask
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation import statistics
from desam_lite.methods.model_card import read_card
from desam_lite.study.chapters import modality_splits, protocol_hides
from desam_lite.study.plans import EXPERIMENTS, plan_experiment
from desam_lite.study.profiles import get_profile
from desam_lite.study.report import slice_examples
from desam_lite.study.run import Run, collect_metrics, execute_run, find_run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The tiny task with its blob cut in two organs: "lower" (id 4 in the files) in the first slices, "upper" (2) above."""
    folder = tmp_path_factory.mktemp("two")
    manifest, root = write_tiny_task(folder)
    text = manifest.read_text().replace(
        "{name: blob, label: 1}", "{name: lower, label: 4}, {name: upper, label: 2}"
    )
    manifest.write_text(text)
    for path in root.rglob("*_segmentation.nii.gz"):
        scan = read_label(path)
        data = scan.data.astype(np.uint8) * 4
        data[..., 3:] //= 2
        write_mask(path, np.moveaxis(data, -1, 0).swapaxes(1, 2), scan.geometry)
    return manifest, root


@pytest.fixture(scope="module")
def task(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return open_task(*place, tmp_path_factory.mktemp("ws"), progress=False)


@pytest.fixture(scope="module")
def runs(place: Place, task: Task) -> list[Run]:
    """The prior for both organs, and a prior for each."""
    specs = [spec_for(place, method="prior", organs=chosen) for chosen in (None, ("lower",), ("upper",))]
    return [execute_run(spec, task.slices.folder.parent, progress=False) for spec in specs]


def test_an_organ_alone_is_the_first_and_the_others_are_background(task: Task) -> None:
    whole = task.slices.load("A", "A0").labels
    alone = task.only(["upper"]).slices.load("A", "A0").labels
    assert set(np.unique(whole)) == {0, 1, 2}
    np.testing.assert_array_equal(alone, (whole == 2).astype(np.uint8))
    assert [organ.name for organ in task.only(["upper"]).manifest.organs] == ["upper"]


def test_organs_keep_the_order_of_the_manifest_and_an_unknown_one_is_refused(task: Task) -> None:
    both = task.only(["upper", "lower"])
    np.testing.assert_array_equal(both.slices.load("A", "A0").labels, task.slices.load("A", "A0").labels)
    assert task.only(None) is task
    with pytest.raises(StudyError, match="no organ 'heart': choose from lower, upper"):
        task.only(["heart"])


def test_slices_to_learn_from_are_those_with_the_organ(task: Task) -> None:
    rows = {r.row for r in list_slices(task.only(["upper"]).slices, "A", ["A0"], "foreground")}
    assert rows and min(rows) >= 3
    assert task.only(["upper"]).slices.key("A", "A0") == task.slices.key(
        "A", "A0"
    )  # the embeddings are the same


def test_a_run_on_one_organ_scores_draws_and_describes_that_organ_only(runs: list[Run]) -> None:
    _, lower, upper = runs
    assert set(upper.metrics()["organ"]) == {"upper"}
    assert set(np.unique(upper.prediction("B", "B0"))) <= {0, 1}
    assert list(read_card(upper.directory).organs) == ["upper"]
    assert read_card(lower.directory).spec.organs == ("lower",)
    assert upper.metrics()["label"].unique() == ["Prior, one organ"]


def test_scores_of_one_organ_are_those_of_the_reference_of_that_organ(runs: list[Run], task: Task) -> None:
    upper = runs[2]
    true, drawn = task.slices.load("B", "B0").labels == 2, upper.prediction("B", "B0") == 1
    row = upper.metrics().query("case == 'B0' and protocol == 'whole_volume'")
    assert row["dice"].item() == pytest.approx(2 * (true & drawn).sum() / (true.sum() + drawn.sum()))
    again = protocol_hides.rescore([upper], task, progress=False)
    assert again.query("case == 'B0' and protocol == 'whole_volume'")["dice"].item() == pytest.approx(
        row["dice"].item()
    )


def test_runs_on_all_organs_keep_the_names_they_had(place: Place, task: Task, runs: list[Run]) -> None:
    assert "organs" not in runs[0].spec.settings()
    assert len({run.name for run in runs}) == 3
    with pytest.raises(StudyError, match="no organ 'heart'"):
        find_run(spec_for(place, organs=("heart",)), task, task.slices.folder.parent)


def test_models_of_single_organs_are_shown_together(runs: list[Run], task: Task) -> None:
    scores = statistics.scores(collect_metrics(runs))
    row = scores[(scores["label"] == "Prior, one organ") & (scores["case"] == "B0")].iloc[0]
    shown = slice_examples.predicted_labels(task, runs, row)
    np.testing.assert_array_equal(shown == 2, runs[2].prediction("B", "B0") == 1)
    assert (shown == 1).any()


def test_tables_hold_every_organ_and_the_two_settings_are_paired(runs: list[Run]) -> None:
    metrics, names = collect_metrics(runs), ["lower", "upper"]
    table = modality_splits.organ_table(metrics[~metrics["in_domain"]], names)
    assert list(table["organ"]) == ["lower", "lower", "upper", "upper"]
    assert {"Dice (%)", "HD95 (mm)", "ASSD (mm)"} <= set(table)
    single = modality_splits.per_organ_models(metrics, names)
    away = single[~single["in_domain"]]
    assert list(away["organ"]) == names and set(away["second"]) == {"Prior"}
    cells = modality_splits.organ_cells(metrics, names)
    drawn = modality_splits.draw_organs(cells)
    assert [ax.get_title() for ax in drawn.figure.axes] == ["A to B"]
    assert "A to B lower Prior: " in drawn.alt


def test_one_model_for_each_organ_is_counted_by_its_verdicts() -> None:
    columns = {"in_domain": [False, False], "mean": [0.1, 0.2], "verdict": ["better", "cannot tell"]}
    single = pd.DataFrame(columns)
    said = modality_splits.say_single(single)
    assert "by +15.0: better on 1 of 2 organs, worse on 0, equivalent on 0, cannot tell on 1." in said
    assert "better on 1 of 1 organ, worse on 0" in modality_splits.say_single(single.iloc[:1])
    assert modality_splits.say_single(single.iloc[:0]) == ""


def test_an_abdomen_gets_a_model_for_each_organ_and_a_prostate_does_not() -> None:
    usual = EXPERIMENTS["modality_splits"]
    specs = plan_experiment("modality_splits", get_profile("teach"), usual.manifest)
    alone = [spec for spec in specs if spec.organs]
    assert {spec.organs for spec in alone} == {("liver",), ("right kidney",), ("left kidney",), ("spleen",)}
    assert {spec.method for spec in alone} == {"desam"} and {spec.seed for spec in specs} == {0}
    prostate = plan_experiment("modality_splits", get_profile("smoke"), "phantom_prostate")
    assert not any(spec.organs for spec in prostate)
    only = plan_experiment("modality_splits", get_profile("smoke"), usual.manifest, methods=["unet"])
    assert {spec.label for spec in only} == {"U-Net"}
