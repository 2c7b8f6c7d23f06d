"""The training loop: batch, loss, optimiser step, validation, checkpoint; one path for CPU, one GPU and several.

Every random number comes from a generator named by (seed, epoch, sample), never from a running stream. So a run that was
stopped and resumed, or shared between processes, trains on exactly the samples, prompts and augmentations of any other.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.data.datasets import Batch, TrainingData
from desam_lite.training.method import Method
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path
from desam_lite.utils.memory import keep_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT = "checkpoint.pt"
VALIDATION_EPOCH = 2**31 - 1
"""The "epoch" whose random numbers validation always uses, so that its losses can be compared."""
DECAY = 0.9  # power of the polynomial decay of the learning rate (public DeSAM code)
# At source A, seed 0, a U-Net with nnU-Net's augmentation came to a validation loss of 0.024 so, and to 0.028 with torch's
# ReduceLROnPlateau (factor 0.3) from the same plateau: at the full rate the loss is noisy, and the decay settles it.
TAIL = 0.5  # epochs of that decay after a plateau, as a part of the epochs before it
GAIN = 0.005  # a validation loss counts as lower when it is by this part


@dataclass(frozen=True)
class TrainSettings:
    """How long and how a model is trained; the defaults are those of the public DeSAM code."""

    epochs: int = 50  #: passes over the training slices; with ``patience``, at most so many
    batch_size: int = 8  #: slices per optimiser step, over all processes together
    learning_rate: float = 1e-4  #: Adam's, at the start; it falls as `learning_rate_after` says
    #: epochs without a lower validation loss after which the loss is on its plateau; None for the published schedule of
    #: fixed length
    patience: int | None = None
    clip: float = 0.0  #: largest norm of the gradient; 0 leaves it as it is (published)
    seed: int = 0  #: names every random number of the training

    @property
    def latest(self) -> int:
        """The epoch after which the rate falls, plateau or not, so that the decay ends within the budget."""
        return 0 if self.patience is None else int(self.epochs / (1 + TAIL))


@dataclass
class TrainingState:
    """How far the training is, and its best model: with network and optimiser, the content of a checkpoint."""

    epoch: int = 0
    best_loss: float = float("inf")
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def find_plateau(losses: Sequence[float], settings: TrainSettings) -> int | None:
    """Return the epoch (from 1) at which the validation losses of the finished epochs were on their plateau.

    That is the first one with ``patience`` epochs behind it of which none was lower than the best by the part `GAIN`; None if
    there was none by `TrainSettings.latest`.
    """
    best, at = float("inf"), 0
    for epoch, loss in enumerate(losses[: settings.latest], start=1):
        if loss < best * (1 - GAIN):
            best, at = loss, epoch
        if epoch - at >= (settings.patience or 0):
            return epoch
    return None


def learning_rate_after(losses: Sequence[float], settings: TrainSettings) -> float:
    """Return the learning rate of the next epoch, from the validation losses of those finished; 0 when training is over.

    It falls as ``(1 - t) ** 0.9``: without ``patience`` over all epochs, as published; else it stays as it is up to the plateau
    of the validation loss and falls over half as many epochs again. A function of the finished epochs alone: a training that
    was interrupted goes on as if it had not been.
    """
    start, length = 0, settings.epochs
    if settings.patience is not None:
        start = find_plateau(losses, settings) or settings.latest
        length = max(1, round(TAIL * start))
    past = max(len(losses) - start, 0)
    remaining: float = max(1 - past / length, 0.0) ** DECAY
    return settings.learning_rate * remaining


def train(
    method: Method,
    training: TrainingData,
    validation: TrainingData,
    settings: TrainSettings,
    folder: Path,
    fabric: "Fabric",
) -> Iterator[dict[str, float]]:
    """Train ``method`` and leave the weights of its best epoch in it.

    The best epoch is that of the lowest validation loss in the source domain (as published; no target is used). The slices to
    select it with are of other cases of the same domain. After every epoch a checkpoint is written to ``folder``; a later call
    continues from it. The module of the method is moved to the device of ``fabric`` (`desam_lite.training.devices.make_fabric`).

    Yields:
        One row per finished epoch: ``epoch`` (from 1), ``train_loss``, ``val_loss``, ``learning_rate``, ``plateau`` (1 once the
        validation loss has been on one, else 0), ``seconds`` of wall time, and ``busy_seconds``: CPU time of this process, or
        wall time on a GPU.

    Raises:
        StudyError: A loss is not finite; the message names the cases of that batch.
    """
    optimizer = torch.optim.Adam(method.parameters(), lr=settings.learning_rate)
    module, optimizer = fabric.setup(method.module, optimizer)
    state = _load_checkpoint(folder, method, optimizer, fabric.device)
    yield from state.history
    losses = [row["val_loss"] for row in state.history]
    while (rate := learning_rate_after(losses, settings)) > 0:
        start, cpu, epoch = time.perf_counter(), time.process_time(), state.epoch
        for group in optimizer.param_groups:
            group["lr"] = rate
        with keep_freed_memory():
            loss = train_epoch(method, module, optimizer, training, settings, epoch, fabric)
        val_loss = validate(method, module, validation, settings, fabric)
        losses.append(val_loss)
        row = {"epoch": float(epoch + 1), "train_loss": loss, "val_loss": val_loss, "learning_rate": rate}
        row["plateau"] = float(find_plateau(losses, settings) is not None)
        row["seconds"] = time.perf_counter() - start
        row["busy_seconds"] = time.process_time() - cpu if fabric.device.type == "cpu" else row["seconds"]
        state.history.append(row)
        state.epoch = epoch + 1
        if val_loss < state.best_loss:
            state.best_loss, state.best_state = val_loss, _copy(method.state_dict())
        _save_checkpoint(folder, method, optimizer, state, fabric)
        yield row
    method.load_state_dict(state.best_state)


def train_epoch(
    method: Method,
    module: nn.Module,
    optimizer: Any,
    data: TrainingData,
    settings: TrainSettings,
    epoch: int,
    fabric: "Fabric",
) -> float:
    """Take one optimiser step per batch, in this epoch's order of the slices; return the mean loss per slice."""
    module.train()
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(data))
    total = torch.zeros((), device=fabric.device)
    unchecked: tuple[torch.Tensor, Batch] | None = None
    for batch, weight, count in _batches(method, data, order, settings, epoch, fabric):
        # To check a loss is to wait for it: a GPU has the next batch's work by the time the last loss is read.
        if unchecked is not None:
            _require_finite(*unchecked, f"loss of epoch {epoch + 1}")
        loss = method.loss(module, batch) * weight
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if settings.clip > 0:
            fabric.clip_gradients(module, optimizer, max_norm=settings.clip)
        optimizer.step()
        total += loss.detach() * count
        unchecked = loss.detach(), batch
    if unchecked is not None:
        _require_finite(*unchecked, f"loss of epoch {epoch + 1}")
    return _mean_over_processes(total, len(data), fabric)


