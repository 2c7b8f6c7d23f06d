"""Training slices in memory: from prepared cases and stored embeddings to the batches a method's loss takes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import torch

from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import CaseSlices, SliceRule, SliceStore, select_slices
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import fit_square, scaled_size
from desam_lite.model.sam import preprocess
from desam_lite.utils.errors import StudyError

Placement = Literal["auto", "device", "memory", "disk"]


@dataclass(frozen=True)
class Batch:
    """Slices of a batch, as a method's loss takes them."""

    cases: tuple[str, ...]  # the case id of each of the B slices
    # ``(B, K, h, w)`` float, one map per organ on the grid of the method's output: the part of each pixel, 0 to 1, that the
    # organ covers
    masks: torch.Tensor
    # height and width of each slice on that grid, in pixels; right and below of it is padding
    sizes: tuple[tuple[int, int], ...]
    # ``(B, 1, S, S)`` float, standardised per volume, or ``(B, 3, S, S)`` as SAM's encoder takes them; None for methods on
    # embeddings
    images: torch.Tensor | None = None
    embeddings: ImageEmbeddings | None = (
        None  # the frozen encoder's maps, batch B; None for methods on slices
    )
    prompts: Prompts | None = None  # one prompt per slice; None where the method takes none
    # ``(B, K)`` float: what the IoU head should predict for each prompt; None without prompts
    iou_targets: torch.Tensor | None = None
    # what else a method has drawn at random for the slices, by its names: floats ``(B, ...)``
    drawn: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on ``device``, in float32."""

        def move(value: Any) -> Any:
            return None if value is None else value.to(device=device, dtype=torch.float32)

        names = ("masks", "images", "embeddings", "iou_targets")
        moved = {name: move(getattr(self, name)) for name in names}
        prompts = None if self.prompts is None else self.prompts.to(device)
        drawn = {name: move(value) for name, value in self.drawn.items()}
        return replace(self, **moved, prompts=prompts, drawn=drawn)


class TrainingData(ABC):
    """Slices to train on or to select the epoch with: a length, and a batch for any list of positions."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the slices at these positions."""


class SliceRef(NamedTuple):
    """Which slice of which case."""

    domain: str
    case: str
    row: int


def list_slices(store: SliceStore, domain: str, cases: Sequence[str], rule: SliceRule) -> list[SliceRef]:
    """Return the slices of some cases that a rule selects, in the order of cases and slices; a StudyError where none is left."""
    if not cases:
        raise StudyError(
            f"domain {domain} has no case left to train or to validate on: it needs two patients or more."
        )
    chosen = {case: select_slices(store.load(domain, case).labels, rule) for case in cases}
    refs = [SliceRef(domain, case, row) for case, rows in chosen.items() for row in rows]
    if not refs:
        raise StudyError(
            f"no slice of {domain} ({', '.join(cases)}) is selected by the rule '{rule}': "
            "check the labels with 'desam-lite data verify', or train on slices 'all'."
        )
    return refs


