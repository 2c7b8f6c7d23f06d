"""One file of embeddings: a record per slice, one after the other, as NumPy's own ``.npy`` holds an array of records.

A record is all of a slice in one piece, so that a slice chosen at random is one stretch of the disk: its four maps, a scale
for each, the name of what it was made from, and a checksum. Files are mapped into memory, never loaded whole, and hold
no pickle.

float8 is E4M3 (a sign bit, four of exponent, three of mantissa) scaled by a power of two for each map of each slice, so
that the largest value just fits. It is given back as bfloat16, which holds every such number exactly. (A scale per channel
was no closer to the features of SAM's encoder: a floating-point format needs none but against over- and underflow.)
"""

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy

from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.utils.files import atomic_path

Format = Literal["float16", "bfloat16", "float32", "float8"]
MAPS = ("level0", "level1", "level2", "neck")
_GIVEN = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float8": torch.bfloat16,
}
_STORED = {
    "float16": "<u2",
    "bfloat16": "<u2",
    "float32": "<u4",
    "float8": "|u1",
}  # bits: NumPy lacks bfloat16
_BITS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}
_FLOAT8 = torch.float8_e4m3fn
_OPEN_AT_ONCE = 256  # files kept mapped; each holds a file descriptor
_EXPECTED = 16  # slices that the system is told of before they are read

Array = npt.NDArray[Any]


class DamagedFileError(Exception):
    """A file of embeddings is missing, cut, altered, or made from something else."""

    def __init__(self, path: Path, reason: object):
        super().__init__(str(reason))
        self.path = path


def as_stored(maps: ImageEmbeddings, fmt: Format) -> ImageEmbeddings:
    """Return what reading gives back of maps that were written in a format, on their device."""
    if fmt != "float8":
        return maps.to(dtype=_GIVEN[fmt])
    first, second, third, neck = (_through_float8(m) for m in (*maps.levels, maps.neck))
    return ImageEmbeddings((first, second, third), neck)


def _through_float8(values: torch.Tensor) -> torch.Tensor:
    scale = _scale(values)
    return (_to_float8(values, scale).float() * scale).to(torch.bfloat16)


def _scale(values: torch.Tensor) -> torch.Tensor:
    """Return the power of two ``(B, 1, 1, 1)`` by which the largest value of each slice just fits into float8."""
    largest = values.float().abs().amax(dim=(1, 2, 3), keepdim=True) / torch.finfo(_FLOAT8).max
    return torch.exp2(torch.ceil(torch.log2(largest.clamp(min=2.0**-100))))


def _to_float8(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (values.float() / scale).to(_FLOAT8)


def write_file(path: Path, batches: Iterable[ImageEmbeddings], count: int, fmt: Format, key: str) -> None:
    """Write the embeddings of a case as they come, atomically; only one batch is in memory at a time.

    Args:
        path: The file.
        batches: Embeddings of consecutive slices.
        count: Number of slices of all batches together.
        fmt: Number format.
        key: 16 characters that name what the embeddings are made from.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for number, maps in enumerate(batches):
            records = _pack(maps, fmt, key)
            if number == 0:
                _write_header(file, records.dtype, count)
            file.write(records.tobytes())


def _write_header(file: BinaryIO, record: np.dtype[Any], count: int) -> None:
    described = {"descr": npy.dtype_to_descr(record), "fortran_order": False, "shape": (count,)}
    npy.write_array_header_1_0(file, described)


def _pack(maps: ImageEmbeddings, fmt: Format, key: str) -> Array:
    """Return one record per slice."""
    named = dict(zip(MAPS, (m.cpu() for m in (*maps.levels, maps.neck)), strict=True))
    fields = [(name, _STORED[fmt], tuple(m.shape[1:])) for name, m in named.items()]
    records = np.zeros(len(maps), [*fields, ("scale", "<f4", (4,)), ("key", "S16"), ("check", "<u8")])
    for number, (name, values) in enumerate(named.items()):
        scale = _scale(values) if fmt == "float8" else torch.ones(1)
        stored = _to_float8(values, scale) if fmt == "float8" else values.to(_GIVEN[fmt])
        records[name] = stored.contiguous().view(_BITS[stored.element_size()]).numpy()
        records["scale"][:, number] = scale.flatten().numpy()
    records["key"] = key.encode()
    records["check"] = [_checksum(record) for record in _rows(records)]
    return records


def _rows(records: Array) -> Array:
    """Return the records as plain bytes ``(Z, bytes of one)``."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def _checksum(record: Array) -> int:
    """Return the sum of a record's 64-bit words but the last, which holds it: as fast as memory, and no damaged word hides."""
    return int(record[:-8].view("<u8").sum(dtype=np.uint64))


class EmbeddingFile:
    """A file of embeddings, mapped into memory.

    Args:
        path: The file.
        fmt: Number format it should be in.
        key: What it should be made from.

    Raises:
        DamagedFileError: It is not there, cut, or of another kind; what the slices hold is checked when they are first read.
    """

    def __init__(self, path: Path, fmt: Format, key: str):
        try:
            with path.open("rb") as file:
                record, count = _read_header(file)
                start = file.tell()
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise DamagedFileError(path, error) from error
        if len(self._map) != start + count * record.itemsize:
            raise DamagedFileError(
                path,
                f"it has {len(self._map)} bytes, not the {start + count * record.itemsize} of its header",
            )
        if tuple(record.names or ()) != (*MAPS, "scale", "key", "check") or any(
            record[name].base != np.dtype(_STORED[fmt]) for name in MAPS
        ):
            raise DamagedFileError(path, f"it holds no embeddings in {fmt}")
        self.path = path
        self._records = np.frombuffer(self._map, record, count, start)
        self._start, self._fmt, self._key = start, fmt, key.encode()
        self._checked = np.zeros(count, bool)

    def __len__(self) -> int:
        return len(self._records)

    def room(self, count: int) -> "StoredSlices":
        """Return room for ``count`` slices."""
        record = self._records.dtype
        bits = {name: np.empty((count, *record[name].shape), record[name].base) for name in MAPS}
        return StoredSlices(bits, np.empty((count, len(MAPS)), np.float32), self._fmt)

    def expect(self, row: int) -> None:
        """Tell the system that a slice will be read: many are then fetched from the disk at once."""
        size = self._records.dtype.itemsize
        begin = (self._start + row * size) // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_WILLNEED"):
            self._map.madvise(mmap.MADV_WILLNEED, begin, self._start + (row + 1) * size - begin)

    def read(self, row: int, into: "StoredSlices", place: int) -> None:
        """Copy a slice to a place of what :meth:`room` gave.

        Raises:
            DamagedFileError: Its checksum is not that of its content, or it is made from something else.
        """
        if not self._checked[row]:
            self._check(row)
        record = self._records[row]
        for name in MAPS:
            into.bits[name][place] = record[name]
        into.scale[place] = record["scale"]

    def _check(self, row: int) -> None:
        if self._records["key"][row] != self._key:
            raise DamagedFileError(self.path, "it is made from other slices or weights")
        if _checksum(_rows(self._records[row : row + 1])[0]) != self._records["check"][row]:
            raise DamagedFileError(self.path, f"slice {row} has another checksum than when it was written")
        self._checked[row] = True


def _read_header(file: BinaryIO) -> tuple[np.dtype[Any], int]:
    version = npy.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"it is .npy of version {version}")
    shape, _, record = npy.read_array_header_1_0(file)
    if len(shape) != 1 or record.hasobject or not record.itemsize:
        raise ValueError("it is no array of records")
    return record, int(shape[0])


