"""What one run is: every choice that changes its numbers, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from desam_lite.methods.registry import METHOD_CHOICES, METHODS, OF_GRID, OF_IOU_HEAD, SETTINGS, find_method
from desam_lite.model.names import (
    RANDOM_WEIGHTS,
    SAM_BACKBONES,
    AutomaticMode,
    MaskLoss,
    PromptMode,
    Selection,
    Variant,
)
from desam_lite.utils.errors import StudyError

RUN_VERSION = 3
"""Raised when the meaning of a specification changes, so that older runs are not taken for new ones."""
RANDOM_ENCODER = "random encoder"
"""Marks the label of a method with an untrained encoder."""
SINGLE_ORGAN = "one organ"
"""Marks the label of a method that is trained on one organ of several: its runs on the others have the same label."""

_USUALLY_NONE = {"organs", "patience", "mask_loss", "selection", "test_prompt", "tool"}
"""Settings that many runs do without; None is not part of a run's name."""

_AUGMENTED = {
    "light": " + light aug.",
    "nnunet": " + nnU-Net aug.",
    "random": " + random contrast",
    "synthetic": " on synthetic slices",
}
_VARIANTS = {
    "desam": "{}",
    "no_iou_head": "{} without IoU head",
    "no_fusion": "{} without fusion",
    "pdmm_only": "PDMM alone",
}


class RunSpec(BaseModel):
    """One (task, source, method, seed, settings), trained on the source and scored on every domain.

    Settings that a method does not use are set to None, so that two specifications of the same run are equal. All are
    fields of one class because the name of a run is the hash of all fields, None included. The defaults are those of the public
    DeSAM code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Path  #: the task's manifest file
    data_root: Path  #: folder that the manifest's patterns start from
    source: str  #: domain trained on
    method: str  #: what is compared: a name of `desam_lite.methods.registry.METHODS`
    variant: Variant | None = "desam"  #: decoder variant of DeSAM
    #: the prompt of DeSAM and SAM: a grid of points (P) or the whole image as box (B). SAM may also get, as an oracle, the
    #: innermost point or the tight box of the reference
    prompt_mode: PromptMode | None = "points"
    #: the prompt of predictions where it is not that of training; None where it is
    test_prompt: AutomaticMode | None = None
    backbone: str | None = "sam_tiny"  #: the frozen encoder
    #: its weights: a checkpoint file, "shipped" for those of `sam_tiny` that come with this package, or "random" for seeded
    #: random ones
    weights: str | None = RANDOM_WEIGHTS
    #: number format of the stored embeddings
    embedding_format: Literal["float16", "bfloat16", "float32", "float8"] | None = "float16"
    #: what the masks of a decoder on SAM's encoder are trained with, and its epoch selected by: Dice alone, or Dice plus
    #: cross-entropy
    mask_loss: MaskLoss | None = "dice"
    #: distance of a point's predicted IoU from its target (1 in the organ, 0 outside): L1 or squared
    iou_loss: Literal["l1", "mse"] | None = "l1"
    iou_weight: float | None = Field(default=1.0, gt=0)  #: weight of that distance beside the mask loss
    points_per_side: int | None = Field(default=9, ge=1)  #: points along each side of the prediction grid
    iou_threshold: float | None = Field(
        default=0.5, ge=0, le=1
    )  #: smallest predicted IoU of a point that is kept
    #: smallest stability score (IoU of the mask at logits +1 and -1) of a mask that is kept; 0 keeps all, as the public
    #: DeSAM code does
    stability_threshold: float | None = Field(default=0.0, ge=0, le=1)
    #: which mask of the grid is kept: by "iou" that of the highest predicted IoU that is not empty; as "published" the first
    #: that needs no clean-up (`desam_lite.model.predictor`)
    selection: Selection | None = "published"
    #: holes and islands smaller than this are removed, in pixels of a 256 x 256 slice
    min_area: int | None = Field(default=1000, ge=0)
    lora_rank: int | None = Field(default=4, ge=1)  #: rank of SAMed's changes of the encoder
    unet_width: int | None = Field(default=32, ge=1)  #: channels of the U-Net's finest level
    unet_size: int | None = Field(default=256, ge=16)  #: side of the U-Net's input square, in pixels
    #: what its training slices go through at random: nothing, "light" (intensities only), as much as in nnU-Net, or its
    #: geometry with "random" appearances of the slice or "synthetic" images of its labels
    augmentation: Literal["none", "light", "nnunet", "random", "synthetic"] | None = "none"
    #: name in tables of the tool whose masks are scored; None for a method of this package
    tool: str | None = Field(default=None, pattern=r"^\w[\w .+()/-]{0,59}$")
    #: names of the organs that are trained, predicted and scored, as if the task had no others; None for all of them
    organs: tuple[str, ...] | None = Field(default=None, min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)  #: names initial weights, split, order, prompts
    #: how the source's cases are divided (`desam_lite.data.slices.split_cases`); with "half_tested" the last half of every
    #: target's cases is tested too, else all of them
    split: Literal["published_90_10", "80_10_10", "70_10_20", "half_tested"] = "published_90_10"
    train_slices: Literal["all", "foreground", "published"] | None = (
        "published"  #: which slices are trained on
    )
    #: passes over the training slices; with ``patience``, at most so many
    epochs: int | None = Field(default=50, ge=1)
    #: epochs without a lower validation loss in the source after which the learning rate falls and training ends; None for
    #: the published schedule, which has a fixed length
    patience: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=8, ge=1)  #: slices per optimiser step
    learning_rate: float | None = Field(default=1e-4, gt=0)  #: Adam's, at the start
    clip: float | None = Field(default=0.0, ge=0)  #: largest norm of the gradient; 0 leaves it as it is
    #: Lightning Fabric's name of the number format of training
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = "32-true"

    @field_validator("method")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if find_method(name) is None:
            raise ValueError(f"no such method is registered; there are {', '.join(map(repr, METHODS))}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _drop_unused(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, **dict.fromkeys(_unused_settings(values))}

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        optional = _unused_settings(dict(self)) | _USUALLY_NONE - {"tool"}
        missing = [name for name, value in self if value is None and name not in optional]
        if missing:
            raise ValueError(f"method '{self.method}' needs a value for {', '.join(missing)}")
        labels = METHODS[self.method].labels
        if isinstance(labels, Mapping) and self.prompt_mode not in labels:
            raise ValueError(f"method '{self.method}' takes prompt_mode {', '.join(labels)}")
        if self.tool in [label_of(choice) for choice in METHOD_CHOICES.values()]:
            raise ValueError(f"'{self.tool}' is the name of a method of this study: give another label")
        return self

    @property
    def label(self) -> str:
        """The method's name as tables and figures show it."""
        return label_of(dict(self))

    @property
    def predicts_iou(self) -> bool:
        """Whether its model predicts the IoU of its masks, and is trained to."""
        has_head = METHODS[self.method].predicts_iou and self.variant in (None, "desam", "no_fusion")
        return has_head and self.prompt_mode == "points"

    def settings(self) -> dict[str, Any]:
        """Return what names the run: all fields but where the files lie; data and weights enter by their content.

        Settings that many runs do without are left out there, so that these keep the names they had.
        """
        unused = {name for name in _USUALLY_NONE if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude={"manifest", "data_root", "weights", *unused})


