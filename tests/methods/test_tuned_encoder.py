"""SAM's encoder is run with gradients as segment-anything runs it, and without them as fast as can be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from small_model import MICRO, random_pixels
from test_lora import adapted, an_encoder

from desam_lite.data.datasets import PixelData, list_slices
from desam_lite.data.tasks import open_task
from desam_lite.methods import tuned_encoder
from desam_lite.methods.samed import SAMed
from desam_lite.methods.tuned_encoder import embed_patches, run_encoder
from desam_lite.model.resize import unfit_square
from desam_lite.model.sam import BACKBONES, MedSAMSpec, preprocess
from desam_lite.model.sam_decoder import SAM


def encode(encoder: ImageEncoderViT, pixels: torch.Tensor) -> torch.Tensor:
    return run_encoder(encoder, embed_patches(encoder, pixels))


def test_with_and_without_gradients_the_features_are_segment_anythings() -> None:
    encoder, pixels = an_encoder(), random_pixels()
    expected = encoder(pixels)
    torch.testing.assert_close(encode(encoder, pixels), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encode(encoder, pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_segment_anythings_own_forward(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned_encoder, "_RECOMPUTED_FROM", 0 if recompute else 10**9)
    gradients = []
    for forward in (encode, lambda encoder, pixels: encoder(pixels)):
        encoder = adapted()
        neck = forward(encoder, random_pixels())
        (neck * torch.linspace(-1, 1, neck.numel()).view(neck.shape)).mean().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.requires_grad])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_training_and_prediction_see_slices_as_the_backbone_does(
    tiny_task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "medsam", MedSAMSpec(**vars(MICRO)))
    method = SAMed(SAM("medsam"), 2, 0)
    slices = open_task(*tiny_task, tmp_path, progress=False).slices
    images = slices.load("A", "A0").images
    pixels = preprocess(torch.from_numpy(images), MICRO.image_size, unit_range=True)
    refs = list_slices(slices, "A", ["A0"], "all")
    data = PixelData(slices, refs, 1, size=16, square=MICRO.image_size, unit_range=True)
    seen = data.batch(np.arange(len(images))).images
    assert seen is not None and torch.equal(seen, pixels)
    with torch.no_grad():
        logits = unfit_square(method.module(pixels), images.shape[1:], MICRO.image_size)
    predicted = np.stack([slice_.probability for slice_ in method.predict(images, None)])
    np.testing.assert_allclose(predicted, logits.sigmoid().numpy(), atol=1e-5)
