"""Weights files: what a setting names, whether its content is the right one, and its tensors by name.

Nothing that is read here may run code: safetensors hold numbers only, and PyTorch's files go through its reader that
allows tensors and nothing else.
"""

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from desam_lite.model.download import PUBLIC, PublicWeights
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

SHIPPED = Path(__file__).resolve().parent / "pretrained" / "sam_tiny.safetensors"
"""SAM's image encoder, prompt encoder and mask decoder at the size of `sam_tiny`, trained by this study, in half precision."""
SHIPPED_SHA256 = "4b6f63bcedc24e8357db1fd4b96c83ddc34cf7c54187ba66452e1af65505c0dd"
_HASH_MARK = "#sha256="
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRAPPERS = ("model", "state_dict")
_DISTRIBUTED = "module."  # what distributed training puts before every name
_GLOBAL = re.compile(r"GLOBAL (\S+)")  # how PyTorch's reader names what a pickle would call


def shipped_card() -> dict[str, Any]:
    """Return what the shipped weights are: recipe, images trained on, minutes, device, probe, licence."""
    card: dict[str, Any] = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
    return card


def parse_weights(text: Path | str) -> tuple[Path, str | None]:
    """Split the setting ``weights`` into the file and the SHA-256 its content must have, if one is stated.

    "shipped" is the file that comes with this package, whose SHA-256 is in the code.

    >>> parse_weights("sam.pth")
    (PosixPath('sam.pth'), None)
    >>> parse_weights("sam.pth#sha256=" + "0f" * 32)[1][:8]
    '0f0f0f0f'

    Raises:
        StudyError: What is stated is no SHA-256.
    """
    if str(text) == SHIPPED_WEIGHTS:
        return SHIPPED, SHIPPED_SHA256
    name, mark, stated = str(text).partition(_HASH_MARK)
    if mark and not _SHA256.fullmatch(stated.lower()):
        raise StudyError(
            f"weights '{text}': write PATH{_HASH_MARK} and the 64 hexadecimal digits of the SHA-256."
        )
    return Path(name), stated.lower() if mark else None


def find_weights(text: Path | str) -> Path:
    """Return the file that the setting ``weights`` names, once its content is the right one.

    Raises:
        StudyError: The file is missing or empty, its SHA-256 is not the one stated, or it bears the name of a public file of
            SAM or MedSAM and is not that file.
    """
    path, stated = parse_weights(text)
    public = next((weights for weights in PUBLIC.values() if weights.name == path.name), None)
    if not path.is_file():
        fetch = (
            f"fetch it with 'desam-lite weights fetch {public.backbone}'" if public else "name a checkpoint"
        )
        raise StudyError(
            f"the weights file '{path}' does not exist: {fetch}, or use 'random' for an untrained encoder."
        )
    if path.stat().st_size == 0:
        raise StudyError(f"the weights file '{path}' is empty: download or copy it again.")
    for expected, origin in ((public.sha256 if public else None, "published"), (stated, "stated")):
        if expected and weights_sha256(path) != expected:
            raise StudyError(
                f"the weights file '{path}' has SHA-256 {weights_sha256(path)}, so it is not the {origin} file, which has "
                f"{expected}: fetch it again, or correct its name or the stated hash if it is meant to differ."
            )
    return path


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; an unchanged file is read once per process."""
    status = path.stat()
    return _sha256_as_of(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_as_of(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file; size and time stand for its content, so that gigabytes are not read for every run of a study."""
    return sha256_file(path)


def public_weights(path: Path) -> PublicWeights | None:
    """Return which published file this is by its content; None if it is none of them."""
    sha256 = weights_sha256(path)
    return next((public for public in PUBLIC.values() if public.sha256 == sha256), None)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors or PyTorch file by name, without running any code it may hold.

    A state dict wrapped as ``{"model": ...}`` or ``{"state_dict": ...}`` is unwrapped, and the prefix ``module.`` of
    distributed training taken off. Tensors are on the CPU, mapped from disk where the file allows it.

    Raises:
        StudyError: The file is damaged, neither of the two, holds no named tensors, or holds objects that could run code.
    """
    content = _read_content(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise StudyError(f"the weights file '{path}' holds no tensors by name: give a state dict.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise StudyError(
                f"entry {name!r} of the weights file '{path}' is no named tensor: save the state dict alone."
            )
    prefix = _DISTRIBUTED if all(name.startswith(_DISTRIBUTED) for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _read_content(path: Path) -> Any:
    """Read a file by the reader that its name or its first bytes ask for."""
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or start[8:] == b"{":  # a header in JSON, after its length
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise StudyError(
                f"the weights file '{path}' is no whole safetensors file ({error}): download or copy it again."
            ) from error
    zipped = start.startswith(b"PK\x03\x04")
    if not zipped and not start.startswith(b"\x80"):  # as PyTorch wrote files before they were archives
        raise StudyError(
            f"the weights file '{path}' is neither safetensors nor a PyTorch file: give the path of a checkpoint."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is in the error below, in one sentence
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        content = f"more than tensors ({named[1]})" if named else "more than tensors"
        raise StudyError(
            f"the weights file '{path}' is a pickle of {content}, which could run code, and is refused: "
            "use a file that holds a state dict alone, best as safetensors."
        ) from error
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise StudyError(
            f"the weights file '{path}' is damaged, cut short, or no file of tensors: download or copy it again."
        ) from error
