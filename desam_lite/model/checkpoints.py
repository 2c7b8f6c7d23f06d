"""Filling a model from weights that others or we have trained: SAM's checkpoint, the published DeSAM's, or our own.

Every tensor of the model that a file should fill must be in it, under the name that such files give it and in the right shape,
and every tensor of the file must be used or be known to have no use here. Nothing is filled before everything fits.
"""

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from tqdm import tqdm

from desam_lite.model.desam import DeSAM
from desam_lite.model.names import RANDOM_WEIGHTS
from desam_lite.model.prompted_sam import FROZEN_SEED, PromptedSAM
from desam_lite.model.sam import BACKBONES, get_backbone
from desam_lite.model.sam_decoder import SAM
from desam_lite.model.shipped import SHIPPED
from desam_lite.model.weights import find_weights, parse_weights, read_tensors, weights_sha256
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest

_FROZEN = ("image_encoder", "prompt_encoder")
_TRAINED = ("prim", "pdmm")
_OURS = "model."  # what methods put before the names of the tensors they train
_PDMM = "mask_decoder.pimm."  # the published name of PDMM

# From our names of tensors to the published ones; every rule that fits is applied, in this order.
_NAMES = tuple(
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r"^prim\.iou_head\.", "mask_decoder.iou_prediction_head."),
        (r"^prim\.", "mask_decoder."),
        (r"^pdmm\.fusion\.", f"{_PDMM}mask_embedding_fusion."),
        (r"^pdmm\.context\.(\d)\.first\.", rf"{_PDMM}conv_blocks_context.\1.block_init."),
        (
            r"^pdmm\.context\.(\d)\.doubles\.(\d)\.",
            rf"{_PDMM}conv_blocks_context.\1.residual_block.\2.0.conv.",
        ),
        (r"^pdmm\.context\.(\d)\.blocks\.(\d)\.", rf"{_PDMM}conv_blocks_context.\1.residual_block.\2.1."),
        (r"^pdmm\.up\.(\d)\.upsample\.", rf"{_PDMM}conv_blocks_localization.\1.transp_conv.conv."),
        (r"^pdmm\.up\.(\d)\.block\.", rf"{_PDMM}conv_blocks_localization.\1.res_block."),
        (r"^pdmm\.head\.", f"{_PDMM}seg_outputs.1."),
        (r"\.(conv[12])\.weight$", r".\1.conv.weight"),
        (r"\.shortcut\.weight$", ".conv3.conv.weight"),
        (r"\.squeeze\.weight$", ".se.fc.0.weight"),
        (r"\.excite\.weight$", ".se.fc.2.weight"),
    )
)
# Tensors of SAM's mask decoder and of the published one that no forward pass of DeSAM uses: SAM's way to masks, the head for
# deep supervision, and the shortcut of blocks whose width does not change.
_UNUSED = r"mask_decoder\.(output_upscaling|output_hypernetworks_mlps|pimm\.seg_outputs\.0)\..+|.+\.conv3\.conv\.weight"
_IOU_HEAD = r"mask_decoder\.iou_prediction_head\..+"
_PRIM = rf"mask_decoder\.(transformer|iou_token|mask_tokens)\..+|{_IOU_HEAD}"
# SAM's head judges four masks, ours K organs: where K is larger, SAM's rows are the first four.
_SAM_MASKS = 4
_IOU_ROWS = ("prim.iou_head.layers.2.weight", "prim.iou_head.layers.2.bias")
_MASK_ROWS = tuple(
    f"mask_decoder.{name}"
    for name in (
        "mask_tokens.weight",
        "iou_prediction_head.layers.2.weight",
        "iou_prediction_head.layers.2.bias",
    )
)
_NOT_IN_SAM = rf"\.lora_|output_hypernetworks_mlps\.([{_SAM_MASKS}-9]|\d\d)"


def load_checkpoint(model: DeSAM, path: Path | str, *, encoder: bool = False) -> None:
    """Fill a model from a file: all of it that the file holds, or nothing if anything does not fit.

    SAM's checkpoint fills the frozen encoders and is where PRIM starts from; PDMM stays as it was. The published DeSAM fills all;
    if it holds no image encoder, the model's is left alone. A ``model.safetensors`` of one of our runs fills the decoder; its
    card, ``model.json`` beside it, names the frozen weights, which are loaded too.

    Args:
        model: As built, on any device.
        path: The file, with ``#sha256=HEX`` after it where its content must have that hash.
        encoder: Whether a file without image encoder is refused.

    Raises:
        StudyError: The file is missing, damaged, could run code, or does not fit; the sentence names the first tensor at fault.
    """
    own = model.state_dict()
    for name, value in _plan(model, path, encoder, ()).items():
        own[name][: len(value)].copy_(value)


