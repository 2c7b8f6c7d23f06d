"""SLAug: every class gets intensities of its own, and the gradient says where a milder change of the whole slice stays."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import comb
from torch import nn
from torch.nn import functional

from desam_lite.data.datasets import Batch
from desam_lite.methods.augmentation import augment_batch
from desam_lite.methods.splines import unit_spline_field
from desam_lite.methods.unet import UNetMethod
from desam_lite.training.losses import mask_loss

CURVE_STEPS = 1000  # of a Bezier curve, between which it is taken for straight
SCALE_SD, SCALE_LIMIT = 0.1, 0.1  # of the contrast, about 1
LOCATION_SD = 0.5  # of the brightness, in ranges of the slice
KEPT_TAIL = 20  # per cent of the pixels that may be clipped at either end, at most
DARK = 0.01  # of the range: what is darker has no class and stays as it is
SALIENCY_CELLS = 3  # along a side, in which the gradient is averaged
SALIENCY_ORDER = 2  # of the spline that smooths the cells

Values = npt.NDArray[np.float64]


def bezier_curve(values: Values, inner: npt.NDArray[np.floating[Any]], *, inverted: bool = False) -> Values:
    """Map intensities ``(n,)`` along a cubic Bezier curve from their darkest to their brightest, or inverted; their range stays.

    The inner control points ``(2, 2)``, x and y of each, are fractions of the range, in which the curve is monotone.
    """
    low, high = values.min(), values.max()
    t = np.linspace(0, 1, CURVE_STEPS + 1)
    basis = np.stack([comb(3, k) * t**k * (1 - t) ** (3 - k) for k in range(4)])
    ends = np.array([[0, 1], [1, 0]]) if inverted else np.array([[0, 0], [1, 1]])
    x, y = np.vstack([ends[:1], inner, ends[1:]]).T @ basis * (high - low) + low
    return np.asarray(np.interp(values, x, y), dtype=np.float64)


def change_intensities(values: Values, rng: np.random.Generator, p_inverted: float) -> Values:
    """Map intensities ``(n,)`` between 0 and 1 along a random curve, then change their contrast and brightness at random."""
    inverted = bool(rng.random() < p_inverted)
    curved = bezier_curve(values, rng.random((2, 2)), inverted=inverted)
    scale = np.clip(rng.normal(1, SCALE_SD), 1 - SCALE_LIMIT, 1 + SCALE_LIMIT)
    dark, bright = np.percentile(curved, [KEPT_TAIL, 100 - KEPT_TAIL])
    location = np.clip(rng.normal(0, LOCATION_SD), -dark, 1 - bright)
    changed: Values = np.clip(scale * curved + location, 0, 1)
    return changed


def restyle(image: Values, masks: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[Values, Values]:
    """Return a slice ``(S, S)``, 0 to 1, with all its intensities changed alike, and one with those of each class on their own.

    In the second the background, what is in none of the masks ``(K, S, S)``, is always inverted, an organ with a probability of
    1/2; black stays black.
    """
    alike = change_intensities(image.ravel(), rng, 0.0).reshape(image.shape)
    by_class = image.copy()
    for region, p_inverted in [(~masks.any(axis=0), 1.0), *((mask, 0.5) for mask in masks)]:
        if region.any():
            by_class[region] = change_intensities(image[region], rng, p_inverted)
    return alike, np.where(image <= DARK, image, by_class)


def saliency_map(gradient: torch.Tensor) -> torch.Tensor:
    """Return a smooth map from 0 to 1 of where the loss depends most on the slice, from its gradient; both ``(B, 1, S, S)``."""
    cells = functional.adaptive_avg_pool2d(gradient.abs(), SALIENCY_CELLS)
    # A spline's outermost control points lie outside of the slice.
    control = functional.pad(cells, (1, 1, 1, 1), mode="replicate")[:, 0]
    return unit_spline_field(control, gradient.shape[-1], SALIENCY_ORDER)


class SLAug(UNetMethod):
    """Saliency-balancing location-scale augmentation (Su et al., AAAI 2023).

    Of a slice ``(1, S, S)`` two are made: one whose intensities are all changed alike, one where every class has a change of its
    own. The gradient of the loss on the first says where it stays; elsewhere the second comes in. The loss is that of the first
    plus that of the fused slice.
    """

    paper: ClassVar[str] = "slaug"
    defaults_from: ClassVar[str] = (
        "the public code of the authors (Kaiseem/SLAug): cubic curves, contrast within 0.9 to 1.1, a brightness of SD 0.5, and "
        "the 3 x 3 cells of its abdominal runs (its cardiac runs have 18 x 18)"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "this study's U-Net, rate, length and batch, not an EfficientNet-b2 U-Net over 2000 epochs of batch 32",
        "intensities are counted from the darkest to the brightest of the slice, not of the volume; in the public code they do "
        "not fill 0 to 1, as the source's mean stands in for its standard deviation",
        "no affine, elastic or gamma augmentation after it, as the authors have; one chosen for all methods comes before",
        "the saliency lies cell by cell over the slice; in the public code half a cell is cut off at each side and the rest "
        "stretched, fading at the rim",
        "the gradient of the saliency is computed by a pass of its own, in float32 whatever the precision of the training",
        "one map per organ with a sigmoid, not a softmax over classes",
    )

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Add the two restyled versions of the training slices; validation slices stay as they are."""
        if not augment:
            return batch
        batch = augment_batch(batch, generators, self.augmentation)
        assert batch.images is not None
        images, masks = batch.images[:, 0].numpy().astype(np.float64), batch.masks.numpy() > 0.5
        low, high = (extreme(images, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
        scale = np.maximum(high - low, 1e-6)
        rows = zip((images - low) / scale, masks, generators, strict=True)
        changed = np.stack([restyle(*row) for row in rows], axis=1) * scale + low  # (2, B, S, S)
        alike, by_class = torch.from_numpy(changed.astype(np.float32))[:, :, None]
        return replace(batch, drawn={"alike": alike, "by_class": by_class})

    def fuse(self, batch: Batch) -> torch.Tensor:
        """Return the slices ``(B, 1, S, S)`` that hold the first version where its loss depends on it, else the second."""
        alike = batch.drawn["alike"].clone().requires_grad_(True)
        with torch.enable_grad():
            loss = mask_loss(self.network(alike), batch.masks)
            (gradient,) = torch.autograd.grad(loss, alike)
        saliency = saliency_map(gradient)
        return saliency * batch.drawn["alike"] + (1 - saliency) * batch.drawn["by_class"]

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss of the slices changed alike plus that of the fused ones."""
        alike, fused = module(torch.cat([batch.drawn["alike"], self.fuse(batch)])).chunk(2)
        return mask_loss(alike, batch.masks) + mask_loss(fused, batch.masks)
