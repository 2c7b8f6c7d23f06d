"""Scores against definitions computed another way, the rule for empty masks, and the laws they obey."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from desam_lite.evaluation.metrics import VolumeScore, score_case, score_volume
from desam_lite.utils.errors import StudyError

SPACING = (3.0, 0.5, 1.0)
masks = arrays(bool, (4, 6, 5))


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float, float]:
    """HD95, HD, ASSD from all pairs of surface voxels; a surface voxel has a face neighbour outside the mask."""
    surfaces = [m & ~binary_erosion(m, border_value=0) for m in (a, b)]
    points = [np.argwhere(s) * np.array(spacing) for s in surfaces]
    pairs = cdist(*points)
    forward, backward = pairs.min(1), pairs.min(0)
    both = np.concatenate([forward, backward])
    return max(np.percentile(forward, 95), np.percentile(backward, 95)), both.max(), both.mean()


@settings(max_examples=60, deadline=None)
@given(masks.filter(np.any), masks.filter(np.any))
def test_distances_agree_with_all_pairs_of_surface_voxels(a: np.ndarray, b: np.ndarray) -> None:
    score = score_volume(a, b, SPACING)
    assert (score.hd95, score.hd, score.assd) == pytest.approx(brute_force(a, b, SPACING), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(masks, masks)
def test_scores_are_symmetric_and_in_range(a: np.ndarray, b: np.ndarray) -> None:
    score = score_volume(a, b, SPACING)
    assert score == pytest.approx(score_volume(b, a, SPACING))
    assert 0 <= score.dice <= 1
    assert 0 <= score.assd <= score.hd
    assert score.hd95 <= score.hd <= np.linalg.norm(np.array(SPACING) * a.shape)


def test_dice_is_twice_the_overlap_over_the_sizes() -> None:
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:] = True, True  # 8 and 12 voxels, 4 in common
    assert score_volume(a, b, (1, 1, 1)).dice == pytest.approx(2 * 4 / 20)


def test_distances_are_in_millimetres_along_each_axis() -> None:
    a = np.zeros((7, 7, 7), bool)
    a[3, 3, 3] = True
    for axis, step in enumerate(SPACING):
        assert score_volume(np.roll(a, 2, axis), a, SPACING).hd == pytest.approx(2 * step)


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((3, 4, 5), bool)
    assert score_volume(empty, empty, SPACING) == VolumeScore(1, 0, 0, 0)


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_scores_worst_and_finite(swap: bool) -> None:
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    pair = (full, empty) if swap else (empty, full)
    diagonal = np.sqrt(9.0**2 + 2.0**2 + 5.0**2)
    assert score_volume(*pair, SPACING) == pytest.approx((0, diagonal, diagonal, diagonal))


@pytest.mark.parametrize(
    ("prediction", "spacing", "words"),
    [
        (np.zeros((3, 4, 4)), SPACING, "shape"),
        (np.full((3, 4, 5), 2), SPACING, "other than 0 and 1"),
        (np.zeros((3, 4, 5)), (1.0, 1.0), "spacing"),
        (np.zeros((3, 4, 5)), (1.0, 0.0, 1.0), "spacing"),
        (np.zeros((3, 4, 5)), (1.0, np.nan, 1.0), "spacing"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(prediction: np.ndarray, spacing: tuple, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        score_volume(prediction, np.zeros((3, 4, 5)), spacing)


def case() -> np.ndarray:
    labels = np.zeros((6, 64, 64), np.uint8)
    labels[1:5, 24:40, 24:40] = 1
    return labels


def test_published_protocol_ignores_slices_without_the_organ_and_the_last_with_it() -> None:
    prediction = case()
    prediction[0, 24:40, 24:40] = 1  # a false slice below the organ
    prediction[4] = 0  # the last slice missed
    assert score_case(prediction, case(), SPACING, 1, "published").dice == 1
    assert score_case(prediction, case(), SPACING, 1, "whole_volume").dice < 0.8


def test_published_protocol_forgives_predictions_in_the_border() -> None:
    prediction = case()
    prediction[:, :10] = 1  # rows 0..9 of 64 are within 50 of 256
    assert score_case(prediction, case(), SPACING, 1, "published").dice == 1
    assert score_case(prediction, case(), SPACING, 1, "whole_volume").dice < 0.8


def test_published_protocol_keeps_millimetres() -> None:
    prediction = np.roll(case(), 2, axis=1)
    whole = score_case(prediction, case(), SPACING, 1, "whole_volume")
    assert score_case(prediction, case(), SPACING, 1, "published").hd == pytest.approx(whole.hd, abs=0.2)


def test_published_protocol_has_no_score_for_an_organ_in_one_slice() -> None:
    labels = case()
    labels[2:] = 0
    assert np.isnan(score_case(labels, labels, SPACING, 1, "published").dice)


def test_organs_are_scored_apart() -> None:
    labels = case()
    labels[1:5, 24:40, 32:40] = 2
    prediction = np.where(labels == 2, 0, labels)
    assert score_case(prediction, labels, SPACING, 1, "whole_volume").dice == 1
    assert score_case(prediction, labels, SPACING, 2, "whole_volume").dice == 0
