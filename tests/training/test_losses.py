"""The losses that methods share, against a calculation by hand."""

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from desam_lite.training.losses import IoULoss, mask_loss


def test_mask_loss_is_that_of_a_hand_calculation() -> None:
    logits = torch.log(torch.tensor([[[[4.0, 1.0], [0.25, 1.0]]]]))  # probabilities 0.8, 0.5, 0.2, 0.5
    masks = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    dice = 1 - (2 * (0.8 + 0.2) + 1e-5) / (0.64 + 0.25 + 0.04 + 0.25 + 2 + 1e-5)
    entropy = -(np.log(0.8) + np.log(0.5) + np.log(0.2) + np.log(0.5)) / 4
    assert mask_loss(logits, masks).item() == pytest.approx(dice + entropy, rel=1e-5)
    assert mask_loss(logits, masks, "dice").item() == pytest.approx(dice, rel=1e-5)


def test_both_mask_losses_are_monais_with_the_arguments_of_the_public_code() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4, 1, 8, 8, generator=generator)
    masks = (torch.rand(4, 1, 8, 8, generator=generator) < 0.3).float()
    masks[0] = 0
    dice = DiceLoss(sigmoid=True, squared_pred=True)
    assert mask_loss(logits, masks, "dice").item() == pytest.approx(dice(logits, masks).item(), rel=1e-6)
    both = DiceCELoss(
        sigmoid=True, squared_pred=True
    )  # MONAI since 1.3 takes the cross-entropy of one channel for binary
    assert mask_loss(logits, masks, "dice_ce").item() == pytest.approx(both(logits, masks).item(), rel=1e-6)


def test_the_softmax_cross_entropy_of_a_single_channel_is_nothing() -> None:
    """What MONAI 1.1.0, which the public code pins, adds to Dice."""
    logits, masks = torch.randn(2, 1, 4, 4), (torch.rand(2, 1, 4, 4) < 0.5).float()
    assert torch.nn.CrossEntropyLoss()(logits, masks).item() == 0


def test_mask_loss_is_the_mean_over_slices_and_organs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 8, 8, generator=generator)
    masks = (torch.rand(3, 2, 8, 8, generator=generator) < 0.4).float()
    each = [
        mask_loss(logits[b : b + 1, k : k + 1], masks[b : b + 1, k : k + 1])
        for b in range(3)
        for k in range(2)
    ]
    assert mask_loss(logits, masks).item() == pytest.approx(
        float(np.mean([e.item() for e in each])), rel=1e-5
    )


def test_an_empty_slice_drawn_empty_costs_nothing() -> None:
    assert mask_loss(torch.full((1, 1, 4, 4), -40.0), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(
        0, abs=1e-4
    )


@pytest.mark.parametrize(("kind", "expected"), [("l1", 2 * (0.5 + 0.1) / 2), ("mse", 2 * (0.25 + 0.01) / 2)])
def test_the_loss_of_the_iou_head_is_its_weighted_distance(kind: str, expected: float) -> None:
    loss = IoULoss(kind, 2.0)(torch.tensor([[0.5], [0.9]]), torch.tensor([[0.0], [1.0]]))  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