def label_of(values: Mapping[str, Any]) -> str:
    """Return the name in tables and figures of a method with some settings; those that are not given have their defaults."""
    labels = METHODS[values["method"]].labels
    name = labels if isinstance(labels, str) else labels[values.get("prompt_mode") or "points"]
    name = values.get("tool") or name
    name += _AUGMENTED.get(values.get("augmentation") or "", "")
    name = _VARIANTS[values.get("variant") or "desam"].format(name)
    backbone, test_prompt = values.get("backbone"), values.get("test_prompt")
    name += f", {backbone}" if backbone not in (None, *SAM_BACKBONES) else ""
    name += f", tested with {test_prompt}" if test_prompt else ""
    organs = values.get("organs")
    if organs is not None:
        name = f"{name}, {SINGLE_ORGAN if len(organs) == 1 else ' + '.join(organs)}"
    return f"{name}, {RANDOM_ENCODER}" if values.get("weights") == RANDOM_WEIGHTS else name


def _unused_settings(values: Mapping[str, Any]) -> set[str]:
    """Return the optional settings that a run with these values does not use."""
    entry = find_method(values.get("method"))
    unused = set(SETTINGS - (entry.uses if entry else frozenset()))
    without_prim = values.get("method") == "desam" and values.get("variant", "desam") == "pdmm_only"
    trained = None if without_prim else values.get("prompt_mode", "points")
    tested = (trained and values.get("test_prompt")) or trained
    if tested == trained:
        unused.add("test_prompt")
    if trained != "points":
        unused.update(OF_IOU_HEAD)
    if tested != "points":
        unused.update(OF_GRID)
    return unused


def make_spec(**fields: Any) -> RunSpec:
    """Build a specification; a StudyError names the field that is unknown or whose value does not fit."""
    try:
        return RunSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        setting = f"run setting '{name}' = {first.get('input')!r}: " if name else ""
        raise StudyError(
            f"{setting}{first['msg'].removeprefix('Value error, ')}; "
            "settings and their values are explained in desam_lite/methods/run_spec.py."
        ) from error
