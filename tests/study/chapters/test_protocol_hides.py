"""Stored predictions scored with one quirk at a time: each changes what it should, and nothing is scored twice."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_run import spec_for

from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation.metrics import QUIRKS, Quirks, as_scored
from desam_lite.study.chapters import protocol_hides as rescoring
from desam_lite.study.chapters import protocol_views
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.run import Run, execute_run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]
SPACING = (3.0, 1.0, 1.0)


def organ() -> np.ndarray:
    mask = np.zeros((6, 64, 64), bool)
    mask[1:5, 24:40, 24:40] = True
    return mask


def dice(predicted: np.ndarray, quirks: Quirks) -> float:
    seen = as_scored(predicted, organ(), SPACING, quirks)
    return rescoring.dice_both_ways(seen.predicted, seen.true)[0]


def test_each_step_of_the_ladder_adds_one_quirk_and_the_ends_are_those_of_every_run() -> None:
    steps = list(rescoring.LADDER.values())
    changed = [sum(a != b for a, b in zip(one, other, strict=True)) for one, other in pairwise(steps)]
    assert changed == [1, 1, 1, 1]
    assert (steps[0], steps[-1]) == (QUIRKS["whole_volume"], QUIRKS["published"])
    assert set(rescoring.STEPS) == {*rescoring.LADDER, *rescoring.ALONE}


def test_false_slices_cost_until_only_slices_with_the_organ_count() -> None:
    predicted = organ()
    predicted[0, 24:40, 24:40] = True
    assert dice(predicted, rescoring.LADDER["whole_volume"]) < 1
    assert dice(predicted, rescoring.LADDER["organ_slices"]) == 1


def test_a_missed_last_slice_costs_until_it_is_dropped() -> None:
    predicted = organ()
    predicted[4] = False
    assert dice(predicted, rescoring.LADDER["organ_slices"]) < 1
    assert dice(predicted, rescoring.LADDER["last_dropped"]) == 1


def test_what_is_drawn_in_the_border_costs_until_it_is_emptied_on_any_grid() -> None:
    predicted = organ()
    predicted[:, :12] = True  # rows 0..11 of 64 are within 50 of 256
    assert dice(predicted, rescoring.LADDER["on_square"]) < 1
    assert dice(predicted, rescoring.LADDER["published"]) == 1
    assert dice(predicted, rescoring.ALONE["border_alone"]) == 1


def test_small_slices_weigh_more_when_each_slice_has_its_own_dice() -> None:
    true = organ()
    true[4] = False
    true[4, 30, 30] = True
    missed = true.copy()
    missed[4] = False
    pooled, by_slice = rescoring.dice_both_ways(missed, true)
    assert pooled > 0.99
    assert by_slice == pytest.approx(3 / 4)


@pytest.fixture(scope="module")
def task(tiny_task: Place, tmp_path_factory: pytest.TempPathFactory) -> Task:
    return open_task(*tiny_task, tmp_path_factory.mktemp("ws"), progress=False)


@pytest.fixture(scope="module")
def runs(tiny_task: Place, task: Task) -> list[Run]:
    workspace = task.slices.folder.parent
    specs = [spec_for(tiny_task, method="prior"), spec_for(tiny_task)]
    return [execute_run(spec, workspace, progress=False) for spec in specs]


def test_the_ends_of_the_ladder_are_what_the_runs_have_scored(
    runs: list[Run], task: Task, tmp_path: Path
) -> None:
    rescored = rescoring.rescore(runs, task, tmp_path, progress=False)
    known = pd.concat([run.metrics() for run in runs])
    keys = ["label", "target", "case", "protocol"]
    both = rescored.merge(known[[*keys, "dice"]], on=keys, suffixes=("", "_known"))
    assert len(both) == len(known)
    np.testing.assert_allclose(both["dice"], both["dice_known"])


def test_what_was_scored_again_is_read_the_next_time(
    runs: list[Run], task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rescoring.rescore(runs, task, tmp_path, progress=False)
    monkeypatch.setattr(rescoring, "_rescored", lambda *_: pytest.fail("scored twice"))
    pd.testing.assert_frame_equal(rescoring.rescore(runs, task, tmp_path, progress=False), first)
    monkeypatch.setitem(rescoring.ALONE, "border_alone", Quirks(slices="foreground", border=True))
    with pytest.raises(pytest.fail.Exception):
        rescoring.rescore(runs, task, tmp_path, progress=False)


def test_effects_add_up_from_the_first_step_to_the_last(runs: list[Run], task: Task, tmp_path: Path) -> None:
    rescored = rescoring.rescore(runs, task, tmp_path, progress=False)
    effects = rescoring.quirk_effects(rescored)
    steps = rescoring.ladder(rescored)
    for label, own in effects.groupby("label"):
        whole = own[(own["first"] == "published") & (own["second"] == "whole_volume")]["mean"].item()
        climbed = own[own["second"].isin(list(rescoring.LADDER)[1:-1])]["mean"].sum()
        climbed += own[own["first"] == "organ_slices"]["mean"].item()
        assert climbed == pytest.approx(whole)
        ends = steps[(steps["label"] == label) & ~steps["in_domain"]].set_index("protocol")["mean"]
        assert ends["published"] - ends["whole_volume"] == pytest.approx(whole)


def test_every_way_of_counting_is_counted_once(runs: list[Run], task: Task, tmp_path: Path) -> None:
    rescored = rescoring.rescore(runs, task, tmp_path, progress=False)
    ways = rescoring.every_way(rescored)
    assert len(ways) == 2 * len(rescoring.LADDER) * 2 * 3
    assert rescoring.orders(ways)["ways"].sum() == len(ways) // 2
    said = rescoring.say_protocol(rescoring.quirk_effects(rescored), ways)
    assert "30 ways of counting" in said and "U-Net" in said and "Prior +" not in said


def test_two_orders_are_said_to_be_two() -> None:
    rows = [("U-Net", "whole_volume", 0.2), ("DeSAM-B", "whole_volume", 0.1)]
    rows += [("U-Net", "published", 0.2), ("DeSAM-B", "published", 0.3)]
    ways = pd.DataFrame(rows, columns=["label", "protocol", "mean"]).assign(pooling="patient", rule="cases")
    effects = pd.DataFrame(
        {"label": ["DeSAM-B"], "first": "published", "second": "whole_volume", "mean": [0.2]}
    )
    assert set(rescoring.orders(ways)["order"]) == {"U-Net > DeSAM-B", "DeSAM-B > U-Net"}
    assert rescoring.say_protocol(effects, ways).startswith("**Enough to change the order")
    assert "DeSAM-B +20.0" in rescoring.say_protocol(effects, ways)


def test_the_case_that_moves_most_is_chosen_out_of_domain() -> None:
    rows = [("A", 0.1, 0.9, True), ("B", 0.4, 0.6, False), ("C", 0.4, 0.5, False)]
    frame = pd.DataFrame(
        [
            {
                "label": "U-Net",
                "source": "A",
                "seed": 0,
                "target": t,
                "case": t,
                "protocol": p,
                "dice": d,
                "in_domain": i,
            }
            for t, whole, published, i in rows
            for p, d in (("whole_volume", whole), ("published", published))
        ]
    )
    assert rescoring.most_moved(frame)["target"] == "B"
    with pytest.raises(StudyError, match="out of domain"):
        rescoring.most_moved(frame[frame["in_domain"]])


def test_figures_say_what_they_draw() -> None:
    rows = [("U-Net", False, p, 0.5 + n / 10) for n, p in enumerate(rescoring.LADDER)]
    steps = pd.DataFrame(rows, columns=["label", "in_domain", "protocol", "mean"]).assign(low=0.4, high=0.9)
    assert len(protocol_views.ladder_figure(steps).axes[0].lines) == 1
    assert "U-Net 50, 60, 70, 80, 90" in protocol_views.ladder_alt(steps)
    ways = pd.DataFrame({"label": ["U-Net"] * 2, "mean": [0.3, 0.5], "pooling": ["patient", "slice"]})
    assert "U-Net 30 to 50" in protocol_views.spread_alt(ways)
    protocol_views.spread_figure(ways)
    for empty in (protocol_views.ladder_alt(steps.iloc[:0]), protocol_views.spread_alt(ways.iloc[:0])):
        assert empty.startswith("Empty figure")


def test_the_profile_shades_what_is_not_scored() -> None:
    labels = organ().astype(np.uint8)
    predicted = np.roll(labels, 1, axis=0)  # a slice too high
    profile = protocol_views.profile_of(predicted, labels)
    assert profile.counted == (1, 2, 3)
    assert protocol_views.telling_slice(labels, predicted) == 4
    example = Example("U-Net", "", labels[0] * 9, labels[4], predicted[4], (1.0, 1.0))
    figure = protocol_views.case_under_protocol(example, profile, ["#e69f00"])
    assert len(figure.axes[1].patches) == 3  # slices 0, 4 and 5
    assert "scores 3 of 6 slices; in the others the prediction has 512 pixels and the reference 256" in (
        protocol_views.case_alt(example, profile)
    )
