"""DeSAM: SAM's frozen encoders and the decoupled decoder as one model; built, saved and loaded here."""

from pathlib import Path
from typing import get_args

import torch

from desam_lite.model.decoder import PDMM, PRIM, Context
from desam_lite.model.names import Variant
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts, require_batch
from desam_lite.model.sam import get_backbone
from desam_lite.utils.errors import StudyError


class DeSAM(PromptedSAM):
    """The model: frozen image and prompt encoder, trained PRIM and PDMM.

    Args:
        backbone: Name of the backbone.
        variant: Decoder variant (figure 2 of the paper); parts a variant does not use do not exist in it.
        n_classes: K, organs drawn in one pass.
        seed: Names the decoder's initial weights; the global random state is left alone.
    """

    def __init__(self, backbone: str, variant: Variant = "desam", n_classes: int = 1, seed: int = 0):
        super().__init__(backbone, n_classes)
        self.variant = variant
        self.fusion = variant in ("desam", "no_iou_head")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            has_prim, iou_head = variant != "pdmm_only", variant != "no_iou_head"
            self.prim = PRIM(self.spec, n_classes, iou_head=iou_head) if has_prim else None
            self.pdmm = PDMM(self.spec, n_classes, fusion=self.fusion)
        self.train(False)

    @property
    def title(self) -> str:
        """The model in a few words, for messages."""
        return f"{self.backbone} with decoder variant {self.variant} for {self.n_classes} organ(s)"

    @property
    def judge(self) -> PRIM | None:
        """PRIM, which predicts the IoU of a prompt; None for a variant without IoU head."""
        return self.prim if self.prim is not None and self.prim.iou_head is not None else None

    def decode(
        self, embeddings: ImageEmbeddings, prompts: Prompts, *, context: Context | None = None
    ) -> Decoded:
        """Draw the masks of B prompts and judge the prompts: `PromptedSAM.decode`."""
        require_batch(embeddings, prompts)
        known = self.read_context(embeddings) if context is None else context
        if self.prim is None:
            logits = self.pdmm(known, None)
            return Decoded(logits.expand(prompts.count, -1, -1, -1), None)
        embedding, iou = self._relate(embeddings, prompts)
        logits = self.pdmm(known, embedding if self.fusion else None)
        return Decoded(logits.expand(prompts.count, -1, -1, -1), iou)

    def read_context(self, embeddings: ImageEmbeddings) -> Context:
        """Compute what PDMM needs of the slices whatever the prompt: once per slice, however many prompts."""
        return self.pdmm.read_context(embeddings.levels)

    def _relate(
        self, embeddings: ImageEmbeddings, prompts: Prompts
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        assert self.prim is not None
        sparse, dense = self.encode_prompts(prompts, embeddings.neck.device)
        related: tuple[torch.Tensor, torch.Tensor | None] = self.prim(
            embeddings.neck, self.prompt_encoder.get_dense_pe(), sparse, dense
        )
        return related


def build_desam(
    backbone: str,
    variant: Variant = "desam",
    n_classes: int = 1,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DeSAM:
    """Build a DeSAM.

    Args:
        backbone: "sam_tiny", "vit_b", "vit_l" or "vit_h".
        variant: "desam", "no_iou_head", "no_fusion" or "pdmm_only".
        n_classes: K, organs drawn in one pass.
        checkpoint: SAM's original weights, ours, the published DeSAM's, or "shipped" for `sam_tiny`'s; with ``#sha256=HEX``
            after the path where the content must have that hash (`desam_lite.model.checkpoints.load_checkpoint`); None for
            random ones.
        seed: Names the decoder's initial weights. A random encoder is always the same one.
        device: Where the model goes.

    Returns:
        The model, in evaluation mode.

    Raises:
        StudyError: A name is unknown, or the checkpoint does not fit.
    """
    get_backbone(backbone)
    if variant not in get_args(Variant):
        raise StudyError(
            f"there is no decoder variant '{variant}': choose from {', '.join(get_args(Variant))}."
        )
    if n_classes < 1:
        raise StudyError(f"a model draws at least one organ, not {n_classes}: set n_classes to 1 or more.")
    model = DeSAM(backbone, variant, n_classes, seed)
    if checkpoint is not None:
        from desam_lite.model.checkpoints import load_checkpoint

        load_checkpoint(model, checkpoint)
    return model.to(device)
