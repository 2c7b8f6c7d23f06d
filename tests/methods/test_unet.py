"""The U-Net and what holds for every method on it: all randomness is given to it, it resumes, learns, and predicts alike."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from four_slices import CONVOLUTIONAL, SIDE, four_slices, streams, train_steps, worst_dice

from desam_lite.data.datasets import Batch, SliceData, TrainingData, list_slices
from desam_lite.data.tasks import open_task
from desam_lite.methods import METHODS
from desam_lite.methods.run_spec import make_spec
from desam_lite.methods.unet import UNetMethod, build_unet, decode, encode
from desam_lite.study.profiles import METHOD_CHOICES, get_profile, plan_domain_splits
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train
from desam_lite.training.losses import mask_loss
from desam_lite.utils.errors import StudyError

ROOT = Path(__file__).resolve().parents[2]


def build(
    name: str, organs: int = 1, width: int = 8, seed: int = 1, augmentation: str = "none"
) -> UNetMethod:
    method: UNetMethod = METHODS[name].load()(organs, width, SIDE, seed, augmentation)
    return method


class Slices(TrainingData):
    """The first four or fewer of the four slices."""

    def __init__(self, count: int = 4, organs: int = 1):
        self.whole, self.count = four_slices(organs)[1], count

    def __len__(self) -> int:
        return self.count

    def batch(self, rows: np.ndarray) -> Batch:
        assert self.whole.images is not None
        names, sizes = tuple("abcd"[r] for r in rows), ((SIDE, SIDE),) * len(rows)
        return Batch(names, self.whole.masks[rows], sizes, images=self.whole.images[rows])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_two_organs_are_trained_and_drawn(name: str) -> None:
    images, batch = four_slices(organs=2)
    method = build(name, organs=2)
    losses = train_steps(method, batch, 8)
    assert np.isfinite(losses).all() and min(losses[-3:]) < losses[0]
    drawn = list(method.predict(images, None))
    assert drawn[0].probability.shape == (2, SIDE, SIDE)
    assert set(np.unique(np.stack([d.labels for d in drawn]))) <= {0, 1, 2}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_all_that_is_random_comes_from_the_generators_of_the_slices(name: str) -> None:
    _, batch = four_slices()
    method = build(name, augmentation="nnunet")
    method.module.train()

    def loss(step: int, torch_seed: int) -> float:
        torch.manual_seed(torch_seed)
        np.random.seed(torch_seed)
        return method.loss(method.module, method.prepare(batch, streams(step), augment=True)).item()

    assert loss(0, 1) == loss(0, 2)
    assert loss(0, 1) != loss(1, 1)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not(name: str, tmp_path: Path) -> None:
    def rows(folder: Path, stop_after: int | None = None) -> list[Any]:
        settings = TrainSettings(epochs=2, batch_size=3, learning_rate=1e-3)
        method = build(name, width=4, augmentation="nnunet")
        loop = train(method, Slices(), Slices(2), settings, folder, make_fabric("cpu"))
        predicted = [next(loop) for _ in range(stop_after)] if stop_after else list(loop)
        return [(row["train_loss"], row["val_loss"]) for row in predicted]

    whole = rows(tmp_path / "whole")
    rows(tmp_path / "cut", stop_after=1)
    assert rows(tmp_path / "cut") == whole


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_mixed_precision_gives_nearly_the_same_losses(name: str, tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch_size=4, learning_rate=1e-3)
    (one,), (other,) = (
        list(
            train(
                build(name, width=4),
                Slices(),
                Slices(2),
                settings,
                tmp_path / kind,
                make_fabric("cpu", precision=kind),
            )
        )
        for kind in ("32-true", "bf16-mixed")
    )
    assert [other["train_loss"], other["val_loss"]] == pytest.approx(
        [one["train_loss"], one["val_loss"]], rel=0.05
    )


SCRIPT = """
import json, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_unet import ON_TWO, loss_rows
from desam_lite.training.devices import make_fabric
fabric = make_fabric("cpu", 2)
rows = {{name: loss_rows(name, Path({folder!r}, name), fabric) for name in ON_TWO}}
if fabric.is_global_zero:
    Path({folder!r}, "rows.json").write_text(json.dumps(rows))