def check_checkpoint(model: DeSAM, path: Path | str) -> None:
    """Check that a file holds an image encoder and fits a model, which may be on the device "meta"; nothing is filled.

    Raises:
        StudyError: As `load_checkpoint`.
    """
    _plan(model, path, True, ())


def load_sam(model: SAM, path: Path | str) -> None:
    """Fill SAM with its own decoder from SAM's checkpoint: both encoders and the mask decoder; what LoRA adds stays as it is.

    Where K is larger than SAM's four masks, the further tokens and their networks stay as they were.

    Raises:
        StudyError: As `load_checkpoint`.
    """
    own = model.state_dict()
    for name, value in _plan_sam(model, path).items():
        own[name][: len(value)].copy_(value)


def check_sam(model: SAM, path: Path | str) -> None:
    """Check that a file holds SAM with its mask decoder and fits a model, as `check_checkpoint` does.

    Raises:
        StudyError: As `load_checkpoint`.
    """
    _plan_sam(model, path)


def _plan_sam(model: SAM, text: Path | str) -> dict[str, torch.Tensor]:
    path = find_weights(text)
    own = {name: name for name in model.state_dict() if not re.search(_NOT_IN_SAM, name)}
    return _fit(model, path, read_tensors(path), own, fewer_rows=_MASK_ROWS)


def random_weights(backbone: str) -> str:
    """Return what names the frozen random weights of a backbone: 16 hexadecimal digits."""
    return digest({"random": asdict(get_backbone(backbone)), "seed": FROZEN_SEED})


def fit_tensors(
    model: DeSAM, path: Path, tensors: Mapping[str, torch.Tensor], *, encoder: bool = False
) -> dict[str, torch.Tensor]:
    """Find the place of every tensor of SAM's checkpoint or the published DeSAM's.

    Args:
        model: What is to be filled.
        path: Where they come from, for messages.
        tensors: By the file's names.
        encoder: Whether an image encoder must be among them.

    Returns:
        Tensors by our names.

    Raises:
        StudyError: A tensor is missing, has another shape, or is unknown.
    """
    if not any(name.startswith(("mask_decoder.", "image_encoder.")) for name in tensors):
        raise StudyError(
            f"the weights file '{path}' is neither SAM's checkpoint nor a DeSAM's: its first tensor is '{next(iter(tensors))}', "
            "give another file."
        )
    published = any(name.startswith(_PDMM) for name in tensors)
    parts = {"prompt_encoder", "prim", "pdmm" if published else "image_encoder"}
    if encoder or any(name.startswith("image_encoder.") for name in tensors):
        parts.add("image_encoder")
    names = {ours: _published_name(ours) for ours in _names_of(model, parts)}
    plan = _fit(model, path, tensors, names, _unused(model), () if published else _IOU_ROWS)
    _tell_unused(path, len(tensors.keys() - set(names.values())))
    return plan


