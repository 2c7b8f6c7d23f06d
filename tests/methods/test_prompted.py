"""Prompted methods: the prompts they are trained with, their losses, what is saved, and what they predict."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from desam_lite.data.datasets import Batch, EmbeddingData, list_slices
from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import CaseSlices
from desam_lite.data.tasks import Task
from desam_lite.methods import METHODS
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.methods.prior import Prior
from desam_lite.methods.prompted import draw_point
from desam_lite.methods.run_spec import make_spec
from desam_lite.methods.unet import UNetMethod
from desam_lite.model.build import build_desam
from desam_lite.model.predictor import GridSettings, predict_slice
from desam_lite.training.losses import mask_loss
from desam_lite.training.method import Method

CPU = torch.device("cpu")
GRID = GridSettings(points_per_side=2, iou_threshold=0.0, stability_threshold=0.0, min_area=20)


def desam(mode: str = "points", variant: str = "desam", organs: int = 1, seed: int = 0) -> DeSAMMethod:
    return DeSAMMethod(build_desam("micro", variant, organs, seed=seed), mode, GRID)


def a_batch(task: Task, store: EmbeddingStore, organs: int = 1) -> Batch:
    refs = list_slices(task.slices, "A", ["A0", "A1"], "foreground")
    data = EmbeddingData(store, refs, organs, size=16, square=32, device=CPU, placement="memory")
    return data.batch(np.arange(4))


def drawn_by(method: Method, case: CaseSlices, store: EmbeddingStore) -> np.ndarray:
    """Organ ids (Z, H, W)."""
    stored = partial(store.load, case.domain, case.case)
    return np.stack([predicted.labels for predicted in method.predict(case.images, stored)])


def streams(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(count)]


# DeSAM's prompts


def two_organs() -> np.ndarray:
    """Masks (2, 12, 20): an organ at the left, a smaller one at the bottom right."""
    masks = np.zeros((2, 12, 20), np.float32)
    masks[0, 2:9, 1:6] = 1
    masks[1, 9:11, 15:19] = 1
    return masks


def test_points_are_drawn_inside_and_outside_with_equal_chance() -> None:
    masks = two_organs()
    places = np.array([draw_point(masks, rng) for rng in streams(2000)])
    inside = masks.any(axis=0)[places[:, 1], places[:, 0]]  # (x, y): the first is the column
    assert inside.mean() == pytest.approx(0.5, abs=0.04)
    area = masks[0].sum() / masks.any(axis=0).sum()
    assert masks[0][places[inside, 1], places[inside, 0]].mean() == pytest.approx(area, abs=0.04)
    outside = {tuple(place) for place in places[~inside]}
    assert len(outside) > 0.95 * (~masks.any(axis=0)).sum()  # it is drawn from everywhere


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_slice_of_one_kind_gives_points_of_that_kind(value: float) -> None:
    masks = np.full((1, 4, 6), value, np.float32)
    places = np.array([draw_point(masks, rng) for rng in streams(300)])
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [5, 3]


@pytest.mark.parametrize("organs", [1, 2])
def test_the_prompt_of_a_slice_and_its_target_tell_of_one_place(
    organs: int, task: Task, store: EmbeddingStore
) -> None:
    batch = a_batch(task, store, 1)
    if organs == 2:  # the second organ is what is right of the middle
        right = torch.arange(16)[None, None, None, :] >= 6
        batch = Batch(batch.cases, torch.cat([batch.masks * ~right, batch.masks * right], dim=1), batch.sizes)
    method, seen = desam(organs=organs), set()
    for seed in range(40):
        prepared = method.prepare(batch, streams(4, seed), augment=True)
        assert prepared.prompts is not None and prepared.iou_targets is not None
        assert prepared.prompts.xy is not None and prepared.prompts.labels is not None
        assert prepared.prompts.xy.shape == (4, 1, 2)
        assert prepared.iou_targets.shape == (4, organs)
        assert (prepared.prompts.labels == 1).all()  # whichever place it is: as published
        for row, (x, y) in enumerate(prepared.prompts.xy[:, 0].tolist()):
            assert (
                0 <= y < 32 and 0 <= x < 26
            )  # pixels of the square of 32, on the slice of 40 x 32: 26 columns
            place = int(y // 2), int(x // 2)  # on the mask's grid of 16
            expected = (batch.masks[row, :, place[0], place[1]] > 0.5).float()
            assert torch.equal(prepared.iou_targets[row], expected)
            seen.add(tuple(expected.tolist()))
    assert seen == ({(0.0,), (1.0,)} if organs == 1 else {(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)})


def test_a_box_is_the_whole_image_without_target(task: Task, store: EmbeddingStore) -> None:
    prepared = desam("box").prepare(a_batch(task, store), streams(4), augment=True)
    assert prepared.iou_targets is None
    assert prepared.prompts is not None and prepared.prompts.count == 4
    assert prepared.prompts.xy is None and prepared.prompts.xyxy is None


def test_equal_streams_draw_equal_prompts(task: Task, store: EmbeddingStore) -> None:
    method, batch = desam(), a_batch(task, store)
    drawn = [method.prepare(batch, streams(4, seed), augment=True).prompts for seed in (1, 1, 2)]
    places = [p.xy for p in drawn if p is not None and p.xy is not None]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


# Losses and predictions of every method


def method_and_batch(name: str, task: Task, store: EmbeddingStore) -> tuple[DeSAMMethod, Batch]:
    mode, _, variant = name.partition("-")
    method = desam(mode, variant or "desam")
    return method, method.prepare(a_batch(task, store), streams(4), augment=True)


NAMES = ["points", "box", "points-no_iou_head", "points-no_fusion", "box-pdmm_only"]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns_what_it_is_shown(name: str, task: Task, store: EmbeddingStore) -> None:
    method, batch = method_and_batch(name, task, store)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    method.module.train()
    losses = []
    for _ in range(30):
        loss = method.loss(method.module, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_the_loss_of_points_is_mask_and_iou_and_selection_looks_at_the_mask(
    task: Task, store: EmbeddingStore
) -> None:
    method, batch = method_and_batch("points", task, store)
    assert batch.embeddings is not None and batch.prompts is not None and batch.iou_targets is not None
    out = method.model.decode(batch.embeddings, batch.prompts)
    mask = mask_loss(out.mask_logits, batch.masks, "dice")
    head = (out.iou - batch.iou_targets).abs().mean()
    assert method.validation_loss(method.module, batch).item() == pytest.approx(mask.item(), rel=1e-5)
    assert method.loss(method.module, batch).item() == pytest.approx((mask + head).item(), rel=1e-5)


def test_the_loss_of_a_box_is_the_mask_alone(task: Task, store: EmbeddingStore) -> None:
    method, batch = method_and_batch("box", task, store)
    assert method.loss(method.module, batch).item() == method.validation_loss(method.module, batch).item()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_saved_and_loaded_again(
    name: str, task: Task, store: EmbeddingStore, tmp_path: Path
) -> None:
    method, batch = method_and_batch(name, task, store)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    method.save(tmp_path, {"title": "a card"})
    assert json.loads((tmp_path / "model.json").read_text()) == {"title": "a card"}
    fresh, _ = method_and_batch(name, task, store)
    before = fresh.validation_loss(fresh.module.eval(), batch).item()
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    after, expected = (m.validation_loss(m.module.eval(), batch).item() for m in (fresh, method))
    assert after == expected != before


def test_frozen_parts_are_neither_trained_nor_saved() -> None:
    method = desam()
    names = set(method.state_dict())
    assert names
    assert not any("encoder" in name for name in names)
    assert sum(p.numel() for p in method.parameters()) == sum(t.numel() for t in method.state_dict().values())


def test_tensors_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="other tensors"):
        desam().load_state_dict(desam(variant="no_fusion").state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_is_organ_ids_on_the_grid_of_the_case(
    name: str, task: Task, store: EmbeddingStore
) -> None:
    method, _ = method_and_batch(name, task, store)
    case = task.slices.load("B", "B1")
    predicted = drawn_by(method, case, store)
    assert predicted.shape == case.labels.shape
    assert predicted.dtype == np.uint8
    assert set(np.unique(predicted)) <= {0, 1}
    np.testing.assert_array_equal(predicted, drawn_by(method, case, store))


def test_desam_draws_the_masks_of_its_slices_with_holes_filled(task: Task, store: EmbeddingStore) -> None:
    settings = GridSettings(min_area=3000)  # of 256 x 256: 73 pixels of these slices
    method = DeSAMMethod(build_desam("micro", seed=1), "box", settings)
    case, filled = task.slices.load("B", "B1"), 0
    for z, drawn in enumerate(drawn_by(method, case, store)):
        predicted = predict_slice(method.model, store.load("B", "B1", [z]), "box", (40, 32), settings)
        np.testing.assert_array_equal(drawn == 1, predicted.mask[0])
        filled += int((predicted.mask & (predicted.probability <= 0.5)).sum())
    assert filled > 0


# From a specification


@pytest.mark.parametrize(("trained", "tested"), [("box", "points"), ("points", "box")])
def test_a_model_can_be_tested_with_the_prompt_that_it_was_not_trained_with(
    trained: str, tested: str, task: Task, store: EmbeddingStore
) -> None:
    crossed, usual = (DeSAMMethod(build_desam("micro"), trained, GRID, test_mode=t) for t in (tested, None))
    other = DeSAMMethod(usual.model, tested, GRID)
    batches = [m.prepare(a_batch(task, store), streams(4), augment=True) for m in (crossed, usual)]
    assert (batches[0].iou_targets is None) == (trained == "box")
    assert crossed.loss(crossed.module, batches[0]) == usual.loss(usual.module, batches[1])
    case = task.slices.load("A", "A2")
    assert np.array_equal(drawn_by(crossed, case, store), drawn_by(other, case, store))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"method": "prior"}, Prior),
        ({"method": "unet", "unet_width": 4, "unet_size": 32}, UNetMethod),
        ({"method": "desam", "prompt_mode": "box", "backbone": "micro"}, DeSAMMethod),
        ({"method": "desam", "variant": "no_fusion", "backbone": "micro", "points_per_side": 3}, DeSAMMethod),
    ],
)
def test_a_specification_builds_its_method(
    fields: dict[str, Any], kind: type, task: Task, store: EmbeddingStore
) -> None:
    spec = make_spec(manifest=Path("m"), data_root=Path("d"), source="A", **fields)
    built = METHODS[spec.method](spec, 1, [task.slices.load("A", "A0")])
    assert isinstance(built, kind)
    if isinstance(built, DeSAMMethod):
        assert (built.mode, built.model.variant) == (spec.prompt_mode, spec.variant)
        assert built.grid.min_area == 1000
        assert built.grid.points_per_side == (spec.points_per_side or 1)
        assert (built.input_size, built.mask_size) == (32, 16)
