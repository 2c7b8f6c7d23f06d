"""What every model on SAM's frozen encoders shares: encoding slices and prompts, and scoring many prompts.

DeSAM (`desam_lite.model.desam`) and SAM with its own decoder (`desam_lite.model.sam_decoder`) differ in the decoder alone.
"""

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import nn

from desam_lite.model import fast_iou
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts, prompts_at_once
from desam_lite.model.sam import build_image_encoder, build_prompt_encoder, encode_levels, get_backbone

FROZEN_SEED = 0
"""Names the random weights of an encoder without checkpoint: there is one random encoder, whatever a run's seed."""


class PromptedSAM(nn.Module):
    """SAM's frozen image and prompt encoder; the decoder is a subclass's.

    Args:
        backbone: Name of the backbone.
        n_classes: K, organs predicted in one pass.
        title: The model in a few words, for messages.
        predicts_iou: Whether it has an IoU head.

    Attributes:
        image_size: S, the side of the input square, in pixels.
        embedding_size: Side of the encoder's maps: h = w.
    """

    fast = True
    """Use `fast_encoder` and `fast_iou`: equal but for rounding, in less time and memory. The one switch between the two ways."""

    def __init__(self, backbone: str, n_classes: int, title: str, *, predicts_iou: bool):
        super().__init__()
        self.title, self.predicts_iou = title, predicts_iou
        self.backbone, self.n_classes = backbone, n_classes
        self.spec = get_backbone(backbone)
        self.image_size, self.embedding_size = self.spec.image_size, self.spec.grid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(FROZEN_SEED)
            self.image_encoder = build_image_encoder(self.spec)
            self.prompt_encoder = build_prompt_encoder(self.spec)
        for part in (self.image_encoder, self.prompt_encoder):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the decoder's mode; the encoders stay in evaluation mode."""
        super().train(mode)
        self.image_encoder.eval()
        self.prompt_encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> ImageEmbeddings:
        """Run the frozen image encoder, which gives four maps of each slice.

        Args:
            pixels: ``(B, 3, S, S)`` float, normalised with SAM's mean and standard deviation (`desam_lite.model.sam.preprocess`).

        Raises:
            ValueError: The shape is another one.
        """
        side = self.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(
                f"{self.backbone} takes pixels (B, 3, {side}, {side}), not {tuple(pixels.shape)}"
            )
        levels, neck = encode_levels(self.image_encoder, pixels, self.spec.global_blocks, fast=self.fast)
        return ImageEmbeddings((levels[0], levels[1], levels[2]), neck)

    def encode_prompts(self, prompts: Prompts, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return SAM's sparse tokens ``(B, N, 256)`` and dense map ``(B, 256, h, w)``."""
        points, boxes = None, prompts.xyxy
        if prompts.xy is not None and prompts.labels is not None:
            points = (prompts.xy.to(device), prompts.labels.to(device))
        elif boxes is None:
            side = float(self.image_size)
            boxes = torch.tensor([[0.0, 0.0, side, side]]).expand(prompts.count, -1)
        encoded: tuple[torch.Tensor, torch.Tensor] = self.prompt_encoder(
            points=points, boxes=None if boxes is None else boxes.to(device), masks=None
        )
        return encoded

    @abstractmethod
    def decode(self, embeddings: ImageEmbeddings, prompts: Prompts, *, context: Any | None = None) -> Decoded:
        """Predict the masks of B prompts, and how good they are.

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

    @abstractmethod
    def iou_modules(self) -> tuple[Any, torch.Tensor, Any]:
        """Return the two-way transformer, its output tokens ``(5, 256)`` and the IoU head, for `fast_iou`."""

    @torch.no_grad()
    def score_prompts(
        self, embeddings: ImageEmbeddings, prompts: Prompts, *, batch: int | None = None
    ) -> torch.Tensor:
        """Predict the IoU ``(B, K)`` of B prompts on one slice, as `decode` does.

        Args:
            embeddings: Of the slice, batch 1.
            prompts: B prompts.
            batch: Prompts computed at once; bounds the memory, changes nothing else. None: what suits the device.

        Raises:
            ValueError: The model has no IoU head, or there are several slices.
        """
        if not self.predicts_iou:
            raise ValueError(f"{self.title} has no IoU head")
        if len(embeddings) != 1:
            raise ValueError(f"prompts are scored on one slice, not on {len(embeddings)}: use decode")
        batch = batch or prompts_at_once(embeddings.neck.device)
        if self.fast:
            sparse, dense = self.encode_prompts(prompts, embeddings.neck.device)
            position = self.prompt_encoder.get_dense_pe()  # (1, 256, h, w)
            shared = (embeddings.neck, position, dense[:1])
            return fast_iou.predict_iou(*self.iou_modules(), *shared, sparse, batch)[:, : self.n_classes]
        context = self.read_context(embeddings)
        parts = (prompts[start : start + batch] for start in range(0, prompts.count, batch))
        scores = (self.decode(embeddings, part, context=context).iou for part in parts)
        return torch.cat([iou for iou in scores if iou is not None])