"""
ON_TWO = ("advbias", "maxstyle")


def loss_rows(name: str, folder: Path, fabric: Any) -> list[tuple[float, float]]:
    settings = TrainSettings(epochs=2, batch_size=3, learning_rate=1e-3)
    rows = list(train(build(name, width=4), Slices(), Slices(2), settings, folder, fabric))
    return [(row["train_loss"], row["val_loss"]) for row in rows]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """To the digit where slices do not look at each other; MaxStyle mixes those of one process."""
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(
            tests=[str(Path(__file__).parent), str(Path(__file__).parents[1])], folder=str(tmp_path)
        )
    )
    subprocess.run([sys.executable, script], check=True, timeout=480, capture_output=True)
    predicted = json.loads((tmp_path / "rows.json").read_text())
    for name in ON_TWO:
        alone = loss_rows(name, tmp_path / f"alone_{name}", make_fabric("cpu"))
        assert np.array(predicted[name]) == pytest.approx(
            np.array(alone), rel=0.2 if name == "maxstyle" else 1e-3
        )


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_selection_and_prediction_see_slices_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, batch = four_slices()
    method = build(name, augmentation="nnunet")
    train_steps(method, batch, 2)

    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("something was drawn at random")

    monkeypatch.setattr(type(method), "draw", drawn)
    for function in ("rand", "randn", "randperm", "bernoulli"):
        monkeypatch.setattr(torch, function, drawn)
    assert method.prepare(batch, streams(0), augment=False) is batch
    method.module.eval()
    with torch.no_grad():
        loss = method.validation_loss(method.module, batch)
        repeated = batch.images.expand(-1, method.channels, -1, -1)
        assert loss.item() == mask_loss(method.network(repeated), batch.masks).item()
    first, again = (np.stack([d.probability for d in method.predict(images, None)]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with torch.no_grad():
        expected = method.network(repeated).sigmoid().numpy()
    np.testing.assert_allclose(first, expected, atol=1e-6)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_only_the_step_leaves_gradients(name: str) -> None:
    """A search for the worst picture must leave none: several processes would share them."""
    _, batch = four_slices()
    method = build(name)
    loss = method.loss(method.module.train(), method.prepare(batch, streams(0), augment=True))
    assert all(p.grad is None for p in method.parameters())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_wrapped_module_is_asked_once_per_step(name: str) -> None:
    """Several devices average gradients per call: a loss that calls twice would depend on how they do it."""
    _, batch = four_slices()
    method = build(name)
    calls: list[int] = []

    def wrapped(*inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs[0]))
        predicted: torch.Tensor = method.module(*inputs)
        return predicted

    method.module.train()
    method.loss(wrapped, method.prepare(batch, streams(0), augment=True))  # type: ignore[arg-type]
    assert len(calls) == 1


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_what_is_trained_is_saved_and_loaded_again(name: str, tmp_path: Path) -> None:
    images, batch = four_slices()
    method = build(name)
    train_steps(method, batch, 3)
    method.save(tmp_path, {})
    fresh = build(name, seed=9)
    fresh.load(tmp_path)
    pairs = zip(method.predict(images, None), fresh.predict(images, None), strict=True)
    assert all(np.array_equal(one.probability, other.probability) for one, other in pairs)


def test_a_network_taken_apart_is_the_network() -> None:
    _, batch = four_slices()
    network = build("unet").network.eval()
    with torch.no_grad():
        assert torch.equal(decode(network, encode(network, batch.images)), network(batch.images))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_specification_builds_it(name: str) -> None:
    fields = {"unet_width": 4, "unet_size": 32, "augmentation": "light", "seed": 3}
    spec = make_spec(manifest=Path("m"), data_root=Path("d"), source="A", method=name, **fields)
    built = METHODS[name](spec, 2, [])
    assert type(built) is METHODS[name].load()
    assert isinstance(built, UNetMethod)
    assert (built.input_size, built.augmentation) == (32, "light")
    assert built.network(torch.zeros(1, built.channels, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize("profile", ["smoke", "teach", "study", "paper"])
def test_all_are_trained_equally(profile: str) -> None:
    """The same slices, rate and number of passes: what differs is the method, augmentation, and batch of shared styles."""
    names = [name for name, choice in METHOD_CHOICES.items() if choice["method"] in CONVOLUTIONAL]
    manifest = ROOT / "data_manifests" / "phantom_prostate.yaml"
    specs = plan_domain_splits(
        get_profile(profile), manifest, "data", sources=["A"], methods=names, seeds=[0]
    )
    assert len({spec.label for spec in specs}) == len(names)
    alike = [{**spec.settings(), **dict.fromkeys(("method", "augmentation", "batch_size"))} for spec in specs]
    assert {spec.method for spec in specs if spec.batch_size != specs[0].batch_size} <= {
        "mixstyle",
        "maxstyle",
    }
    assert all(settings == alike[0] for settings in alike)


# By heart

MOST_STEPS = 400


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_four_slices_are_learnt_by_heart(name: str) -> None:
    images, batch = four_slices()
    method = build(name)
    for first in range(0, MOST_STEPS, 20):
        train_steps(method, batch, 20, first=first)
        if worst_dice(method, images, batch) > 0.97:
            return
    pytest.fail(f"after {MOST_STEPS} steps the worst Dice is {worst_dice(method, images, batch):.3f}")


# The plain U-Net


@pytest.mark.parametrize(("size", "levels"), [(16, 3), (64, 5), (96, 5), (128, 6), (256, 7)])
def test_a_unet_halves_its_input_to_four_to_seven_pixels(size: int, levels: int) -> None:
    network = build_unet(2, 4, size, 0)
    shapes: list[torch.Size] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape))
    with torch.no_grad():
        out = network.eval()(torch.zeros(1, 1, size, size))
    assert out.shape == (1, 2, size, size)
    assert min(shape[-1] for shape in shapes) == size // 2 ** (levels - 1)
    assert max(shape[1] for shape in shapes) == min(4 * 2 ** (levels - 1), 512)


def test_the_seed_names_a_unets_weights_and_nothing_else() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (build_unet(1, 4, 32, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(
        torch.rand(3), expected
    )  # the stream of whoever calls goes on as if nothing had been drawn
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_size_that_cannot_be_halved_is_refused_with_sizes_that_can() -> None:
    with pytest.raises(
        StudyError, match="unet_size 100 is not divisible by 16: use a power of two, as 64, 128"
    ):
        build_unet(1, 4, 100, 0)


def test_a_trained_unet_draws_the_organ_where_it_is(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    task = open_task(*tiny_task, tmp_path, progress=False)
    refs = list_slices(task.slices, "A", ["A0", "A1", "A2"], "all")
    method = UNetMethod(1, 8, 32, 0)
    batch = SliceData(task.slices, refs, 1, 32).batch(np.arange(len(refs)))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        method.loss(method.module.train(), batch).backward()
        optimizer.step()
    case = task.slices.load("A", "A3")
    predicted = np.stack([drawn.labels for drawn in method.predict(case.images, None)]) == 1
    reference = case.labels == 1
    assert 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum()) > 0.85
