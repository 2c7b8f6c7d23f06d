"""On a machine without a GPU: tensors that only pretend to be on one show whether everything that meets is on the same device."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from small_model import MICRO, use_micro
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from desam_lite.data.datasets import Batch
from desam_lite.data.embedding_files import Format, as_stored
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import AutomaticMode
from desam_lite.model.predictor import GridSettings, point_grid
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.sam import preprocess

CUDA = torch.device("cuda")
MODES: tuple[AutomaticMode, ...] = ("points", "box")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeSAM]:
    """A model whose weights pretend to be on a GPU, while everything new pretends too."""
    use_micro(monkeypatch)
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, *_args, **_kwargs: self
    )  # pretended weights cannot be moved
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        with CUDA:
            built = build_desam("micro")
        yield built


def maps(count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> ImageEmbeddings:
    widths = (MICRO.width, MICRO.width, MICRO.width, MICRO.neck)
    first, second, third, neck = (
        torch.empty(count, width, MICRO.grid, MICRO.grid, device=device, dtype=dtype) for width in widths
    )
    return ImageEmbeddings((first, second, third), neck)


def test_slices_are_encoded_and_stored_where_the_model_is(model: DeSAM) -> None:
    slices = torch.zeros(2, 20, 30, dtype=torch.uint8, device=CUDA)
    embeddings = model.encode(preprocess(slices, model.image_size))
    formats: tuple[Format, ...] = ("float16", "bfloat16", "float8", "float32")
    for fmt in formats:
        stored = as_stored(embeddings, fmt)
        assert {m.device.type for m in (*stored.levels, stored.neck)} == {"cuda"}


@pytest.mark.parametrize("fast", [True, False])
def test_prompts_from_the_processor_are_decoded_and_scored_on_the_gpu(model: DeSAM, fast: bool) -> None:
    model.fast = fast
    points = point_grid(3, model.image_size, model.image_size)
    prompts = Prompts.points(points[:, None], torch.ones(len(points), 1))
    embeddings = maps(1, CUDA)
    for given in (prompts, Prompts.whole_image()):
        decoded = model.decode(embeddings, given)
        assert decoded.iou is not None
        assert {decoded.mask_logits.device.type, decoded.iou.device.type} == {"cuda"}
    assert model.score_prompts(embeddings, prompts).device.type == "cuda"


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_read_from_disk_meets_the_model_on_the_gpu_in_float32(
    mode: AutomaticMode, model: DeSAM
) -> None:
    method = DeSAMMethod(model, mode, GridSettings())
    side = method.mask_size
    stored = maps(2, torch.device("cpu"), torch.float16)
    batch = Batch(("a", "b"), torch.zeros(2, 1, side, side), ((side, side),) * 2, embeddings=stored)
    prompts = Prompts.whole_image(2)
    if mode == "points":
        prompts = Prompts.points(torch.zeros(2, 1, 2), torch.ones(2, 1))
        batch = replace(batch, iou_targets=torch.zeros(2, 1))
    moved = replace(batch, prompts=prompts).to(CUDA)
    assert moved.embeddings is not None
    assert (moved.embeddings.neck.device.type, moved.embeddings.neck.dtype) == ("cuda", torch.float32)
    assert method.loss(method.module, moved).device.type == "cuda"
