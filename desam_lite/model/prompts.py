"""What a promptable model takes and returns: embeddings of slices, prompts on them, and decoded masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

_PROMPTS_AT_ONCE = {"cpu": 8, "cuda": 128}  # 8 fill about 30 MB with SAM's ViTs; a GPU waits for each portion


def prompts_at_once(device: torch.device) -> int:
    """Return how many prompts on one slice are best computed at once."""
    return _PROMPTS_AT_ONCE.get(device.type, 8)


@dataclass(frozen=True)
class ImageEmbeddings:
    """The frozen encoder's maps of a batch of slices.

    Attributes:
        levels: Three maps ``(B, C, h, w)``, shallow to deep.
        neck: ``(B, N, h, w)``: N = 256 channels for SAM's own backbones, 128 for `sam_tiny`.
    """

    levels: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    neck: torch.Tensor

    def to(
        self, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "ImageEmbeddings":
        """Return the maps on another device or in another number format.

        They are moved first: 16-bit maps that become float32 on a GPU are half the bytes on their way to it.
        """
        return self._each(lambda m: m.to(device=device).to(dtype=dtype))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "ImageEmbeddings":
        first, second, third = map(change, self.levels)
        return ImageEmbeddings((first, second, third), change(self.neck))

    def __len__(self) -> int:
        return len(self.neck)

    def __getitem__(self, rows: int | torch.Tensor) -> "ImageEmbeddings":
        """Return some slices of the batch; a single position keeps the batch axis."""
        return self._each(lambda m: m[rows : rows + 1] if isinstance(rows, int) else m[rows])

    @classmethod
    def stack(cls, parts: Sequence["ImageEmbeddings"]) -> "ImageEmbeddings":
        """Join batches into one."""
        first, second, third = (torch.cat([p.levels[i] for p in parts]) for i in range(3))
        return cls((first, second, third), torch.cat([p.neck for p in parts]))


@dataclass(frozen=True)
class Prompts:
    """One prompt per slice, or many prompts for one slice; made by `points`, `box` or `whole_image`.

    Attributes:
        xy: ``(B, N, 2)`` float: x, y in pixels of the model's square; None for boxes.
        labels: ``(B, N)``: 1 inside, 0 outside; None for boxes.
        xyxy: ``(B, 4)`` float: left, top, right, bottom in the same frame; None for points and the whole image.
        count: B.
    """

    xy: torch.Tensor | None
    labels: torch.Tensor | None
    xyxy: torch.Tensor | None
    count: int

    @classmethod
    def points(cls, xy: torch.Tensor, labels: torch.Tensor) -> Self:
        """Return B prompts of N points each.

        Raises:
            ValueError: The shapes are not ``(B, N, 2)`` and ``(B, N)``.
        """
        if xy.ndim != 3 or xy.shape[-1] != 2 or labels.shape != xy.shape[:2]:
            raise ValueError(
                f"points are (B, N, 2) with labels (B, N), not {tuple(xy.shape)} and {tuple(labels.shape)}"
            )
        return cls(xy.float(), labels, None, len(xy))

    @classmethod
    def box(cls, xyxy: torch.Tensor) -> Self:
        """Return B boxes.

        Raises:
            ValueError: The shape is not ``(B, 4)``.
        """
        if xyxy.ndim != 2 or xyxy.shape[-1] != 4:
            raise ValueError(f"boxes are (B, 4), not {tuple(xyxy.shape)}")
        return cls(None, None, xyxy.float(), len(xyxy))

    @classmethod
    def whole_image(cls, count: int = 1) -> Self:
        """Return the box 0, 0, S, S, ``count`` times; the model that reads it knows S."""
        return cls(None, None, None, count)

    def to(self, device: torch.device) -> "Prompts":
        """Return the prompts on another device."""
        xy, labels, xyxy = (None if t is None else t.to(device) for t in (self.xy, self.labels, self.xyxy))
        return Prompts(xy, labels, xyxy, self.count)

    def __getitem__(self, rows: slice) -> "Prompts":
        """Return some of the prompts."""
        xy, labels, xyxy = (None if t is None else t[rows] for t in (self.xy, self.labels, self.xyxy))
        return Prompts(xy, labels, xyxy, len(range(*rows.indices(self.count))))


class Decoded(NamedTuple):
    """What a decoder predicts for each prompt.

    Attributes:
        mask_logits: ``(B, K, 4h, 4w)``.
        iou: Predicted IoU ``(B, K)``; None for a variant without IoU head.
    """

    mask_logits: torch.Tensor
    iou: torch.Tensor | None


def require_batch(embeddings: ImageEmbeddings, prompts: Prompts) -> None:
    """Refuse prompts that are neither all on one slice nor one per slice.

    Raises:
        ValueError: The batches do not fit.
    """
    if len(embeddings) not in (1, prompts.count):
        raise ValueError(f"{prompts.count} prompts need 1 or {prompts.count} slices, not {len(embeddings)}")
