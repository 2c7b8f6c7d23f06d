"""The whole model at work: four slices learnt by heart, predicted again without any human prompt."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from desam_lite.data.datasets import Batch
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.model.build import build_desam
from desam_lite.model.predictor import GridSettings, predict_slice
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import BACKBONES, get_backbone, preprocess
from desam_lite.training.losses import IoULoss

SIDE = 128
MOST_STEPS = 900


def four_slices() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy slices ``(4, 128, 128)`` uint8 with an ellipse somewhere, and its mask ``(4, 1, 64, 64)``."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres, radii = rng.uniform(40, 88, (4, 2)), rng.uniform(18, 32, (4, 2))
    inside = np.stack(
        [((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 < 1 for c, r in zip(centres, radii, strict=True)]
    )
    images = np.clip(rng.normal(90, 12, inside.shape) + 50 * inside, 0, 255).astype(np.uint8)
    masks = torch.from_numpy(inside[:, None].astype(np.float32))
    return torch.from_numpy(images), torch.nn.functional.interpolate(
        masks, (SIDE // 2, SIDE // 2), mode="nearest-exact"
    )


@pytest.mark.parametrize("mode", ["points", "box"])
def test_four_slices_are_learnt_by_heart(
    mode: Literal["points", "box"], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(get_backbone("sam_tiny"), image_size=SIDE)  # at half its side: a quarter of the work
    monkeypatch.setitem(BACKBONES, "sam_tiny", small)
    images, masks = four_slices()
    model = build_desam("sam_tiny", seed=1)
    method = DeSAMMethod(model, mode, GridSettings(min_area=0), IoULoss("mse", 10.0))
    embeddings = model.encode(preprocess(images, SIDE))
    batch = Batch(("a", "b", "c", "d"), masks, ((64, 64),) * 4, embeddings=embeddings)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(MOST_STEPS):
        drawn = method.prepare(batch, [np.random.default_rng([step, k]) for k in range(4)], augment=True)
        loss = method.loss(method.module, drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49 and worst_dice(method, embeddings, masks) > 0.97:
            return
    pytest.fail(f"after {MOST_STEPS} steps the worst Dice is {worst_dice(method, embeddings, masks):.3f}")


def worst_dice(method: DeSAMMethod, embeddings: ImageEmbeddings, masks: torch.Tensor) -> float:
    """Return the lowest Dice of the four slices, predicted as a new scan is."""
    method.module.eval()
    truth = torch.nn.functional.interpolate(masks, (SIDE, SIDE), mode="nearest-exact")[:, 0].numpy() > 0
    scores = []
    for k in range(4):
        predicted = predict_slice(method.model, embeddings[k], method.mode, (SIDE, SIDE), method.grid).mask[0]
        scores.append(2 * (predicted & truth[k]).sum() / (predicted.sum() + truth[k].sum()))
    method.module.train()
    return float(min(scores))
