"""Methods that train through SAM's image encoder: pixels in, masks out, and no prompt from anyone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Block, get_rel_pos
from torch import nn
from torch.utils.checkpoint import checkpoint

from desam_lite.data.datasets import Batch
from desam_lite.data.embeddings import AT_ONCE, ReadEmbeddings
from desam_lite.methods.frozen_encoder import load_frozen
from desam_lite.model.fast_encoder import (
    Attend,
    attend_fused,
    attend_in_windows,
    join_heads,
    split_heads,
)
from desam_lite.model.names import MaskLoss
from desam_lite.model.resize import unfit_square
from desam_lite.model.sam import preprocess
from desam_lite.model.sam_decoder import SAM
from desam_lite.training.losses import mask_loss
from desam_lite.training.method import Method, SlicePrediction, Volume

_RECOMPUTED_FROM = 48 * 48  # tokens above which keeping what every block computes would fill a GPU

RunBlock = Callable[[int, Block, torch.Tensor, Attend], torch.Tensor]
"""From the number of a block, the block, its tokens ``(B, h, w, C)`` and the way to attend, to its output, of the same shape."""


class TunedEncoder(Method):
    """A network from pixels ``(B, 3, S, S)`` to mask logits ``(B, K, 4h, 4w)`` through SAM's encoder; organ k is mask token k.

    SAM is a part of the network that is trained; of its decoder the IoU head is not used.
    """

    inputs = "pixels"

    def __init__(self, model: SAM, network: nn.Module, mask_loss: MaskLoss):
        model.mask_decoder.iou_prediction_head.requires_grad_(False)
        self.model, self.module, self.mask_loss = model, network, mask_loss
        self.input_size, self.mask_size = model.image_size, 4 * model.embedding_size

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss, that of all decoders."""
        return mask_loss(module(batch.images), batch.masks, self.mask_loss)

    @torch.no_grad()
    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Predict in batches of slices, back on the grid of the scan."""
        self.module.eval()
        size = (images.shape[1], images.shape[2])
        unit_range = self.model.spec.unit_range
        for chunk in torch.split(torch.from_numpy(images), AT_ONCE):
            logits = self.module(preprocess(chunk.to(self.device), self.input_size, unit_range=unit_range))
            on_slice = unfit_square(logits.float(), size, self.input_size)
            for probability in on_slice.sigmoid().cpu().numpy():
                yield SlicePrediction.from_probability(probability)

    def load(self, directory: Path) -> None:
        """Load what `save` wrote, and the frozen weights that the card names."""
        load_frozen(self.model, directory)
        super().load(directory)


def embed_patches(encoder: ImageEncoderViT, pixels: torch.Tensor) -> torch.Tensor:
    """Return the encoder's first tokens ``(B, h, w, C)``, with their positions, of pixels ``(B, 3, S, S)``."""
    tokens: torch.Tensor = encoder.patch_embed(pixels)
    return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed


def run_block_for_training(
    block: Block,
    tokens: torch.Tensor,
    attend: Attend,
    adapter: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run one transformer block, ``(B, h, w, C)`` in and out, with the gradients that ``attend`` has.

    What an ``adapter`` makes of the tokens that go into the MLP is added to what the MLP makes of them.
    """
    joined = tokens + attend_in_windows(block.attn, block.norm1(tokens), block.window_size, attend)
    normed = block.norm2(joined)
    result: torch.Tensor = joined + block.mlp(normed)
    return result if adapter is None else result + adapter(normed)


def run_plain_block(number: int, block: Block, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
    """Run a block as it is."""
    return run_block_for_training(block, tokens, attend)


def run_encoder(
    encoder: ImageEncoderViT, tokens: torch.Tensor, run_block: RunBlock = run_plain_block
) -> torch.Tensor:
    """Run all blocks on tokens ``(B, h, w, C)``, with gradients where they are enabled, and return the neck ``(B, 256, h, w)``.

    Where there are many tokens, blocks are run once more on the way back rather than all they computed being kept.
    """
    training = torch.is_grad_enabled()
    attend = _attend_written_out if training else attend_fused
    recompute = training and tokens.shape[1] * tokens.shape[2] > _RECOMPUTED_FROM
    for number, block in enumerate(encoder.blocks):
        if recompute:
            tokens = checkpoint(run_block, number, block, tokens, attend, use_reentrant=False)
        else:
            tokens = run_block(number, block, tokens, attend)
    neck: torch.Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
    return neck


def _attend_written_out(
    windows: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor
) -> torch.Tensor:
    """Attend as `fast_encoder` does, but torch's fused attention has no gradient for its bias."""
    q, k, v = split_heads(windows)  # (G, h, w, c) each
    height, width, channels = q.shape[1:]
    sides = (height, rel_pos_h), (width, rel_pos_w)
    by_row, by_column = (get_rel_pos(n, n, r).to(q.dtype) for n, r in sides)
    down = torch.einsum("ghwc,hkc->ghwk", q, by_row).flatten(1, 2)  # (G, h w, h)
    across = torch.einsum("ghwc,wkc->ghwk", q, by_column).flatten(1, 2)  # (G, h w, w)
    keys, values = k.flatten(1, 2), v.flatten(1, 2)
    scores = (q.flatten(1, 2) * channels**-0.5) @ keys.mT  # (G, h w, h w)
    scores = scores.unflatten(2, (height, width)) + down[..., None] + across[..., None, :]
    attended = (scores.flatten(2).softmax(-1) @ values).view(q.shape)
    return join_heads(attended, windows)