def _plan(model: DeSAM, text: Path | str, encoder: bool, outer: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """Return what goes where, by our names; ``outer`` are files whose cards have led here."""
    path = find_weights(text)
    tensors = read_tensors(path)
    if all(name.startswith(_OURS) for name in tensors):
        return _plan_own(model, path, tensors, outer)
    return fit_tensors(model, path, tensors, encoder=encoder)


def _plan_own(
    model: DeSAM, path: Path, tensors: Mapping[str, torch.Tensor], outer: tuple[Path, ...]
) -> dict[str, torch.Tensor]:
    card = _read_card(path)
    for setting, asked in (("backbone", model.backbone), ("variant", model.variant)):
        trained = getattr(card, setting)
        if trained != asked:
            raise StudyError(
                f"the weights file '{path}' was trained with {setting} {trained}, the run asks for {asked}: "
                f"set {setting}={trained}."
            )
    names = {ours: _OURS + ours for ours in _names_of(model, _TRAINED)}
    return {**_frozen(model, path, card, outer), **_fit(model, path, tensors, names)}


def _frozen(model: DeSAM, path: Path, card: "_Card", outer: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """Return the frozen tensors that a card names; none for the random ones, which every model is built with."""
    place = frozen_file(path, model.backbone, card.weights, card.weights_hash)
    if place is None:
        return {}
    if path.resolve() in outer:
        raise StudyError(
            f"the card of '{path}' names the file itself as its frozen weights: restore the card."
        )
    plan = _plan(model, place, True, (*outer, path.resolve()))
    return {name: value for name, value in plan.items() if name.split(".")[0] in _FROZEN}


def frozen_file(path: Path, backbone: str, weights: str, weights_hash: str) -> Path | None:
    """Return where the frozen weights are that a run was trained on; None for the random ones.

    Args:
        path: What the run saved, for messages; the weights may have moved beside it.
        backbone: Name of the backbone.
        weights: What its card names.
        weights_hash: The first digits of their SHA-256, or `random_weights`.

    Raises:
        StudyError: They are not there, or not what they were.
    """
    if weights == RANDOM_WEIGHTS:
        if weights_hash != random_weights(backbone):
            raise StudyError(
                f"'{path}' was trained on the random {backbone} of another version of this package: "
                "use that version, or train again."
            )
        return None
    named, _ = parse_weights(weights)
    for place in (named, path.parent / named.name):
        if place.is_file() and weights_sha256(place).startswith(weights_hash):
            return place
    raise StudyError(
        f"'{path}' was trained on the frozen weights '{named}' (SHA-256 {weights_hash}...), which are not there: "
        "put that file there, or beside it."
    )


@dataclass(frozen=True)
class _Card:
    """What a model card says of the weights: how they were trained, and on which frozen ones."""

    backbone: str
    variant: str
    weights: str
    weights_hash: str


def _read_card(path: Path) -> _Card:
    place = path.with_suffix(".json")
    try:
        run = json.loads(place.read_text(encoding="utf-8"))["run"]
        settings, files = run["identity"]["settings"], run["files"]
        said = (settings["backbone"], settings["variant"], files["weights"], run["identity"]["weights"])
    except OSError as error:
        raise StudyError(
            f"'{path}' lacks its card: put '{place.name}', which the run wrote with it, beside it."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"the card '{place}' is damaged or not of a DeSAM run: restore the one that the run wrote."
        ) from error
    if not all(isinstance(value, str) and value for value in said):
        raise StudyError(
            f"the card '{place}' does not name backbone, variant and frozen weights: restore it."
        )
    return _Card(*said)


def _names_of(model: DeSAM, parts: Collection[str]) -> list[str]:
    return [name for name in model.state_dict() if name.split(".")[0] in parts]


def _published_name(ours: str) -> str:
    """Return what the published state dict calls a tensor; the names of the encoders are the same."""
    name = ours
    for pattern, theirs in _NAMES if ours.startswith(_TRAINED) else ():
        name = pattern.sub(theirs, name)
    return name


def _fit(
    model: PromptedSAM,
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    unused: str = "",
    fewer_rows: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Return the tensors by our names, once every name and shape is right.

    Args:
        model: What is to be filled.
        path: Where the tensors come from, for messages.
        tensors: By the file's names.
        names: Our name of every tensor wanted, to the file's.
        unused: Pattern of the file's names that have no use here.
        fewer_rows: Ours of which SAM has the first four rows.
    """
    own, plan = model.state_dict(), {}
    for ours, theirs in names.items():
        expected = tuple(own[ours].shape)
        if theirs not in tensors:
            raise _misfit(model, path, tensors, f"lacks tensor '{theirs}' of shape {expected}")
        found = tuple(tensors[theirs].shape)
        if found != expected and not (ours in fewer_rows and found == (_SAM_MASKS, *expected[1:])):
            fault = f"holds tensor '{theirs}' of shape {found} where {expected} is expected"
            raise _misfit(model, path, tensors, fault)
        plan[ours] = tensors[theirs]
    used = set(names.values())
    for theirs, value in tensors.items():
        if theirs not in used and not re.fullmatch(unused, theirs):
            fault = f"holds tensor '{theirs}' of shape {tuple(value.shape)}, for which there is no place"
            raise _misfit(model, path, tensors, fault)
    return plan


@lru_cache
def _tell_unused(path: Path, count: int) -> None:
    """Say once per process and file how much of it has no use here; of what comes with this package it is known."""
    if count and path.resolve() != SHIPPED:
        tqdm.write(
            f"{path}: {count} tensors have no use in DeSAM (SAM's way to masks and the like) and are left aside",
            file=sys.stderr,
        )


def _unused(model: DeSAM) -> str:
    """Return the pattern of published names that this variant has no use for."""
    if model.prim is None:
        return f"{_UNUSED}|{_PRIM}"
    return _UNUSED if model.prim.iou_head is not None else f"{_UNUSED}|{_IOU_HEAD}"


def _misfit(model: PromptedSAM, path: Path, tensors: Mapping[str, torch.Tensor], fault: str) -> StudyError:
    """Return the error that says what does not fit and, where it shows, which backbone the file is of."""
    actual = _recognise(tensors)
    if actual is not None and actual != model.backbone:
        advice = f"that is a {actual}, the run asks for {model.backbone}: set backbone={actual}"
    else:
        advice = f"a {model.title} is asked for"
    return StudyError(f"the weights file '{path}' {fault}: {advice}.")


def _recognise(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the backbone whose sizes a file has; None if it has none's."""
    for name, spec in BACKBONES.items():
        telling = {
            "image_encoder.pos_embed": (1, spec.grid, spec.grid, spec.width),
            _published_name("pdmm.context.0.first.conv1.weight"): (spec.pdmm[0], spec.width, 3, 3),
        }
        present = {key: tuple(tensors[key].shape) for key in telling if key in tensors}
        if present and all(telling[key] == shape for key, shape in present.items()):
            return name
    return None
