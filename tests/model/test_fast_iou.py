"""Scoring many prompts at once is what PRIM says of each, but for rounding."""

import pytest
import torch
from small_model import MICRO, random_embeddings
from torch import nn

from desam_lite.model.decoder import PRIM
from desam_lite.model.fast_iou import score_many
from desam_lite.model.predictor import point_grid
from desam_lite.model.sam import BackboneSpec, build_prompt_encoder, get_backbone


def scored(spec: BackboneSpec, n_classes: int, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of `score_many` and of `PRIM.forward`, with every weight and norm drawn at random."""
    torch.manual_seed(0)
    prim, prompts = PRIM(spec, n_classes, iou_head=True).eval(), build_prompt_encoder(spec).eval()
    for parameter in prim.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.5)  # new norms are 1 and 0: a forgotten one would go unseen
        else:
            parameter.data.mul_(2)  # attention that picks, so that prompts differ
    neck = random_embeddings(spec=spec).neck
    with torch.no_grad():
        labels = torch.ones(points.shape[:2])
        sparse, dense = prompts(points=(points, labels), boxes=None, masks=None)
        position = prompts.get_dense_pe()
        fast = score_many(prim, neck, position, sparse, dense[:1])
        slow = prim(neck, position, sparse, dense)[1]
    return fast, slow


@pytest.mark.parametrize("n_classes", [1, 3, 6])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_scores_of_a_grid_are_those_of_prim(side: int, n_classes: int) -> None:
    fast, slow = scored(MICRO, n_classes, point_grid(side, 32, 20)[:, None])
    assert fast.shape == (side * side, n_classes)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    assert side == 1 or fast.std(dim=0).min() > 1e-3  # prompts do differ


def test_scores_of_several_points_per_prompt_and_of_the_small_backbone_are_those_of_prim() -> None:
    points = torch.rand(7, 3, 2, generator=torch.Generator().manual_seed(1)) * 128
    fast, slow = scored(get_backbone("sam_tiny"), 2, points)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
