"""Plain SAM as a method: what is trained and kept, which prompts it is trained with, and which mask is called the organ."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from saved_model import SETTINGS, save_model, spec_of
from small_model import MICRO, random_embeddings, sam_tensors, use_micro

from desam_lite.data.datasets import Batch, EmbeddingData, PixelData, TrainingData, list_slices
from desam_lite.data.embeddings import EmbeddingStore, fill_store
from desam_lite.data.geometry import Geometry
from desam_lite.data.slices import CaseSlices
from desam_lite.data.tasks import Task, open_task
from desam_lite.methods import METHODS, load_predictor
from desam_lite.methods.dapsam import DAPSAM
from desam_lite.methods.frozen_encoder import build_sam
from desam_lite.methods.prior import Prior
from desam_lite.methods.sam_baselines import SAMFinetuned, SAMZeroShot
from desam_lite.methods.samed import SAMed
from desam_lite.model.predictor import GridSettings
from desam_lite.model.sam import BACKBONES, BackboneSpec, preprocess
from desam_lite.model.sam_decoder import SAM
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train
from desam_lite.training.losses import IoULoss, mask_loss
from desam_lite.training.method import Method, SlicePrediction

CPU = torch.device("cpu")
TRAINED = ["tuned points", "tuned box", "tuned oracle", "samed", "dapsam"]
# Fine enough to draw an ellipse, small enough to be learnt by heart in seconds.
SHARP = BackboneSpec(
    64, 4, 32, 3, 2, (0, 1, 2, 2), window=8, neck=64, prim_heads=2, prim_mlp=128, prim_downsample=2
)


@pytest.fixture(scope="module", autouse=True)
def _backbones() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_micro(patch)
        patch.setitem(BACKBONES, "sharp", SHARP)
        oracle = {**SETTINGS["tuned box"], "prompt_mode": "box_oracle"}
        patch.setitem(SETTINGS, "tuned oracle", oracle)
        yield


@pytest.fixture(scope="module")
def task(tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Task:
    return open_task(*tiny_task, tmp_path_factory.mktemp("ws"), progress=False)


@pytest.fixture(scope="module")
def store(task: Task, tmp_path_factory: pytest.TempPathFactory, _backbones: None) -> EmbeddingStore:
    filled = EmbeddingStore(tmp_path_factory.mktemp("maps"), task.slices, "micro", "none", "float32")
    fill_store(filled, SAM("micro"), progress=False)
    return filled


def build(name: str, place: tuple[Path, Path] = (Path("m"), Path("d")), **fields: Any) -> Any:
    spec = spec_of(name, place, **fields)
    return METHODS[spec.method](spec, 1, [])


def data_for(method: Method, task: Task, store: EmbeddingStore, case: str) -> TrainingData:
    refs = list_slices(task.slices, "A", [case], "foreground")
    if method.inputs == "pixels":
        return PixelData(task.slices, refs, 1, size=16, square=32)
    return EmbeddingData(store, refs, 1, size=16, square=32, device=CPU, placement="memory")


def streams(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(count)]


# What is trained, and what is kept of it


@pytest.mark.parametrize("name", TRAINED)
def test_training_changes_what_is_kept_and_nothing_else(name: str, task: Task, store: EmbeddingStore) -> None:
    method = build(name)
    before = {key: value.clone() for key, value in method.module.state_dict().items()}
    batch = data_for(method, task, store, "A0").batch(np.arange(3))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(2):  # the second step sees gradients that the first one's zeros held back
        optimizer.zero_grad()
        prepared = method.prepare(batch, streams(3, step), augment=True)
        method.loss(method.module.train(), prepared).backward()
        optimizer.step()
    changed = {key for key, t in method.module.state_dict().items() if not torch.equal(t, before[key])}
    kept = set(method.state_dict())
    assert changed <= kept
    decoder = {key for key in kept if ".mask_decoder." in key}
    if name == "samed":
        assert kept - decoder == {
            *(
                f"model.image_encoder.blocks.{n}.attn.qkv.lora_{way}"
                for n in range(5)
                for way in ("up", "down")
            ),
            "model.prompt_encoder.no_mask_embed.weight",
        }
    elif name == "dapsam":
        assert kept - decoder == {key for key in before if not key.startswith("model.")}
    if name in ("samed", "dapsam"):
        assert changed >= kept - decoder
        assert not any("iou_prediction_head" in key for key in kept)
    else:
        assert kept == decoder == {key for key in before if ".mask_decoder." in key}
    head = any("iou_prediction_head" in key for key in changed)
    assert head == (name == "tuned points")  # a box asks for no judgement


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_kept_is_small_and_the_rest_comes_from_the_weights_of_the_card(
    name: str, tiny_task: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.save(sam_tensors(), tmp_path / "sam.pth")
    folder = save_model(tmp_path / "run", name, tiny_task, weights=str(tmp_path / "sam.pth"))
    names = set(load_file(folder / "model.safetensors"))
    frozen = {key for key in names if "image_encoder" in key and "lora" not in key}
    assert names and not frozen
    loaded: Any = load_predictor(folder).predictor
    own, given = loaded.model.state_dict(), sam_tensors()
    assert all(torch.equal(own[key], given[key]) for key in given if key.startswith("image_encoder."))
    assert torch.equal(loaded.model.image_encoder.pos_embed, given["image_encoder.pos_embed"])


@pytest.mark.parametrize("name", ["tuned points", "tuned oracle", "samed", "dapsam"])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    name: str, task: Task, store: EmbeddingStore, tmp_path: Path
) -> None:
    settings, fabric = TrainSettings(epochs=3, batch_size=3, learning_rate=3e-3, seed=1), make_fabric("cpu")

    def trained(folder: Path, epochs: int = 3) -> dict[str, torch.Tensor]:
        method = build(name)
        parts = (data_for(method, task, store, case) for case in ("A0", "A1"))
        rows = train(method, *parts, settings, folder, fabric)
        for _ in range(epochs):
            next(rows)
        if epochs == 3:
            assert next(rows, None) is None
        state: dict[str, torch.Tensor] = method.state_dict()
        return state

    for folder in ("calm", "cut"):
        (tmp_path / folder).mkdir()
    calm = trained(tmp_path / "calm")
    trained(tmp_path / "cut", 1)
    resumed = trained(tmp_path / "cut")
    assert all(torch.equal(calm[key], resumed[key]) for key in calm)
    assert any(not torch.equal(calm[key], fresh) for key, fresh in build(name).state_dict().items())


@pytest.mark.parametrize("name", ["tuned points", "samed", "dapsam"])
def test_a_seed_names_what_a_method_starts_from(name: str, tmp_path: Path) -> None:
    torch.save(sam_tensors(), tmp_path / "sam.pth")
    first, again, other = (build(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    from_sam = [build(name, seed=s, weights=str(tmp_path / "sam.pth")).state_dict() for s in (1, 2)]
    differ = {key for key in first if not torch.equal(from_sam[0][key], from_sam[1][key])}
    assert not any("mask_decoder" in key for key in differ) and bool(differ) == (name != "tuned points")


def test_samed_starts_as_sam_with_its_default_prompt(task: Task) -> None:
    case, sam = task.slices.load("A", "A0"), SAM("micro", seed=7)
    pixels = preprocess(torch.from_numpy(case.images), 32)
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        neck = sam.encode(pixels).neck
        position = sam.prompt_encoder.get_dense_pe()
        expected = [sam.mask_decoder(one[None], position, sparse, dense, False)[0] for one in neck]
        predicted = SAMed(sam, 4, 0).module(pixels)
    torch.testing.assert_close(predicted, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert SAMed(SAM("micro"), 2, 0).model.image_encoder.blocks[0].attn.qkv.lora_up.shape[2] == 2


# Prompts of training


def test_training_boxes_hold_an_organ_and_little_more(task: Task, store: EmbeddingStore) -> None:
    method = build("tuned oracle")
    batch = data_for(method, task, store, "A0").batch(np.arange(3))
    seen = set()
    for seed in range(20):
        prompts = method.prepare(batch, streams(3, seed), augment=True).prompts
        assert prompts is not None and prompts.xyxy is not None
        for mask, box in zip(batch.masks[:, 0].numpy() > 0.5, prompts.xyxy.numpy(), strict=True):
            y, x = np.nonzero(mask)
            tight = 2 * np.array(
                [x.min(), y.min(), x.max() + 1, y.max() + 1]
            )  # 16 pixels of mask, 32 of picture
            outwards = (box - tight) * (-1, -1, 1, 1)
            assert (outwards >= -1e-5).all() and (outwards <= 20 / 1024 * 32 + 1e-5).all()
            seen.add(tuple(outwards.round(4)))
    assert len(seen) > 50
    still = [method.prepare(batch, streams(3, seed), augment=False).prompts.xyxy for seed in (0, 1)]
    assert torch.equal(*still)


def test_each_organ_of_a_slice_gets_the_box_now_and_then() -> None:
    masks = torch.zeros(1, 3, 16, 16)
    masks[0, 0, 2:6, 2:6], masks[0, 2, 9:15, 8:10] = 1, 1
    method = SAMFinetuned(SAM("micro", 3), "box_oracle", GridSettings())
    batch = Batch(("a",), masks, ((16, 16),))
    boxes = {
        tuple(method.prepare(batch, streams(1, s), augment=False).prompts.xyxy[0].tolist())  # type: ignore[union-attr]
        for s in range(30)
    }
    assert boxes == {(4, 4, 12, 12), (16, 18, 20, 30)}
    empty = method.prepare(Batch(("a",), 0 * masks, ((16, 16),)), streams(1), augment=True).prompts
    assert empty is not None and empty.xyxy is not None and empty.xyxy.tolist() == [[0, 0, 32, 32]]


# Every trained method learns four slices by heart


def four_slices() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy slices ``(4, 64, 64)`` uint8 with an ellipse somewhere, and its mask ``(4, 1, 64, 64)``."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    centres, radii = rng.uniform(20, 44, (4, 2)), rng.uniform(9, 16, (4, 2))
    inside = np.stack(
        [((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 < 1 for c, r in zip(centres, radii, strict=True)]
    )
    images = np.clip(rng.normal(90, 12, inside.shape) + 50 * inside, 0, 255).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(inside[:, None].astype(np.float32))


def drawn(method: Any, images: torch.Tensor, masks: torch.Tensor, embeddings: Any) -> list[SlicePrediction]:
    def stored(rows: range) -> Any:
        return embeddings[torch.arange(rows.start, rows.stop)]

    labels = masks[:, 0].numpy().astype(np.uint8)
    if method.oracle:
        return list(method.predict_oracle(images.numpy(), stored, labels))
    return list(method.predict(images.numpy(), stored))


@pytest.mark.parametrize("name", TRAINED)
def test_four_slices_are_learnt_by_heart(name: str) -> None:
    images, masks = four_slices()
    spec = spec_of(name, (Path("m"), Path("d")), backbone="sharp")
    sam = build_sam(spec, 1, seed=1)
    pixels = preprocess(images, 64)
    embeddings = sam.encode(pixels)
    grid, iou_loss = GridSettings(5, stability_threshold=0.0, min_area=0), IoULoss("mse", 10.0)
    through: dict[str, Any] = {"samed": lambda: SAMed(sam, 4, 0), "dapsam": lambda: DAPSAM(sam, 0)}
    method: Any = (
        through[name]() if name in through else SAMFinetuned(sam, spec.prompt_mode, grid, iou_loss)  # type: ignore[arg-type]
    )
    batch = Batch(("a", "b", "c", "d"), masks, ((64, 64),) * 4, images=pixels, embeddings=embeddings)
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    best = 0.0
    for step in range(1200):
        prepared = method.prepare(batch, streams(4, step), augment=True)
        loss = method.loss(method.module.train(), prepared)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            predicted = np.stack([one.labels for one in drawn(method, images, masks, embeddings)]) > 0
            truth = masks[:, 0].numpy() > 0
            dice = 2 * (predicted & truth).sum((1, 2)) / (predicted.sum((1, 2)) + truth.sum((1, 2)))
            best = max(best, float(dice.min()))
            if best > 0.95:
                return
    pytest.fail(f"the worst Dice of the four is {best:.3f} at best")


# Zero-shot: which mask is the organ


def blob(z: int, y: slice, x: slice) -> np.ndarray:
    """Organ ids (8, 32, 32) with a block in the first ``z`` slices."""
    labels = np.zeros((8, 32, 32), np.uint8)
    labels[:z, y, x] = 1
    return labels


def a_prior(*volumes: np.ndarray, organs: int = 1) -> Prior:
    geometry = Geometry((32, 32, 8), np.eye(4))
    cases = [CaseSlices("t", "A", str(n), 0 * v, v, (1.0, 1.0, 1.0), geometry) for n, v in enumerate(volumes)]
    return Prior.fit(cases, organs)


class Guesses(SAMZeroShot):
    """Stands in for a SAM that draws the same masks into every slice."""

    def __init__(self, masks: np.ndarray, prior: Prior):
        super().__init__(SAM("micro"), "points", GridSettings(), prior)
        self.masks, self.asked = masks, 0

    def _candidates(self, emb: Any, size: tuple[int, int]) -> Any:
        self.asked += 1
        logits = np.where(self.masks, 5.0, -5.0).astype(np.float32)
        return logits, np.arange(len(logits), dtype=np.float32) / 10


def rectangles(*places: tuple[slice, slice]) -> np.ndarray:
    masks = np.zeros((len(places), 32, 32), bool)
    for mask, place in zip(masks, places, strict=True):
        mask[place] = True
    return masks


def everywhere(rows: range) -> Any:
    return random_embeddings(len(rows))


def test_the_organ_is_the_mask_of_the_highest_expected_dice() -> None:
    """Expected Dice, computed from the labels themselves: 2 sum p over the mask / (its area + sum p)."""
    organ = (slice(8, 20), slice(10, 22))
    masks = rectangles(
        (slice(0, 32), slice(0, 32)), (slice(9, 20), slice(10, 22)), (slice(12, 15), slice(12, 15))
    )
    method = Guesses(masks, a_prior(blob(8, *organ), blob(8, *organ)))
    predicted = list(method.predict(np.zeros((8, 32, 32), np.uint8), everywhere))
    assert all(np.array_equal(one.labels == 1, masks[1]) for one in predicted)
    assert {float(one.iou[0]) for one in predicted} == {np.float32(0.1)}


def test_where_the_prior_draws_nothing_sam_is_not_asked() -> None:
    masks = rectangles((slice(8, 20), slice(10, 22)))
    method = Guesses(masks, a_prior(blob(4, slice(8, 20), slice(10, 22))))
    predicted = list(method.predict(np.zeros((8, 32, 32), np.uint8), everywhere))
    drawn_in = [bool(one.labels.any()) for one in predicted]
    assert drawn_in[0] and not any(drawn_in[5:]) and method.asked == sum(drawn_in)
    none = Guesses(masks[:0], method.prior)
    assert not any(one.labels.any() for one in none.predict(np.zeros((8, 32, 32), np.uint8), everywhere))


def test_each_organ_chooses_for_itself() -> None:
    left, right = (slice(8, 20), slice(2, 12)), (slice(8, 20), slice(18, 30))
    labels = blob(8, *left) + 2 * blob(8, *right)
    method = Guesses(rectangles(right, left), a_prior(labels, organs=2))
    one = next(iter(method.predict(np.zeros((8, 32, 32), np.uint8), everywhere)))
    np.testing.assert_array_equal(one.labels, labels[0])


@pytest.mark.parametrize("mode", ["points", "box"])
def test_zero_shot_trains_nothing_and_keeps_only_the_prior(
    mode: str, tiny_task: tuple[Path, Path], task: Task, tmp_path: Path
) -> None:
    cases = [task.slices.load("A", "A0")]
    folder = save_model(tmp_path, "grid", tiny_task, cases, prompt_mode=mode)
    assert set(load_file(folder / "model.safetensors")) == {"mean", "thresholds"}
    loaded: Any = load_predictor(folder).predictor
    assert not any(p.requires_grad for p in loaded.model.parameters())
    np.testing.assert_array_equal(loaded.prior.mean, Prior.fit(cases, 1).mean)


# The coupling that DeSAM undoes


def test_a_model_trained_with_tight_boxes_can_be_asked_with_the_whole_image(
    task: Task, store: EmbeddingStore
) -> None:
    method, case = build("tuned oracle"), task.slices.load("B", "B0")
    told = list(method.predict_oracle(case.images, lambda r: store.load("B", "B0", list(r)), case.labels))
    method.test_mode = "box"
    asked = list(method.predict(case.images, lambda r: store.load("B", "B0", list(r))))
    assert not method.oracle
    assert any(not np.array_equal(a.probability, b.probability) for a, b in zip(told, asked, strict=True))


def test_pixels_and_masks_of_training_are_those_of_the_stored_embeddings(
    task: Task, store: EmbeddingStore
) -> None:
    samed, tuned = build("samed"), build("tuned box")
    rows = np.array([2, 0])
    pixels, maps = (data_for(m, task, store, "A1").batch(rows) for m in (samed, tuned))
    assert torch.equal(pixels.masks, maps.masks) and pixels.sizes == maps.sizes
    assert pixels.images is not None and maps.embeddings is not None
    assert pixels.images.shape == (2, 3, MICRO.image_size, MICRO.image_size)
    assert torch.allclose(samed.model.encode(pixels.images).neck, maps.embeddings.neck, atol=1e-5)
    loss = samed.loss(samed.module, pixels)
    assert loss == mask_loss(samed.module(pixels.images), pixels.masks, "dice")
