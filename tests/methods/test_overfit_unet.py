"""Every method on the U-Net learns four slices by heart, whatever it does to them while it learns."""

import pytest
from four_slices import CONVOLUTIONAL, SIDE, four_slices, train_steps, worst_dice

from desam_lite.methods import METHODS

MOST_STEPS = 400


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_four_slices_are_learnt_by_heart(name: str) -> None:
    images, batch = four_slices()
    method = METHODS[name].load()(1, 8, SIDE, 1)
    for first in range(0, MOST_STEPS, 20):
        train_steps(method, batch, 20, first=first)
        if worst_dice(method, images, batch) > 0.97:
            return
    pytest.fail(f"after {MOST_STEPS} steps the worst Dice is {worst_dice(method, images, batch):.3f}")
