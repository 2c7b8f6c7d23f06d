"""Scoring many prompts at once is what PRIM says of each, but for rounding."""

import pytest
import torch
from small_model import MICRO, random_embeddings, use_micro
from torch import nn

from desam_lite.model.build import build_desam
from desam_lite.model.decoder import PRIM
from desam_lite.model.fast_iou import predict_iou
from desam_lite.model.predictor import point_grid, single_points
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.sam import BackboneSpec, build_prompt_encoder, get_backbone
from desam_lite.model.sam_decoder import SAM


def scored(
    spec: BackboneSpec, n_classes: int, points: torch.Tensor, batch: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of `predict_iou` and of `PRIM.forward`, with every weight and norm drawn at random."""
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
        modules = (prim.transformer, prim.output_tokens, prim.iou_head)
        fast = predict_iou(*modules, neck, position, dense[:1], sparse, batch)[:, :n_classes]
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


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_portions_change_nothing(batch: int) -> None:
    points = torch.rand(7, 1, 2, generator=torch.Generator().manual_seed(1)) * 32
    fast, slow = scored(MICRO, 1, points, batch)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["desam", "no_fusion", "sam"])
@pytest.mark.parametrize("n_classes", [1, 5])
def test_a_model_scores_the_same_with_the_fast_ways_on_and_off(
    kind: str, n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_micro(monkeypatch)
    model = SAM("micro", n_classes) if kind == "sam" else build_desam("micro", kind, n_classes)  # type: ignore[arg-type]
    embeddings, prompts, calls = random_embeddings(), single_points(point_grid(4, 32, 20)), []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda *a, **k: (calls.append(1), decode(*a, **k))[1])
    fast = model.score_prompts(embeddings, prompts, batch=5)
    assert not calls  # no mask was decoded
    monkeypatch.setattr(PromptedSAM, "fast", False)
    torch.testing.assert_close(fast, model.score_prompts(embeddings, prompts, batch=5), rtol=1e-5, atol=1e-5)
    assert len(calls) == 4
