"""The training loop: one path for CPU, one GPU and several, restartable at any moment.

Every random draw is made from a generator named by (seed, epoch, sample), never from a running stream. So a run that was
killed and resumed, or shared between processes, sees exactly the samples, prompts and augmentations of one that was not.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path
from desam_lite.utils.memory import keep_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from desam_lite.data.datasets import Batch, TrainingData
    from desam_lite.training.method import Method

CHECKPOINT = "checkpoint.pt"
_VALIDATION_EPOCH = 2**31 - 1  # the "epoch" whose random draws validation always uses


@dataclass(frozen=True)
class TrainSettings:
    """How long and how a model is trained; the defaults are those of the public DeSAM code.

    Attributes:
        epochs: Passes over the training slices.
        batch_size: Slices per optimiser step, over all processes together.
        learning_rate: Adam's, at the start; it falls as ``(1 - epoch / epochs) ** 0.9``.
        clip: Largest norm of the gradient; 0 leaves it as it is (published).
        seed: Names every random draw of the training.
    """

    epochs: int = 50
    batch_size: int = 8
    learning_rate: float = 1e-4
    clip: float = 0.0
    seed: int = 0


@dataclass
class Progress:
    """What a checkpoint holds beside the optimiser: where the training stands and the best model so far."""

    epoch: int = 0
    best_loss: float = float("inf")
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def sample_generator(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """Return the random stream of one sample in one epoch: the same on any machine, in any batch, after any restart."""
    return np.random.default_rng([seed, epoch, sample])


def train(
    method: "Method",
    training: "TrainingData",
    validation: "TrainingData",
    settings: TrainSettings,
    folder: Path,
    fabric: "Fabric",
) -> Iterator[dict[str, float]]:
    """Train ``method`` and leave the weights of its best epoch in it.

    The best epoch is that of the lowest validation loss in the source domain (as published; no target is looked at).
    After every epoch a checkpoint is written to ``folder``; a later call continues from it.

    Args:
        method: What is trained; its module is moved to the device of ``fabric``.
        training: Slices to learn from.
        validation: Slices to select the epoch with, of other cases of the same domain.
        settings: Length, batch, learning rate, seed.
        folder: Where the checkpoint lives.
        fabric: Device, precision and number of processes; launched by the caller.

    Yields:
        One row per finished epoch: ``epoch`` (from 1), ``train_loss``, ``val_loss``, ``learning_rate``, ``seconds``
        of the clock, and ``busy_seconds``: of the cores that worked on it, whatever else they did, or of the clock on a GPU.

    Raises:
        StudyError: A loss is not finite; the sentence names the cases of that batch.
    """
    optimizer = torch.optim.Adam(method.parameters(), lr=settings.learning_rate)
    module, optimizer = fabric.setup(method.module, optimizer)
    progress = _resume(folder, method, optimizer, fabric.device)
    yield from progress.history
    for epoch in range(progress.epoch, settings.epochs):
        start, cpu = time.perf_counter(), time.process_time()
        rate = settings.learning_rate * (1 - epoch / settings.epochs) ** 0.9
        for group in optimizer.param_groups:
            group["lr"] = rate
        with keep_freed_memory():
            loss = train_epoch(method, module, optimizer, training, settings, epoch, fabric)
        val_loss = _validate(method, module, validation, settings, fabric)
        row = {"epoch": float(epoch + 1), "train_loss": loss, "val_loss": val_loss, "learning_rate": rate}
        row["seconds"] = time.perf_counter() - start
        row["busy_seconds"] = time.process_time() - cpu if fabric.device.type == "cpu" else row["seconds"]
        progress.history.append(row)
        progress.epoch = epoch + 1
        if val_loss < progress.best_loss:
            progress.best_loss, progress.best_state = val_loss, _copy(method.state_dict())
        _save(folder, method, optimizer, progress, fabric)
        yield row
    method.load_state_dict(progress.best_state)


def train_epoch(
    method: "Method",
    module: nn.Module,
    optimizer: Any,
    data: "TrainingData",
    settings: TrainSettings,
    epoch: int,
    fabric: "Fabric",
) -> float:
    """Go once through the training slices in this epoch's order; return the mean loss per slice."""
    module.train()
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(data))
    total = torch.zeros((), device=fabric.device)
    for share in _shares(order, settings.batch_size, fabric):
        batch = _batch(method, data, share.rows, settings.seed, epoch, fabric.device)
        loss = method.loss(module, batch) * share.weight
        _require_finite(loss, f"loss of epoch {epoch + 1}", batch)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if settings.clip > 0:
            fabric.clip_gradients(module, optimizer, max_norm=settings.clip)
        optimizer.step()
        total += loss.detach() * share.batch_size
    return _mean_over_processes(total, len(order), fabric)


