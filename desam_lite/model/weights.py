"""Weights files: what a setting names, whether its content is what was asked for, and its tensors by name.

Nothing that is read here may run code: safetensors hold numbers only, and PyTorch's files go through its reader that
knows tensors and nothing else.
"""

import hashlib
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

from desam_lite.model.download import PUBLIC
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.model.shipped import SHIPPED, SHIPPED_SHA256
from desam_lite.utils.errors import StudyError

_HASH_MARK = "#sha256="
_SHA256 = re.compile(r"[0-9a-f]{64}")
# SAM's public files carry the first six digits of their MD5 in their name.
_PUBLIC_NAME = re.compile(r"sam_vit_[bhl]_([0-9a-f]{6})\.pth")
_WRAPPERS = ("model", "state_dict")
_DISTRIBUTED = "module."
_GLOBAL = re.compile(r"GLOBAL (\S+)")


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
    """Return the file that the setting ``weights`` names, once its content is known to be what was asked for.

    Raises:
        StudyError: The file is missing or empty, its SHA-256 is not the one stated, or it bears the name of one of SAM's public
            files and is not that file.
    """
    path, stated = parse_weights(text)
    if not path.is_file():
        public = [w.backbone for w in PUBLIC.values() if w.name == path.name]
        advice = (
            f"fetch it with 'desam-lite weights fetch {public[0]}'"
            if public
            else "give the path of a checkpoint"
        )
        raise StudyError(
            f"the weights file '{path}' does not exist: {advice}, or use 'random' for an untrained encoder."
        )
    if path.stat().st_size == 0:
        raise StudyError(f"the weights file '{path}' is empty: download or copy it again.")
    named = _PUBLIC_NAME.fullmatch(path.name)
    if named and not (found := _hash(path, "md5")).startswith(named[1]):
        raise StudyError(
            f"'{path}' is not the published file, whose MD5 starts with {named[1]} (this one's is {found}): "
            "download it again, or give it another name if it is meant to differ."
        )
    if stated and (found := weights_sha256(path)) != stated:
        raise StudyError(
            f"the weights file '{path}' has SHA-256 {found}, not {stated} as asked for: download it again, or state its own."
        )
    return path


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; an unchanged file is read once per process."""
    return _hash(path, "sha256")


def _hash(path: Path, algorithm: str) -> str:
    status = path.stat()
    return _hash_as_of(str(path.resolve()), status.st_size, status.st_mtime_ns, algorithm)


@lru_cache(maxsize=64)
def _hash_as_of(path: str, size: int, mtime_ns: int, algorithm: str) -> str:
    """Hash a file; size and time stand for its content, so that gigabytes are not read for every run of a study."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors or PyTorch file by name, without running any code it may hold.

    A state dict wrapped as ``{"model": ...}`` or ``{"state_dict": ...}`` is unwrapped, and the prefix ``module.`` of
    distributed training taken off. Tensors are mapped from disk where the file allows it.

    Args:
        path: The file; its content, not its name, says which of the two it is.

    Returns:
        Tensors on the CPU.

    Raises:
        StudyError: The file is damaged, neither of the two, holds no named tensors, or holds objects that could run code.
    """
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
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
    distributed = all(name.startswith(_DISTRIBUTED) for name in content)
    return {
        name.removeprefix(_DISTRIBUTED) if distributed else name: value for name, value in content.items()
    }


def _is_safetensors(path: Path) -> bool:
    """Tell by the first bytes, the header's length and its opening brace; a file that claims to be one is taken at its word."""
    with path.open("rb") as file:
        start = file.read(9)
    fits = int.from_bytes(start[:8], "little") + 8 <= path.stat().st_size
    return path.suffix == ".safetensors" or (start[8:] == b"{" and fits)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StudyError(
            f"the weights file '{path}' is no whole safetensors file ({error}): download or copy it again."
        ) from error
    return tensors


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    zipped = start == b"PK\x03\x04"
    if not zipped and start[:1] != b"\x80":  # the first byte of every pickle PyTorch has written
        raise StudyError(
            f"the weights file '{path}' is neither safetensors nor a PyTorch file: give the path of a checkpoint."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said below, in one sentence
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        what = f" ({named[1]})" if named else ""
        raise StudyError(
            f"the weights file '{path}' is a pickle of more than tensors{what}, which could run code, and is refused: "
            "use a file that holds a state dict alone, best as safetensors."
        ) from error
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise StudyError(
            f"the weights file '{path}' is damaged, cut short, or no file of tensors: download or copy it again."
        ) from error
