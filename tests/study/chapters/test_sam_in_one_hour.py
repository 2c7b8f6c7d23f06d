"""SAM at work: prompts, masks and feature maps of one slice."""

import numpy as np
import pytest
import torch
from notebook_code import definitions
from small_model import use_micro

from desam_lite.methods.oracle_prompts import oracle_prompts
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.sam import SAM_MASKS, preprocess
from desam_lite.model.sam_decoder import SAM
from desam_lite.study.chapters import sam_in_one_hour
from desam_lite.study.report.slice_examples import Example


@pytest.fixture
def example() -> Example:
    image = np.random.default_rng(0).integers(0, 255, (24, 32)).astype(np.uint8)
    reference = np.zeros((24, 32), np.uint8)
    reference[8:16, 10:20] = 1
    return Example("A (like nobody)", "", image, reference, None, (2.0, 1.0))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SAM:
    use_micro(monkeypatch)
    return SAM("micro")


def encode(model: SAM, example: Example) -> ImageEmbeddings:
    return model.encode(preprocess(torch.from_numpy(example.image)[None], model.image_size))


def test_prompts_are_answered_and_marked_where_they_are(model: SAM, example: Example) -> None:
    side = model.image_size
    point = oracle_prompts(example.reference, 1, side, "point_oracle")[0]
    box = oracle_prompts(example.reference, 1, side, "box_oracle")[0]
    assert point is not None and box is not None
    maps = encode(model, example)
    prompts = {"a click": point, "a box": box, "all": Prompts.whole_image()}
    predict = definitions("sam_in_one_hour").predict_masks
    click, tight, whole = predict(model, maps, example, prompts)
    assert click.masks.shape == (1, 24, 32)
    (three,) = predict(model, maps, example, {"a click": point}, n_masks=SAM_MASKS)
    assert len(three.masks) == 3 and three.best == int(three.predicted_iou.argmax())
    shown = sam_in_one_hour.prompted_examples(model, example, [click, tight, whole])
    assert [view.note for view in shown[:2]] == [f"Dice {p.dice[0]:.0%}" for p in (click, tight)]
    ((x, y, inside),) = shown[0].prompt
    assert example.reference[int(y), int(x)] == 1 and inside == 1
    assert shown[1].prompt == pytest.approx((10, 8, 20, 16))
    assert shown[2].prompt == pytest.approx((0, 0, 32, 24))  # the square, as far as the slice fills it


def test_maps_are_shown_without_the_padding(model: SAM, example: Example) -> None:
    drawn = sam_in_one_hour.draw_features(model, encode(model, example), example)
    grid = model.embedding_size
    assert [ax.get_title() for ax in drawn.figure.axes] == ["A", "level 0", "level 1", "level 2", "neck"]
    for ax in drawn.figure.axes[1:]:
        image = ax.images[0].get_array()
        assert image.shape == (grid * 24 // 32, grid) and np.ptp(image) > 200
    assert f"neck, {grid * 24 // 32} x {grid} cells" in drawn.alt


@pytest.mark.parametrize(
    ("iou", "dice", "verdict", "told"),
    [
        (
            [0.5, 0.9, 0.6],
            [0.1, 0.71, 0.93],
            "picks a worse one",
            "; guess 3 has Dice 93% and predicted IoU 0.60.",
        ),
        ([0.5, 0.9, 0.6], [0.1, 0.93, 0.71], "picks the best one", "Dice 93%, which no other guess exceeds."),
        ([0.5, 0.9, 0.6], [0.93, 0.93, 0.1], "picks the best one", "which no other guess exceeds."),  # a tie
        ([0.5], [0.2], "picks the best one", "guess 1 has the highest predicted IoU (0.50) and Dice 20%"),
    ],
)
def test_what_is_said_of_the_iou_head_follows_the_masks(
    iou: list[float], dice: list[float], verdict: str, told: str
) -> None:
    masks = np.zeros((len(iou), 2, 2), bool)
    three = sam_in_one_hour.PromptedMasks(
        "a click", Prompts.whole_image(), masks, np.array(iou), np.array(dice)
    )
    said = sam_in_one_hour.say_click([three], three, "micro")
    assert f"its IoU head {verdict}**" in said and told in said
    assert said.endswith(f"Dice {dice[three.best]:.0%} for a click (one slice, encoder `micro`).")
