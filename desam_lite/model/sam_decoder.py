"""SAM with its own mask decoder, in which the prompt takes part in making the mask: the coupled model that DeSAM takes apart.

The decoder is segment-anything's (Kirillov et al., ICCV 2023); here it runs on many slices at once, one prompt each, and for any
number of its masks.
"""

from typing import Any

import torch

from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import Decoded, ImageEmbeddings, Prompts, require_batch
from desam_lite.model.sam import SAM_MASKS, build_mask_decoder


class SAM(PromptedSAM):
    """SAM: frozen encoders and its own mask decoder.

    Organ k is predicted by mask token k; token 0 is that of SAM's single mask. SAM has four tokens; for more organs there are
    more, whose weights are random.

    Args:
        backbone: Name of the backbone.
        n_classes: K, organs predicted in one pass.
        seed: Names the decoder's initial weights; the global random state is left alone.
    """

    def __init__(self, backbone: str, n_classes: int = 1, seed: int = 0):
        title = f"{backbone} with SAM's mask decoder for {n_classes} organ(s)"
        super().__init__(backbone, n_classes, title, predicts_iou=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mask_decoder = build_mask_decoder(self.spec, max(SAM_MASKS, n_classes))
        self.train(False)

    def decode(
        self,
        embeddings: ImageEmbeddings,
        prompts: Prompts,
        *,
        context: Any | None = None,
        n_masks: int | None = None,
    ) -> Decoded:
        """Predict masks of B prompts, and how good they are, as `PromptedSAM.decode` does.

        There are M = ``n_masks`` of them, K if it is None. There is no context: in SAM nothing but the embeddings is independent
        of the prompt.
        """
        require_batch(embeddings, prompts)
        sparse, dense = self.encode_prompts(prompts, embeddings.neck.device)
        return self.predict_masks(embeddings.neck, sparse, dense, n_masks or self.n_classes)

    def predict_masks(
        self, neck: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor, n_masks: int
    ) -> Decoded:
        """Predict the first M masks of encoded prompts.

        Args:
            neck: ``(B, 256, h, w)`` or batch 1.
            sparse: ``(B, N, 256)`` prompt tokens.
            dense: ``(B, 256, h, w)``.
            n_masks: M.

        Returns:
            Mask logits ``(B, M, 4h, 4w)`` and predicted IoU ``(B, M)``.
        """
        decoder, count = self.mask_decoder, len(sparse)
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (5, 256)
        tokens = torch.cat([output_tokens.expand(count, -1, -1), sparse], dim=1)  # (B, 5 + N, 256)
        image = neck.expand(count, -1, -1, -1) + dense  # (B, 256, h, w)
        position = self.prompt_encoder.get_dense_pe().expand(count, -1, -1, -1)
        tokens, updated = decoder.transformer(image, position, tokens)  # (B, 5 + N, 256), (B, h w, 256)
        maps = decoder.output_upscaling(updated.transpose(1, 2).reshape(image.shape))  # (B, 32, 4h, 4w)
        networks = list(decoder.output_hypernetworks_mlps)[:n_masks]
        weights = torch.stack([network(tokens[:, 1 + m]) for m, network in enumerate(networks)], dim=1)
        logits = torch.einsum("bmc,bchw->bmhw", weights, maps)  # weights (B, M, 32)
        return Decoded(logits, decoder.iou_prediction_head(tokens[:, 0])[:, :n_masks])

    def iou_modules(self) -> tuple[Any, torch.Tensor, Any]:
        """Return the transformer, its output tokens and the IoU head: `PromptedSAM.iou_modules`."""
        decoder = self.mask_decoder
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        return decoder.transformer, output_tokens, decoder.iou_prediction_head