@torch.no_grad()
def validate(
    method: Method, module: nn.Module, data: TrainingData, settings: TrainSettings, fabric: "Fabric"
) -> float:
    """Return the mean validation loss per slice, with the same prompts in every epoch and no augmentation."""
    module.eval()
    order = np.arange(len(data))
    total = torch.zeros((), device=fabric.device)
    for batch, weight, count in _batches(method, data, order, settings, VALIDATION_EPOCH, fabric):
        loss = method.validation_loss(module, batch) * weight
        _require_finite(loss, batch, "validation loss")
        total += loss * count
    return _mean_over_processes(total, len(data), fabric)


def _batches(
    method: Method,
    data: TrainingData,
    order: npt.NDArray[np.int64],
    settings: TrainSettings,
    epoch: int,
    fabric: "Fabric",
) -> Iterator[tuple[Batch, float, int]]:
    """Yield this process's part of every batch, the weight of its loss, and the slices of the whole batch.

    The weight makes the mean over processes the mean over slices. A process whose part of a short last batch is empty still
    computes one slice, with weight 0: all processes must take part in every step.
    """
    world, rank = fabric.world_size, fabric.global_rank
    for start in range(0, len(order), settings.batch_size):
        whole = order[start : start + settings.batch_size]
        part = whole[rank::world]
        weight = len(part) * world / len(whole)
        rows = part if len(part) else whole[:1]
        generators = [sample_generator(settings.seed, epoch, int(row)) for row in rows]
        batch = method.prepare(data.batch(rows), generators, augment=epoch != VALIDATION_EPOCH)
        yield batch.to(fabric.device), weight, len(whole)


def sample_generator(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """Return the random stream of one sample in one epoch: the same on any machine, in any batch, after any restart."""
    return np.random.default_rng([seed, epoch, sample])


def _require_finite(loss: torch.Tensor, batch: Batch, name: str) -> None:
    if not torch.isfinite(loss):
        raise StudyError(
            f"the {name} is {loss.item()} on a batch of cases {', '.join(sorted(set(batch.cases)))}: look at these "
            "cases with 'desam-lite data show', or train with a lower learning rate or precision='32-true'."
        )


def _mean_over_processes(total: torch.Tensor, count: int, fabric: "Fabric") -> float:
    mean: Any = fabric.all_reduce(total, reduce_op="mean") if fabric.world_size > 1 else total
    return float(mean) / max(count, 1)


def _copy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _save_checkpoint(
    folder: Path, method: Method, optimizer: Any, state: TrainingState, fabric: "Fabric"
) -> None:
    if fabric.is_global_zero:
        tensors = {"model": _copy(method.state_dict()), "optimizer": optimizer.state_dict()}
        with atomic_path(folder / CHECKPOINT) as temporary:
            torch.save({**tensors, **vars(state)}, temporary)
    fabric.barrier()


def _load_checkpoint(folder: Path, method: Method, optimizer: Any, device: torch.device) -> TrainingState:
    """Fill network and optimiser from the last checkpoint, if there is one, and return where the training continues."""
    path = folder / CHECKPOINT
    if not path.exists():
        return TrainingState()
    state = torch.load(path, map_location=device, weights_only=True)
    method.load_state_dict(state.pop("model"))
    optimizer.load_state_dict(state.pop("optimizer"))
    return TrainingState(**state)
