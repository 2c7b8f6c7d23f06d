"""The frozen encoder's four feature maps of every slice: computed once per case, kept on disk, read back lazily.

One safetensors file per case holds ``level0``, ``level1``, ``level2`` ``(Z, C, h, w)`` and ``neck`` ``(Z, 256, h, w)``. Its name
is the hash of what it was made from (the prepared slices, the backbone and its weights, the number format), so that a
file is either right or not there.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from desam_lite.errors import StudyError
from desam_lite.files import atomic_path, digest
from desam_lite.progress import track
from desam_lite.prompted import ImageEmbeddings, PromptedSAM
from desam_lite.sam import preprocess
from desam_lite.slices import SliceStore

EMBEDDINGS_VERSION = 1
Format = Literal["float16", "bfloat16", "float32"]
_FORMATS: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
_MAPS = ("level0", "level1", "level2", "neck")
AT_ONCE = 8
"""Slices encoded, and read back, at once: their maps are what has to fit into memory."""

ReadEmbeddings = Callable[[range], ImageEmbeddings]
"""What gives the embeddings of some slices of one case: from a store, or computed when asked for."""


class EmbeddingStore:
    """The embeddings of all cases of a task under one backbone.

    Args:
        folder: Where the files lie.
        slices: The prepared slices they are made from.
        backbone: Name of the backbone.
        weights: Hash of the encoder's weights.
        fmt: Number format on disk; float16 halves the bytes of the published float32.
    """

    def __init__(
        self, folder: Path, slices: SliceStore, backbone: str, weights: str, fmt: Format = "float16"
    ):
        self.folder = folder
        self.slices = slices
        self.identity = {
            "backbone": backbone,
            "weights": weights,
            "format": fmt,
            "version": EMBEDDINGS_VERSION,
        }
        self.dtype = _FORMATS[fmt]

    def path(self, domain: str, case: str) -> Path:
        """Return where the embeddings of a case are, or will be."""
        return (
            self.folder / f"{digest({**self.identity, 'slices': self.slices.key(domain, case)})}.safetensors"
        )

    def missing(self) -> list[tuple[str, str]]:
        """Return the (domain, case) pairs whose file is not there or cannot be read."""
        return [pair for pair in self.slices.cases() if not _is_whole(self.path(*pair))]

    def load(self, domain: str, case: str, rows: Sequence[int] | None = None) -> ImageEmbeddings:
        """Read the embeddings of some slices of a case; only the bytes of those slices are read.

        Args:
            domain: The case's domain.
            case: The case.
            rows: Slice indices in ascending order; all when None.

        Returns:
            Embeddings of batch ``len(rows)``, in the format of the store.

        Raises:
            StudyError: The file is missing or damaged.
        """
        try:
            with safe_open(self.path(domain, case), framework="pt") as file:
                maps = [_read(file, name, rows) for name in _MAPS]
        except (OSError, SafetensorError) as error:
            raise StudyError(
                f"the embeddings of {domain}/{case} cannot be read ({error}): run 'desam-lite embed' or the run again."
            ) from error
        return ImageEmbeddings(levels=(maps[0], maps[1], maps[2]), neck=maps[3])


def _read(file: Any, name: str, rows: Sequence[int] | None) -> torch.Tensor:
    if rows is None:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor
    stored = file.get_slice(name)
    return torch.cat([stored[row : row + 1] for row in rows])


def _is_whole(path: Path) -> bool:
    """Tell whether a file is complete: safetensors checks its header against its length on opening."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == set(_MAPS)
    except (OSError, SafetensorError):
        return False


def fill_store(
    store: EmbeddingStore, model: PromptedSAM, *, batch_size: int = AT_ONCE, progress: bool = True
) -> None:
    """Compute what is missing in ``store``; whole files are left alone, and a second process waits rather than repeats.

    Args:
        store: Where to put the embeddings.
        model: Holds the encoder; its device is used.
        batch_size: Slices encoded at once.
        progress: Whether to show a bar (one step per case).

    Raises:
        StudyError: The encoder's output does not fit the number format.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(store.folder / ".lock"):
        missing = store.missing()
        for domain, case in track(missing, "embedding cases", enabled=progress and bool(missing)):
            images = torch.from_numpy(store.slices.load(domain, case).images)
            tensors = _encode_case(model, images, batch_size, store.dtype)
            _require_finite(tensors.values(), f"{domain}/{case}", store.dtype)
            with atomic_path(store.path(domain, case)) as temporary:
                save_file(tensors, temporary)


def encode_on_demand(model: PromptedSAM, images: npt.NDArray[np.uint8], fmt: Format) -> ReadEmbeddings:
    """Return what computes the embeddings of a scan's slices when they are asked for; nothing is kept.

    Args:
        model: Holds the encoder; its device is used, and the maps stay there.
        images: The prepared slices ``(Z, H, W)``.
        fmt: Number format that a model was trained on, so that it sees what a store of that format gives.
    """

    def read(rows: range) -> ImageEmbeddings:
        maps = _encode(model, torch.from_numpy(images[rows.start : rows.stop]), _FORMATS[fmt])
        _require_finite((*maps.levels, maps.neck), "this scan", _FORMATS[fmt])
        return maps

    return read


def _encode_case(
    model: PromptedSAM, images: torch.Tensor, batch_size: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Encode all slices ``(Z, H, W)`` uint8 of a case; return the four maps on the CPU."""
    cpu = torch.device("cpu")
    parts = [_encode(model, chunk, dtype).to(device=cpu) for chunk in torch.split(images, batch_size)]
    joined = ImageEmbeddings.stack(parts)
    return {name: m.contiguous() for name, m in zip(_MAPS, (*joined.levels, joined.neck), strict=True)}


@torch.no_grad()
def _encode(model: PromptedSAM, images: torch.Tensor, dtype: torch.dtype) -> ImageEmbeddings:
    """Encode slices ``(B, H, W)`` uint8 on the model's device."""
    device = next(model.parameters()).device
    return model.encode(preprocess(images.to(device), model.image_size)).to(dtype=dtype)


def _require_finite(maps: Iterable[torch.Tensor], of: str, dtype: torch.dtype) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in maps):
        name = str(dtype).removeprefix("torch.")
        raise StudyError(f"the encoder's features of {of} exceed {name}: choose bfloat16 or float32.")
