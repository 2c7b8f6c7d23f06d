"""Curves over points and dials say the numbers that are in them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from desam_lite.study.report import curve_figures, style


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
        for dial in ("noise", "field_of_view", "coil", "all dials")
        for part in (0.0, 1.0)
    ]
    return pd.DataFrame(rows)


def history(epochs: int = 3) -> pd.DataFrame:
    rows = [
        {
            "label": label,
            "source": "A",
            "seed": seed,
            "epoch": e,
            "train_loss": 1.0 / (e + 1),
            "val_loss": 1.5 / (e + 1),
        }
        for label in ("U-Net", "DeSAM-P")
        for seed in (0, 1)
        for e in range(epochs)
    ]
    return pd.DataFrame(rows)


def test_training_curves_have_a_panel_per_method_and_a_line_per_run() -> None:
    figure = curve_figures.draw_training(history())
    assert [ax.get_title() for ax in figure.axes] == ["U-Net", "DeSAM-P"]
    runs, medians = figure.axes[0].collections, figure.axes[0].lines
    assert sum(len(lines.get_segments()) for lines in runs) == 2 * 2  # training and validation of two runs
    assert [line._dash_pattern[1] is None for line in medians] == [True, False]  # solid, dashed
    assert medians[0].get_ydata()[0] == pytest.approx(1.0)
    assert "U-Net (2 runs) median training loss from 1.00 to 0.33, validation loss from 1.50 to 0.50" in (
        curve_figures.draw_training_alt(history())
    )


def test_one_epoch_is_visible_as_a_point() -> None:
    figure = curve_figures.draw_training(history(epochs=1))
    assert "o" in {line.get_marker() for line in figure.axes[0].lines}


def test_grid_curves_are_filled_in_domain_and_open_out_of_it() -> None:
    left, right = curve_figures.draw_grid_curves(dice(), seconds()).axes
    outside, inside = left.lines
    assert to_hex(inside.get_markerfacecolor()) == style.method_color("DeSAM-P")
    assert inside.get_ydata().tolist() == [50, 80]
    assert to_hex(outside.get_markerfacecolor()) == "#ffffff" and outside.get_ydata().tolist() == [30, 60]
    assert right.lines[0].get_ydata().tolist() == [0.05, 0.2]  # type: ignore[union-attr]
    said = curve_figures.draw_grid_curves_alt(dice(), seconds())
    assert "DeSAM-P out of domain 30 with 1, 60 at best with 81, 60 with 81" in said
    assert "0.050 s per slice with 1 and 0.200 s per slice with 81" in said


def test_calibration_shows_inside_and_iou_apart() -> None:
    (ax,) = curve_figures.draw_calibration(bins()).axes
    drawn = [np.asarray(dots.get_offsets())[:, 1].tolist() for dots in ax.collections]
    assert drawn == [[0.1, 0.9], [0.6, 0.7]]
    assert "at predicted 0.05 (90 prompts) 10% lie in the organ and the masks have IoU 0.60" in (
        curve_figures.draw_calibration_alt(bins())
    )


def test_each_dial_has_a_panel_and_each_method_a_curve() -> None:
    axes = curve_figures.draw_dial_curves(dials()).axes
    assert [ax.get_title() for ax in axes[:4]] == ["noise", "field of view", "coil", "all dials"]
    assert all(len(ax.lines) == 2 for ax in axes[:4])
    assert "noise: U-Net 80 to 50, DeSAM-B 80 to 50" in curve_figures.draw_dial_curves_alt(dials())


EMPTY: Any = pd.DataFrame()


@pytest.mark.parametrize(
    ("figure", "alt"),
    [
        (curve_figures.draw_training(EMPTY), curve_figures.draw_training_alt(EMPTY)),
        (curve_figures.draw_grid_curves(EMPTY, EMPTY), curve_figures.draw_grid_curves_alt(EMPTY, EMPTY)),
        (curve_figures.draw_calibration(EMPTY), curve_figures.draw_calibration_alt(EMPTY)),
        (curve_figures.draw_dial_curves(EMPTY), curve_figures.draw_dial_curves_alt(EMPTY)),
    ],
)
def test_nothing_to_show_is_said(figure: Figure, alt: str) -> None:
    assert [text.get_text() for text in figure.texts] == [style.NO_RUNS] and style.NO_RUNS in alt
