"""SAM with its own mask decoder, which draws what the prompt points at: the coupled model that DeSAM takes apart.

The decoder is segment-anything's (Kirillov et al., ICCV 2023); here it is run on many slices at once, one prompt each, and for as
many of its masks as are wanted.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts, require_batch
from desam_lite.model.sam import build_mask_decoder

SAM_MASKS = 4
"""Masks that SAM draws of one prompt: one for prompts without doubt, then three guesses (whole, part, part of a part)."""


class _Judge(NamedTuple):
    """The parts of SAM's decoder that predict IoU, as `desam_lite.model.fast_iou.Judge` names them."""

    transformer: nn.Module
    iou_token: nn.Embedding
    mask_tokens: nn.Embedding
    iou_head: nn.Module
    n_classes: int


class CoupledSAM(PromptedSAM):
    """SAM: frozen encoders and its own mask decoder.

    Organ k is drawn by mask token k, counted from 0, which is the token of SAM's single mask. SAM has four tokens; for more
    organs there are more, whose weights are random.

    Args:
        backbone: Name of the backbone.
        n_classes: K, organs drawn in one pass.
        seed: Names the decoder's initial weights; the global random state is left alone.
    """

    def __init__(self, backbone: str, n_classes: int = 1, seed: int = 0):
        super().__init__(backbone, n_classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mask_decoder = build_mask_decoder(self.spec, max(SAM_MASKS, n_classes))
        self.train(False)

    @property
    def title(self) -> str:
        """The model in a few words, for messages."""
        return f"{self.backbone} with SAM's mask decoder for {self.n_classes} organ(s)"

    @property
    def judge(self) -> _Judge:
        """SAM's IoU head, for the masks of the K organs."""
        return self.judge_of(self.n_classes)

    def judge_of(self, masks: int) -> _Judge:
        """Return SAM's IoU head for the first ``masks`` masks."""
        own = self.mask_decoder
        return _Judge(own.transformer, own.iou_token, own.mask_tokens, own.iou_prediction_head, masks)

    def decode(self, embeddings: ImageEmbeddings, prompts: Prompts, *, context: Any | None = None) -> Decoded:
        """Draw the K organs for B prompts and judge the prompts: `PromptedSAM.decode`."""
        return self.draw(embeddings, prompts, self.n_classes)

    def draw(self, embeddings: ImageEmbeddings, prompts: Prompts, masks: int = SAM_MASKS) -> Decoded:
        """Draw the first M of SAM's masks for B prompts.

        Args:
            embeddings: Of batch B (one slice per prompt) or 1 (all prompts on one slice).
            prompts: B prompts.
            masks: M.

        Returns:
            Mask logits ``(B, M, 4h, 4w)`` and predicted IoU ``(B, M)``.

        Raises:
            ValueError: The batches do not fit.
        """
        require_batch(embeddings, prompts)
        sparse, dense = self.encode_prompts(prompts, embeddings.neck.device)
        return self.draw_encoded(embeddings.neck, sparse, dense, masks)

    def draw_encoded(
        self, neck: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor, masks: int
    ) -> Decoded:
        """Draw for encoded prompts.

        Args:
            neck: ``(B, 256, h, w)`` or batch 1.
            sparse: ``(B, N, 256)`` prompt tokens.
            dense: ``(B, 256, h, w)``.
            masks: M.

        Returns:
            Mask logits ``(B, M, 4h, 4w)`` and predicted IoU ``(B, M)``.
        """
        decoder, count = self.mask_decoder, len(sparse)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)
        image = neck.expand(count, -1, -1, -1) + dense
        position = self.prompt_encoder.get_dense_pe().expand(count, -1, -1, -1)
        tokens, updated = decoder.transformer(image, position, tokens)
        maps = decoder.output_upscaling(updated.transpose(1, 2).reshape(image.shape))  # (B, 32, 4h, 4w)
        networks = list(decoder.output_hypernetworks_mlps)[:masks]
        weights = torch.stack([network(tokens[:, 1 + m]) for m, network in enumerate(networks)], dim=1)
        logits = torch.einsum("bmc,bchw->bmhw", weights, maps)
        return Decoded(logits, decoder.iou_prediction_head(tokens[:, 0])[:, :masks])
