"""The compared methods under one roof: `METHODS` builds each from a specification, `load_predictor` from what a run saved.

`register` adds one; where and how the study's own are registered is in `desam_lite.methods.catalogue`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from desam_lite.methods.model_card import ModelCard, read_card
from desam_lite.methods.registry import DECODER, METHODS, ON_UNET, Choice, register
from desam_lite.model.names import RANDOM_WEIGHTS
from desam_lite.training.method import Method, Predictor

__all__ = [
    "DECODER",
    "METHODS",
    "ON_UNET",
    "Choice",
    "Method",
    "Predictor",
    "TrainedModel",
    "load_predictor",
    "method_class",
    "register",
]


def method_class(name: str) -> Any:
    """Return the class of a method, imported when it is asked for: it tells the paper, the defaults and what differs."""
    return METHODS[name].load()


class TrainedModel(NamedTuple):
    """What a run saved, ready to predict.

    Attributes:
        card: What it is.
        predictor: What draws.
    """

    card: ModelCard
    predictor: Predictor


def load_predictor(directory: Path | str, device: torch.device | str = "cpu") -> TrainedModel:
    """Read back what a run saved.

    Args:
        directory: The run directory, or a copy of its ``model.json`` and ``model.safetensors``. The frozen weights of a DeSAM
            must be where they were, or beside these.
        device: Where the model goes.

    Raises:
        StudyError: A file is missing or damaged, or does not fit the card.
    """
    folder = Path(directory)
    card = read_card(folder)
    # The frozen weights come with the trained ones, from where the card says they are.
    spec = card.spec.model_copy(update={"weights": RANDOM_WEIGHTS})
    predictor = METHODS[spec.method](spec, len(card.organs), [])
    predictor.load(folder)
    predictor.to(device)
    return TrainedModel(card, predictor)
