"""Figures are figures, and their alternative texts say the numbers that are in them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot, rcParams
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from desam_lite.study.report import charts, style


def matrices() -> dict[str, pd.DataFrame]:
    values = pd.DataFrame([[0.9, 0.4], [np.nan, 0.8]], index=["A", "B"], columns=["A", "B"])
    return {"U-Net": values, "DeSAM-B": values - 0.1}


def summary() -> pd.DataFrame:
    rows = [
        ("U-Net", True, 0.91, 0.88, 0.94),
        ("U-Net", False, 0.5, np.nan, np.nan),
        ("Prior", False, 0.4, 0.3, 0.5),
    ]
    return pd.DataFrame(rows, columns=["label", "in_domain", "mean", "low", "high"])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_heat_map_holds_each_number_frames_the_diagonal_and_marks_what_is_missing() -> None:
    figure = charts.draw_heatmaps(matrices()).figure
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["90", "40", "80", "-"]
    assert len(first.patches) == 2
    assert first.collections[0].get_clim() == (0, 100)


def test_heat_maps_share_one_scale() -> None:
    larger = {name: matrix * 20 for name, matrix in matrices().items()}
    figure = charts.draw_heatmaps(larger, metric="hd95").figure
    limits = [ax.collections[0].get_clim() for ax in figure.axes[:2]]
    assert limits == [(0.0, pytest.approx(18.0))] * 2


def test_heat_map_without_any_score_is_still_a_figure() -> None:
    empty = {"U-Net": matrices()["U-Net"] * np.nan}
    drawn = charts.draw_heatmaps(empty, metric="hd95")
    assert set(texts(drawn.figure)) == {"-"}
    assert "U-Net: nothing in domain, nothing out of domain" in drawn.alt


def test_heat_map_text_can_be_read_on_its_cell() -> None:
    for text in charts.draw_heatmaps(matrices()).figure.axes[0].texts:
        dark = to_rgb(text.get_color())[0] < 0.5
        assert dark == (
            text.get_text() != "40"
        )  # low Dice is dark blue, high Dice yellow, nothing light grey


def test_heat_map_alt_text_gives_the_ranges() -> None:
    said = charts.draw_heatmaps(matrices()).alt
    assert "U-Net: 80 to 90 in domain, 40 out of domain" in said
    assert "DeSAM-B: 70 to 80 in domain, 30 out of domain" in said


def test_averages_draw_every_mean_and_interval() -> None:
    cells = summary().assign(source="A", target="B")
    figure = charts.draw_averages(summary(), cells).figure
    assert texts(figure) == ["91", "50", "40"]
    drawn = figure.axes[0].collections
    lines = [line for line in drawn if isinstance(line, LineCollection)]
    dots = [dot for dot in drawn if isinstance(dot, PathCollection)]
    small, large = dots[:3], dots[3:]
    ends = [segment[:, 0].tolist() for line in lines for segment in line.get_segments()]
    assert ends == [[88, 94], [30, 50]]  # one has no interval
    assert [round(dot.get_offsets()[0, 0]) for dot in small] == [91, 50, 40]
    assert [round(dot.get_offsets()[0, 0]) for dot in large] == [91, 50, 40]
    faces = [to_hex(dot.get_facecolor()[0]) for dot in large]
    assert faces == [style.method_color("U-Net"), "#ffffff", "#ffffff"]
    assert max(line.get_zorder() for line in lines) < min(dot.get_zorder() for dot in large)


def test_long_names_leave_the_axis_its_room() -> None:
    long = {"label": "DeSAM-P without the head that judges"}
    frame = summary().assign(**long).iloc[:1]
    figure = charts.draw_averages(frame, frame.assign(source="A", target="B")).figure
    figure.draw_without_rendering()
    (ax,) = figure.axes
    label = ax.xaxis.label.get_window_extent()
    assert label.x0 >= 0
    assert label.x1 <= figure.bbox.width


def test_averages_alt_text_gives_every_mean_with_its_interval() -> None:
    said = charts.draw_averages(summary(), summary()).alt
    assert "U-Net: 91 (88 to 94) in domain, 50 out of domain; Prior: 40 (30 to 50) out of domain." in said


def test_several_labels_of_a_row_lie_apart_and_a_panel_shows_its_own() -> None:
    rows = [
        {"organ": organ, "label": label, "way": way, "mean": mean, "low": mean - 5, "high": mean + 5}
        for organ in ("liver", "spleen")
        for label in ("U-Net", "DeSAM-B")
        for way, mean in (("CT to MR", 40.0), ("MR to CT", 60.0))
    ]
    drawn = charts.draw_rows(pd.DataFrame(rows), axis="Dice (%)", row="organ", panel="way")
    assert [ax.get_title() for ax in drawn.figure.axes] == ["CT to MR", "MR to CT"]
    dots = [dot for dot in drawn.figure.axes[0].collections if isinstance(dot, PathCollection)]
    places = np.concatenate([np.asarray(dot.get_offsets()) for dot in dots])
    assert set(places[:, 0]) == {40} and len(set(places[:, 1])) == 4
    assert "MR to CT spleen DeSAM-B: 60 (55 to 65)" in drawn.alt
    assert not texts(drawn.figure)
    assert {text.get_text() for text in drawn.figure.legends[0].texts} == {"U-Net", "DeSAM-B"}


def test_many_dots_are_scattered_within_their_row_and_a_note_stands_beside_it() -> None:
    whole = pd.DataFrame([{"label": "all", "pair": "X minus Y", "mean": 1.0, "low": np.nan, "high": np.nan}])
    small = pd.DataFrame({"label": "some", "pair": "X minus Y", "mean": np.linspace(-2, 4, 200)})
    look = {"row": "pair", "colors": {"all": "#000000", "some": "#0072b2"}, "limit": (None, None)}
    drawn = charts.draw_rows(whole.assign(note="3 %"), small, axis="difference", **look)
    heights = drawn.figure.axes[0].collections[0].get_offsets()[:, 1]
    assert np.ptp(heights) > 0.4 and np.abs(heights).max() < 0.3
    assert texts(drawn.figure) == ["3 %"] and "all: 1, 3 %" in drawn.alt


def curves() -> pd.DataFrame:
    rows = [
        {
            "label": "DeSAM-P",
            "in_domain": inside,
            "points": n,
            "mean": mean,
            "low": mean - 10,
            "high": mean + 10,
        }
        for inside, values in ((True, (50, 80, 70)), (False, (30, 60, 65)))
        for n, mean in zip((1, 9, 81), values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_curves_are_filled_and_solid_in_domain_and_open_and_dashed_out_of_it() -> None:
    drawn = charts.draw_curves(curves(), "points", axes=("points", "Dice (%)"))
    outside, inside = drawn.figure.axes[0].lines
    assert to_hex(inside.get_markerfacecolor()) == style.method_color("DeSAM-P")
    assert inside.get_ydata().tolist() == [50, 80, 70] and inside._dash_pattern[1] is None
    assert to_hex(outside.get_markerfacecolor()) == "#ffffff" and outside.get_ydata().tolist() == [30, 60, 65]
    assert outside._dash_pattern[1] is not None
    assert "DeSAM-P in domain 50 to 70 (highest 80 at 9), DeSAM-P out of domain 30 to 65." in drawn.alt


def test_a_curve_alone_is_filled_and_places_that_are_texts_are_equally_far_apart() -> None:
    frame = curves().query("not in_domain").astype({"points": str})
    drawn = charts.draw_curves(frame, "points", axes=("points", "Dice (%)"), limit=(0, 100))
    (line,) = drawn.figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 1, 2] and line._dash_pattern[1] is None
    assert drawn.figure.axes[0].get_ylim() == (0, 100)
    assert "DeSAM-P 30 to 65." in drawn.alt


def test_each_panel_has_its_own_scale_and_aims_are_dotted() -> None:
    both = pd.concat(
        [curves().assign(part="large"), curves().assign(part="small", mean=curves()["mean"] / 100)]
    )
    frame = both.drop(columns=["low", "high"])
    drawn = charts.draw_curves(frame, "points", axes=("points", ""), panel="part", aims={"DeSAM-P": 0.5})
    large, small = drawn.figure.axes
    assert [ax.get_title() for ax in (large, small)] == ["large", "small"]
    assert large.get_ylim()[1] > 80 and small.get_ylim()[1] < 1
    assert small.lines[-1].get_linestyle() == ":" and set(small.lines[-1].get_ydata()) == {0.5}
    assert "small: DeSAM-P in domain 0.5 to 0.7" in drawn.alt


def history(epochs: int = 3) -> pd.DataFrame:
    rows = [
        {
            "label": label,
            "source": "A",
            "seed": seed,
            "epoch": e,
            "train_loss": 1 / (e + 1),
            "val_loss": 2 / (e + 1),
        }
        for label in ("U-Net", "DeSAM-P")
        for seed in (0, 1)
        for e in range(epochs)
    ]
    return pd.DataFrame(rows)


def test_training_curves_have_a_panel_per_method_and_a_line_per_run() -> None:
    drawn = charts.draw_training(history())
    assert [ax.get_title() for ax in drawn.figure.axes] == ["U-Net", "DeSAM-P"]
    runs, medians = drawn.figure.axes[0].collections, drawn.figure.axes[0].lines
    assert sum(len(lines.get_segments()) for lines in runs) == 2 * 2  # training and validation of two runs
    assert sorted(line.get_ydata()[0] for line in medians) == [1, 2]
    assert "U-Net training 1 to 0.333, U-Net validation (source) 2 to 0.667" in drawn.alt
    alone = charts.draw_training(history(epochs=1)).figure.axes[0]
    assert "o" in {line.get_marker() for line in alone.lines}  # one epoch is visible as a point


def test_calibration_shows_inside_and_iou_apart_with_counts() -> None:
    columns = {"score": [0.05, 0.95], "inside": [0.1, 0.9], "iou": [0.6, 0.7], "prompts": [90, 10]}
    drawn = charts.draw_calibration(pd.DataFrame({"label": "DeSAM-P", "bin": [0, 9], **columns}))
    (ax,) = drawn.figure.axes
    assert [np.asarray(dots.get_offsets())[:, 1].tolist() for dots in ax.collections] == [
        [0.1, 0.9],
        [0.6, 0.7],
    ]
    assert "DeSAM-P, predicted 0.05: 90 prompts, 10% in the organ, IoU of the masks 0.60" in drawn.alt


EMPTY: Any = pd.DataFrame()


@pytest.mark.parametrize(
    "drawn",
    [
        charts.draw_heatmaps({}),
        charts.draw_averages(summary()[:0], summary()[:0]),
        charts.draw_curves(EMPTY, "x", axes=("", "")),
        charts.draw_training(EMPTY),
        charts.draw_calibration(EMPTY),
    ],
)
def test_no_finished_run_is_said_rather_than_failed_on(drawn: style.DescribedFigure) -> None:
    assert [text.get_text() for text in drawn.figure.texts] == [style.NO_RUNS]
    assert style.NO_RUNS in drawn.alt


def test_drawing_leaves_no_figure_open_and_no_setting_changed() -> None:
    before = dict(rcParams)
    figure = charts.draw_averages(summary(), summary().assign(source="A", target="B")).figure
    figure.draw_without_rendering()
    charts.draw_heatmaps(matrices()).figure.draw_without_rendering()
    assert pyplot.get_fignums() == [] and dict(rcParams) == before
    assert figure.get_figwidth() == style.WIDTH
