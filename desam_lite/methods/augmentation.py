"""Random augmentation of training slices: nothing, intensities only, as much as in nnU-Net, or another appearance altogether.

Every number is drawn from the slice's own generator, so that an interrupted training continues with the same images; MONAI and
torch do the arithmetic. Slices are ``(1, S, S)`` float, standardised per volume; masks ``(K, S, S)`` float, 0 or 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from desam_lite.data.datasets import Batch
from desam_lite.methods.appearance import recolour, synthesise

Augmentation = Literal["none", "light", "nnunet", "random", "synthetic"]
"""Slices as they are; noise, brightness, contrast and gamma with nnU-Net's probabilities and ranges; all that nnU-Net does to a
2-D slice by default: also rotation, scaling, blur, low resolution, gamma of the inverted image, mirroring along both axes; its
rotation, scaling and mirroring with the appearance of the slice drawn anew (`appearance.recolour`), or with an image of its
labels alone (`appearance.synthesise`)."""

Change = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]

# nnU-Net 2's default trainer (nnUNetTrainer.get_training_transforms), whose default has no elastic deformation. Blur and
# low resolution are drawn for the slice (0.2 and 0.25) and then for each channel (0.5): here there is one channel.
P_ROTATION, P_SCALING, P_NOISE, P_BLUR, P_BRIGHTNESS = 0.2, 0.2, 0.1, 0.2 * 0.5, 0.15
P_CONTRAST, P_LOW_RESOLUTION, P_INVERTED_GAMMA, P_GAMMA, P_MIRROR = 0.15, 0.25 * 0.5, 0.1, 0.3, 0.5
ROTATION = (-math.pi, math.pi)  # of a slice that is not much longer than wide; else 15 degrees
SCALING, NOISE_SD, BLUR_SIGMA = (0.7, 1.4), (0.0, 0.1), (0.5, 1.0)
BRIGHTNESS, CONTRAST, GAMMA, LOW_RESOLUTION = (0.75, 1.25), (0.75, 1.25), (0.7, 1.5), (0.5, 1.0)


def augment_batch(batch: Batch, generators: Sequence[np.random.Generator], kind: Augmentation) -> Batch:
    """Return the batch with images ``(B, 1, S, S)`` and masks ``(B, K, S, S)`` changed, each slice by its own generator."""
    if kind == "none" or batch.images is None:
        return batch
    rows = zip(batch.images, batch.masks, generators, strict=True)
    pairs = [_augment_slice(image, masks, rng, kind) for image, masks, rng in rows]
    images, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return replace(batch, images=images, masks=masks)


def _augment_slice(
    image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator, kind: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "light":
        return _apply(image, rng, _LIGHT_CHANGES), masks
    image, masks = _rotate_and_scale(image, masks, rng)
    if kind == "random":
        image = recolour(image, rng)
    else:
        image = synthesise(image, masks, rng) if kind == "synthetic" else _apply(image, rng, _NNUNET_CHANGES)
    axes = [axis for axis in (-2, -1) if rng.random() < P_MIRROR]
    return image.flip(axes), masks.flip(axes)


def _apply(
    image: torch.Tensor, rng: np.random.Generator, changes: Sequence[tuple[float, Change]]
) -> torch.Tensor:
    for probability, change in changes:
        if rng.random() < probability:
            image = change(image, rng)
    return image


def _rotate_and_scale(
    image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate and scale about the centre of the square, which is padded with 0."""
    angle = rng.uniform(*ROTATION) if rng.random() < P_ROTATION else 0.0
    scale = rng.uniform(*SCALING) if rng.random() < P_SCALING else 1.0
    if angle == 0.0 and scale == 1.0:
        return image, masks
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    both = torch.cat([image, masks])[None]
    theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
    grid = functional.affine_grid(theta, list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, align_corners=False)[0]
    return moved[:1], (moved[1:] > 0.5).float()


def _noise(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    noise = rng.normal(0.0, rng.uniform(*NOISE_SD), image.shape)
    return image + torch.from_numpy(noise.astype(np.float32))


def _blur(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    sigmas = [float(rng.uniform(*BLUR_SIGMA)) for _ in range(2)]
    return _as_tensor(_monai().GaussianSmooth(sigmas)(image))


def _brightness(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return image * _draw_factor(rng, BRIGHTNESS)


def _contrast(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    factor = _draw_factor(rng, CONTRAST) - 1
    return _as_tensor(_monai().ScaleIntensityFixedMean(factor=factor, preserve_range=True)(image))


def _low_resolution(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    scale = rng.uniform(*LOW_RESOLUTION)
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    small = functional.interpolate(image[None], size, mode="nearest-exact")
    return functional.interpolate(small, image.shape[1:], mode="bilinear", align_corners=False)[0]


def _gamma(image: torch.Tensor, rng: np.random.Generator, *, invert: bool = False) -> torch.Tensor:
    change = _monai().AdjustContrast(_draw_factor(rng, GAMMA), invert_image=invert, retain_stats=True)
    return _as_tensor(change(image))


_inverted_gamma = partial(_gamma, invert=True)


def _draw_factor(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a factor: with equal chance from below 1 or from above, as nnU-Net does."""
    low, high = bounds
    return float(rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high))


def _monai() -> Any:
    from monai import transforms  # seconds to import: only a process that augments pays

    return transforms


def _as_tensor(image: Any) -> torch.Tensor:
    """Return MONAI's tensor with metadata as a tensor without."""
    tensor: torch.Tensor = image.as_tensor() if hasattr(image, "as_tensor") else image
    return tensor


_LIGHT_CHANGES = ((P_NOISE, _noise), (P_BRIGHTNESS, _brightness), (P_CONTRAST, _contrast), (P_GAMMA, _gamma))
_NNUNET_CHANGES = (
    (P_NOISE, _noise),
    (P_BLUR, _blur),
    (P_BRIGHTNESS, _brightness),
    (P_CONTRAST, _contrast),
    (P_LOW_RESOLUTION, _low_resolution),
    (P_INVERTED_GAMMA, _inverted_gamma),
    (P_GAMMA, _gamma),
)
