"""Figures are figures, and their alternative texts say the numbers that are in them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot, rcParams
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from desam_lite.study.report import score_figures, style


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
    figure = score_figures.draw_heatmaps(matrices())
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["90", "40", "80", "-"]
    assert len(first.patches) == 2
    assert first.collections[0].get_clim() == (0, 100)


def test_heat_maps_share_one_scale() -> None:
    figure = score_figures.draw_heatmaps(
        {name: matrix * 20 for name, matrix in matrices().items()}, metric="hd95"
    )
    limits = [ax.collections[0].get_clim() for ax in figure.axes[:2]]
    assert limits == [(0.0, pytest.approx(18.0))] * 2


def test_heat_map_without_any_score_is_still_a_figure() -> None:
    empty = {"U-Net": matrices()["U-Net"] * np.nan}
    assert set(texts(score_figures.draw_heatmaps(empty, metric="hd95"))) == {"-"}
    assert "U-Net: nothing in domain, nothing out of domain" in score_figures.draw_heatmaps_alt(empty)


def test_heat_map_text_can_be_read_on_its_cell() -> None:
    for text in score_figures.draw_heatmaps(matrices()).axes[0].texts:
        dark = to_rgb(text.get_color())[0] < 0.5
        assert dark == (
            text.get_text() != "40"
        )  # low Dice is dark blue, high Dice yellow, nothing light grey


def test_heat_map_alt_text_gives_the_ranges() -> None:
    said = score_figures.draw_heatmaps_alt(matrices())
    assert "U-Net: 80 to 90 in domain, 40 out of domain" in said
    assert "DeSAM-B: 70 to 80 in domain, 30 out of domain" in said


def test_averages_draw_every_mean_and_interval() -> None:
    cells = summary().assign(source="A", target="B")
    figure = score_figures.draw_averages(summary(), cells)
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
    figure = score_figures.draw_averages(frame, frame.assign(source="A", target="B"))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    label = ax.xaxis.label.get_window_extent()
    assert label.x0 >= 0
    assert label.x1 <= figure.bbox.width


def test_averages_alt_text_gives_every_mean_with_its_interval() -> None:
    said = score_figures.draw_averages_alt(summary())
    assert "U-Net 91 (88 to 94) in domain, 50 out of domain; Prior 40 (30 to 50) out of domain" in said


@pytest.mark.parametrize(
    ("figure", "alt"),
    [
        (score_figures.draw_heatmaps({}), score_figures.draw_heatmaps_alt({})),
        (
            score_figures.draw_averages(summary()[:0], summary()[:0]),
            score_figures.draw_averages_alt(summary()[:0]),
        ),
    ],
)
def test_no_finished_run_is_said_rather_than_failed_on(figure: Figure, alt: str) -> None:
    assert [text.get_text() for text in figure.texts] == [style.NO_RUNS]
    assert style.NO_RUNS in alt


def test_drawing_leaves_no_figure_open_and_no_setting_changed() -> None:
    before = dict(rcParams)
    figure = score_figures.draw_averages(summary(), summary().assign(source="A", target="B"))
    figure.draw_without_rendering()
    score_figures.draw_heatmaps(matrices()).draw_without_rendering()
    assert pyplot.get_fignums() == [] and dict(rcParams) == before
    assert figure.get_figwidth() == style.WIDTH
