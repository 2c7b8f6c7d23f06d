"""SAM at work: prompts, masks and feature maps of one slice."""

import numpy as np
import pytest
from small_model import use_micro

from desam_lite.model.oracle_prompts import oracle_prompts
from desam_lite.model.prompts import Prompts
from desam_lite.model.sam import BACKBONES
from desam_lite.model.sam_decoder import SAM
from desam_lite.study.chapters import sam_in_one_hour as sam_pictures
from desam_lite.study.report.slice_examples import Example


@pytest.fixture
def example() -> Example:
    image = np.random.default_rng(0).integers(0, 255, (24, 32)).astype(np.uint8)
    reference = np.zeros((24, 32), np.uint8)
    reference[8:16, 10:20] = 1
    return Example("A (like nobody)", "", image, reference, None, (1.0, 1.0))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SAM:
    use_micro(monkeypatch)
    return sam_pictures.build_sam("micro", "random")


def test_prompts_are_answered_and_marked_where_they_are(model: SAM, example: Example) -> None:
    side = model.image_size
    point = oracle_prompts(example.reference, 1, side, "point_oracle")[0]
    box = oracle_prompts(example.reference, 1, side, "box_oracle")[0]
    assert point is not None and box is not None
    seen = sam_pictures.see(model, example.image)
    asked = {"a click": point, "a box": box, "all": Prompts.whole_image()}
    click, tight, whole = sam_pictures.ask(model, seen, example, asked)
    assert click.masks.shape == (1, 24, 32)
    ((x, y, label),) = click.points
    assert example.reference[int(y), int(x)] == 1 and label == 1
    assert tight.box == pytest.approx((10, 8, 20, 16))
    assert whole.box == pytest.approx((0, 0, 32, 32))
    (three,) = sam_pictures.ask(model, seen, example, {"a click": point}, guesses=True)
    assert len(three.masks) == 3 and three.best == int(three.predicted.argmax())
    said = sam_pictures.draw_prompted_alt(example, [click, tight])
    assert f"a box: Dice {tight.scores[0]:.0%}" in said
    assert len(sam_pictures.draw_prompted(example, [click, tight, whole]).axes) == 3


def test_maps_are_shown_without_the_padding(model: SAM, example: Example) -> None:
    maps = sam_pictures.feature_maps(model, sam_pictures.see(model, example.image), example)
    grid = model.embedding_size
    assert list(maps) == ["level 0", "level 1", "level 2", "neck"]
    for picture in maps.values():
        assert picture.shape == (grid * 24 // 32, grid, 3)
        assert picture.min() >= 0 and picture.max() <= 1
    assert len(sam_pictures.draw_features(example, maps).axes) == 5


def test_sizes_are_counted_from_the_models() -> None:
    table = sam_pictures.sizes().set_index("backbone")
    assert list(table.index) == list(BACKBONES)
    assert table.loc["vit_b", "image encoder"] == "89.67 M"
