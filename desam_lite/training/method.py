"""What scoring and the training loop need of a method: how it is built, trained, saved, loaded, and how it predicts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from desam_lite.data.datasets import Batch
from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.weights import find_weights, read_tensors
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, write_json

CARD = "model.json"
TENSORS = "model.safetensors"

Volume = npt.NDArray[np.uint8]
"""The prepared slices of one scan, or their organ ids: ``(Z, H, W)``."""


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """A method's prediction of one slice, on the grid of the slice."""

    labels: npt.NDArray[np.uint8]  # ``(H, W)`` uint8: 0 background, 1..K the organs
    probability: npt.NDArray[
        np.float32
    ]  # ``(K, H, W)`` float32, before the method's own threshold and cleaning
    # ``(K,)`` float32: the IoU that the method predicts for its own masks; NaN if it predicts none
    iou: npt.NDArray[np.float32]

    @classmethod
    def from_probability(
        cls, probability: npt.NDArray[np.float32], iou: npt.NDArray[np.float32] | None = None
    ) -> Self:
        """Build it from probabilities ``(K, H, W)`` and, if the method predicts it, the IoU ``(K,)``."""
        missing = np.full(len(probability), np.nan, np.float32)
        return cls(combine_organs(probability), probability, missing if iou is None else iou)


def combine_organs(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Turn one probability per organ ``(..., K, H, W)`` into organ ids ``(..., H, W)``: the largest above 0.5, else 0."""
    best = probability.argmax(axis=-3)
    above = probability.max(axis=-3) > 0.5
    return np.where(above, best + 1, 0).astype(np.uint8)


class Predictor(ABC):
    """Anything that segments the organs of a scan, trained or not."""

    # key in ``book/references.bib`` of what it implements; empty for what is of this study, "unknown" if nobody can say
    paper: ClassVar[str] = ""
    defaults_from: ClassVar[str] = ""  # where the values of its settings come from
    differs: ClassVar[tuple[str, ...]] = ()  # what is not as in the paper or its public code, a sentence each

    # whether its prompts are made from the reference it is scored against: no competitor. It then predicts by
    # `predict_oracle` and cannot segment a new scan
    oracle: bool = False
    # the model that computes the embeddings it needs; None for a method on the slices themselves
    encoder: PromptedSAM | None = None

    @classmethod
    def build(cls, spec: Any, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it for a run.

        Args:
            spec: The settings of the run, those that the method is registered to use: a `desam_lite.methods.run_spec.RunSpec`.
            n_organs: K.
            cases: The training cases of the source; none when a saved model is to be loaded.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Segment the organs, one slice after the other.

        Args:
            images: The prepared slices of one scan ``(Z, H, W)``; no method gets anything else of it.
            embeddings: Returns their embeddings, for methods on these.

        Yields:
            Z predictions, from the lowest slice to the highest.
        """

    def predict_oracle(
        self, images: Volume, embeddings: ReadEmbeddings | None, reference: Volume
    ) -> Iterator[SlicePrediction]:
        """Segment the organs as `predict` does, prompted by the reference labels ``(Z, H, W)``; for oracles only."""
        raise TypeError(f"{type(self).__name__} is no oracle: it gets no reference")

    def label(self, case: CaseSlices, embeddings: ReadEmbeddings | None) -> Volume:
        """Return the organ ids ``(Z, H, W)`` that it predicts of a case, as an oracle with the help of its reference."""
        given = case.images, embeddings
        slices = self.predict_oracle(*given, case.labels) if self.oracle else self.predict(*given)
        return np.stack([each.labels for each in slices])

    def to(self, device: torch.device | str) -> None:
        """Move what it computes with to a device."""
        if self.encoder is not None:
            self.encoder.to(device)

    @abstractmethod
    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write what a later prediction needs as ``model.safetensors`` and ``model.json`` (the card)."""

    def load(self, directory: Path) -> None:
        """Load what `save` wrote, and the frozen weights that the card names."""
        raise NotImplementedError


class Method(Predictor):
    """What is trained and compared: a network with its loss and its way to predict."""

    # whether `Batch.images` is filled, with standardised "slices" or SAM's "pixels", or `Batch.embeddings` is
    inputs: ClassVar[Literal["slices", "pixels", "embeddings"]]
    input_size: int  # side of the square a slice is fitted to, in pixels
    mask_size: int  # side of the maps the loss compares, in pixels
    module: (
        nn.Module
    )  # the network; its ``forward`` is what the training loop wraps for devices and precision

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Move the network to a device."""
        self.module.to(device)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the optimiser trains."""
        return (p for p in self.module.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the trained tensors by name; frozen ones are named by their hash and left out."""
        return {name: p.data for name, p in self.module.named_parameters() if p.requires_grad}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Copy in the tensors that `state_dict` returned."""
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError(f"the checkpoint holds other tensors: {sorted(own.keys() ^ state.keys())[:3]}")
        for name, value in state.items():
            own[name].copy_(value)

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Add all that is random: prompts, augmentation. One generator per slice of the batch."""
        return batch

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the training loss, a scalar: the mean over the slices. ``module`` is `Method.module`, wrapped."""

    def validation_loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss that selects the epoch; the training loss unless a method has another."""
        return self.loss(module, batch)

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the trained tensors and the card."""
        save_tensors(directory, self.state_dict(), card)

    def load(self, directory: Path) -> None:
        """Load what `save` wrote."""
        self.load_state_dict(load_tensors(directory, self.state_dict()))


def save_tensors(directory: Path, tensors: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``model.json`` into ``directory``, each atomically."""
    with atomic_path(directory / TENSORS) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
    write_json(directory / CARD, card)


def load_tensors(directory: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read ``model.safetensors``; its tensors must have the names and shapes of the expected ones.

    Raises:
        StudyError: The file is missing or damaged, or a name or shape differs; the message has the first.
    """
    tensors = read_tensors(find_weights(directory / TENSORS))
    for name in sorted(tensors.keys() | expected.keys()):
        shapes = [tuple(part[name].shape) if name in part else "none" for part in (tensors, expected)]
        if shapes[0] != shapes[1]:
            raise StudyError(
                f"'{directory / TENSORS}' does not fit its card: tensor '{name}' has shape {shapes[0]}, not {shapes[1]}; "
                "restore both files as the run wrote them."
            )
    return tensors
