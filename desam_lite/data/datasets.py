"""Training slices in memory: from prepared cases and stored embeddings to the batches a method's loss takes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch

from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import CaseSlices, SliceStore, select_slices
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import fit_square, scaled_size
from desam_lite.model.sam import preprocess
from desam_lite.utils.errors import StudyError

SliceRule = Literal["all", "foreground", "published"]
Placement = Literal["auto", "device", "memory", "disk"]


@dataclass(frozen=True)
class Batch:
    """Slices of a batch, as a method's loss sees them.

    Attributes:
        cases: The case id of each of the B slices.
        masks: ``(B, K, h, w)`` float, 0 or 1: one map per organ, on the grid of the method's output.
        sizes: Height and width of each slice on that grid, in pixels; right and below of it is padding.
        images: ``(B, 1, S, S)`` float, standardised per volume, or ``(B, 3, S, S)`` as SAM's encoder takes them; None for
            methods on embeddings.
        embeddings: The frozen encoder's maps, batch B; None for methods on slices.
        prompts: One prompt per slice; None where the method takes none.
        iou_targets: ``(B, K)`` float: what the IoU head should say of each prompt; None without prompts.
        drawn: What else a method has drawn at random for the slices, by its names: floats ``(B, ...)``.
    """

    cases: tuple[str, ...]
    masks: torch.Tensor
    sizes: tuple[tuple[int, int], ...]
    images: torch.Tensor | None = None
    embeddings: ImageEmbeddings | None = None
    prompts: Prompts | None = None
    iou_targets: torch.Tensor | None = None
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


@dataclass(frozen=True)
class SliceRef:
    """One slice of one case."""

    domain: str
    case: str
    row: int


def list_slices(store: SliceStore, domain: str, cases: Sequence[str], rule: SliceRule) -> list[SliceRef]:
    """Return the slices of some cases that a rule selects, in the order of cases and slices.

    Raises:
        StudyError: There is no case, or no slice is left.
    """
    if not cases:
        raise StudyError(
            f"domain {domain} has no case left to train or to validate on: it needs two patients or more."
        )
    refs = [
        SliceRef(domain, case, int(row))
        for case in cases
        for row in select_slices(store.load(domain, case).labels, rule)
    ]
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


class SliceData(TrainingData):
    """Slices for methods that see pictures: standardised per volume, fitted to a square of ``size`` pixels."""

    def __init__(self, store: SliceStore, refs: Sequence[SliceRef], n_organs: int, size: int):
        self.refs = _by_case(refs)
        images, masks = [], []
        self.sizes: list[tuple[int, int]] = []
        for case in _load_cases(store, self.refs):
            rows = [r.row for r in self.refs if (r.domain, r.case) == (case.domain, case.case)]
            picture = torch.from_numpy(standardise(case.images)[rows])[:, None]
            images.append(fit_square(picture, size))
            masks.append(fit_square(organ_maps(case.labels[rows], n_organs), size, nearest=True))
            self.sizes += [_framed_size(case, size)] * len(rows)
        self.images, self.masks = torch.cat(images), torch.cat(masks)  # (N, 1, S, S), (N, K, S, S)

    def __len__(self) -> int:
        return len(self.refs)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the slices at these positions, with ``images`` and ``masks``."""
        cases, sizes = tuple(self.refs[r].case for r in rows), tuple(self.sizes[r] for r in rows)
        return Batch(cases, self.masks[rows], sizes, images=self.images[rows])


