"""The control without which no number means anything: the source's mean label, whatever the picture shows."""

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
from desam_lite.model.weights import find_weights, read_tensors
from desam_lite.training.method import (
    TENSORS,
    Predictor,
    SlicePrediction,
    combine_organs,
    require_shapes,
    save_tensors,
)

_GRID = (24, 64, 64)
_THRESHOLDS = np.arange(0.1, 0.75, 0.05)


class Prior(Predictor):
    """The control that looks at no picture: the source's mean label, the same for every case.

    Args:
        mean: Share of the training cases that have each organ at each place of one grid, ``(Z, K, H, W)`` float32, by
            fraction of the volume along each axis.
        thresholds: Of each organ.
    """

    def __init__(self, mean: npt.NDArray[np.float32], thresholds: Sequence[float]):
        self.mean, self.thresholds = mean, list(thresholds)

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it from the training cases; the specification has nothing to say."""
        return cls.fit(cases, n_organs)

    @classmethod
    def fit(cls, cases: Sequence[CaseSlices], n_organs: int) -> Self:
        """Average the labels of the training cases of the source, ``n_organs`` of them.

        The threshold is the one of the highest mean Dice on those same cases, so the control is as strong as position allows.
        Without any case it expects nothing anywhere, until `load` tells it more.
        """
        if not cases:
            return cls(np.zeros((_GRID[0], n_organs, *_GRID[1:]), np.float32), [0.5] * n_organs)
        maps = [_resize(organ_maps(case.labels, n_organs).numpy(), _GRID) for case in cases]
        stack = np.stack(maps)  # (cases, Z, K, H, W)
        mean = stack.mean(axis=0)
        return cls(mean, [_best_threshold(stack[:, :, k] > 0.5, mean[:, k]) for k in range(n_organs)])

    def load(self, directory: Path) -> None:
        """Read what `save` wrote.

        Raises:
            StudyError: The file is missing, damaged, or of something else.
        """
        tensors = read_tensors(find_weights(directory / TENSORS))
        expected = {"mean": torch.Size(self.mean.shape), "thresholds": torch.Size((len(self.thresholds),))}
        require_shapes(directory, tensors, expected)
        self.mean, self.thresholds = tensors["mean"].numpy(), tensors["thresholds"].tolist()

    def predict(
        self, images: npt.NDArray[np.uint8], embeddings: ReadEmbeddings | None
    ) -> Iterator[SlicePrediction]:
        """Draw the thresholded mean label on the grid of the scan."""
        unjudged = np.full(len(self.thresholds), np.nan, np.float32)
        for probability in self.maps(images.shape):
            yield SlicePrediction(combine_organs(probability - self.cut + 0.5), probability, unjudged)

    def maps(self, grid: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return the mean label on the grid ``(Z, H, W)`` of a scan: ``(Z, K, H, W)``."""
        return _resize(self.mean, grid)

    @property
    def cut(self) -> npt.NDArray[np.float32]:
        """The threshold of each organ's map, ``(K, 1, 1)``."""
        return np.asarray(self.thresholds, dtype=np.float32)[:, None, None]

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
