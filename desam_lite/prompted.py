"""What every model on SAM's frozen encoders shares: embeddings, prompts, what is drawn of them, and the two encoders.

DeSAM (`desam_lite.model`) and SAM with its own, coupled decoder (`desam_lite.coupled`) differ in the decoder alone.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from desam_lite.prompt_scores import SCORED_AT_ONCE, Judge, score_many
from desam_lite.sam import build_image_encoder, build_prompt_encoder, encode_levels, get_backbone

FROZEN_SEED = 0
"""Names the random weights of an encoder without checkpoint: there is one random encoder, whatever a run's seed."""


@dataclass(frozen=True)
class ImageEmbeddings:
    """What the frozen encoder gives of a batch of slices.

    Attributes:
        levels: Three maps ``(B, C, h, w)``, shallow to deep.
        neck: ``(B, N, h, w)``: N = 256 channels for SAM's own backbones, 128 for `sam_tiny`.
    """

    levels: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    neck: torch.Tensor

    def to(
        self, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "ImageEmbeddings":
        """Return the maps on another device or in another number format."""
        first, second, third = (m.to(device=device, dtype=dtype) for m in self.levels)
        return ImageEmbeddings((first, second, third), self.neck.to(device=device, dtype=dtype))

    def __len__(self) -> int:
        return len(self.neck)

    def __getitem__(self, rows: int | torch.Tensor) -> "ImageEmbeddings":
        """Return some slices of the batch; a single position keeps the batch axis."""
        chosen: Any = slice(rows, rows + 1) if isinstance(rows, int) else rows
        first, second, third = (m[chosen] for m in self.levels)
        return ImageEmbeddings((first, second, third), self.neck[chosen])

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
        moved = [None if t is None else t.to(device) for t in (self.xy, self.labels, self.xyxy)]
        return Prompts(moved[0], moved[1], moved[2], self.count)

    def __getitem__(self, rows: slice) -> "Prompts":
        """Return some of the prompts."""
        cut = [None if t is None else t[rows] for t in (self.xy, self.labels, self.xyxy)]
        return Prompts(cut[0], cut[1], cut[2], len(range(*rows.indices(self.count))))


class Decoded(NamedTuple):
    """What the decoder says of each prompt.

    Attributes:
        mask_logits: ``(B, K, 4h, 4w)``.
        iou: Predicted IoU ``(B, K)``; None for a variant without IoU head.
    """

    mask_logits: torch.Tensor
    iou: torch.Tensor | None


class PromptedSAM(nn.Module):
    """SAM's frozen image and prompt encoder; what draws masks from their embeddings is a subclass's.

    Args:
        backbone: Name of the backbone.
        n_classes: K, organs drawn in one pass.
    """

    def __init__(self, backbone: str, n_classes: int = 1):
        super().__init__()
        self.backbone, self.n_classes = backbone, n_classes
        self.spec = get_backbone(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FROZEN_SEED)
            self.image_encoder = build_image_encoder(self.spec)
            self.prompt_encoder = build_prompt_encoder(self.spec)
        for part in (self.image_encoder, self.prompt_encoder):
            part.requires_grad_(False)

    @property
    def title(self) -> str:
        """The model in a few words, for messages."""
        return f"{self.backbone} for {self.n_classes} organ(s)"

    @property
    def judge(self) -> Judge | None:
        """What predicts the IoU of a prompt's masks; None for a model that does not."""
        return None

    @property
    def image_size(self) -> int:
        """S, the side of the input square, in pixels."""
        return self.spec.image_size

    @property
    def embedding_size(self) -> int:
        """Side of the encoder's maps: h = w."""
        return self.spec.grid

    def train(self, mode: bool = True) -> Self:
        """Set the decoder's mode; the encoders stay in evaluation mode."""
        super().train(mode)
        self.image_encoder.eval()
        self.prompt_encoder.eval()
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what is trained."""
        return (p for p in self.parameters() if p.requires_grad)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> ImageEmbeddings:
        """Run the frozen image encoder.

        Args:
            pixels: ``(B, 3, S, S)`` float, normalised with SAM's mean and standard deviation (`desam_lite.sam.preprocess`).

        Returns:
            Its four maps, batch B.

        Raises:
            ValueError: The shape is another one.
        """
        side = self.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(
                f"{self.backbone} takes pixels (B, 3, {side}, {side}), not {tuple(pixels.shape)}"
            )
        levels, neck = encode_levels(self.image_encoder, pixels, self.spec.global_blocks)
        return ImageEmbeddings((levels[0], levels[1], levels[2]), neck)

    @abstractmethod
    def decode(self, embeddings: ImageEmbeddings, prompts: Prompts, *, context: Any | None = None) -> Decoded:
        """Draw the masks of B prompts and judge the prompts.

        Args:
            embeddings: Of batch B (one slice per prompt) or 1 (all prompts on one slice).
            prompts: B prompts.
            context: `read_context` of the same embeddings, where it is at hand.

        Returns:
            Mask logits ``(B, K, 4h, 4w)`` and predicted IoU ``(B, K)`` or None.

        Raises:
            ValueError: The batches do not fit.
        """

    def read_context(self, embeddings: ImageEmbeddings) -> Any | None:
        """Compute what the decoder needs of the slices whatever the prompt: once per slice, however many prompts."""
        return None

    @torch.no_grad()
    def score_prompts(
        self, embeddings: ImageEmbeddings, prompts: Prompts, *, batch: int = SCORED_AT_ONCE
    ) -> torch.Tensor:
        """Judge prompts without drawing masks: predicted IoU ``(B, K)``.

        Args:
            embeddings: Of batch B (one slice per prompt) or 1 (all prompts on one slice).
            prompts: B prompts.
            batch: Prompts on one slice that are judged at once; bounds the memory, changes nothing else.

        Raises:
            ValueError: The model has no IoU head.
        """
        if self.judge is None:
            raise ValueError(f"{self.title} has no IoU head")
        if len(embeddings) > 1:
            iou = self.decode(embeddings, prompts).iou
            assert iou is not None
            return iou
        sparse, dense = self.encode_prompts(prompts, embeddings.neck.device)
        position = self.prompt_encoder.get_dense_pe()
        return score_many(self.judge, embeddings.neck, position, sparse, dense[:1], batch)

    def encode_prompts(self, prompts: Prompts, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return SAM's sparse tokens ``(B, N, 256)`` and dense map ``(B, 256, h, w)``."""
        points = None
        boxes = prompts.xyxy
        if prompts.xy is not None and prompts.labels is not None:
            points = (prompts.xy.to(device), prompts.labels.to(device))
        elif boxes is None:
            side = float(self.image_size)
            boxes = torch.tensor([[0.0, 0.0, side, side]]).expand(prompts.count, -1)
        encoded: tuple[torch.Tensor, torch.Tensor] = self.prompt_encoder(
            points=points, boxes=None if boxes is None else boxes.to(device), masks=None
        )
        return encoded


def require_batch(embeddings: ImageEmbeddings, prompts: Prompts) -> None:
    """Refuse prompts that are neither all on one slice nor one per slice.

    Raises:
        ValueError: The batches do not fit.
    """
    if len(embeddings) not in (1, prompts.count):
        raise ValueError(f"{prompts.count} prompts need 1 or {prompts.count} slices, not {len(embeddings)}")
