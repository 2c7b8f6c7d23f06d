"""On the card as on the processor: features, masks, gradients, training, prediction and the synthetic stream.

`pytest -m gpu tests/gpu` runs them where there is a GPU. With DESAM_LITE_GPU_TESTS=cpu they run on the processor against
itself, which rehearses them: bfloat16 and the resumption are then still compared with something.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_tiny_task
from small_model import use_micro

from desam_lite.data.datasets import EmbeddingData, list_slices
from desam_lite.data.embeddings import EmbeddingStore, fill_store
from desam_lite.data.tasks import Task, open_task
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import AutomaticMode
from desam_lite.model.predictor import GridSettings, point_grid, predict_slice
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.synthetic.pretraining.loop import Pretraining
from desam_lite.synthetic.pretraining.recipe import Recipe
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train
from desam_lite.utils.provenance import peak_memory, reset_peak_memory

DEVICE = torch.device(os.environ.get("DESAM_LITE_GPU_TESTS", "cuda"))
CPU = torch.device("cpu")
ON_GPU = DEVICE.type == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        ON_GPU and not torch.cuda.is_available(), reason="there is no GPU here that PyTorch can use"
    ),
]
# Relative to the norm of the result on the processor: float32 adds in another order, bfloat16 has 8 bits.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
PRECISION = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed"}
DTYPES = tuple(TOLERANCE)
SIZE = (200, 256)  # of a slice, in pixels
SIDES = (64, 128) if ON_GPU else (16, 32)  # of images of the synthetic stream, in pixels
MODES: tuple[AutomaticMode, ...] = ("points", "box")
BACKBONE = "sam_tiny" if ON_GPU else "micro"
WEIGHTS = "shipped" if ON_GPU else None


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """float32 shall mean it: convolutions would else be rounded to TF32."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module", autouse=True)
def _models() -> Iterator[None]:
    """Use all cores beside a card, whose reference they compute; make the backbone of a rehearsal known."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1 if ON_GPU else threads)
    with pytest.MonkeyPatch.context() as patch:
        use_micro(patch)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _peak_memory(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Record what each test takes of the card's memory, or of the processor's."""
    reset_peak_memory()
    yield
    peaks = peak_memory()
    record_property("peak_mb", round(peaks.get("gpu_mib", peaks["process_mib"])))


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def distance(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference; a NaN is never close."""
    ours, reference = ours.detach().float().cpu(), reference.detach().float().cpu()
    return float((ours - reference).norm() / reference.norm())


def both(backbone: str = BACKBONE) -> tuple[DeSAM, DeSAM]:
    """The same model on the processor and on the card."""
    weights = WEIGHTS if backbone == BACKBONE else None
    return build_desam(backbone, checkpoint=weights), build_desam(backbone, checkpoint=weights, device=DEVICE)


def draw_pixels(model: DeSAM, count: int) -> torch.Tensor:
    side = model.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def draw_prompts(model: DeSAM, mode: AutomaticMode, count: int) -> Prompts:
    if mode == "box":
        return Prompts.whole_image(count)
    xy = torch.rand(count, 1, 2, generator=torch.Generator().manual_seed(1)) * model.image_size
    return Prompts.points(xy, torch.ones(count, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backbone", [BACKBONE, "vit_b"] if ON_GPU else [BACKBONE])
def test_the_encoder_gives_the_features_of_the_processor(backbone: str, dtype: torch.dtype) -> None:
    reference, model = both(backbone)
    pixels = draw_pixels(reference, 1)
    expected = reference.encode(pixels)
    with autocast(dtype):
        embeddings = model.encode(pixels.to(DEVICE))
    maps = [*zip((*embeddings.levels, embeddings.neck), (*expected.levels, expected.neck), strict=True)]
    assert max(distance(ours, theirs) for ours, theirs in maps) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_the_decoder_gives_the_masks_of_the_processor(mode: AutomaticMode, dtype: torch.dtype) -> None:
    reference, model = both()
    embeddings, prompts = reference.encode(draw_pixels(reference, 2)), draw_prompts(reference, mode, 2)
    with torch.no_grad():
        expected = reference.decode(embeddings, prompts)
        with autocast(dtype):
            decoded = model.decode(embeddings.to(device=DEVICE), prompts)
    assert distance(decoded.mask_logits, expected.mask_logits) < TOLERANCE[dtype]
    assert decoded.iou is not None
    assert distance(decoded.iou, expected.iou) < TOLERANCE[dtype]


def test_points_are_scored_as_on_the_processor_and_as_by_the_decoder() -> None:
    reference, model = both()
    embeddings = reference.encode(draw_pixels(reference, 1))
    points = point_grid(9, reference.image_size, reference.image_size)
    prompts = Prompts.points(points[:, None], torch.ones(len(points), 1))
    expected = reference.score_prompts(embeddings, prompts)
    there = embeddings.to(device=DEVICE)
    assert distance(model.score_prompts(there, prompts), expected) < 1e-4
    with torch.no_grad():
        assert distance(model.decode(there, prompts).iou, expected) < 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_a_slice_gets_the_mask_of_the_processor(mode: AutomaticMode) -> None:
    reference, model = both()
    embeddings = reference.encode(draw_pixels(reference, 1))
    settings = GridSettings(iou_threshold=-1e9, selection="iou")
    expected = predict_slice(reference, embeddings, mode, SIZE, settings)
    prediction = predict_slice(model, embeddings.to(device=DEVICE), mode, SIZE, settings)
    assert np.abs(prediction.probability - expected.probability).max() < 1e-3
    assert (prediction.mask != expected.mask).mean() < 1e-3
    model.fast = False
    plain = predict_slice(model, embeddings.to(device=DEVICE), mode, SIZE, settings)
    assert (plain.mask != prediction.mask).mean() < 1e-3


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A task of two domains with three cases each, checked and prepared."""
    return open_task(
        *write_tiny_task(tmp_path_factory.mktemp("task"), cases=3),
        tmp_path_factory.mktemp("ws"),
        progress=False,
    )


@pytest.fixture(scope="module")
def store(task: Task, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Its embeddings, made on the processor."""
    filled = EmbeddingStore(tmp_path_factory.mktemp("maps"), task.slices, BACKBONE, "none", "float32")
    fill_store(filled, build_desam(BACKBONE, checkpoint=WEIGHTS), progress=False)
    return filled


@pytest.mark.parametrize("fmt", ["float16", "float8"])
def test_embeddings_made_on_the_card_are_those_of_the_processor(
    fmt: str, task: Task, store: EmbeddingStore, tmp_path: Path
) -> None:
    made = EmbeddingStore(tmp_path, task.slices, BACKBONE, "none", fmt)
    fill_store(made, build_desam(BACKBONE, checkpoint=WEIGHTS, device=DEVICE), progress=False)
    for case in task.slices.cases()[:2]:
        ours, expected = made.load(*case), store.load(*case)
        assert distance(ours.neck, expected.neck) < (5e-2 if fmt == "float8" else 3e-2)


def data_of(store: EmbeddingStore, method: DeSAMMethod, device: torch.device) -> EmbeddingData:
    refs = list_slices(store.slices, "A", ["A0", "A1", "A2"], "all")
    return EmbeddingData(store, refs, 1, size=method.mask_size, square=method.input_size, device=device)


def new_method(mode: AutomaticMode) -> DeSAMMethod:
    return DeSAMMethod(build_desam(BACKBONE, checkpoint=WEIGHTS), mode, GridSettings())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_a_training_step_has_the_loss_and_gradient_of_the_processor(
    mode: AutomaticMode, dtype: torch.dtype, store: EmbeddingStore
) -> None:
    losses, gradients = [], []
    for device, precision in ((CPU, "32-true"), (DEVICE, PRECISION[dtype])):
        method = new_method(mode)
        fabric = make_fabric("gpu" if device.type == "cuda" else "cpu", precision=precision)
        module = fabric.setup(method.module)
        module.train()
        rows = np.arange(0, 16, 2)
        generators = [np.random.default_rng([0, int(row)]) for row in rows]
        batch = method.prepare(data_of(store, method, device).batch(rows), generators, augment=True)
        loss = method.loss(module, batch.to(device))
        fabric.backward(loss)
        losses.append(loss.item())
        gradients.append(
            torch.cat([p.grad.flatten().cpu() for p in method.parameters() if p.grad is not None])
        )
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE[dtype])
    # A gradient passes the network twice, and instance norms divide by small deviations.
    assert distance(gradients[1], gradients[0]) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_training_is_the_uninterrupted_one(
    dtype: torch.dtype, store: EmbeddingStore, tmp_path: Path
) -> None:
    def run(folder: str, epochs: int | None = None) -> tuple[DeSAMMethod, list[dict[str, float]]]:
        method = new_method("points")
        data = data_of(store, method, DEVICE)
        fabric = make_fabric("gpu" if ON_GPU else "cpu", precision=PRECISION[dtype])
        settings = TrainSettings(epochs=2, batch_size=6)
        rows = train(method, data, data, settings, tmp_path / folder, fabric)
        return method, [row for row, _ in zip(rows, range(epochs or 9), strict=False)]

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, expected = run("whole")
    run("cut", epochs=1)
    resumed, rows = run("cut")
    assert rows[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=TOLERANCE[dtype])
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    # All weights together: where a gradient is nothing but rounding, Adam makes steps of any sign of it.
    own, their = (
        torch.cat([p.flatten() for p in method.state_dict().values()]) for method in (resumed, whole)
    )
    assert distance(own, their) < 10 * TOLERANCE[dtype]


def test_maps_held_on_the_card_are_those_of_the_store(store: EmbeddingStore) -> None:
    method = new_method("box")
    data = data_of(store, method, DEVICE)
    assert data.placement == ("device" if ON_GPU else "memory")
    rows = np.array([3, 0])
    held: ImageEmbeddings | None = data.batch(rows).embeddings
    assert held is not None
    expected = store.load_slices(
        [(data.refs[row].domain, data.refs[row].case, data.refs[row].row) for row in rows]
    )
    assert torch.equal(held.neck.cpu(), expected.neck)


def test_the_pretraining_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = Recipe(
        BACKBONE, steps=8, warmup=1, decay=1, sizes=SIDES, scenes=(4, 2), objects=3, shares=((0.5, 0.5),) * 3
    )
    run = Pretraining(recipe, DEVICE)
    first = [run.advance() for _ in range(4)]
    run.save(tmp_path / "checkpoint.pt")
    expected = run.advance()
    again = Pretraining(recipe, DEVICE)
    again.load(tmp_path / "checkpoint.pt")
    values = again.advance()
    assert all(np.isfinite(list(row.values())).all() for row in first)
    assert values == pytest.approx(expected, rel=3e-2)
