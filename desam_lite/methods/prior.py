"""The control without which no number means anything: the source's mean label, whatever the scan."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from desam_lite.data.datasets import organ_maps
from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.methods.run_spec import RunSpec
from desam_lite.training.method import (
    Predictor,
    SlicePrediction,
    Volume,
    combine_organs,
    load_tensors,
    save_tensors,
)

_MEAN_GRID = (24, 64, 64)  # of the mean label: a coarse volume, Z x H x W
_THRESHOLDS = np.arange(0.1, 0.75, 0.05)


class Prior(Predictor):
    """The control that uses no image: the source's mean label, the same for every case, with a threshold for each organ.

    The mean is the share of the training cases that have each organ at each place of one grid, ``(Z, K, H, W)`` float32, by
    fraction of the volume along each axis.
    """

    def __init__(self, mean: npt.NDArray[np.float32], thresholds: Sequence[float]):
        self.mean, self.thresholds = mean, list(thresholds)

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it from the training cases; no setting changes it."""
        return cls.fit(cases, n_organs)

    @classmethod
    def fit(cls, cases: Sequence[CaseSlices], n_organs: int) -> Self:
        """Average the labels of the training cases of the source, ``n_organs`` of them; without any, the mean is 0, for `load`.

        The threshold is the one of the highest mean Dice on those same cases, so the control is as strong as position allows.
        """
        if not cases:
            return cls(np.zeros((_MEAN_GRID[0], n_organs, *_MEAN_GRID[1:]), np.float32), [0.5] * n_organs)
        maps = [_resize(organ_maps(case.labels, n_organs).numpy(), _MEAN_GRID) for case in cases]
        stack = np.stack(maps)  # (cases, Z, K, H, W)
        mean = stack.mean(axis=0)
        return cls(mean, [_best_threshold(stack[:, :, k] > 0.5, mean[:, k]) for k in range(n_organs)])

    def load(self, directory: Path) -> None:
        """Load what `save` wrote."""
        tensors = load_tensors(directory, self._tensors())
        self.mean, self.thresholds = tensors["mean"].numpy(), tensors["thresholds"].tolist()

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the mean label ``(Z, K, H, W)`` and the threshold of each organ."""
        save_tensors(directory, self._tensors(), card)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {"mean": torch.from_numpy(self.mean), "thresholds": torch.tensor(self.thresholds)}

    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Predict the thresholded mean label on the grid of the scan."""
        no_iou = np.full(len(self.thresholds), np.nan, np.float32)
        for probability in self.maps(images.shape):
            yield SlicePrediction(combine_organs(probability - self.cut + 0.5), probability, no_iou)

    def maps(self, grid: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return the mean label on the grid ``(Z, H, W)`` of a scan: ``(Z, K, H, W)``."""
        return _resize(self.mean, grid)

    @property
    def cut(self) -> npt.NDArray[np.float32]:
        """The threshold of each organ's map, ``(K, 1, 1)``."""
        return np.asarray(self.thresholds, dtype=np.float32)[:, None, None]


def _resize(maps: npt.NDArray[np.floating], grid: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Resample ``(Z, K, H, W)`` linearly to the ``(Z, H, W)`` of ``grid``."""
    z, y, x = (new / old for new, old in zip(grid, np.delete(maps.shape, 1), strict=True))
    resized = ndimage.zoom(maps, (z, 1, y, x), order=1, grid_mode=True, mode="nearest")
    return np.asarray(resized, dtype=np.float32)


def _best_threshold(labels: npt.NDArray[np.bool_], mean: npt.NDArray[np.floating]) -> float:
    """Return the threshold of ``mean`` with the highest mean Dice on ``labels`` ``(cases, Z, H, W)``."""

    def dice(threshold: float) -> float:
        mask = mean > threshold
        overlap = (labels & mask).sum((1, 2, 3))
        return float(np.mean(2 * overlap / np.maximum(labels.sum((1, 2, 3)) + mask.sum(), 1)))

    return float(max(_THRESHOLDS, key=dice))
