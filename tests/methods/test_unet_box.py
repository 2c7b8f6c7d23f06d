"""The U-Net's box in SAM: the U-Net is that of `unet`, its box reaches a little beyond, and SAM's single mask is predicted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from four_slices import SIDE, four_slices, train_steps, worst_dice
from saved_model import spec_of
from small_model import MICRO, use_micro

from desam_lite.methods import METHODS
from desam_lite.methods.automatic_masks import decode_on_slice
from desam_lite.methods.oracle_prompts import oracle_prompts
from desam_lite.methods.unet import UNetMethod
from desam_lite.methods.unet_box import UNetBox, largest_parts
from desam_lite.model.prompts import Prompts
from desam_lite.model.sam import preprocess

PLACE = (Path("m"), Path("d"))


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_micro(monkeypatch)
    yield


def build(**fields: Any) -> UNetBox:
    spec = spec_of("unet box", PLACE, unet_width=8, **fields)
    method: UNetBox = METHODS["unet_box"](spec, 1, [])
    return method


def unet_alone(method: UNetBox) -> UNetMethod:
    plain = UNetMethod(1, 8, SIDE, 9)
    plain.load_state_dict(method.state_dict())
    return plain


def test_the_unet_learns_four_slices_by_heart_and_sam_learns_nothing() -> None:
    images, batch = four_slices()
    method = build()
    before = {name: value.clone() for name, value in method.sam.state_dict().items()}
    plain = UNetMethod(1, 8, SIDE, 0)
    assert train_steps(method, batch, 100) == train_steps(plain, batch, 100)
    assert worst_dice(unet_alone(method), images, batch) > 0.9
    assert all(torch.equal(before[name], value) for name, value in method.sam.state_dict().items())
    assert method.state_dict().keys() == plain.state_dict().keys()


def test_the_prediction_is_sams_mask_of_the_unets_box() -> None:
    images, batch = four_slices()
    method = build()
    train_steps(method, batch, 60)
    embeddings = method.sam.encode(preprocess(torch.from_numpy(images), MICRO.image_size))
    predicted = list(method.predict(images, lambda rows: embeddings[torch.arange(rows.start, rows.stop)]))
    masks = [slice_.labels for slice_ in unet_alone(method).predict(images, None)]
    for row, mask in enumerate(masks):
        y, x = np.nonzero(largest_parts(mask))
        margin = 20 / 1024 * MICRO.image_size
        box = np.array([x.min() - margin, y.min() - margin, x.max() + 1 + margin, y.max() + 1 + margin])
        prompt = Prompts.box(torch.from_numpy(box)[None])
        out = decode_on_slice(method.sam, embeddings[torch.tensor([row])], prompt, images.shape[1:])
        expected = out.mask_logits[0, 0].sigmoid().numpy()
        np.testing.assert_allclose(predicted[row].probability[0], expected, atol=1e-5)
        assert predicted[row].iou[0] == pytest.approx(float(out.iou[0, 0]), abs=1e-5)


def test_where_the_unet_predicts_nothing_there_is_no_mask() -> None:
    images, _ = four_slices()
    method = build()
    output: Any = method.network.output_block
    output.conv.conv.bias.data.fill_(-1e6)
    embeddings = method.sam.encode(preprocess(torch.from_numpy(images), MICRO.image_size))
    predicted = method.predict(images, lambda rows: embeddings[torch.arange(rows.start, rows.stop)])
    assert not any(slice_.labels.any() or slice_.iou.any() for slice_ in predicted)


def test_a_box_with_a_margin_stays_in_the_square() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[0:4, 8:15] = 1
    (prompt,) = oracle_prompts(labels, 1, 32, "box_oracle", margin=3.0)
    assert prompt is not None and prompt.xyxy is not None
    assert prompt.xyxy.tolist() == [[13, 0, 32, 11]]


def test_of_each_organ_the_largest_part_stays() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[0, 0], labels[2:4, 2:4], labels[6, 6:8], labels[6, 0] = 1, 1, 2, 2
    kept = largest_parts(labels)
    assert set(map(tuple, np.argwhere(kept == 1))) == {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert set(map(tuple, np.argwhere(kept == 2))) == {(6, 6), (6, 7)}