class PixelData(TrainingData):
    """Slices for methods that run SAM's encoder themselves: kept as grey levels, brought to SAM's square when asked for.

    Args:
        store: The prepared slices.
        refs: Which of them.
        n_organs: K.
        size: Side of the mask targets, in pixels.
        square: Side of the model's input square, in pixels.
    """

    def __init__(self, store: SliceStore, refs: Sequence[SliceRef], n_organs: int, *, size: int, square: int):
        self.refs, self.square = _by_case(refs), square
        self.images: list[torch.Tensor] = []  # (H, W) uint8
        masks = []
        self.sizes: list[tuple[int, int]] = []
        for case in _load_cases(store, self.refs):
            rows = [r.row for r in self.refs if (r.domain, r.case) == (case.domain, case.case)]
            self.images += list(torch.from_numpy(case.images[rows]))
            masks.append(_mask_targets(case.labels[rows], n_organs, square, size))
            self.sizes += [_framed_size(case, size)] * len(rows)
        self.masks = torch.cat(masks)

    def __len__(self) -> int:
        return len(self.refs)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the slices at these positions, with ``images`` ``(B, 3, S, S)`` as SAM takes them and ``masks``."""
        cases, sizes = tuple(self.refs[r].case for r in rows), tuple(self.sizes[r] for r in rows)
        pixels = torch.cat([preprocess(self.images[r][None], self.square) for r in rows])
        return Batch(cases, self.masks[rows], sizes, images=pixels)


class EmbeddingData(TrainingData):
    """Slices for methods on the frozen encoder's maps.

    Where the maps are held: on the device when they fit into half of its free memory, else in memory when they fit into
    half of what is free, else on disk, read slice by slice. The caller may choose.

    Args:
        store: The stored embeddings.
        refs: The slices.
        n_organs: K.
        size: Side of the mask targets, in pixels (four times the maps').
        square: Side of the model's input square, in pixels.
        device: Where training happens.
        placement: Where to hold the maps; "auto" applies the rule above.
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
        self.store, self.refs = store, _by_case(refs)
        masks = []
        self.sizes: list[tuple[int, int]] = []
        for case in _load_cases(store.slices, self.refs):
            rows = [r.row for r in self.refs if (r.domain, r.case) == (case.domain, case.case)]
            masks.append(_mask_targets(case.labels[rows], n_organs, square, size))
            self.sizes += [_framed_size(case, size)] * len(rows)
        self.masks = torch.cat(masks)
        self.placement = self._choose(device) if placement == "auto" else placement
        self.held = self._hold(device) if self.placement != "disk" else None

    def __len__(self) -> int:
        return len(self.refs)

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """Return the slices at these positions, with ``embeddings`` and ``masks``."""
        cases, sizes = tuple(self.refs[r].case for r in rows), tuple(self.sizes[r] for r in rows)
        return Batch(cases, self.masks[rows], sizes, embeddings=self._maps(rows))

    def _maps(self, rows: npt.NDArray[np.int64]) -> ImageEmbeddings:
        if self.held is not None:
            return self.held[torch.from_numpy(rows).to(self.held.neck.device)]
        return self._read([self.refs[r] for r in rows])

    def _read(self, refs: Sequence[SliceRef]) -> ImageEmbeddings:
        return self.store.load_slices([(ref.domain, ref.case, ref.row) for ref in refs])

    def _choose(self, device: torch.device) -> Placement:
        first = self._read(self.refs[:1])
        needed = len(self.refs) * sum(m.numel() * m.element_size() for m in (*first.levels, first.neck))
        if device.type == "cuda" and needed < torch.cuda.mem_get_info(device)[0] / 2:
            return "device"
        return "memory" if needed < psutil.virtual_memory().available / 2 else "disk"

    def _hold(self, device: torch.device) -> ImageEmbeddings:
        whole = self._read(self.refs)
        return whole.to(device=device) if self.placement == "device" else whole


def _mask_targets(labels: npt.NDArray[np.uint8], n_organs: int, square: int, size: int) -> torch.Tensor:
    """Bring organ ids ``(B, H, W)`` to SAM's square and that to its mask maps: ``(B, K, size, size)``."""
    framed = fit_square(organ_maps(labels, n_organs), square, nearest=True)
    return torch.nn.functional.interpolate(framed, (size, size), mode="nearest-exact")


def _framed_size(case: CaseSlices, side: int) -> tuple[int, int]:
    return scaled_size((case.images.shape[1], case.images.shape[2]), side)


def _by_case(refs: Sequence[SliceRef]) -> list[SliceRef]:
    """Put the slices of one case together, in order of the cases' first occurrence: so they are read and held."""
    place = {pair: number for number, pair in enumerate(dict.fromkeys((r.domain, r.case) for r in refs))}
    return sorted(refs, key=lambda r: place[r.domain, r.case])


def _load_cases(store: SliceStore, refs: Sequence[SliceRef]) -> list[CaseSlices]:
    """Load each case that occurs in ``refs`` once, in order of first occurrence."""
    return [store.load(*pair) for pair in dict.fromkeys((r.domain, r.case) for r in refs)]
