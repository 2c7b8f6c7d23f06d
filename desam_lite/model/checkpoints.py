"""Filling a model from weights that others or we have trained: SAM's checkpoint, the published DeSAM's, or a run's own.

Every tensor that such a file should hold must be in it, under its name there and in the right shape, and every tensor of the file
must be used or be one that has no use here. Nothing is filled before everything fits.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from desam_lite.model.decoder import PRIM
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import RANDOM_WEIGHTS
from desam_lite.model.prompted_sam import FROZEN_SEED, PromptedSAM
from desam_lite.model.sam import BACKBONES, SAM_MASKS, get_backbone
from desam_lite.model.sam_decoder import SAM
from desam_lite.model.weights import (
    find_weights,
    parse_weights,
    public_weights,
    read_tensors,
    weights_sha256,
)
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest

_FROZEN = ("image_encoder.", "prompt_encoder.")
_OURS = "model."  # what methods put before the names of the tensors they train
_PDMM = "mask_decoder.pimm."  # the published name of PDMM
_NAMES = {
    r"^prim\.iou_head\.": "mask_decoder.iou_prediction_head.",
    r"^prim\.": "mask_decoder.",
    r"^pdmm\.fusion\.": f"{_PDMM}mask_embedding_fusion.",
    r"^pdmm\.context\.(\d)\.first\.": rf"{_PDMM}conv_blocks_context.\1.block_init.",
    r"^pdmm\.context\.(\d)\.doubles\.(\d)\.": rf"{_PDMM}conv_blocks_context.\1.residual_block.\2.0.conv.",
    r"^pdmm\.context\.(\d)\.blocks\.(\d)\.": rf"{_PDMM}conv_blocks_context.\1.residual_block.\2.1.",
    r"^pdmm\.up\.(\d)\.upsample\.": rf"{_PDMM}conv_blocks_localization.\1.transp_conv.conv.",
    r"^pdmm\.up\.(\d)\.block\.": rf"{_PDMM}conv_blocks_localization.\1.res_block.",
    r"^pdmm\.head\.": f"{_PDMM}seg_outputs.1.",
    r"\.(conv[12])\.weight$": r".\1.conv.weight",
    r"\.shortcut\.weight$": ".conv3.conv.weight",
    r"\.squeeze\.weight$": ".se.fc.0.weight",
    r"\.excite\.weight$": ".se.fc.2.weight",
}
"""From our names of tensors to the published ones; every rule that fits is applied, in this order."""
_UNUSED = r"mask_decoder\.(output_upscaling|output_hypernetworks_mlps|pimm\.seg_outputs\.0)\..+|.+\.conv3\.conv\.weight"
"""Published names that no forward pass of DeSAM uses: SAM's way to masks, deep supervision, shortcuts of equal width."""
_ROW_PER_MASK = r".+(mask_tokens|iou_(prediction_)?head\.layers\.2)\.(weight|bias)"
"""Our tensors of which SAM fills the first rows, one for each of its masks, where a model has more organs."""
_NOT_IN_SAM = rf"\.lora_|output_hypernetworks_mlps\.([{SAM_MASKS}-9]|\d\d)"


def load_checkpoint(model: DeSAM | SAM, path: Path | str, *, encoder: bool = False) -> None:
    """Fill a model from a file: all of it that the file holds, or nothing if anything does not fit.

    SAM's checkpoint fills the frozen encoders and is where PRIM starts from; PDMM stays as it was. The published DeSAM fills all;
    if it holds no image encoder, the model's is left alone. A ``model.safetensors`` of one of our runs fills the decoder; its
    card, ``model.json`` beside it, names the frozen weights, which are loaded too. `SAM` is filled from SAM's checkpoint, but for
    the tokens of masks beyond SAM's four, and what LoRA adds. On the device "meta" a file is checked alone.

    Args:
        model: As built, on any device.
        path: The file, with ``#sha256=HEX`` after it where its content must have that hash.
        encoder: Whether a file without image encoder is refused.

    Raises:
        StudyError: The file is missing, damaged, could run code, or does not fit; the sentence names the first tensor at fault.
    """
    own = model.state_dict()
    for name, value in _match_file(model, path, encoder).items():
        own[name][: len(value)].copy_(value)


def _match_file(model: DeSAM | SAM, text: Path | str, encoder: bool) -> dict[str, torch.Tensor]:
    path = find_weights(text)
    public = public_weights(path)
    if public is not None and public.backbone != model.backbone:
        raise StudyError(
            f"the weights file '{path}' is the published {public.name}, the run needs {model.backbone}: "
            f"set backbone={public.backbone}."
        )
    tensors = read_tensors(path)
    if isinstance(model, SAM):
        return _match_tensors(
            model, path, tensors, {n: n for n in model.state_dict() if not re.search(_NOT_IN_SAM, n)}
        )
    if not all(name.startswith(_OURS) for name in tensors):
        return match_published(model, path, tensors, encoder=encoder)
    card = _read_card(path)
    for setting, expected in (("backbone", model.backbone), ("variant", model.variant)):
        if card[setting] != expected:
            raise StudyError(
                f"the weights file '{path}' was trained with {setting} {card[setting]}, the run needs {expected}: "
                f"set {setting}={card[setting]}."
            )
    decoder = {name: _OURS + name for name in model.state_dict() if not name.startswith(_FROZEN)}
    frozen: dict[str, torch.Tensor] = {}
    place = frozen_file(path, model.backbone, card["weights"], card["weights_hash"])
    if place is not None:
        frozen = _match_file(model, place, encoder=True)
    return {
        **{name: value for name, value in frozen.items() if name.startswith(_FROZEN)},
        **_match_tensors(model, path, tensors, decoder),
    }


