"""Figures and sentences about prompts and dials say the numbers that are in them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from desam_lite.study.chapters import coupling_seen as figures_prompts
from desam_lite.study.chapters import words_prompts
from desam_lite.study.chapters.which_shift_hurts import EVERY
from desam_lite.study.report import curve_figures as figures_curves
from desam_lite.study.report import style
from desam_lite.study.report.slice_figures import Example

ORGANS = {"gland": "#e69f00"}


def dice() -> pd.DataFrame:
    rows = [
        {
            "label": "DeSAM-P",
            "in_domain": inside,
            "points": n,
            "mean": mean,
            "low": mean - 0.1,
            "high": mean + 0.1,
        }
        for inside, values in ((True, (0.5, 0.8)), (False, (0.3, 0.6)))
        for n, mean in zip((1, 81), values, strict=True)
    ]
    return pd.DataFrame(rows)


def seconds() -> pd.DataFrame:
    return pd.DataFrame({"label": "DeSAM-P", "points": [1, 81], "seconds": [0.05, 0.2]})


def bins() -> pd.DataFrame:
    columns = {"score": [0.05, 0.95], "inside": [0.1, 0.9], "iou": [0.6, 0.7], "prompts": [90, 10]}
    return pd.DataFrame({"label": "DeSAM-P", "bin": [0, 9], **columns})


def dials() -> pd.DataFrame:
    rows = [
        {
            "label": label,
            "dial": dial,
            "position": part,
            "mean": 0.8 - 0.3 * part,
            "low": np.nan,
            "high": np.nan,
        }
        for label in ("U-Net", "DeSAM-B")
        for dial in ("noise", "field_of_view", "coil", EVERY)
        for part in (0.0, 1.0)
    ]
    return pd.DataFrame(rows)


def example() -> Example:
    reference = np.zeros((20, 30), np.uint8)
    reference[5:11, 4:12] = 1
    image = np.zeros((20, 30), np.uint8)
    return Example("Tuned SAM-P", "good point", image, reference, reference, (2.0, 1.0))


def maps() -> pd.DataFrame:
    both = [("DeSAM-P", "points"), ("Tuned SAM-P", "points"), ("DeSAM-B", "box")]
    rows = [
        {"label": label, "kind": kind, "side": 2, "dice": 0.2 * place, "inside": place == 3}
        for label, kind in both
        for place in range(4)
    ]
    return pd.DataFrame(rows)


def spreads() -> pd.DataFrame:
    values = {"low": [0.1, 0.6], "typical": [0.4, 0.7], "best": [0.8, 0.75]}
    return pd.DataFrame({"label": ["Tuned SAM-P", "DeSAM-B"], "kind": ["points", "box"], **values})


def test_grid_curves_are_filled_in_domain_and_open_out_of_it() -> None:
    left, right = figures_curves.grid_curves(dice(), seconds()).axes
    faces = [line.get_markerfacecolor() for line in left.lines]
    assert faces == [style.method_color("DeSAM-P"), "white"]
    assert right.lines[0].get_ydata().tolist() == [0.05, 0.2]  # type: ignore[union-attr]
    said = figures_curves.grid_curves_alt(dice(), seconds())
    assert "DeSAM-P out of domain 30 with 1, 60 at best with 81, 60 with 81" in said
    assert "0.050 s per slice with 1 and 0.200 s per slice with 81" in said


def test_calibration_shows_inside_and_iou_apart() -> None:
    (ax,) = figures_curves.calibration_curves(bins()).axes
    drawn = [np.asarray(dots.get_offsets())[:, 1].tolist() for dots in ax.collections]
    assert drawn == [[0.1, 0.9], [0.6, 0.7]]
    assert "at predicted 0.05 (90 prompts) 10% lie in the organ and the masks have IoU 0.60" in (
        figures_curves.calibration_curves_alt(bins())
    )


def test_each_dial_has_a_panel_and_each_method_a_curve() -> None:
    axes = figures_curves.dial_curves(dials()).axes
    assert [ax.get_title() for ax in axes[:4]] == ["noise", "field of view", "coil", "all dials"]
    assert all(len(ax.lines) == 2 for ax in axes[:4])
    assert "noise: U-Net 80 to 50, DeSAM-B 80 to 50" in figures_curves.dial_curves_alt(dials())


def test_a_map_has_the_dice_of_each_place_the_right_way_up() -> None:
    axes = figures_prompts.dice_maps(maps(), example()).axes
    drawn = [ax for ax in axes if ax.images]
    assert len(drawn) == 3
    assert np.allclose(drawn[0].images[0].get_array(), [[0, 20], [40, 60]])
    assert drawn[0].images[0].get_extent() == [0, 30, 40, 0]
    said = figures_prompts.dice_maps_alt(maps())
    assert "DeSAM-B, asked with a box: mean 60 inside, 20 outside the organ" in said


def test_prompts_are_marked_where_they_are_in_millimetres() -> None:
    prompts = [np.array([6.0, 7.0]), np.array([4.0, 5.0, 12.0, 11.0])]
    point, box = figures_prompts.prompted_pictures([example()] * 2, prompts, ORGANS, columns=2).axes
    assert (point.lines[0].get_xdata()[0], point.lines[0].get_ydata()[0]) == (6, 14)  # type: ignore[index]
    assert box.patches[0].get_bbox().extents.tolist() == [4, 10, 12, 22]  # type: ignore[attr-defined]


def test_spreads_say_median_and_range() -> None:
    assert len(figures_prompts.spreads(spreads()).axes[0].lines) == 4
    assert "Tuned SAM-P, asked with a point: median 40, from 10 to 80" in figures_prompts.spreads_alt(
        spreads()
    )


EMPTY: Any = pd.DataFrame()


@pytest.mark.parametrize(
    ("figure", "alt"),
    [
        (figures_curves.grid_curves(EMPTY, EMPTY), figures_curves.grid_curves_alt(EMPTY, EMPTY)),
        (figures_curves.calibration_curves(EMPTY), figures_curves.calibration_curves_alt(EMPTY)),
        (figures_curves.dial_curves(EMPTY), figures_curves.dial_curves_alt(EMPTY)),
        (figures_prompts.dice_maps(EMPTY, example()), figures_prompts.dice_maps_alt(EMPTY)),
        (figures_prompts.spreads(EMPTY), figures_prompts.spreads_alt(EMPTY)),
    ],
)
def test_nothing_to_show_is_said(figure: Figure, alt: str) -> None:
    assert [text.get_text() for text in figure.texts] == [style.NO_RUNS] and style.NO_RUNS in alt


def test_enough_points_are_the_fewest_that_are_not_worse_beyond_chance() -> None:
    columns = {"value": [0.3, 0.58, 0.6], "best": 81, "mean": [-0.3, -0.02, 0], "low": [-0.4, -0.1, 0]}
    table = pd.DataFrame({"label": "DeSAM-P", "points": [1, 9, 81], **columns, "high": [-0.2, 0.05, 0]})
    cost = pd.DataFrame({"label": "DeSAM-P", "points": [1, 9, 81], "seconds": [0.05, 0.06, 0.2]})
    said = words_prompts.say_points(table, cost, label="DeSAM-P")
    assert (
        said.startswith("**9 points are enough**")
        and "58 with 9, and 60 with the best grid tried (81)" in said
    )
    assert "no answer yet" in words_prompts.say_points(table, cost, label="other")


def test_judgement_says_what_cannot_be_computed() -> None:
    row = {"label": "DeSAM-P", "auc": 0.9, "rank": np.nan, "chosen": 0.6, "typical": 0.5, "best": 0.7}
    said = words_prompts.say_judgement(pd.DataFrame([row]))
    assert "in 90 % of pairs" in said and "none that can be computed" in said


@pytest.mark.parametrize(
    ("lows", "highs", "verdict"),
    [
        ((0.1, 0.2), (0.3, 0.4), "A poor prompt spoils the mask of the coupled decoder more"),
        ((0.1, -0.2), (0.3, 0.1), "It depends on how the two were trained"),
        ((-0.1, -0.2), (0.3, 0.1), "The coupled decoder was not seen to depend"),
        ((-0.3, -0.2), (-0.1, 0.1), "A poor prompt spoils the mask of the decoupled decoder more"),
    ],
)
def test_the_verdict_on_coupling_follows_the_intervals(
    lows: tuple[float, ...], highs: tuple[float, ...], verdict: str
) -> None:
    names = {"first": ["Tuned SAM-P", "Tuned SAM tight box (oracle)"], "second": ["DeSAM-P", "DeSAM-B"]}
    table = pd.DataFrame({**names, "in_domain": False, "mean": 0.0, "low": lows, "high": highs})
    assert words_prompts.say_coupling(table).startswith(f"**{verdict}")


@pytest.mark.parametrize(("high", "start"), [(-0.1, "**The field of view**"), (0.1, "**No single dial")])
def test_the_worst_dial_is_that_of_the_trained_methods(high: float, start: str) -> None:
    rows = [
        ("U-Net", "noise", -0.1),
        ("U-Net", "field_of_view", -0.3),
        ("U-Net", EVERY, -0.5),
        ("Prior", "noise", -0.9),
    ]
    lost = pd.DataFrame(rows, columns=["label", "dial", "mean"]).assign(low=-0.9, high=high)
    said = words_prompts.say_dials(lost, "A", "B")
    assert (
        said.startswith(start) and "-30 for U-Net" in said and "all dials turned it is -50 for U-Net" in said
    )
