"""The frozen encoder's four feature maps of every slice: computed once per case, kept on disk, read back slice by slice.

One file per case (`desam_lite.data.embedding_files` says what it looks like). Its name is the hash of what it was made from (the
prepared slices, the backbone and its weights, the number format), so that a file is either right or not there.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from safetensors import SafetensorError

from desam_lite.data.embedding_files import Format, Maps, as_stored, open_file, read_slices, write_file
from desam_lite.data.slices import SliceStore
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import preprocess
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest
from desam_lite.utils.progress import track

EMBEDDINGS_VERSION = 3
AT_ONCE = 8
"""Slices encoded, and read back, at once: their maps are what has to fit into memory."""

_REDUCED_ON = ("cuda",)
_HALF = torch.bfloat16
_PRODUCTS: dict[Format, torch.dtype] = {"float16": torch.float16, "bfloat16": _HALF, "float8": _HALF}
"""In what a GPU multiplies for maps that are stored with no more digits: its float32 is many times slower; sums stay float32."""

ReadEmbeddings = Callable[[range], ImageEmbeddings]
"""What gives the embeddings of some slices of one case: from a store, or computed when asked for."""


class EmbeddingStore:
    """The embeddings of all cases of a task under one backbone, by the hash of its weights.

    On disk, float16 and bfloat16 take half the bytes of the published float32, float8 a quarter.
    """

    def __init__(
        self, folder: Path, slices: SliceStore, backbone: str, weights: str, fmt: Format = "float16"
    ):
        self.folder, self.slices = folder, slices
        self.fmt: Format = fmt
        made_from = {"backbone": backbone, "weights": weights, "format": fmt}
        self.identity = {**made_from, "version": EMBEDDINGS_VERSION}

    def key(self, domain: str, case: str) -> str:
        """Return the 16 hexadecimal digits that name what the embeddings of a case are made from."""
        return digest({**self.identity, "slices": self.slices.key(domain, case)})

    def path(self, domain: str, case: str) -> Path:
        """Return where the embeddings of a case are, or will be."""
        return self.folder / f"{self.key(domain, case)}.safetensors"

    def missing(self) -> list[tuple[str, str]]:
        """Return the (domain, case) pairs whose file is not there, is cut, or is of another kind."""
        return [pair for pair in self.slices.cases() if not self._is_there(*pair)]

    def load(self, domain: str, case: str, rows: Sequence[int] | None = None) -> ImageEmbeddings:
        """Read the embeddings of some slices of a case, all when ``rows`` is None; only the bytes of those slices are read.

        They are in the format of the store, bfloat16 where that is float8.

        Raises:
            StudyError: The file is missing or damaged. A damaged one is removed, so that the next run makes it again.
        """
        chosen = range(len(self._open(domain, case)["neck"])) if rows is None else rows
        return self.load_slices([(domain, case, row) for row in chosen])

    def load_slices(self, slices: Sequence[tuple[str, str, int]]) -> ImageEmbeddings:
        """Read slices of any cases together: domain, case and slice index of each, at least one; else as :meth:`load`."""
        pairs = dict.fromkeys((domain, case) for domain, case, _ in slices)
        files = {pair: self._open(*pair) for pair in pairs}
        return read_slices([(files[domain, case], row) for domain, case, row in slices])

    def write(self, domain: str, case: str, batches: Iterable[ImageEmbeddings], count: int) -> None:
        """Write the embeddings of the ``count`` slices of a case; the file is there once it is whole."""
        write_file(self.path(domain, case), batches, count, self.fmt, self.key(domain, case))

    def _open(self, domain: str, case: str) -> Maps:
        path = self.path(domain, case)
        try:
            return open_file(path, self.fmt, self.key(domain, case))
        except (OSError, SafetensorError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):  # another process may be about to write it
                path.unlink(missing_ok=True)
            raise StudyError(
                f"the embeddings of {domain}/{case} cannot be read ({error}): "
                "start the run again, which makes them again."
            ) from error

    def _is_there(self, domain: str, case: str) -> bool:
        try:
            self._open(domain, case)
        except StudyError:
            return False
        return True


def fill_store(
    store: EmbeddingStore, model: PromptedSAM, *, batch_size: int = AT_ONCE, progress: bool = True
) -> None:
    """Compute what is missing in ``store``; whole files are left alone, and a second process waits rather than repeats.

    Raises:
        StudyError: The encoder's output does not fit the number format.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(store.folder / ".lock"):
        for leftover in store.folder.glob(".*.tmp.safetensors"):
            leftover.unlink()  # of a process that was killed: nobody else writes now
        missing = store.missing()
        for domain, case in track(missing, "embedding cases", enabled=progress and bool(missing)):
            images = torch.from_numpy(store.slices.load(domain, case).images)
            chunks = torch.split(images, batch_size)
            maps = (_encode(model, chunk, store.fmt, f"{domain}/{case}") for chunk in chunks)
            store.write(domain, case, maps, len(images))


def encode_on_demand(model: PromptedSAM, images: npt.NDArray[np.uint8], fmt: Format) -> ReadEmbeddings:
    """Return what computes the embeddings of slices ``(Z, H, W)`` when they are asked for, on the model's device, and keeps none.

    The number format is that a model was trained on, so that it sees what a store of that format gives.
    """

    def read(rows: range) -> ImageEmbeddings:
        return _encode(model, torch.from_numpy(images[rows.start : rows.stop]), fmt, "this scan")

    return read


@torch.no_grad()
def _encode(model: PromptedSAM, images: torch.Tensor, fmt: Format, of: str) -> ImageEmbeddings:
    """Encode slices ``(B, H, W)`` uint8 on the model's device, as a store of the format would give them."""
    device = next(model.parameters()).device
    pixels = preprocess(images.to(device), model.image_size, unit_range=model.spec.unit_range)
    reduced = device.type in _REDUCED_ON and fmt in _PRODUCTS
    with torch.autocast(device.type, _PRODUCTS.get(fmt), enabled=reduced):
        maps = as_stored(model.encode(pixels), fmt)
    if not all(torch.isfinite(tensor).all() for tensor in (*maps.levels, maps.neck)):
        raise StudyError(f"the encoder's features of {of} exceed {fmt}: choose bfloat16 or float32.")
    return maps
