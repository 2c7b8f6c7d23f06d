"""The compared methods: `METHODS` builds each from a specification, `load_predictor` from what a run saved.

`register` adds one. Importing this imports no method and no torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import desam_lite.methods.catalogue  # noqa: F401  it registers the methods of the study
from desam_lite.methods.registry import DECODER, METHODS, ON_UNET, Choice, register

if TYPE_CHECKING:
    import torch

    from desam_lite.methods.model_card import ModelCard
    from desam_lite.training.method import Predictor

__all__ = ["DECODER", "METHODS", "ON_UNET", "Choice", "TrainedModel", "load_predictor", "register"]


class TrainedModel(NamedTuple):
    """What a run saved, ready to predict: what it is (the card), and what predicts."""

    card: "ModelCard"
    predictor: "Predictor"


def load_predictor(directory: Path | str, device: "torch.device | str" = "cpu") -> TrainedModel:
    """Load what a run saved, from its directory or a copy of its ``model.json`` and ``model.safetensors``, onto a device.

    The frozen weights of a model on SAM must be where they were, or next to these.

    Raises:
        StudyError: A file is missing or damaged, or does not fit the card.
    """
    from desam_lite.methods.model_card import read_card
    from desam_lite.model.names import RANDOM_WEIGHTS

    folder = Path(directory)
    card = read_card(folder)
    # The predictor loads the frozen weights with the trained ones, from where the card says they are.
    spec = card.spec.model_copy(update={"weights": RANDOM_WEIGHTS})
    predictor: Predictor = METHODS[spec.method](spec, len(card.organs), [])
    predictor.load(folder)
    predictor.to(device)
    return TrainedModel(card, predictor)
