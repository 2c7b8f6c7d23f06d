"""What every method says of itself, and what they share: the mask loss and how organs are combined."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from desam_lite.datasets import Batch
from desam_lite.embeddings import EmbeddingStore
from desam_lite.files import atomic_path, write_json
from desam_lite.slices import CaseSlices


class Predictor(ABC):
    """Anything that draws organs into a case, trained or not."""

    @abstractmethod
    def predict(self, case: CaseSlices, embeddings: EmbeddingStore | None) -> npt.NDArray[np.uint8]:
        """Return organ ids ``(Z, H, W)`` for every slice of a case."""

    @abstractmethod
    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write what a later prediction needs as ``model.safetensors`` and ``model.json`` (the card)."""


class Method(Predictor):
    """What is trained and compared: a network with its loss and its way to predict.

    Attributes:
        inputs: Whether `Batch.images` or `Batch.embeddings` is filled.
        input_size: Side of the square a slice is fitted to, in pixels.
        mask_size: Side of the maps the loss compares, in pixels.
        module: The network; its ``forward`` is what the training loop wraps for devices and precision.
    """

    inputs: ClassVar[Literal["slices", "embeddings"]]
    input_size: int
    mask_size: int
    module: nn.Module

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the optimiser trains."""
        return (p for p in self.module.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the trained tensors by name; frozen ones are known by their hash and left out."""
        return {name: p.data for name, p in self.module.named_parameters() if p.requires_grad}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over tensors that `state_dict` gave."""
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError(f"the checkpoint holds other tensors: {sorted(own.keys() ^ state.keys())[:3]}")
        for name, value in state.items():
            own[name].copy_(value)

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Add what is drawn at random: prompts, augmentation. One generator per slice of the batch."""
        return batch

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the training loss, a scalar: the mean over the slices. ``module`` is `Method.module`, wrapped."""

    def validation_loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss that selects the epoch; the training loss unless a method says otherwise."""
        return self.loss(module, batch)

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the trained tensors and the card."""
        save_tensors(directory, self.state_dict(), card)


def save_tensors(directory: Path, tensors: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``model.json`` into ``directory``, each atomically."""
    with atomic_path(directory / "model.safetensors") as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
    write_json(directory / "model.json", card)


def mask_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return Dice plus cross-entropy of each organ's own map: sigmoid, squared denominator (public DeSAM code).

    Args:
        logits: ``(B, K, h, w)``.
        masks: ``(B, K, h, w)`` float, 0 or 1.

    Returns:
        A scalar: the mean over slices and organs.
    """
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((2, 3))
    sizes = probability.square().sum((2, 3)) + masks.square().sum((2, 3))
    dice = 1 - (2 * overlap + 1e-5) / (sizes + 1e-5)
    return dice.mean() + nn.functional.binary_cross_entropy_with_logits(logits, masks)


def combine_organs(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Turn one probability per organ ``(..., K, H, W)`` into organ ids ``(..., H, W)``: the largest above 0.5, else 0."""
    best = probability.argmax(axis=-3)
    above = probability.max(axis=-3) > 0.5
    return np.where(above, best + 1, 0).astype(np.uint8)
