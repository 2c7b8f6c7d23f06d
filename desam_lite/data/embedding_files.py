"""One file of embeddings per case: the four maps of its slices in safetensors, mapped into memory, read slice by slice.

float8 is E4M3 (a sign bit, four of exponent, three of mantissa) scaled by a power of two for each map of each slice, so
that the largest value just fits. It is given back as bfloat16, which holds every such number exactly. (A scale per channel
was no closer to the features of SAM's encoder: a floating-point format needs none but against over- and underflow.)
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.utils.files import atomic_path

Format = Literal["float16", "bfloat16", "float32", "float8"]
Maps = dict[str, torch.Tensor]
"""What is stored: each of `MAPS` ``(Z, C, h, w)``; of float8 also ``scale`` ``(Z, 4)``, float32, one for each map."""
MAPS = ("level0", "level1", "level2", "neck")
_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float8": torch.float8_e4m3fn,
}
_OPEN_AT_ONCE = 256  # files kept mapped
_SMALLEST_SCALE = 2.0**-100  # of a map of zeros, which has none


def to_stored(maps: ImageEmbeddings, fmt: Format) -> Maps:
    """Return what is written of maps in a number format, on their device."""
    named = dict(zip(MAPS, (*maps.levels, maps.neck), strict=True))
    if fmt != "float8":
        return {name: values.to(_DTYPES[fmt]) for name, values in named.items()}
    scales = {name: _scale(values) for name, values in named.items()}
    stored = {name: (values.float() / scales[name]).to(_DTYPES[fmt]) for name, values in named.items()}
    return {**stored, "scale": torch.stack([scale.flatten() for scale in scales.values()], dim=1)}


def _scale(values: torch.Tensor) -> torch.Tensor:
    """Return the power of two ``(Z, 1, 1, 1)`` by which the largest value of each slice just fits into float8."""
    largest = values.float().abs().amax(dim=(1, 2, 3), keepdim=True) / torch.finfo(_DTYPES["float8"]).max
    return torch.exp2(torch.ceil(torch.log2(largest.clamp(min=_SMALLEST_SCALE))))


def from_stored(stored: Maps) -> ImageEmbeddings:
    """Return the numbers of what is stored; nothing is copied but of float8, which becomes bfloat16."""
    maps = [stored[name] for name in MAPS]
    if "scale" in stored:
        scales = stored["scale"].to(torch.bfloat16).T  # (4, Z), powers of two
        maps = [_from_float8(values, scale) for values, scale in zip(maps, scales, strict=True)]
    return ImageEmbeddings((maps[0], maps[1], maps[2]), maps[3])


def _from_float8(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return a map ``(Z, C, h, w)`` as bfloat16, times the scales ``(Z,)``; on a CPU looked up, twice as fast as cast."""
    if values.device.type != "cpu":
        return values.to(torch.bfloat16).mul_(scales[:, None, None, None])
    every = torch.arange(256).to(torch.uint8).view(_DTYPES["float8"]).to(torch.bfloat16)  # all there are
    bits = np.empty(values.shape, np.int16)
    for row, (stored, scale) in enumerate(zip(values.view(torch.uint8).numpy(), scales, strict=True)):
        np.take((every * scale).view(torch.int16).numpy(), stored, out=bits[row], mode="clip")
    return torch.from_numpy(bits).view(torch.bfloat16)


def as_stored(maps: ImageEmbeddings, fmt: Format) -> ImageEmbeddings:
    """Return what reading gives back of maps that were written in a format, on their device."""
    return from_stored(to_stored(maps, fmt))


def write_file(path: Path, batches: Iterable[ImageEmbeddings], count: int, fmt: Format, key: str) -> None:
    """Write the embeddings of a case, ``count`` slices in batches, atomically, with the key of what they are made from."""
    stored: Maps = {}
    start = 0
    for maps in batches:
        for name, values in to_stored(maps, fmt).items():
            if name not in stored:
                stored[name] = torch.empty((count, *values.shape[1:]), dtype=values.dtype)
            stored[name][start : start + len(maps)] = values
        start += len(maps)
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={"key": key})


def open_file(path: Path, fmt: Format, key: str) -> Maps:
    """Return the maps of a file, mapped into memory; one that is open and unchanged since is not opened again.

    OSError, SafetensorError or ValueError: it is not there, cut, of another format, or made from something else.
    """
    state = path.stat()
    return open_unchanged(path, fmt, key, (state.st_ino, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=_OPEN_AT_ONCE)
def open_unchanged(path: Path, fmt: Format, key: str, _state: tuple[int, ...]) -> Maps:
    """Open a file in this state."""
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("key") != key:
            raise ValueError("it is made from other slices or weights")
        names = (*MAPS, "scale") if fmt == "float8" else MAPS
        maps: Maps = {name: file.get_tensor(name) for name in names}
    if any(maps[name].dtype != _DTYPES[fmt] for name in MAPS):
        raise ValueError(f"it holds no embeddings in {fmt}")
    return maps


def read_slices(slices: Sequence[tuple[Maps, int]]) -> ImageEmbeddings:
    """Return the embeddings of slices, at least one, of files of one format and backbone: each is a file and a row of it."""
    first, _ = slices[0]
    return from_stored({name: torch.stack([maps[name][row] for maps, row in slices]) for name in first})
