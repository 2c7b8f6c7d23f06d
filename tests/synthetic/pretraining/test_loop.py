"""Pretraining: it learns, goes on exactly where it was stopped, and refuses what does not fit."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import use_micro
from torch.nn import functional

from desam_lite.model.build import build_desam
from desam_lite.model.checkpoints import load_checkpoint
from desam_lite.synthetic.pretraining.loop import Pretraining, run_pretraining
from desam_lite.synthetic.pretraining.losses import (
    border_targets,
    contrast_loss,
    extent_targets,
    mask_losses,
    token_regions,
)
from desam_lite.synthetic.pretraining.probe import _fill_boxes, agreement, iou, probe
from desam_lite.synthetic.pretraining.promptable_sam import INSIDE, NO_POINT, OUTSIDE, fill_promptable
from desam_lite.synthetic.pretraining.prompts import boxes_around, first_prompts, further_clicks, shake_boxes
from desam_lite.synthetic.pretraining.recipe import Recipe
from desam_lite.synthetic.pretraining.scenes import generator_at
from desam_lite.utils.errors import StudyError

CPU = torch.device("cpu")
RECIPE = Recipe(
    "micro",
    steps=6,
    warmup=2,
    decay=2,
    sizes=(16, 32),
    scenes=(2, 1),
    objects=2,
    shares=((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)),
)


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    recipe = Recipe(steps=100, warmup=10, decay=20, learning_rate=1.0)
    rates = [recipe.rate(step, recipe.progress(step, 0.0)) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert rates[100] == 0
    assert all(a > b for a, b in pairwise(rates[80:]))
    longer = replace(recipe, steps=500)
    assert [longer.rate(s, longer.progress(s, 0.0)) for s in range(80)] == rates[:80]


def test_with_minutes_rate_and_sizes_follow_the_time() -> None:
    recipe = Recipe(steps=100, minutes=10, warmup=0, decay=20, learning_rate=1.0, shares=RECIPE.shares)
    assert [recipe.rate(7, recipe.progress(7, m)) for m in (1.0, 7.0, 10.0, 11.0)] == [1.0, 1.0, 0.0, 0.0]
    assert recipe.rate(7, recipe.progress(7, 9.0)) == pytest.approx(0.5)
    sizes = [
        recipe.size(recipe.progress(7, m), generator_at(0, n, CPU)) for m in (0.0, 12.0) for n in range(9)
    ]
    assert sizes == [0] * 9 + [1] * 9


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = Pretraining(RECIPE, CPU)
    expected = [whole.advance() for _ in range(6)]
    first = Pretraining(RECIPE, CPU)
    resumed = [first.advance() for _ in range(3)]
    first.save(tmp_path / "checkpoint.pt")
    second = Pretraining(RECIPE, CPU)
    torch.manual_seed(99)  # what the process has drawn elsewhere does not matter
    second.load(tmp_path / "checkpoint.pt")
    resumed += [second.advance() for _ in range(3)]
    assert resumed == expected
    assert second.images == whole.images
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_the_loss_falls() -> None:
    recipe = replace(RECIPE, steps=60, warmup=5, decay=1, sizes=(16,), scenes=(4,), shares=((1.0,),) * 3)
    run = Pretraining(recipe, CPU)
    losses = [run.advance() for _ in range(60)]
    for name in ("first", "second", "dense"):
        early, late = (sum(loss[name] for loss in part) / 10 for part in (losses[:10], losses[-10:]))
        assert late < 0.97 * early, name


def test_a_run_ends_with_a_log_and_weights_that_desam_reads(tmp_path: Path) -> None:
    run = run_pretraining(RECIPE, tmp_path, CPU, progress=False)
    assert run.step == 6
    assert run.log[-1]["pictures"] == run.images
    assert 0 <= run.log[-1]["box_32"] <= 1
    assert (tmp_path / "log.json").exists()
    run.export(tmp_path / "micro.safetensors")
    model = build_desam("micro")
    load_checkpoint(model, tmp_path / "micro.safetensors", encoder=True)
    for name, value in run.model.image_encoder.state_dict().items():
        assert torch.equal(model.image_encoder.state_dict()[name], value.half().float()), name
    again = run_pretraining(replace(RECIPE, steps=7), tmp_path, CPU, progress=False)
    assert again.step == 7
    assert len(again.log) == 2


def test_shipped_weights_are_where_another_run_can_begin(tmp_path: Path) -> None:
    run = Pretraining(RECIPE, CPU)
    run.advance()
    run.export(tmp_path / "w.safetensors")
    other = Pretraining(replace(RECIPE, seed=2), CPU)
    fill_promptable(other.model, tmp_path / "w.safetensors")
    for name, value in run.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value.half().float()), name


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = Pretraining(RECIPE, CPU)
    run.save(tmp_path / "checkpoint.pt")
    with pytest.raises(StudyError, match=r"was begun with objects = 2, not 3.*another folder"):
        Pretraining(replace(RECIPE, objects=3), CPU).load(tmp_path / "checkpoint.pt")
    (tmp_path / "broken.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(StudyError, match="is no checkpoint of a pretraining"):
        run.load(tmp_path / "broken.pt")
    run.export(tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(
        StudyError, match=r"do not fit this backbone at tensor 'mask_decoder.iou_token.weight'"
    ):
        fill_promptable(run.model, tmp_path / "less.safetensors")


def square() -> torch.Tensor:
    """One object, x from 2 to 4 and y from 3 to 6 of 8 x 8."""
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 3:7, 2:5] = True
    return mask


def test_boxes_are_tight_and_shaken_within_the_picture() -> None:
    assert boxes_around(square(), 2).tolist() == [[[4.0, 6.0, 10.0, 14.0]]]
    shaken = torch.cat(
        [shake_boxes(boxes_around(square(), 2), 16, generator_at(0, n, CPU)) for n in range(50)]
    )
    assert ((shaken - boxes_around(square(), 2)).abs() <= torch.tensor([0.6, 0.8, 0.6, 0.8]) + 1e-5).all()
    assert float(shaken.std(0).min()) > 0.1


def test_first_points_lie_in_the_object_and_further_clicks_where_the_answer_is_wrong() -> None:
    mask, answer = square(), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    answer[0, 0, 3:7, 4:7] = True  # misses x = 2, 3 and overdraws x = 5, 6
    for n in range(20):
        points, kinds = first_prompts(mask, torch.zeros(1, 1, dtype=torch.bool), 2, generator_at(1, n, CPU))
        assert kinds.tolist() == [[[INSIDE, NO_POINT]]]
        x, y = ((points[0, 0, 0] - 0.5) / 2).int().tolist()
        assert mask[0, 0, y, x]
        clicks, sides = further_clicks(mask, answer, 3, 2, generator_at(2, n, CPU))
        for (px, py), side in zip(clicks[0, 0].tolist(), sides[0, 0].tolist(), strict=True):
            at = (0, 0, int(py) // 2, int(px) // 2)
            assert mask[at] != answer[at]
            assert side == (INSIDE if mask[at] else OUTSIDE)


def test_mask_losses_are_cross_entropy_and_dice() -> None:
    mask = square()
    logits = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    losses, ious = mask_losses(logits, mask)
    target = mask[0, 0].float()
    share = float(target.mean())
    weights = torch.where(target > 0, 0.5 / share, 0.5 / (1 - share))
    for k in range(4):
        chance = logits[0, 0, k].sigmoid()
        entropy = functional.binary_cross_entropy(chance, target, weights)
        dice = 1 - (2 * (chance * target).sum() + 1) / (chance.sum() + target.sum() + 1)
        assert float(losses[0, 0, k]) == pytest.approx(float(entropy + dice), rel=1e-4)
        predicted = logits[0, 0, k] > 0
        assert float(ious[0, 0, k]) == pytest.approx(
            float((predicted & mask[0, 0]).sum() / (predicted | mask[0, 0]).sum())
        )
    assert torch.equal(iou(logits[:, :, 0] > 0, mask), ious[:, :, 0])


def test_the_contrast_loss_wants_regions_alike_under_both_contrasts() -> None:
    regions = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, -1]]])
    told = functional.one_hot(regions.clamp(min=0), 2).permute(0, 3, 1, 2).float()
    turned = 1 - told
    noise = torch.randn(1, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    assert float(contrast_loss(told, told, regions)) < 0.01
    assert float(contrast_loss(told, noise, regions)) > 0.3
    assert float(contrast_loss(told, turned, regions)) > 5  # the same partition, told the other way round


def test_dense_targets_are_regions_borders_and_extents() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, 8:24, 16:32] = 5
    assert token_regions(labels, 8)[0].tolist() == [[0] * 4, [0, 0, 5, 5], [0, 0, 5, 5], [0] * 4]
    reach, there = extent_targets(labels, 8, 5, 6)
    assert there[0].sum() == 4
    assert (reach[0, :, 1, 2] * 32).tolist() == [4.0, 4.0, 11.0, 11.0]
    borders = border_targets(labels, 8)
    assert borders.shape == (1, 16, 4, 4)
    assert borders[0, :, 3, 0].sum() == 0
    assert borders[0, :, 1, 1].reshape(4, 4).tolist() == [[0, 0, 0, 1]] * 4


def test_a_filled_box_is_everything_between_the_ends() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 2, 3] = mask[0, 0, 5, 6] = True
    expected = torch.zeros_like(mask)
    expected[0, 0, 2:6, 3:7] = True
    assert torch.equal(_fill_boxes(mask), expected)


def test_agreement_counts_nearest_tokens_of_the_same_region_elsewhere() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, :, 32:] = 1
    told = functional.one_hot(labels[:, ::8, ::8], 2).permute(0, 3, 1, 2).float()
    noise = 1e-3 * torch.randn(told.shape, generator=torch.Generator().manual_seed(0))
    assert float(agreement(told + noise, told, labels, 8).mean()) == 1
    assert float(agreement(told + noise, 1 - told, labels, 8).mean()) == 0


def test_the_shipped_weights_answer_on_held_out_scenes_better_than_no_training_and_a_filled_box() -> None:
    run = Pretraining(Recipe(), torch.device("cpu"))
    settings = {"batches": 2, "clicks": 3}
    untrained = probe(run.model.eval(), 256, **settings)
    fill_promptable(run.model, "shipped")
    shipped = probe(run.model.eval(), 256, **settings)
    assert shipped["box"] > max(untrained["box"] + 0.4, shipped["filled_box"])
    assert shipped["best_of_three"] > untrained["best_of_three"] + 0.25
    assert shipped["contrast"] > untrained["contrast"]
