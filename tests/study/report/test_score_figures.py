"""Figures are figures, and their alternative texts say the numbers that are in them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from desam_lite.methods.run_spec import make_spec
from desam_lite.study.profiles import METHOD_CHOICES
from desam_lite.study.report import score_figures, slice_examples, slice_figures, style

ORGANS = {"prostate": "#e69f00"}


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


def example(predicted: bool = True) -> slice_examples.Example:
    image = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40).astype(np.uint8)
    reference = np.zeros((48, 40), np.uint8)
    reference[20:30, 10:20] = 1
    prediction = np.roll(reference, 3, axis=1) if predicted else None
    return slice_examples.Example(
        "U-Net", "worst: Case03\nDice 40 %", image, reference, prediction, (2.0, 1.0)
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_heat_map_holds_each_number_frames_the_diagonal_and_marks_what_is_missing() -> None:
    figure = score_figures.draw_heatmaps(matrices())
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["90", "40", "-", "80"]
    assert len(first.patches) == 2
    assert first.images[0].get_clim() == (0, 100)


def test_heat_maps_share_one_scale() -> None:
    figure = score_figures.draw_heatmaps(
        {name: matrix * 20 for name, matrix in matrices().items()}, metric="hd95"
    )
    limits = [ax.images[0].get_clim() for ax in figure.axes[:2]]
    assert limits == [(0.0, pytest.approx(18.0))] * 2


def test_heat_map_without_any_score_is_still_a_figure() -> None:
    empty = {"U-Net": matrices()["U-Net"] * np.nan}
    assert set(texts(score_figures.draw_heatmaps(empty, metric="hd95"))) == {"-"}
    assert "U-Net: nothing in domain, nothing out of domain" in score_figures.draw_heatmaps_alt(empty)


def test_heat_map_text_can_be_read_on_its_cell() -> None:
    for text in score_figures.draw_heatmaps(matrices()).axes[0].texts:
        assert (
            to_hex(text.get_color()) == ("#ffffff" if text.get_text() == "40" else "#000000")
            or text.get_text() == "-"
        )


def test_heat_map_alt_text_gives_the_ranges() -> None:
    said = score_figures.draw_heatmaps_alt(matrices())
    assert "U-Net: 80 to 90 in domain, 40 out of domain" in said
    assert "DeSAM-B: 70 to 80 in domain, 30 out of domain" in said


def test_averages_draw_every_mean_and_interval() -> None:
    cells = summary().assign(source="A", target="B")
    figure = score_figures.draw_averages(summary(), cells)
    assert texts(figure) == ["91", "50", "40"]
    intervals = [tuple(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert (88.0, 94.0) in intervals


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


def test_training_curves_have_a_panel_per_method_and_a_line_per_run() -> None:
    figure = score_figures.draw_training(history())
    assert [ax.get_title() for ax in figure.axes] == ["U-Net", "DeSAM-P"]
    assert len(figure.axes[0].lines) == 2 * (2 + 1)  # training and validation: two runs and their median
    assert "U-Net (2 runs) median training loss from 1.00 to 0.33, validation loss from 1.50 to 0.50" in (
        score_figures.draw_training_alt(history())
    )


def test_one_epoch_is_visible_as_a_point() -> None:
    figure = score_figures.draw_training(history(epochs=1))
    assert "o" in {line.get_marker() for line in figure.axes[0].lines}


def test_pictures_keep_grey_levels_shape_and_radiological_view() -> None:
    one = example()
    ax = slice_figures.draw_slices([one], ORGANS).axes[0]
    shown = ax.images[0]
    assert np.array_equal(shown.get_array(), one.image)
    assert shown.get_clim() == (0, 255)
    assert shown.get_extent() == [
        0,
        40,
        96,
        0,
    ]  # mm: first row (anterior) up, first column (patient's right) left
    assert shown.get_cmap().name == "gray"
    assert ax.get_aspect() == 1


def test_prediction_has_the_organs_colour_and_reference_is_dashed_white() -> None:
    drawn = slice_figures.draw_slices([example()], ORGANS).axes[0].collections
    assert [tuple(one.get_edgecolor()[0]) for one in drawn] == [to_rgba("#e69f00"), to_rgba("white")]
    alone = slice_figures.draw_slices([example(predicted=False)], ORGANS).axes[0].collections
    assert [tuple(one.get_edgecolor()[0]) for one in alone] == [to_rgba("#e69f00")]


def test_an_empty_prediction_draws_no_contour() -> None:
    missed = example()._replace(prediction=np.zeros((48, 40), np.uint8))
    assert len(slice_figures.draw_slices([missed], ORGANS, crop=True).axes[0].collections) == 1


def test_crop_shows_both_masks_and_stays_in_the_picture() -> None:
    ax = slice_figures.draw_slices([example()], ORGANS, crop=True).axes[0]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert 0 <= left < 10 and 23 < right <= 40
    assert 0 <= top < 40 and 60 < bottom <= 96
    assert right - left == pytest.approx(bottom - top)


def test_a_slice_without_any_organ_is_cropped_to_its_middle() -> None:
    empty = np.zeros((48, 40), np.uint8)
    ax = slice_figures.draw_slices(
        [example()._replace(reference=empty, prediction=empty)], ORGANS, crop=True
    ).axes[0]
    assert np.mean(ax.get_xlim()) == pytest.approx(20, abs=1)


def test_pictures_alt_text_lists_what_is_shown_in_one_line() -> None:
    said = slice_figures.draw_slices_alt([example()], ORGANS)
    assert "contours of prediction and reference of prostate: U-Net, worst: Case03 Dice 40 %." in said
    assert "the reference contour" in slice_figures.draw_slices_alt([example(predicted=False)], ORGANS)


def test_largest_slice_is_the_one_with_most_organ() -> None:
    labels = np.zeros((4, 5, 5), np.uint8)
    labels[1, :2], labels[2, :3], labels[3, :3] = 1, 2, 1
    assert slice_examples.largest_slice(labels) == 2


@pytest.mark.parametrize(
    ("figure", "alt"),
    [
        (score_figures.draw_heatmaps({}), score_figures.draw_heatmaps_alt({})),
        (
            score_figures.draw_averages(summary()[:0], summary()[:0]),
            score_figures.draw_averages_alt(summary()[:0]),
        ),
        (score_figures.draw_training(pd.DataFrame()), score_figures.draw_training_alt(pd.DataFrame())),
        (slice_figures.draw_slices([], ORGANS), slice_figures.draw_slices_alt([], ORGANS)),
    ],
)
def test_no_finished_run_is_said_rather_than_failed_on(figure: Figure, alt: str) -> None:
    assert [text.get_text() for text in figure.texts] == [style.NO_RUNS]
    assert style.NO_RUNS in alt


def test_a_method_has_one_colour_and_known_ones_differ() -> None:
    known = ["Prior", "U-Net", "DeSAM-B", "DeSAM-P"]
    assert len({style.method_color(label) for label in known}) == 4
    known += [
        make_spec(manifest=".", data_root=".", source="A", **choice).label
        for choice in METHOD_CHOICES.values()
    ]
    looks = {(style.method_color(label), style.method_marker(label)) for label in known}
    assert len(looks) == len(set(known))
    assert style.method_color("nnU-Net") == style.method_color("nnU-Net")


def test_figures_can_be_drawn(tmp_path: object) -> None:
    cells = summary().assign(source="A", target="B")
    drawn = [
        score_figures.draw_heatmaps(matrices()),
        score_figures.draw_averages(summary(), cells),
        score_figures.draw_training(history()),
        slice_figures.draw_slices([example()] * 4, ORGANS, crop=True),
    ]
    for figure in drawn:
        figure.savefig(f"{tmp_path}/figure.png", dpi=50)
        assert figure.get_figwidth() == style.WIDTH