def standardise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a volume ``(Z, H, W)`` with mean 0 and standard deviation 1, as nnU-Net prepares MR."""
    values = images.astype(np.float32)
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-6), dtype=np.float32)


def organ_maps(labels: npt.NDArray[np.uint8], n_organs: int) -> torch.Tensor:
    """Return ``(B, K, H, W)`` float maps, 0 or 1, from organ ids ``(B, H, W)``."""
    ids = torch.arange(1, n_organs + 1)[None, :, None, None]
    return (torch.from_numpy(labels)[:, None] == ids).float()


class _ListedSlices(TrainingData):
    """Masks of listed slices, in memory; a subclass adds what its methods take as input.

    Slices of one case are put together, cases in order of their first occurrence. ``size`` is the side of the mask targets,
    ``square`` that of the model's input, in pixels.
    """

    def __init__(self, store: SliceStore, refs: Sequence[SliceRef], n_organs: int, *, size: int, square: int):
        self.square = square
        place = {pair: number for number, pair in enumerate(dict.fromkeys(ref[:2] for ref in refs))}
        self.refs = sorted(refs, key=lambda ref: place[ref[:2]])
        masks = []
        self.sizes: list[tuple[int, int]] = []
        for pair, group in groupby(self.refs, key=lambda ref: ref[:2]):
            case, rows = store.load(*pair), [ref.row for ref in group]
            masks.append(fit_square(organ_maps(case.labels[rows], n_organs), size))
            self.sizes += [scaled_size((case.images.shape[1], case.images.shape[2]), size)] * len(rows)
            self._add(case, rows)
        self.masks = torch.cat(masks)  # (N, K, size, size)

    def _add(self, case: CaseSlices, rows: list[int]) -> None:
        """Take over the images of some slices of a case."""

    @abstractmethod
    def _inputs(self, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Return the fields of `Batch` that a method takes as input."""

    def __len__(self) -> int:
        return len(self.refs)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the slices at these positions, with ``images`` or ``embeddings``, and ``masks``."""
        cases, sizes = tuple(self.refs[r].case for r in rows), tuple(self.sizes[r] for r in rows)
        return Batch(cases, self.masks[rows], sizes, **self._inputs(rows))


class SliceData(_ListedSlices):
    """Slices for methods on images: standardised per volume, fitted to a square of ``size`` pixels ``(1, size, size)``."""

    def __init__(self, store: SliceStore, refs: Sequence[SliceRef], n_organs: int, size: int):
        self.images: list[torch.Tensor] = []
        super().__init__(store, refs, n_organs, size=size, square=size)

    def _add(self, case: CaseSlices, rows: list[int]) -> None:
        slices = torch.from_numpy(standardise(case.images)[rows])[:, None]
        self.images += fit_square(slices, self.square)

    def _inputs(self, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {"images": torch.stack([self.images[r] for r in rows])}


class PixelData(_ListedSlices):
    """Slices for methods that run SAM's encoder: kept as uint8, brought to SAM's square ``(3, square, square)`` in a batch.

    The arguments are those of all listed slices, and ``unit_range`` that of `preprocess`.
    """

    def __init__(
        self,
        store: SliceStore,
        refs: Sequence[SliceRef],
        n_organs: int,
        *,
        size: int,
        square: int,
        unit_range: bool = False,
    ):
        self.images: list[torch.Tensor] = []
        self.unit_range = unit_range
        super().__init__(store, refs, n_organs, size=size, square=square)

    def _add(self, case: CaseSlices, rows: list[int]) -> None:
        self.images += torch.from_numpy(case.images[rows])

    def _inputs(self, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        slices = (self.images[r][None] for r in rows)
        fitted = [preprocess(image, self.square, unit_range=self.unit_range) for image in slices]
        return {"images": torch.cat(fitted)}


class EmbeddingData(_ListedSlices):
    """Slices for methods on the frozen encoder's maps.

    Where the maps are held ("auto"): on the device when they fit into half of its free memory, else in memory when they fit into
    half of what is free, else on disk, read slice by slice. The sizes are those of all listed slices, that of masks four times
    the maps'.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        refs: Sequence[SliceRef],
        n_organs: int,
        *,
        size: int,
        square: int,
        device: torch.device,
        placement: Placement = "auto",
    ):
        super().__init__(store.slices, refs, n_organs, size=size, square=square)
        self.store = store
        self.placement = self._choose(device) if placement == "auto" else placement
        self.held = self._hold(device) if self.placement != "disk" else None

    def _inputs(self, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        if self.held is None:
            return {"embeddings": self.store.load_slices([self.refs[r] for r in rows])}
        return {"embeddings": self.held[torch.from_numpy(rows).to(self.held.neck.device)]}

    def _choose(self, device: torch.device) -> Placement:
        first = self.store.load_slices(self.refs[:1])
        needed = len(self.refs) * sum(m.numel() * m.element_size() for m in (*first.levels, first.neck))
        if device.type == "cuda" and needed < torch.cuda.mem_get_info(device)[0] / 2:
            return "device"
        return "memory" if needed < psutil.virtual_memory().available / 2 else "disk"

    def _hold(self, device: torch.device) -> ImageEmbeddings:
        maps = self.store.load_slices(self.refs)
        return maps.to(device=device) if self.placement == "device" else maps
