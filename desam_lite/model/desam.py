"""DeSAM: SAM's frozen encoders and the decoupled decoder as one model (Gao et al., MICCAI 2024)."""

from typing import Any

import torch

from desam_lite.model.decoder import PDMM, PRIM, Context
from desam_lite.model.names import Variant
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts, require_batch


class DeSAM(PromptedSAM):
    """The model: frozen image and prompt encoder, trained PRIM and PDMM.

    Args:
        backbone: Name of the backbone.
        variant: Decoder variant (figure 2 of the paper); parts a variant does not use do not exist in it.
        n_classes: K, organs predicted in one pass.
        seed: Names the decoder's initial weights; the global random state is left alone.
    """

    def __init__(self, backbone: str, variant: Variant = "desam", n_classes: int = 1, seed: int = 0):
        title = f"{backbone} with decoder variant {variant} for {n_classes} organ(s)"
        super().__init__(backbone, n_classes, title, predicts_iou=variant in ("desam", "no_fusion"))
        self.variant, self.fusion = variant, variant in ("desam", "no_iou_head")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            has_prim = variant != "pdmm_only"
            self.prim = PRIM(self.spec, n_classes, iou_head=self.predicts_iou) if has_prim else None
            self.pdmm = PDMM(self.spec, n_classes, fusion=self.fusion)
        self.train(False)

    def decode(
        self, embeddings: ImageEmbeddings, prompts: Prompts, *, context: Context | None = None
    ) -> Decoded:
        """Predict the masks of B prompts, and how good they are: `PromptedSAM.decode`."""
        require_batch(embeddings, prompts)
        context = self.read_context(embeddings) if context is None else context
        embedding, iou = None, None
        if self.prim is not None:
            sparse, dense = self.encode_prompts(prompts, embeddings.neck.device)
            position = self.prompt_encoder.get_dense_pe()  # (1, 256, h, w)
            embedding, iou = self.prim(embeddings.neck, position, sparse, dense)  # (B, 256, h, w), (B, K)
        logits = self.pdmm(context, embedding if self.fusion else None)  # (B or 1, K, 4h, 4w)
        return Decoded(logits.expand(prompts.count, -1, -1, -1), iou)

    def read_context(self, embeddings: ImageEmbeddings) -> Context:
        """Compute what PDMM needs of the slices whatever the prompt: once per slice, however many prompts."""
        return self.pdmm.read_context(embeddings.levels)

    def iou_modules(self) -> tuple[Any, torch.Tensor, Any]:
        """Return PRIM's transformer, output tokens and IoU head: `PromptedSAM.iou_modules`."""
        assert self.prim is not None
        return self.prim.transformer, self.prim.output_tokens, self.prim.iou_head
