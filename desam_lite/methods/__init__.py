"""The compared methods under one roof: `METHODS` builds each from a specification, `load_predictor` from what a run saved."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from desam_lite.cards import ModelCard, read_card
from desam_lite.methods.base import Method, Predictor
from desam_lite.slices import CaseSlices
from desam_lite.spec import RANDOM_WEIGHTS, RunSpec

if TYPE_CHECKING:
    from desam_lite.inference import GridSettings

__all__ = ["METHODS", "Method", "Predictor", "TrainedModel", "load_predictor", "method_class"]


def _desam(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.backbones import build_model
    from desam_lite.methods.desam import DeSAMMethod, IoULoss

    assert spec.prompt_mode is not None
    judge = IoULoss(spec.iou_loss or "l1", spec.iou_weight or 1.0)
    return DeSAMMethod(build_model(spec, n_organs), spec.prompt_mode, _grid(spec), judge)


def _grid(spec: RunSpec) -> "GridSettings":
    from desam_lite.inference import GridSettings

    return GridSettings(
        points_per_side=spec.points_per_side or 1,
        iou_threshold=spec.iou_threshold or 0.0,
        stability_threshold=spec.stability_threshold or 0.0,
        min_area=spec.min_area or 0,
    )


def _sam_zero_shot(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.backbones import build_sam
    from desam_lite.methods.prior import Prior
    from desam_lite.methods.sam import SAMZeroShot

    assert spec.prompt_mode is not None
    prior = Prior.fit(cases, n_organs)
    return SAMZeroShot(build_sam(spec, n_organs), spec.prompt_mode, _grid(spec), prior)


def _sam_finetuned(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.backbones import build_sam
    from desam_lite.methods.prompted import IoULoss
    from desam_lite.methods.sam import SAMFinetuned

    assert spec.prompt_mode is not None
    judge = IoULoss(spec.iou_loss or "l1", spec.iou_weight or 1.0)
    return SAMFinetuned(build_sam(spec, n_organs, seed=spec.seed), spec.prompt_mode, _grid(spec), judge)


def _samed(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.backbones import build_sam
    from desam_lite.methods.samed import SAMed

    assert spec.lora_rank is not None
    return SAMed(build_sam(spec, n_organs, seed=spec.seed), spec.lora_rank, spec.seed)


def _unet(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    """Build the U-Net or a method on it."""
    settings = (spec.unet_width, spec.unet_size, spec.seed, spec.augmentation)
    built: Predictor = method_class(spec.method)(n_organs, *settings)
    return built


def _prior(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.methods.prior import Prior

    return Prior.fit(cases, n_organs)


METHODS: dict[str, Callable[[RunSpec, int, list[CaseSlices]], Predictor]] = {
    "desam": _desam,
    "unet": _unet,
    "randconv": _unet,
    "mixstyle": _unet,
    "csdg": _unet,
    "advbias": _unet,
    "maxstyle": _unet,
    "prior": _prior,
    "sam_zero_shot": _sam_zero_shot,
    "sam_finetuned": _sam_finetuned,
    "samed": _samed,
}
"""Name of a method to what builds it: from the specification, the number of organs and the training cases."""


_CLASSES = {
    "desam": ("desam", "DeSAMMethod"),
    "sam_zero_shot": ("sam", "SAMZeroShot"),
    "sam_finetuned": ("sam", "SAMFinetuned"),
    "samed": ("samed", "SAMed"),
    "unet": ("unet", "UNetMethod"),
    "randconv": ("randconv", "RandConv"),
    "mixstyle": ("mixstyle", "MixStyle"),
    "csdg": ("csdg", "CSDG"),
    "advbias": ("advbias", "AdvBias"),
    "maxstyle": ("maxstyle", "MaxStyle"),
    "prior": ("prior", "Prior"),
}


def method_class(name: str) -> Any:
    """Return the class of a method, imported when it is asked for: it tells the paper, the defaults and what differs."""
    module, kind = _CLASSES[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)


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