def match_published(
    model: DeSAM, path: Path, tensors: Mapping[str, torch.Tensor], *, encoder: bool = False
) -> dict[str, torch.Tensor]:
    """Return the tensors of SAM's checkpoint or the published DeSAM's by our names, all of them right."""
    if not any(name.startswith(("mask_decoder.", "image_encoder.")) for name in tensors):
        raise StudyError(
            f"the weights file '{path}' is neither SAM's checkpoint nor a DeSAM's: its first tensor is '{next(iter(tensors))}', "
            "give another file."
        )
    published = any(name.startswith(_PDMM) for name in tensors)
    encoder = encoder or not published or any(name.startswith("image_encoder.") for name in tensors)
    parts = {"prompt_encoder", "prim", "pdmm" if published else "", "image_encoder" if encoder else ""}
    names = {name: _published_name(name) for name in model.state_dict() if name.split(".")[0] in parts}
    with torch.device("meta"):  # a variant may lack PRIM, or its IoU head, which the file has
        prim = PRIM(model.spec, model.n_classes, iou_head=True).state_dict()
    unused = [re.escape(_published_name(f"prim.{name}")) for name in prim]
    return _match_tensors(model, path, tensors, names, "|".join([_UNUSED, *unused]))


def _published_name(ours: str) -> str:
    """Return what the published state dict calls a tensor; the names of the encoders are the same."""
    name = ours
    for pattern, theirs in _NAMES.items() if not ours.startswith(_FROZEN) else ():
        name = re.sub(pattern, theirs, name)
    return name


def _match_tensors(
    model: PromptedSAM,
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    unused: str = "",
) -> dict[str, torch.Tensor]:
    """Return the tensors of ``names`` (ours to the file's) by our names, once all are right; others may be ``unused`` alone."""
    own = model.state_dict()
    for ours, theirs in names.items():
        expected = tuple(own[ours].shape)
        if theirs not in tensors:
            raise _misfit(model, path, tensors, f"lacks tensor '{theirs}' of shape {expected}")
        shape = tuple(tensors[theirs].shape)
        of_sam = (SAM_MASKS, *expected[1:]) if re.fullmatch(_ROW_PER_MASK, ours) else expected
        if shape not in (expected, of_sam):
            fault = f"holds tensor '{theirs}' of shape {shape} where {expected} is expected"
            raise _misfit(model, path, tensors, fault)
    used = set(names.values())
    for theirs, value in tensors.items():
        if theirs not in used and not re.fullmatch(unused, theirs):
            fault = f"holds tensor '{theirs}' of shape {tuple(value.shape)}, for which there is no place"
            raise _misfit(model, path, tensors, fault)
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def _misfit(model: PromptedSAM, path: Path, tensors: Mapping[str, torch.Tensor], fault: str) -> StudyError:
    """Return the error that says what does not fit and, where two sizes tell, which backbone the file is of."""
    advice = f"a {model.title} is asked for"
    for name, spec in BACKBONES.items():
        telling = {
            "image_encoder.pos_embed": (1, spec.grid, spec.grid, spec.width),
            _published_name("pdmm.context.0.first.conv1.weight"): (spec.pdmm[0], spec.width, 3, 3),
        }
        fits = {tuple(tensors[key].shape) == shape for key, shape in telling.items() if key in tensors}
        if fits == {True} and asdict(spec) != asdict(model.spec):
            advice = f"that is a {name}, the run needs {model.backbone}: set backbone={name}"
            break
    return StudyError(f"the weights file '{path}' {fault}: {advice}.")


def random_weights(backbone: str) -> str:
    """Return what names the frozen random weights of a backbone: 16 hexadecimal digits."""
    return digest({"random": asdict(get_backbone(backbone)), "seed": FROZEN_SEED})


def frozen_file(path: Path, backbone: str, weights: str, weights_hash: str) -> Path | None:
    """Return where the frozen weights of a run are that its card names, there or beside ``path``; None for the random ones.

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
            if place.resolve() == path.resolve():
                raise StudyError(
                    f"the card of '{path}' names the file itself as its frozen weights: restore the card."
                )
            return place
    raise StudyError(
        f"'{path}' was trained on the frozen weights '{named}' (SHA-256 {weights_hash}...), which are not there: "
        "put that file there, or beside it."
    )


def _read_card(path: Path) -> dict[str, str]:
    """Return backbone, variant, frozen weights and their hash from the card that a run wrote with its weights."""
    place = path.with_suffix(".json")
    try:
        run = json.loads(place.read_text(encoding="utf-8"))["run"]
        settings = {key: run["identity"]["settings"][key] for key in ("backbone", "variant")}
        card = {**settings, "weights": run["files"]["weights"], "weights_hash": run["identity"]["weights"]}
        if not all(isinstance(value, str) and value for value in card.values()):
            raise TypeError
    except OSError as error:
        raise StudyError(
            f"'{path}' lacks its card: put '{place.name}', which the run wrote with it, beside it."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"the card '{place}' is damaged or not of a DeSAM run: restore the one that the run wrote."
        ) from error
    return card
