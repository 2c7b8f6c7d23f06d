"""Slices keep their intensities and shape, and their contours tell prediction from reference."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from desam_lite.study.report import slice_examples, slice_figures, style

ORGANS = {"prostate": "#e69f00"}


def example(predicted: bool = True) -> slice_examples.Example:
    image = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40).astype(np.uint8)
    reference = np.zeros((48, 40), np.uint8)
    reference[20:30, 10:20] = 1
    prediction = np.roll(reference, 3, axis=1) if predicted else None
    return slice_examples.Example(
        "U-Net", "worst: Case03\nDice 40 %", image, reference, prediction, (2.0, 1.0)
    )


def test_pictures_keep_grey_levels_shape_and_radiological_view() -> None:
    one = example()
    ax = slice_figures.draw_slices([one], ORGANS).figure.axes[0]
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
    drawn = slice_figures.draw_slices([example()], ORGANS).figure.axes[0].collections
    assert [tuple(one.get_edgecolor()[0]) for one in drawn] == [to_rgba("#e69f00"), to_rgba("white")]
    alone = slice_figures.draw_slices([example(predicted=False)], ORGANS).figure.axes[0].collections
    assert [tuple(one.get_edgecolor()[0]) for one in alone] == [to_rgba("#e69f00")]


def test_an_empty_prediction_draws_no_contour() -> None:
    missed = example()._replace(prediction=np.zeros((48, 40), np.uint8))
    assert len(slice_figures.draw_slices([missed], ORGANS, crop=True).figure.axes[0].collections) == 1


def test_crop_shows_both_masks_and_stays_in_the_picture() -> None:
    ax = slice_figures.draw_slices([example()], ORGANS, crop=True).figure.axes[0]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert 0 <= left < 10 and 23 < right <= 40
    assert 0 <= top < 40 and 60 < bottom <= 96
    assert right - left == pytest.approx(bottom - top)


def test_a_slice_without_any_organ_is_cropped_to_its_middle() -> None:
    empty = np.zeros((48, 40), np.uint8)
    ax = slice_figures.draw_slices(
        [example()._replace(reference=empty, prediction=empty)], ORGANS, crop=True
    ).figure.axes[0]
    assert np.mean(ax.get_xlim()) == pytest.approx(20, abs=1)


def test_pictures_alt_text_lists_what_is_shown_in_one_line() -> None:
    said = slice_figures.draw_slices([example()], ORGANS).alt
    assert "contours of prediction and reference of prostate: U-Net, worst: Case03 Dice 40 %." in said
    alone = slice_figures.draw_slices([example(predicted=False)], ORGANS).alt
    assert alone.startswith("1 image with contours of reference of prostate:")


def test_largest_slice_is_the_one_with_most_organ() -> None:
    labels = np.zeros((4, 5, 5), np.uint8)
    labels[1, :2], labels[2, :3], labels[3, :3] = 1, 2, 1
    assert slice_examples.largest_slice(labels) == 2


def test_prompts_are_drawn_where_they_are_in_millimetres() -> None:
    clicks = example()._replace(prompt=np.array([[12.0, 22.0, 1.0], [30.0, 22.0, 0.0]]))
    box = example()._replace(prompt=np.array([10.0, 20.0, 20.0, 30.0]))
    with_clicks, with_box = slice_figures.draw_slices([clicks, box], ORGANS).figure.axes
    marks = {line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0]) for line in with_clicks.lines}
    assert marks == {"P": (12.0, 44.0), "X": (30.0, 44.0)}  # rows are 2 mm apart
    assert with_box.patches[0].get_bbox().extents.tolist() == [10.0, 40.0, 20.0, 60.0]


def test_a_place_may_stay_empty_and_an_image_without_organ_needs_no_legend() -> None:
    empty = example(predicted=False)._replace(reference=np.zeros((48, 40), np.uint8))
    drawn = slice_figures.draw_slices([empty, None, empty], ORGANS, columns=2)
    assert [bool(ax.images) for ax in drawn.figure.axes] == [True, False, True, False]
    assert not drawn.figure.legends and drawn.alt.startswith("2 images: U-Net")


def test_nothing_to_show_is_told() -> None:
    drawn = slice_figures.draw_slices([], ORGANS)
    assert [text.get_text() for text in drawn.figure.texts] == [style.NO_RUNS] and style.NO_RUNS in drawn.alt


@pytest.mark.parametrize(("level", "white"), [(20, 90.0), (80, 255.0), (0, 90.0)])
def test_a_dark_slice_has_a_window_that_its_note_states(level: int, white: float) -> None:
    image = np.full((40, 40), level, np.uint8)
    image[18:22] = 90  # a tenth, near the coil
    blank = np.zeros_like(image)
    shown = [slice_examples.Example("E", "endorectal", image, blank, None, (1.0, 1.0))]
    (ax,) = slice_figures.draw_slices(shown, ORGANS).figure.axes
    assert ax.images[0].get_clim() == (0, white)
    assert ax.get_xlabel() == ("endorectal\nwindow 0 to 90" if white < 255 else "endorectal")
    (ax,) = slice_figures.draw_slices(shown, ORGANS, windows=False).figure.axes
    assert ax.images[0].get_clim() == (0, 255)
