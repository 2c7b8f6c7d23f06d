"""The lesson trains, asks and counts; what it says follows from what it measured."""

import numpy as np
import pandas as pd
import pytest

from desam_lite.data.geometry import Geometry
from desam_lite.data.slices import CaseSlices
from desam_lite.model.sam import get_backbone
from desam_lite.study.chapters import click_lesson
from desam_lite.synthetic.pretraining.promptable_sam import PromptableSAM

SCORES = {"box": 0.7, "filled_box": 0.6, "point": 0.3, "best_of_three": 0.4, "clicks_3": 0.5, "clicks_8": 0.6}
AIMS = {"box": 0.65, "best_of_three": 0.6}


@pytest.fixture(scope="module")
def model() -> PromptableSAM:
    return PromptableSAM(get_backbone("sam_tiny")).eval()


def test_contrasts_of_a_scene_share_the_object_and_not_the_grey_levels() -> None:
    shown = click_lesson.held_out_scenes(2, 64, contrasts=2)
    assert [scene.title for scene in shown] == ["scene 1"] * 2 + ["scene 2"] * 2
    assert np.array_equal(shown[0].reference, shown[1].reference) and shown[0].reference.any()
    assert not np.array_equal(shown[0].image, shown[1].image)


def test_a_model_is_asked_with_a_box_and_then_with_more_and_more_clicks(model: PromptableSAM) -> None:
    scene = click_lesson.held_out_scenes(1, 64)[0]
    given, scores = zip(*click_lesson.predict_with_prompts(model, scene, clicks=(1, 3)), strict=True)
    assert [answer.title.splitlines()[-1] for answer in given] == ["tight box", "one click", "3 clicks"]
    assert [answer.prompt.shape for answer in given] == [(4,), (1, 3), (3, 3)]
    x, y, inside = given[1].prompt[0]
    assert inside and scene.reference[int(y), int(x)]  # the first click lies in the object
    for answer, score in zip(given, scores, strict=True):
        masks = answer.prediction > 0, scene.reference > 0
        assert score == pytest.approx((masks[0] & masks[1]).sum() / max(1, (masks[0] | masks[1]).sum()))
        assert answer.note == f"IoU {score:.2f}"


def test_the_slice_with_most_of_the_organ_is_asked_about() -> None:
    labels = np.zeros((3, 40, 20), np.uint8)
    labels[1, 10:20, 5:15] = 2
    labels[2, :4, :4] = 2
    labels[0] = 1
    images = np.arange(3, dtype=np.uint8)[:, None, None].repeat(40, 1).repeat(20, 2)
    case = CaseSlices("t", "A", "c", images, labels, (1.0, 1.0, 1.0), Geometry((20, 40, 3), np.eye(4)))
    scene = click_lesson.organ_scene("kidney", case, 2, 80)
    assert scene.image.shape == scene.reference.shape == (80, 80)
    assert np.unique(scene.image[:, :40]).tolist() == [1]
    assert scene.reference[20:40, 10:30].all() and scene.reference.sum() == 400


def card(curve: list[dict[str, float]], before: int | None) -> dict[str, object]:
    first = {"pictures": before, "curve": curve, "recipe": {"steps": 8, "decay": 8}}
    begun = None if before is None else {**first, "minutes": 2.0, "began with": None}
    more = {
        "name": "sam_tiny",
        "sha256": "ab" * 32,
        "minutes": 3.0,
        "device": "cpu",
        "data": "none",
        "licence": "MIT",
    }
    code = {"version": "0.1", "commit": None}
    return {
        "pictures": 100,
        "curve": curve,
        "probe": {"side": 256},
        "recipe": {"steps": 8, "decay": 3},
        "began with": begun,
        "code": code,
        "libraries": {},
        **more,
    }


def test_the_curve_goes_through_all_trainings() -> None:
    rows = [
        {"pictures": 10, "step": 4, "box_256": 0.2, "point_256": 0.1},
        {"pictures": 100, "step": 7, "box_256": 0.4, "point_256": 0.2},
    ]
    made = card(rows, 900)
    seen = click_lesson.learning_curve(made)
    assert list(seen["pictures"]) == [10, 100, 910, 1000]
    assert list(seen["decaying"]) == [True, True, False, True]
    assert list(seen.columns) == ["pictures", "decaying", "box", "point"]
    assert "1,000 images, 5 minutes" in repr(
        click_lesson.provenance_of_weights(made, profile="smoke", steps=2)
    )
    assert list(click_lesson.learning_curve(card(rows, None))["pictures"]) == [10, 100]


@pytest.mark.parametrize(
    ("aims", "verdict"),
    [
        (AIMS, "It reaches some of its aims"),
        ({"box": 0.7}, "It reaches its aims"),  # a tie
        ({"box": 0.8}, "It misses its aims"),
    ],
)
def test_the_verdict_follows_from_the_aims(aims: dict[str, float], verdict: str) -> None:
    said = click_lesson.say_clicks(
        {"untrained": dict.fromkeys(SCORES, 0.1), "shipped": SCORES}, "shipped", aims
    )
    assert f"**{verdict}**: on unseen images" in said
    assert "With the tight box, the other models have untrained 0.10, and the filled box has" in said


def test_the_curve_shows_what_was_probed() -> None:
    seen = pd.DataFrame({"pictures": [10, 100], **{name: [0.1, value] for name, value in SCORES.items()}})
    drawn = click_lesson.draw_curve(seen, AIMS)
    assert {text.get_text() for text in drawn.figure.legends[0].texts} >= {"tight box", "the filled box"}
    assert "tight box 0.1 to 0.7" in drawn.alt
    assert "filled" not in click_lesson.draw_curve(seen.drop(columns="filled_box"), AIMS).alt


def test_losses_are_smoothed_over_a_tenth_and_told() -> None:
    history = pd.DataFrame({"step": range(1, 21), **{n: np.linspace(2, 1, 20) for n in click_lesson.LOSSES}})
    drawn = click_lesson.draw_losses(history)
    assert len(drawn.figure.axes) == 4
    assert "borders: every step 2 to 1, smoothed 2 to 1.03" in drawn.alt