@torch.no_grad()
def _validate(
    method: "Method", module: nn.Module, data: "TrainingData", settings: TrainSettings, fabric: "Fabric"
) -> float:
    """Return the mean loss per validation slice, with the same prompts in every epoch."""
    module.eval()
    total = torch.zeros((), device=fabric.device)
    for share in _shares(np.arange(len(data)), settings.batch_size, fabric):
        batch = _batch(method, data, share.rows, settings.seed, _VALIDATION_EPOCH, fabric.device)
        loss = method.validation_loss(module, batch) * share.weight
        _require_finite(loss, "validation loss", batch)
        total += loss * share.batch_size
    return _mean_over_processes(total, len(data), fabric)


def _require_finite(loss: torch.Tensor, name: str, batch: "Batch") -> None:
    if not torch.isfinite(loss):
        raise StudyError(
            f"the {name} is {loss.item()} on a batch of cases {', '.join(sorted(set(batch.cases)))}: "
            "look at these cases with 'desam-lite data show', or train with a lower learning rate or precision='32-true'."
        )


@dataclass(frozen=True)
class _Share:
    """One process's part of a batch: its rows, and the weight that makes the mean over processes the mean over slices."""

    rows: np.ndarray
    weight: float
    batch_size: int


def _shares(order: np.ndarray, batch_size: int, fabric: "Fabric") -> Iterator[_Share]:
    """Split every batch over the processes.

    A process whose share of a short last batch is empty still computes one slice, with weight 0: all processes must take
    part in every step, and the sum stays that of one process.
    """
    world, rank = fabric.world_size, fabric.global_rank
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = batch[rank::world]
        yield _Share(rows if len(rows) else batch[:1], len(rows) * world / len(batch), len(batch))


def _batch(
    method: "Method", data: "TrainingData", rows: np.ndarray, seed: int, epoch: int, device: torch.device
) -> "Batch":
    generators = [sample_generator(seed, epoch, int(row)) for row in rows]
    augment = epoch != _VALIDATION_EPOCH
    return method.prepare(data.batch(rows), generators, augment=augment).to(device)


def _mean_over_processes(total: torch.Tensor, count: int, fabric: "Fabric") -> float:
    if fabric.world_size > 1:
        mean = fabric.all_reduce(total, reduce_op="mean")
        assert isinstance(mean, torch.Tensor)
        total = mean
    return float(total) / max(count, 1)


def _copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _save(folder: Path, method: "Method", optimizer: Any, progress: Progress, fabric: "Fabric") -> None:
    if fabric.is_global_zero:
        state = {"model": _copy(method.state_dict()), "optimizer": optimizer.state_dict(), **vars(progress)}
        with atomic_path(folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)
    fabric.barrier()


def _resume(folder: Path, method: "Method", optimizer: Any, device: torch.device) -> Progress:
    """Put the state of the last checkpoint into method and optimiser, if there is one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return Progress()
    state = torch.load(path, map_location=device, weights_only=True)
    method.load_state_dict(state.pop("model"))
    optimizer.load_state_dict(state.pop("optimizer"))
    return Progress(**state)


def make_fabric(accelerator: str = "auto", devices: int = 1, precision: str | None = None) -> "Fabric":
    """Return a launched Fabric for one process, one GPU or several.

    Args:
        accelerator: "auto" (a GPU if there is one), "cpu" or "gpu".
        devices: How many; above one, each is a process and they share every batch.
        precision: Fabric's name of the number format; None for float32.

    Raises:
        StudyError: There is no such device here.
    """
    from lightning_fabric import Fabric  # seconds to import: only a process that trains pays
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    strategy: Any = "auto"
    if devices > 1:
        # A box prompt trains no IoU head: some parameters get no gradient, which must be said beforehand.
        strategy = DDPStrategy(find_unused_parameters=True)
    chosen: Any = precision or "32-true"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=chosen)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise StudyError(
            f"{devices} device(s) of accelerator '{accelerator}' cannot be used here ({error}): "
            "see 'desam-lite info', or use accelerator 'cpu'."
        ) from error
    fabric.launch()
    return fabric
