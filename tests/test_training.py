"""The loop: published schedule, best epoch, resumption, failure on a bad loss, and the same losses on two processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from desam_lite.datasets import Batch, TrainingData
from desam_lite.errors import StudyError
from desam_lite.methods.base import Method
from desam_lite.training import CHECKPOINT, TrainSettings, make_fabric, sample_generator, train


class Points(TrainingData):
    """Eleven samples, so that the last batch is short: inputs x, targets 2x."""

    def __init__(self, count: int = 11, poison: bool = False):
        self.x = torch.linspace(-1, 1, count)[:, None, None, None]
        self.y = 2 * self.x
        if poison:
            self.y[3] = torch.nan

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: np.ndarray) -> Batch:
        return Batch(tuple(f"case{r}" for r in rows), self.y[rows], images=self.x[rows])


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
        return Batch(batch.cases, batch.masks, images=batch.images + 0.1 * noise * augment)

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        return (module(batch.images) - batch.masks).square().mean()

    def predict(self, case: object, embeddings: object) -> np.ndarray:
        raise NotImplementedError


def run(folder: Path, epochs: int = 6, stop_after: int | None = None, **settings: float) -> tuple[Line, list[dict]]:
    method = Line()
    rows: Iterator[dict] = train(
        method,
        Points(),
        Points(5),
        TrainSettings(epochs=epochs, batch_size=4, learning_rate=settings.pop("learning_rate", 0.1), **settings),
        folder,
        make_fabric("cpu"),
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


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_resumed_training_is_the_uninterrupted_one(stop_after: int, tmp_path: Path) -> None:
    whole, rows = run(tmp_path / "whole")
    run(tmp_path / "cut", stop_after=stop_after)
    resumed, again = run(tmp_path / "cut")
    assert losses(again) == losses(rows)
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_the_weights_of_the_best_epoch_are_kept(tmp_path: Path) -> None:
    method, rows = run(tmp_path, epochs=8, learning_rate=1.5)  # overshoots: the last epoch is not the best
    best = min(row["val_loss"] for row in rows)
    data = Points(5)
    with torch.no_grad():
        found = (method.module(data.x) - data.y).square().mean().item()
    assert found == pytest.approx(best, rel=1e-5)
    assert rows[-1]["val_loss"] > best


def test_a_loss_that_is_not_finite_stops_with_the_cases(tmp_path: Path) -> None:
    rows = train(Line(), Points(poison=True), Points(5), TrainSettings(epochs=1, batch_size=4), tmp_path, make_fabric("cpu"))
    with pytest.raises(StudyError, match="case3"):
        list(rows)
    assert not (tmp_path / CHECKPOINT).exists()


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
from test_training import Line, Points
from desam_lite.training import TrainSettings, make_fabric, train
fabric = make_fabric("cpu", int(sys.argv[1]))
rows = list(train(Line(), Points(), Points(5), TrainSettings(epochs=3, batch_size=4, learning_rate=0.1), Path(sys.argv[2]), fabric))
if fabric.is_global_zero:
    Path(sys.argv[2], "rows.json").write_text(json.dumps(rows))
"""


def test_two_processes_see_the_losses_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    found = []
    for world in ("1", "2"):
        folder = tmp_path / world
        folder.mkdir()
        subprocess.run([sys.executable, script, world, folder], check=True, timeout=240, capture_output=True)
        found.append(losses(json.loads((folder / "rows.json").read_text())))
    assert np.array(found[0]) == pytest.approx(np.array(found[1]), rel=1e-4)