def open_file(path: Path, fmt: Format, key: str) -> EmbeddingFile:
    """Return a file of embeddings; one that is open and unchanged since is not opened again.

    Raises:
        DamagedFileError: As :class:`EmbeddingFile`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DamagedFileError(path, error) from error
    return _open(path, fmt, key, (state.st_ino, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=_OPEN_AT_ONCE)
def _open(path: Path, fmt: Format, key: str, _state: tuple[int, ...]) -> EmbeddingFile:
    return EmbeddingFile(path, fmt, key)


def read_slices(wanted: Sequence[tuple[EmbeddingFile, int]]) -> "StoredSlices":
    """Read slices of any files of one format and backbone.

    Args:
        wanted: File and row of each slice, at least one.

    Returns:
        What is stored of them, in that order.

    Raises:
        DamagedFileError: A slice is damaged.
    """
    found = wanted[0][0].room(len(wanted))
    for place, (file, row) in enumerate(wanted):
        if place % _EXPECTED == 0:
            for next_file, next_row in wanted[place : place + _EXPECTED]:
                next_file.expect(next_row)
        file.read(row, found, place)
    return found


@dataclass(frozen=True)
class StoredSlices:
    """Slices as they are stored, in memory.

    Attributes:
        bits: Map ``(B, C, h, w)`` by name: the numbers' bits.
        scale: ``(B, 4)``, one for each map.
        fmt: The number format.
    """

    bits: dict[str, Array]
    scale: npt.NDArray[np.float32]
    fmt: Format

    def decode(self) -> ImageEmbeddings:
        """Return the numbers; nothing is copied but of float8, which becomes bfloat16."""
        first, second, third, neck = (self._decode(number, name) for number, name in enumerate(MAPS))
        return ImageEmbeddings((first, second, third), neck)

    def _decode(self, number: int, name: str) -> torch.Tensor:
        bits = self.bits[name]
        if self.fmt == "float8":
            stored, bits = bits, np.empty(bits.shape, np.uint16)
            for place, scale in enumerate(self.scale[:, number].tolist()):
                np.take(_float8_values(scale), stored[place], out=bits[place], mode="clip")
        return torch.from_numpy(bits).view(_GIVEN[self.fmt])


@lru_cache(maxsize=256)
def _float8_values(scale: float) -> Array:
    """Return the bits, in bfloat16, of all 256 values of float8 times a scale: looked up four times as fast as converted."""
    values = torch.arange(256, dtype=torch.uint8).view(_FLOAT8).to(torch.float32) * scale
    bits: Array = values.to(torch.bfloat16).view(torch.uint16).numpy()
    return bits
