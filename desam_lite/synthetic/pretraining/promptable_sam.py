"""SAM as it is trained: image encoder, prompt encoder and mask decoder with gradients, many prompts on many images at once.

The modules are segment-anything's own, so that the weights bear SAM's names; here is the way through them that its code has for
one image at a time. Images may be smaller than the encoder's square: positions are then interpolated.
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from desam_lite.methods.tuned_encoder import run_block_for_training
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import BackboneSpec, build_image_encoder, build_mask_decoder, build_prompt_encoder
from desam_lite.model.weights import find_weights, read_tensors
from desam_lite.synthetic.pretraining.fast_training import attend_with_positions, run_two_way, upscale_masks
from desam_lite.utils.errors import StudyError

OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT, NO_POINT = 0, 1, 2, 3, -1
"""What a prompt's token stands for; a prompt without box has one token that is no point, as in SAM."""


class PromptableSAM(nn.Module):
    """SAM at the size of a backbone, for training.

    The seed names the initial weights; the global random state is left alone.
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

    def encode_image(self, pixels: torch.Tensor) -> ImageEmbeddings:
        """Run the image encoder on images ``(B, 3, S, S)``, S a multiple of the patch up to the encoder's own side."""
        encoder = self.image_encoder
        tokens = encoder.patch_embed(pixels)
        tokens = tokens + _resize_positions(encoder.pos_embed, tokens.shape[1])  # (B, h, w, C)
        levels: list[torch.Tensor] = []
        for number, block in enumerate(encoder.blocks):
            tokens = run_block_for_training(block, tokens, attend_with_positions)
            if number in self.spec.global_blocks[:3]:
                levels.append(tokens.permute(0, 3, 1, 2))
        first, second, third = levels
        return ImageEmbeddings((first, second, third), encoder.neck(tokens.permute(0, 3, 1, 2)))

    def predict_masks(
        self, neck: torch.Tensor, points: torch.Tensor, kinds: torch.Tensor, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the masks of M prompts on each image.

        Args:
            neck: ``(B, C, h, w)``.
            points: ``(B, M, N, 2)``, x and y in pixels of the image.
            kinds: ``(B, M, N)`` int64, what each point is; see `NO_POINT`.
            masks: ``(B, M, 4h, 4w)``, logits of an earlier round, or None.

        Returns:
            Mask logits ``(B, M, 4, 4h, 4w)``, the first for an unambiguous prompt, and predicted IoU ``(B, M, 4)``.
        """
        shape, side, device = points.shape[:2], neck.shape[-1], neck.device.type
        decoder = self.mask_decoder
        with torch.autocast(device, enabled=False):  # a bfloat16 coordinate is half a pixel off
            prompts = self._embed_prompts(points, kinds, side * self.spec.patch).flatten(0, 1)
            place = self.prompt_encoder.pe_layer((side, side)).flatten(1).mT
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(len(prompts), -1, -1), prompts], dim=1)  # (B M, T, C)
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None].to(neck.dtype)
        if masks is not None:
            dense = self.prompt_encoder.mask_downscaling(masks.flatten(0, 1)[:, None])
        source = (neck.repeat_interleave(shape[1], 0) + dense).flatten(2).mT.contiguous()  # (B M, h w, C)
        if torch.is_autocast_enabled(device):
            source = source.to(torch.get_autocast_dtype(device))
        tokens, source = run_two_way(decoder.transformer, source, place, tokens)
        heads = decoder.output_hypernetworks_mlps
        weights = torch.stack([head(tokens[:, 1 + i]) for i, head in enumerate(heads)], dim=1)
        logits = upscale_masks(decoder, source, weights)
        predicted_iou = decoder.iou_prediction_head(tokens[:, 0])
        return torch.unflatten(logits, 0, shape), torch.unflatten(predicted_iou, 0, shape)

    def _embed_prompts(self, points: torch.Tensor, kinds: torch.Tensor, side: int) -> torch.Tensor:
        """Return SAM's tokens of points and corners on images of this side: ``(B, M, N, C)``."""
        encoder = self.prompt_encoder
        place = encoder.pe_layer.forward_with_coords((points + 0.5).flatten(0, 1), (side, side))
        place = place.view(*points.shape[:3], -1) * (kinds != NO_POINT)[..., None]
        table = torch.cat([e.weight for e in encoder.point_embeddings] + [encoder.not_a_point_embed.weight])
        tokens: torch.Tensor = place + table[kinds]  # NO_POINT is -1, the last row
        return tokens


def fill_promptable(model: PromptableSAM, path: Path | str) -> None:
    """Fill a model with weights under SAM's names, of a file or "shipped"; a StudyError names a tensor that does not fit."""
    tensors = {name: value.float() for name, value in read_tensors(find_weights(path)).items()}
    own = model.state_dict()
    odd = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    if odd:
        raise StudyError(
            f"the weights '{path}' do not fit this backbone at tensor '{odd[0]}': give weights of its size."
        )
    model.load_state_dict({name: tensors[name] for name in own})


def _resize_positions(position: torch.Tensor, side: int) -> torch.Tensor:
    """Bring position embeddings ``(1, h, w, C)`` to a map of another side."""
    if position.shape[1] == side:
        return position
    maps = position.permute(0, 3, 1, 2)
    return functional.interpolate(maps, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
