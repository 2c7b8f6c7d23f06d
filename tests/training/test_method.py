"""What every method gives back: organ ids from probabilities, and tensors that fit its card."""

from pathlib import Path

import numpy as np
import pytest
import torch

from desam_lite.training.method import SlicePrediction, combine_organs, load_tensors, save_tensors
from desam_lite.utils.errors import StudyError


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_organs_are_combined_by_the_likeliest_above_a_half(shape: tuple[int, ...]) -> None:
    probability = np.random.default_rng(0).random(shape).astype(np.float32)
    predicted = combine_organs(probability)
    assert predicted.shape == (*shape[:-3], *shape[-2:])
    for place in np.ndindex(predicted.shape):
        *slices, y, x = place
        values = [float(probability[(*slices, k, y, x)]) for k in range(3)]
        assert predicted[place] == (values.index(max(values)) + 1 if max(values) > 0.5 else 0)


def test_a_prediction_without_iou_has_nan_for_every_organ() -> None:
    made = SlicePrediction.from_probability(np.full((2, 3, 3), 0.9, np.float32))
    assert (made.labels == 1).all() and np.isnan(made.iou).all() and made.iou.shape == (2,)


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"a": (2, 3)}, r"tensor 'a' has shape \(3, 2\), not \(2, 3\)"),
        ({"a": (3, 2), "b": (1,)}, r"tensor 'b' has shape none, not \(1,\)"),
        ({}, r"tensor 'a' has shape \(3, 2\), not none"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    expected: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    save_tensors(tmp_path, {"a": torch.ones(3, 2)}, {})
    with pytest.raises(StudyError, match=words):
        load_tensors(tmp_path, {name: torch.zeros(shape) for name, shape in expected.items()})
