"""The zero-shot grid finds the masks that segment-anything's own automatic generator finds on the same model."""

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from small_model import MICRO, use_micro

from desam_lite.methods import automatic_masks as automatic
from desam_lite.methods.automatic_masks import Candidates, automatic_masks
from desam_lite.model.predictor import GridSettings, point_grid, single_points
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import SAM_MASKS, preprocess
from desam_lite.model.sam_decoder import SAM

SIZES = [
    (32, 32),
    (24, 32),
    (32, 20),
]  # the longest side is the model's square: nothing is rescaled before encoding


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def varied_sam(seed: int) -> SAM:
    """A SAM of random weights whose points give masks of many sizes, steadiness and judgement."""
    model, generator = SAM("micro", seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.mask_decoder.named_parameters():
            spread = 0.3 if parameter.ndim == 1 else 0.1
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
            if "hypernetworks" in name and name.endswith("layers.2.weight"):
                parameter.mul_(12)
        model.mask_decoder.iou_prediction_head.layers[-1].bias.add_(
            5
        )  # theirs does not filter by a threshold below 0
    return model


def theirs(model: SAM, image: np.ndarray, grid: GridSettings) -> list[dict]:
    generator = SamAutomaticMaskGenerator(
        Sam(model.image_encoder, model.prompt_encoder, model.mask_decoder).eval(),
        points_per_side=grid.points_per_side,
        pred_iou_thresh=grid.iou_threshold,
        stability_score_thresh=grid.stability_threshold,
        box_nms_thresh=automatic.OVERLAP,
    )
    return generator.generate(np.repeat(image[..., None], 3, axis=2))


def ours(model: SAM, image: np.ndarray, grid: GridSettings) -> Candidates:
    return automatic_masks(model, embed(model, image), image.shape, grid)  # type: ignore[arg-type]


def embed(model: SAM, image: np.ndarray) -> ImageEmbeddings:
    return model.encode(preprocess(torch.from_numpy(image)[None], MICRO.image_size))


def between(values: torch.Tensor, share: float) -> float:
    """A threshold about ``share`` of the way through the values, in a gap wide enough for rounding not to decide."""
    ordered = values[torch.isfinite(values)].flatten().sort().values
    wide = (ordered.diff() > 1e-4).nonzero()[:, 0]
    gap = int(wide[(wide - share * len(ordered)).abs().argmin()])
    return float(ordered[gap : gap + 2].mean())


@torch.no_grad()
def thresholds(model: SAM, image: np.ndarray, side: int, share: float) -> tuple[float, float]:
    """IoU and stability that about ``share`` of the guesses do not reach."""
    height, width = image.shape
    points = point_grid(side, width, height)
    out = model.decode(embed(model, image), single_points(points), n_masks=SAM_MASKS)
    logits = torch.nn.functional.interpolate(out.mask_logits, (32, 32), mode="bilinear")[..., :height, :width]
    steady = (logits > 1).sum((2, 3)) / (logits > -1).sum((2, 3))
    assert out.iou is not None
    return between(out.iou[:, 1:], share), between(steady[:, 1:], share)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overlap", [0.7, 1.0])  # 1: all that pass the other filters are compared
def test_the_masks_are_those_of_segment_anything(
    size: tuple[int, int], seed: int, overlap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "OVERLAP", overlap)
    model = varied_sam(seed)
    image = np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8)
    side, share = 3 + seed % 4, 0.2 + 0.1 * (seed % 3)
    iou, stability = thresholds(model, image, side, share)
    grid = GridSettings(side, iou_threshold=iou, stability_threshold=stability, batch=1 + seed)
    expected, found = theirs(model, image, grid), ours(model, image, grid)
    assert len(found.iou) == len(expected) > 0
    np.testing.assert_allclose(found.iou, [one["predicted_iou"] for one in expected], atol=1e-4)
    for logits, one, point in zip(found.logits, expected, found.points, strict=True):
        assert (logits > 0).sum() == one["area"]
        np.testing.assert_array_equal(logits > 0, one["segmentation"])
        np.testing.assert_allclose(point, one["point_coords"][0], atol=1e-4)


def test_the_filters_bite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any of the three, other masks come: the agreement above is not for want of anything to filter."""
    model, image = varied_sam(0), np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)
    iou, stability = thresholds(model, image, 5, 0.3)
    assert len(ours(model, image, GridSettings(5, 0.0, 0.0)).iou) < 75  # of 25 points with three guesses each
    monkeypatch.setattr(automatic, "OVERLAP", 1.0)
    badly_judged = ours(model, image, GridSettings(5, 0.0, stability))
    assert badly_judged.iou.min() < iou
    unsteady = ours(model, image, GridSettings(5, iou, 0.0)).logits
    assert ((unsteady > 1).sum((1, 2)) < stability * (unsteady > -1).sum((1, 2))).any()


@pytest.mark.parametrize("grid", [GridSettings(3, iou_threshold=99.0), GridSettings(3, 0.0, 1.1)])
def test_where_nothing_is_good_enough_nothing_is_found(grid: GridSettings) -> None:
    model, image = varied_sam(1), np.zeros((24, 32), np.uint8)
    found = ours(model, image, grid)
    assert found.logits.shape == (0, 24, 32) and found.iou.shape == (0,) and found.points.shape == (0, 2)
