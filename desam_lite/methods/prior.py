"""The control without which no number means anything: the source's mean label, whatever the picture shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from desam_lite.datasets import organ_maps
from desam_lite.embeddings import EmbeddingStore
from desam_lite.methods.base import Predictor, combine_organs, save_tensors
from desam_lite.slices import CaseSlices

_GRID = (24, 64, 64)
_THRESHOLDS = np.arange(0.1, 0.75, 0.05)


class Prior(Predictor):
    """The control that looks at no picture: the source's mean label, the same for every case.

    The training labels are brought to one grid, by fraction of the volume along each axis, and averaged per organ. The
    threshold is the one of the highest mean Dice on those same cases, so the control is as strong as position allows.

    Args:
        cases: Training cases of the source.
        n_organs: K.
    """

    def __init__(self, cases: Sequence[CaseSlices], n_organs: int):
        maps = [_resize(organ_maps(case.labels, n_organs).numpy(), _GRID) for case in cases]
        stack = np.stack(maps)  # (cases, Z, K, H, W)
        self.mean = stack.mean(axis=0)
        self.thresholds = [_best_threshold(stack[:, :, k] > 0.5, self.mean[:, k]) for k in range(n_organs)]

    def predict(self, case: CaseSlices, embeddings: EmbeddingStore | None) -> npt.NDArray[np.uint8]:
        """Return the thresholded mean label on the grid of the case."""
        mean = _resize(self.mean, case.labels.shape)
        margin = np.stack([mean[:, k] - t for k, t in enumerate(self.thresholds)], axis=1)
        return combine_organs(np.asarray(margin + 0.5, dtype=np.float32))

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the mean label ``(Z, K, H, W)`` and the threshold of each organ."""
        tensors = {"mean": torch.from_numpy(self.mean), "thresholds": torch.tensor(self.thresholds)}
        save_tensors(directory, tensors, card)


def _resize(maps: npt.NDArray[np.floating], grid: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Resample ``(Z, K, H, W)`` linearly to the ``(Z, H, W)`` of ``grid``."""
    z, y, x = (new / old for new, old in zip(grid, np.delete(maps.shape, 1), strict=True))
    resized = ndimage.zoom(maps, (z, 1, y, x), order=1, grid_mode=True, mode="nearest")
    return np.asarray(resized, dtype=np.float32)


def _best_threshold(labels: npt.NDArray[np.bool_], mean: npt.NDArray[np.floating]) -> float:
    """Return the threshold of ``mean`` with the highest mean Dice on ``labels`` ``(cases, Z, H, W)``."""

    def dice(threshold: float) -> float:
        drawn = mean > threshold
        overlap = (labels & drawn).sum((1, 2, 3))
        return float(np.mean(2 * overlap / np.maximum(labels.sum((1, 2, 3)) + drawn.sum(), 1)))

    return float(max(_THRESHOLDS, key=dice))
