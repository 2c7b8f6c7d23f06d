"""The loop: published schedule, best epoch, resumption, failure on a bad loss, and the same losses on two processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from desam_lite.data.datasets import Batch, TrainingData
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import (
    CHECKPOINT,
    TrainSettings,
    find_plateau,
    learning_rate_after,
    sample_generator,
    train,
)
from desam_lite.training.method import Method
from desam_lite.utils.errors import StudyError


class Points(TrainingData):
    """Eleven samples, so that the last batch is short: inputs x, targets 2x."""

    def __init__(self, count: int = 11, poison: bool = False, slope: float = 2.0):
        self.x = torch.linspace(-1, 1, count)[:, None, None, None]
        self.y = slope * self.x
        if poison:
            self.y[3] = torch.nan

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: np.ndarray) -> Batch:
        return Batch(
            tuple(f"case{r}" for r in rows), self.y[rows], ((1, 1),) * len(rows), images=self.x[rows]
        )


class Line(Method):
    """y = a x + noise drawn per sample, so that a wrong random stream shows."""

    inputs = "slices"

    def __init__(self) -> None:
        self.module = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.module.weight.fill_(0.0)
            self.module.bias.fill_(0.0)

    def prepare(self, batch: Batch, generators: list[np.random.Generator], *, augment: bool) -> Batch:
        noise = torch.tensor([g.normal() for g in generators], dtype=torch.float32)[:, None, None, None]
        return replace(batch, images=batch.images + 0.1 * noise * augment)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        return (module(batch.images) - batch.masks).square().mean()

    def predict(self, case: object, embeddings: object) -> np.ndarray:
        raise NotImplementedError


def run(
    folder: Path,
    epochs: int = 6,
    stop_after: int | None = None,
    validation: Points | None = None,
    **settings: float,
) -> tuple[Line, list[dict]]:
    method = Line()
    chosen = TrainSettings(epochs=epochs, batch_size=4, **{"learning_rate": 0.1, **settings})
    rows: Iterator[dict] = train(
        method, Points(), validation or Points(5), chosen, folder, make_fabric("cpu")
    )
    if stop_after is None:
        return method, list(rows)
    return method, [next(rows) for _ in range(stop_after)]


def losses(rows: list[dict]) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["val_loss"]) for row in rows]


def test_it_learns(tmp_path: Path) -> None:
    method, rows = run(tmp_path, epochs=30)
    assert rows[-1]["val_loss"] < 0.01 * rows[0]["val_loss"]
    assert method.module.weight.item() == pytest.approx(2, abs=0.2)


def test_the_learning_rate_falls_as_published(tmp_path: Path) -> None:
    _, rows = run(tmp_path, epochs=5)
    expected = [0.1 * (1 - epoch / 5) ** 0.9 for epoch in range(5)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)


def rates(losses: list[float], **settings: float) -> list[float]:
    """The rate of every epoch of a training with these validation losses."""
    chosen = TrainSettings(learning_rate=1.0, **settings)
    return [learning_rate_after(losses[:epoch], chosen) for epoch in range(len(losses) + 1)]


def test_the_rate_falls_after_the_plateau_and_training_ends_half_as_many_epochs_later() -> None:
    losses = [1.0, 0.8, 0.7, 0.6999, 0.71, 0.7, *[0.6] * 6]  # 0.6999 is not lower by half a percent
    assert find_plateau(losses, TrainSettings(epochs=50, patience=3)) == 6
    found = rates(losses, epochs=50, patience=3)
    assert found[:7] == [1.0] * 7  # the decay begins at the full rate
    assert found[6:10] == pytest.approx([(1 - t / 3) ** 0.9 for t in range(4)])
    assert set(found[9:]) == {0.0}


def test_a_loss_that_keeps_falling_uses_its_budget_with_the_decay_in_it() -> None:
    losses = [0.9**epoch for epoch in range(12)]
    settings = {"epochs": 12, "patience": 2}
    assert find_plateau(losses, TrainSettings(**settings)) is None
    found = rates(losses, **settings)
    assert found[:9] == [1.0] * 9 and all(a > b for a, b in pairwise(found[8:]))
    assert found[11] > 0 == found[12]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_smallest_budgets_are_kept_to(epochs: int, tmp_path: Path) -> None:
    assert len(run(tmp_path, epochs=epochs, patience=1)[1]) == epochs


def test_a_training_with_patience_ends_by_itself_says_so_and_resumes_exactly(tmp_path: Path) -> None:
    settings = {"epochs": 60, "patience": 2, "validation": Points(5, slope=0.9)}
    whole, rows = run(tmp_path / "whole", **settings)
    plateau = [row["plateau"] for row in rows]
    first = plateau.index(1.0) + 1
    assert first > 2 and len(rows) == first + round(first / 2) < 60
    assert plateau == sorted(plateau)
    for stop_after in (1, first, first + 1):
        run(tmp_path / f"cut{stop_after}", stop_after=stop_after, **settings)
        resumed, again = run(tmp_path / f"cut{stop_after}", **settings)
        assert losses(again) == losses(rows)
        assert [row["learning_rate"] for row in again] == [row["learning_rate"] for row in rows]
        assert torch.equal(resumed.module.weight, whole.module.weight)
    assert {row["plateau"] for row in run(tmp_path / "fixed", epochs=8)[1]} == {0.0}


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_resumed_training_is_the_uninterrupted_one(stop_after: int, tmp_path: Path) -> None:
    whole, rows = run(tmp_path / "whole")
    run(tmp_path / "cut", stop_after=stop_after)
    resumed, again = run(tmp_path / "cut")
    assert losses(again) == losses(rows)
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_the_weights_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    data = Points(
        5, slope=0.9
    )  # the slope learnt passes 0.9 on its way to 2: the best epoch is neither first nor last
    method, rows = run(tmp_path, epochs=8, validation=data)
    found = [row["val_loss"] for row in rows]
    assert 0 < int(np.argmin(found)) < len(found) - 1
    with torch.no_grad():
        kept = (method.module(data.x) - data.y).square().mean().item()
    assert kept == pytest.approx(min(found), rel=1e-5)


@pytest.mark.parametrize("stop_after", [4, 8])
def test_the_best_epoch_survives_a_restart(stop_after: int, tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", epochs=8, validation=Points(5, slope=0.9))
    run(tmp_path / "cut", epochs=8, stop_after=stop_after, validation=Points(5, slope=0.9))
    resumed, _ = run(tmp_path / "cut", epochs=8, validation=Points(5, slope=0.9))
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_a_loss_that_is_not_finite_stops_with_the_cases(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=1, batch_size=4)
    rows = train(Line(), Points(poison=True), Points(5), settings, tmp_path, make_fabric("cpu"))
    with pytest.raises(StudyError, match=r"loss of epoch 1 is nan on a batch of cases .*case3"):
        list(rows)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"validation loss is nan on a batch of cases case0, .*case3"):
        run(tmp_path, epochs=1, validation=Points(5, poison=True))
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [(("zpu", 1), "'zpu' cannot be used"), (("cpu", 1, "8-bit"), "8-bit")],
)
def test_a_device_that_is_not_there_is_one_sentence(wanted: tuple, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        make_fabric(*wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(StudyError, match=r"accelerator 'gpu' cannot be used here .* use accelerator 'cpu'"):
        make_fabric("gpu")


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    _, free = run(tmp_path / "free", epochs=2)
    _, clipped = run(tmp_path / "clipped", epochs=2, clip=1e-9)
    assert losses(free) != losses(clipped)  # Adam's epsilon holds a vanishing gradient down


def test_random_streams_are_named_not_running() -> None:
    a = sample_generator(1, 2, 3).random(4)
    assert (sample_generator(1, 2, 3).random(4) == a).all()
    assert (sample_generator(1, 2, 4).random(4) != a).all()
    assert (sample_generator(1, 3, 3).random(4) != a).all()


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training_loop import Line, Points
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train
fabric = make_fabric("cpu", 2)
settings = TrainSettings(epochs=3, batch_size=4, learning_rate=0.1)
rows = list(train(Line(), Points(), Points(5), settings, Path({folder!r}), fabric))
if fabric.is_global_zero:
    Path({folder!r}, "rows.json").write_text(json.dumps([fabric.world_size, rows]))
"""


def test_two_processes_see_the_losses_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    subprocess.run([sys.executable, script], check=True, timeout=240, capture_output=True)
    world, rows = json.loads((tmp_path / "rows.json").read_text())
    assert world == 2
    _, alone = run(tmp_path / "alone", epochs=3)
    assert np.array(losses(rows)) == pytest.approx(np.array(losses(alone)), rel=1e-4)
