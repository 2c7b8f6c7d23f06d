"""Cases for pictures are chosen by rule, failures are found at every target, and a gallery says what it shows."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from notebook_code import definitions
from small_run import spec_for

from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation import statistics as results
from desam_lite.study.report import comparison, gallery, slice_figures
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.run import Run, collect_metrics, execute_run
from desam_lite.utils.errors import StudyError

LABELS = ["U-Net", "DeSAM-B"]
ORGANS = {"blob": "#e69f00"}


def scores(metric: str = "dice") -> pd.DataFrame:
    """Five cases: the worst is c0, the median c2, and on c3 the two differ most; at home all is worse still."""
    values = {"c0": (0.1, 0.2), "c1": (0.35, 0.3), "c2": (0.5, 0.4), "c3": (0.9, 0.3), "c4": (0.8, 0.9)}
    rows = [
        (label, "A", "B", False, 0, case, metric, pair[number])
        for case, pair in values.items()
        for number, label in enumerate(LABELS)
    ]
    rows += [(label, "A", "A", True, 0, "home", metric, 0.0) for label in LABELS]
    return pd.DataFrame(rows, columns=results.COLUMNS)


def test_rules_choose_the_median_the_worst_and_the_largest_disagreement_out_of_domain() -> None:
    chosen = gallery.choose_cases(scores(), LABELS).set_index("rule")
    assert dict(chosen["case"]) == {"median": "c2", "worst": "c0", "disagreement": "c3"}
    assert chosen.loc["disagreement", "value"] == pytest.approx(0.6)
    assert set(chosen.index) == set(gallery.CASE_RULES)


def test_of_a_distance_the_largest_is_the_worst() -> None:
    chosen = gallery.choose_cases(scores("hd95"), LABELS).set_index("rule")
    assert chosen.loc["worst", "case"] == "c4"


def test_a_case_that_one_method_lacks_is_not_compared() -> None:
    frame = scores()
    lacking = frame[~((frame["case"] == "c0") & (frame["label"] == "U-Net"))]
    assert gallery.choose_cases(lacking, LABELS).set_index("rule").loc["worst", "case"] == "c1"
    with pytest.raises(StudyError, match="finish their runs first"):
        gallery.choose_cases(frame[frame["in_domain"]], LABELS)


def test_the_answer_names_the_widest_disagreement() -> None:
    said = gallery.say_comparison(scores(), LABELS)
    assert "between U-Net (90) and DeSAM-B (30)" in said
    frame = scores()[lambda f: f["case"].isin(["c1", "c2"]) & ~f["in_domain"]]
    for values, verdict in (
        ([0.6, 0.5, 0.3, 0.2], "Cases differ more than methods"),
        ([0.6, 0.3, 0.5, 0.2], "Methods differ more than cases"),  # the reverse
        ([0.6, 0.5, 0.5, 0.4], "Methods and cases differ equally"),
    ):
        table = {("U-Net", "c1"): values[0], ("DeSAM-B", "c1"): values[1]}
        table |= {("U-Net", "c2"): values[2], ("DeSAM-B", "c2"): values[3]}
        own = frame.assign(value=[table[key] for key in zip(frame["label"], frame["case"], strict=True)])
        told = gallery.say_comparison(own, LABELS)
        assert told.startswith(f"**{verdict}**") and "(2 methods, 2 scored cases)" in told
    assert "no answer yet" in gallery.say_comparison(scores(), LABELS[:1])
    single = scores()[lambda f: f["case"] == "c1"]
    assert "no answer yet" in gallery.say_comparison(single, LABELS)


def test_kinds_of_failure_are_shares_of_the_cases_with_the_organ() -> None:
    frame = pd.DataFrame(
        {
            "label": "U-Net",
            "predicted_voxels": [0, 10, 100, 300, 5],
            "reference_voxels": [100, 100, 100, 100, 0],
        }
    )
    row = definitions("visual_comparison").failure_kinds(frame).iloc[0]
    assert list(row) == ["U-Net", "25%", "25%", "25%", "25%"]


@pytest.fixture(scope="module")
def task(tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Task:
    return open_task(*tiny_task, tmp_path_factory.mktemp("ws"), progress=False)


@pytest.fixture(scope="module")
def runs(tiny_task: tuple[Path, Path], task: Task) -> list[Run]:
    specs = [spec_for(tiny_task, method="prior"), spec_for(tiny_task)]
    return [execute_run(spec, task.slices.folder.parent, progress=False) for spec in specs]


def test_a_comparison_has_a_row_per_method_and_a_column_per_case(runs: list[Run], task: Task) -> None:
    labels = [run.spec.label for run in runs]
    own = results.scores(collect_metrics(runs))
    chosen = gallery.choose_cases(own, labels)
    shown = gallery.comparison_examples(task, runs, own, chosen, labels)
    assert len(shown) == len(labels) * len(chosen)
    assert shown[0].title.startswith("median\nPrior: ")
    assert shown[3].title.startswith(f"{labels[1]}: ") and "\n" not in shown[3].title
    np.testing.assert_array_equal(shown[0].image, shown[3].image)


def test_each_target_shows_the_worst_case_of_each_method(runs: list[Run], task: Task) -> None:
    labels = [run.spec.label for run in runs]
    own = results.scores(collect_metrics(runs))
    (entry,) = gallery.collect_failures(task, runs, own, labels)
    assert entry.title == "B: B"
    worst = own[~own["in_domain"]].groupby("label", sort=False)["value"].min() * 100
    assert all(
        f"Dice (%) {value:.0f}" in example.note
        for value, example in zip(worst[labels], entry.examples, strict=True)
    )
    assert len(gallery.collect_failures(task, runs, own, labels, worst=2)[0].examples) == 4


def test_a_gallery_opens_without_a_script_and_every_picture_has_words() -> None:
    grey = np.full((40, 40), 90, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 1
    example = Example("U-Net", "worst: Dice 10", grey, mask, mask, (1.0, 1.0))
    page = gallery.Gallery([gallery.DomainFailures("B: <North>", "bad", [example])], ORGANS)._repr_html_()
    assert page.count("<details") == page.count("<summary") == page.count("<img") == 1
    assert "<script" not in page and "&lt;North&gt;" in page
    assert "worst: Dice 10" in re.findall(r'alt="([^"]+)"', page)[0]
    assert "no finished run" in gallery.Gallery([], ORGANS)._repr_html_()


def test_many_pictures_are_drawn_smaller_and_one_frame_serves_all_of_a_case() -> None:
    grey = np.full((40, 40), 90, np.uint8)
    mask, far = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    mask[18:22, 18:22] = 1
    far[0:3, 0:3] = 1
    shown = [Example("U-Net", "", grey, mask, drawn, (1.0, 1.0)) for drawn in (mask, far)]
    one_frame = {
        ax.get_xlim() for ax in slice_figures.draw_slices(shown, ORGANS, crop="reference").figure.axes
    }
    own_frames = {ax.get_xlim() for ax in slice_figures.draw_slices(shown, ORGANS, crop=True).figure.axes}
    assert (len(one_frame), len(own_frames)) == (1, 2)
    assert (
        slice_figures.draw_slices(shown * 40, ORGANS).figure.get_dpi()
        < slice_figures.draw_slices(shown, ORGANS).figure.get_dpi()
    )


def test_the_cases_of_one_method_at_one_target_are_chosen_among_those_all_have_scored() -> None:
    chosen = gallery.choose_cases_at(scores(), ["DeSAM-B", "U-Net"], "B").set_index("rule")
    assert dict(chosen["case"]) == {"median": "c3", "worst": "c0"}
    lacking = scores()[lambda f: ~((f["case"] == "c0") & (f["label"] == "U-Net"))]
    assert gallery.choose_cases_at(lacking, ["DeSAM-B", "U-Net"], "B").loc[1, "value"] == pytest.approx(0.3)
    assert gallery.choose_cases_at(scores(), LABELS, "C").empty


def test_the_method_farthest_behind_the_prior_is_drawn_with_the_others(runs: list[Run], task: Task) -> None:
    own = results.scores(collect_metrics(runs))
    against = comparison.margins_over_control(own)
    alt = gallery.farthest_behind(task, runs, own, against, ["Prior"]).alt
    assert alt.startswith("4 images") and f"{runs[1].spec.label}: " in alt and "Prior: " in alt
    assert "Empty figure" in gallery.farthest_behind(task, runs, own, against[:0], ["Prior"]).alt


def test_targets_are_told_with_their_coil_or_modality(runs: list[Run], task: Task) -> None:
    own = results.scores(collect_metrics(runs))
    labels = [run.spec.label for run in reversed(runs)]
    frame = comparison.target_table(task, own, labels).frame
    assert list(frame.iloc[:, 0]) == labels
    domain = task.manifest.domains["B"]
    assert frame.columns[1] == ", ".join(filter(None, ["B", domain.coil or domain.modality]))


def test_the_story_has_a_row_at_the_source_and_another_elsewhere(runs: list[Run], task: Task) -> None:
    own = results.scores(collect_metrics(runs))
    labels = [run.spec.label for run in runs]
    shown = gallery.story_examples(task, runs, own, labels)
    assert [example.title for example in shown] == ["source: A", *labels, "elsewhere: B", *labels]
    assert [example.prediction is None for example in shown] == [True, False, False] * 2
    value = own[(own["target"] == "B") & (own["label"] == labels[1]) & (own["case"] == shown[3].note)][
        "value"
    ]
    assert shown[-1].note == f"Dice (%) {value.iloc[0] * 100:.0f}"
    assert gallery.story_examples(task, runs, own[own["label"] == labels[0]], labels) == []
