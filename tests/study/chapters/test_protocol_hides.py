"""Stored predictions scored with one quirk at a time: each changes what it should, and nothing is scored twice."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from notebook_code import definitions
from small_run import spec_for

from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation.metrics import QUIRKS, Quirks, as_scored
from desam_lite.study.chapters import protocol_hides
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.run import Run, execute_run

Place = tuple[Path, Path]
PAGE = definitions("protocol_hides")
SPACING = (3.0, 1.0, 1.0)


def organ() -> np.ndarray:
    mask = np.zeros((6, 64, 64), bool)
    mask[1:5, 24:40, 24:40] = True
    return mask


def dice(predicted: np.ndarray, quirks: Quirks) -> float:
    seen = as_scored(predicted, organ(), SPACING, quirks)
    return protocol_hides.dice_both_ways(seen.predicted, seen.true)[0]


def test_each_step_of_the_ladder_adds_one_quirk_and_the_ends_are_those_of_every_run() -> None:
    steps = list(protocol_hides.LADDER.values())
    changed = [sum(a != b for a, b in zip(before, after, strict=True)) for before, after in pairwise(steps)]
    assert changed == [1, 1, 1, 1]
    assert (steps[0], steps[-1]) == (QUIRKS["whole_volume"], QUIRKS["published"])
    assert set(protocol_hides.STEPS) == {*protocol_hides.LADDER, *protocol_hides.ALONE}


def test_false_slices_cost_until_only_slices_with_the_organ_count() -> None:
    predicted = organ()
    predicted[0, 24:40, 24:40] = True
    assert dice(predicted, protocol_hides.LADDER["whole_volume"]) < 1
    assert dice(predicted, protocol_hides.LADDER["organ_slices"]) == 1


def test_a_missed_last_slice_costs_until_it_is_dropped() -> None:
    predicted = organ()
    predicted[4] = False
    assert dice(predicted, protocol_hides.LADDER["organ_slices"]) < 1
    assert dice(predicted, protocol_hides.LADDER["last_dropped"]) == 1


def test_what_is_drawn_in_the_border_costs_until_it_is_emptied_on_any_grid() -> None:
    predicted = organ()
    predicted[:, :12] = True  # rows 0..11 of 64 are within 50 of 256
    assert dice(predicted, protocol_hides.LADDER["on_square"]) < 1
    assert dice(predicted, protocol_hides.LADDER["published"]) == 1
    assert dice(predicted, protocol_hides.ALONE["border_alone"]) == 1


def test_small_slices_weigh_more_when_each_slice_has_its_own_dice() -> None:
    true = organ()
    true[4] = False
    true[4, 30, 30] = True
    missed = true.copy()
    missed[4] = False
    pooled, by_slice = protocol_hides.dice_both_ways(missed, true)
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


def test_the_ends_of_the_ladder_are_what_the_runs_have_scored(runs: list[Run], task: Task) -> None:
    rescored = protocol_hides.rescore(runs, task, progress=False)
    stored = pd.concat([run.metrics() for run in runs])
    keys = ["label", "target", "case", "protocol"]
    both = rescored.merge(stored[[*keys, "dice"]], on=keys, suffixes=("", "_stored"))
    assert len(both) == len(stored)
    np.testing.assert_allclose(both["dice"], both["dice_stored"])


def test_what_was_scored_again_is_read_the_next_time(
    runs: list[Run], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = protocol_hides.rescore(runs, task, progress=False)
    monkeypatch.setattr(protocol_hides, "_rescore_run", lambda *_: pytest.fail("scored twice"))
    pd.testing.assert_frame_equal(protocol_hides.rescore(runs, task, progress=False), first)
    monkeypatch.setitem(protocol_hides.ALONE, "border_alone", Quirks(slices="foreground", border=True))
    with pytest.raises(pytest.fail.Exception):
        protocol_hides.rescore(runs, task, progress=False)


def test_effects_add_up_from_the_first_step_to_the_last(runs: list[Run], task: Task) -> None:
    rescored = protocol_hides.rescore(runs, task, progress=False)
    effects = PAGE.quirk_effects(rescored, "sources")
    steps = PAGE.climb(rescored, "sources")
    for label, own in effects.groupby("label"):
        whole = own[(own["first"] == "published") & (own["second"] == "whole_volume")]["mean"].item()
        climbed = own[own["second"].isin(list(protocol_hides.LADDER)[1:-1])]["mean"].sum()
        climbed += own[own["first"] == "organ_slices"]["mean"].item()
        assert climbed == pytest.approx(whole)
        ends = steps[(steps["label"] == label) & ~steps["in_domain"]].set_index("protocol")["mean"]
        assert ends["published"] - ends["whole_volume"] == pytest.approx(whole)


def test_every_way_of_counting_is_counted_once(runs: list[Run], task: Task) -> None:
    rescored = protocol_hides.rescore(runs, task, progress=False)
    ways = PAGE.all_scorings(rescored)
    assert len(ways) == 2 * len(protocol_hides.LADDER) * 2 * 3
    assert PAGE.orders(ways)["ways"].sum() == len(ways) // 2
    said = protocol_hides.say_protocol(PAGE.quirk_effects(rescored, "sources"), PAGE.orders(ways))
    assert "30 ways of scoring" in said and "U-Net" in said and "Prior +" not in said


def test_two_orders_are_said_to_be_two() -> None:
    rows = [("U-Net", "whole_volume", 0.2), ("DeSAM-B", "whole_volume", 0.1)]
    rows += [("U-Net", "published", 0.2), ("DeSAM-B", "published", 0.3)]
    ways = pd.DataFrame(rows, columns=["label", "protocol", "mean"]).assign(pooling="patient", rule="cases")
    effects = pd.DataFrame(
        {"label": ["DeSAM-B"], "first": "published", "second": "whole_volume", "mean": [0.2]}
    )
    assert set(PAGE.orders(ways)["order"]) == {"U-Net > DeSAM-B", "DeSAM-B > U-Net"}
    assert protocol_hides.say_protocol(effects, PAGE.orders(ways)).startswith(
        "**It changes the order of the methods**"
    )
    assert "DeSAM-B +20.0" in protocol_hides.say_protocol(effects, PAGE.orders(ways))


def test_figures_say_what_they_draw() -> None:
    rows = [("U-Net", False, p, 0.5 + n / 10) for n, p in enumerate(protocol_hides.LADDER)]
    steps = pd.DataFrame(rows, columns=["label", "in_domain", "protocol", "mean"]).assign(low=0.4, high=0.9)
    ladder = protocol_hides.draw_ladder(steps)
    assert len(ladder.figure.axes[0].lines) == 1
    assert "U-Net 50 to 90" in ladder.alt
    ways = pd.DataFrame({"label": ["U-Net"] * 2, "mean": [0.3, 0.5], "pooling": ["patient", "slice"]})
    assert "U-Net: 30 (30 to 30) slices pooled per patient, 50 (50 to 50) mean of slices" in (
        protocol_hides.draw_scorings(ways).alt
    )


def test_the_figure_shades_what_is_not_scored() -> None:
    labels = organ().astype(np.uint8)
    predicted = np.roll(labels, 1, axis=0)  # a slice too high
    pixels = protocol_hides.count_pixels(predicted, labels)
    assert pixels.counted == (1, 2, 3)
    assert protocol_hides.hidden_slice(labels, predicted) == 4
    example = Example("U-Net", "", labels[0] * 9, labels[4], predicted[4], (1.0, 1.0))
    drawn = protocol_hides.draw_case(example, pixels, ["#e69f00"])
    assert len(drawn.figure.axes[1].patches) == 3  # slices 0, 4 and 5
    assert (
        "scores 3 of 6 slices; in the others the prediction has 512 pixels and the reference 256" in drawn.alt
    )


def test_a_square_changes_dice_by_rounding_only() -> None:
    for height, width in ((256, 256), (320, 320), (160, 320)):
        plain, squared = PAGE.dice_on_square(height, width)
        assert 0.7 < plain < 0.95 and squared == pytest.approx(plain, abs=0.01)
