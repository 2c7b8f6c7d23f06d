"""Four small slices with an ellipse each, and what it takes to learn them by heart with a method on the U-Net."""

import numpy as np
import torch

from desam_lite.data.datasets import Batch, standardise
from desam_lite.methods import METHODS
from desam_lite.methods.unet import UNetMethod

SIDE = 32
CONVOLUTIONAL = tuple(
    name for name, entry in METHODS.items() if "unet_width" in entry.uses and "backbone" not in entry.uses
)
"""The study's methods on the U-Net alone."""


def four_slices(organs: int = 1) -> tuple[np.ndarray, Batch]:
    """Noisy slices ``(4, 32, 32)`` uint8 with a bright ellipse, and the batch of them; a second organ is its left half."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres, radii = rng.uniform(11, 21, (4, 2)), rng.uniform(6, 9, (4, 2))
    pairs = zip(centres, radii, strict=True)
    inside = np.stack([((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 < 1 for c, r in pairs])
    images = np.clip(rng.normal(90, 12, inside.shape) + 50 * inside, 0, 255).astype(np.uint8)
    left = x[None] < centres[:, 0, None, None]
    parts = [inside] if organs == 1 else [inside & left, inside & ~left]
    masks = torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))
    pictures = torch.from_numpy(standardise(images))[:, None]
    return images, Batch(("a", "b", "c", "d"), masks, ((SIDE, SIDE),) * 4, images=pictures)


def streams(step: int, count: int = 4) -> list[np.random.Generator]:
    """One named generator per slice, as the training loop gives them."""
    return [np.random.default_rng([step, number]) for number in range(count)]


def train_steps(
    method: UNetMethod, batch: Batch, steps: int, rate: float = 3e-3, first: int = 0
) -> list[float]:
    """Take some steps of Adam and return their losses."""
    optimizer = torch.optim.Adam(method.parameters(), lr=rate)
    method.module.train()
    losses = []
    for step in range(first, first + steps):
        loss = method.loss(method.module, method.prepare(batch, streams(step), augment=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def worst_dice(method: UNetMethod, images: np.ndarray, batch: Batch) -> float:
    """Return the lowest Dice of slices and organs, predicted as a new scan is."""
    found = np.stack([drawn.labels for drawn in method.predict(images, None)])
    scores = []
    for organ, truth in enumerate(batch.masks.numpy().swapaxes(0, 1) > 0):
        mine = found == organ + 1
        scores += list(2 * (mine & truth).sum((1, 2)) / (mine.sum((1, 2)) + truth.sum((1, 2))))
    return float(min(scores))
