"""SAM as it is trained: image encoder, prompt encoder and mask decoder with gradients, many prompts on many pictures at once.

The modules are segment-anything's own, so that the weights bear SAM's names; here is the way through them that its code has for
one picture at a time. Pictures may be smaller than the encoder's square: positions are then interpolated.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from desam_lite.model.fast_encoder import run_block_for_training
from desam_lite.model.sam import BackboneSpec, build_image_encoder, build_mask_decoder, build_prompt_encoder
from desam_lite.model.weights import find_weights, read_tensors
from desam_lite.utils.errors import StudyError

OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT, NO_POINT = 0, 1, 2, 3, -1
"""What a prompt's token stands for; a prompt without box has one token that is no point, as in SAM."""


@dataclass(frozen=True)
class Features:
    """What the encoder gives of a batch: three ``levels`` and ``neck``, each ``(B, C, h, w)``."""

    levels: tuple[torch.Tensor, ...]
    neck: torch.Tensor


class PromptableSAM(nn.Module):
    """SAM at the size of a backbone, for training.

    Args:
        spec: The sizes.
        seed: Names the initial weights; the global random state is left alone.
    """

    def __init__(self, spec: BackboneSpec, seed: int = 0):
        super().__init__()
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image_encoder = build_image_encoder(spec)
            self.prompt_encoder = build_prompt_encoder(spec)
            self.mask_decoder = build_mask_decoder(spec)
            nn.init.trunc_normal_(self.image_encoder.pos_embed, std=0.02)

    def see(self, pixels: torch.Tensor) -> Features:
        """Run the image encoder on pictures ``(B, 3, S, S)``, S a multiple of the patch up to the encoder's own."""
        encoder = self.image_encoder
        tokens = encoder.patch_embed(pixels)
        tokens = tokens + _resized(encoder.pos_embed, tokens.shape[1])
        levels: list[torch.Tensor] = []
        for number, block in enumerate(encoder.blocks):
            tokens = run_block_for_training(block, tokens)
            if number in self.spec.global_blocks[:3]:
                levels.append(tokens.permute(0, 3, 1, 2))
        return Features(tuple(levels), encoder.neck(tokens.permute(0, 3, 1, 2)))

    def answer(
        self,
        neck: torch.Tensor,
        points: torch.Tensor,
        kinds: torch.Tensor,
        masks: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw what M prompts ask for on each picture.

        Args:
            neck: ``(B, C, h, w)``.
            points: ``(B, M, N, 2)``, x and y in pixels of the picture.
            kinds: ``(B, M, N)`` int64, what each point is; see `NO_POINT`.
            masks: ``(B, M, 4h, 4w)``, logits of an earlier answer, or None.

        Returns:
            Mask logits ``(B, M, 4, 4h, 4w)``, the first for a prompt that says all, and predicted IoU ``(B, M, 4)``.
        """
        pictures, prompts = points.shape[:2]
        decoder, height = self.mask_decoder, neck.shape[-1]
        sparse = self._sparse(points, kinds, height * self.spec.patch).flatten(0, 1)
        fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([fixed.expand(len(sparse), -1, -1), sparse], dim=1)
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        if masks is not None:
            dense = self.prompt_encoder.mask_downscaling(masks.flatten(0, 1)[:, None])
        source = neck.repeat_interleave(prompts, 0) + dense
        place = self.prompt_encoder.pe_layer((height, height))[None].expand(len(source), -1, -1, -1)
        found, source = decoder.transformer(source, place, tokens)
        upscaled = decoder.output_upscaling(source.mT.unflatten(2, (height, height)))
        heads = decoder.output_hypernetworks_mlps
        weights = torch.stack([head(found[:, 1 + i]) for i, head in enumerate(heads)], dim=1)
        logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        iou = decoder.iou_prediction_head(found[:, 0])
        return logits.unflatten(0, (pictures, prompts)), iou.unflatten(0, (pictures, prompts))

    def _sparse(self, points: torch.Tensor, kinds: torch.Tensor, side: int) -> torch.Tensor:
        """Return SAM's tokens of points and corners, ``(B, M, N, C)``."""
        encoder = self.prompt_encoder
        place = encoder.pe_layer.forward_with_coords((points + 0.5).flatten(0, 1), (side, side))
        place = place.view(*points.shape[:3], -1) * (kinds != NO_POINT)[..., None]
        table = torch.cat([e.weight for e in encoder.point_embeddings] + [encoder.not_a_point_embed.weight])
        tokens: torch.Tensor = place + table[kinds]  # NO_POINT is -1, the last row
        return tokens


def fill_promptable(model: PromptableSAM, path: Path | str) -> None:
    """Fill a model with weights under SAM's names.

    Args:
        model: Of the size of the weights.
        path: Their file, or "shipped".

    Raises:
        StudyError: A tensor is missing or has another shape.
    """
    tensors = {name: value.float() for name, value in read_tensors(find_weights(path)).items()}
    own = model.state_dict()
    odd = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    if odd:
        raise StudyError(
            f"the weights '{path}' do not fit this backbone at tensor '{odd[0]}': give weights of its size."
        )
    model.load_state_dict({name: tensors[name] for name in own})


def _resized(position: torch.Tensor, side: int) -> torch.Tensor:
    """Bring position embeddings ``(1, h, w, C)`` to a map of another side."""
    if position.shape[1] == side:
        return position
    maps = position.permute(0, 3, 1, 2)
    return functional.interpolate(maps, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
