"""SAM's parts at four sizes, MedSAM's among them, and the four feature maps that DeSAM takes from its image encoder.

The classes are segment-anything's own (Kirillov et al., ICCV 2023); here are their sizes and what is read from them.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

from desam_lite.model import fast_encoder
from desam_lite.model.resize import fit_square
from desam_lite.utils.errors import StudyError

# Of ImageNet's RGB values, 0 to 255; SAM's encoders were trained with them (segment_anything/modeling/sam.py).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
SAM_MASKS = 4
"""Masks that SAM predicts for a prompt: one for prompts without doubt, then three guesses (whole, part, part of a part)."""


@dataclass(frozen=True)
class BackboneSpec:
    """Every size of a backbone, and the widths of the decoder that fits it.

    Attributes:
        image_size: Side of the input square, in pixels.
        patch: Side of a token, in pixels.
        width: Channels of a token.
        depth: Transformer blocks.
        heads: Attention heads.
        global_blocks: Blocks that attend over the whole image; the first three give DeSAM's levels.
        window: Side of the attention window of the other blocks, in tokens.
        neck: Channels of the neck's output: 256 in SAM, as shapes in this package say; `sam_tiny` has 128.
        pdmm: Channels of PDMM at one, two and four times the token grid.
        prim_heads: Heads of PRIM's attention.
        prim_mlp: Hidden channels of PRIM's token MLP.
        prim_downsample: How much narrower than the neck PRIM's attention between tokens and image is.
        unit_range: Whether the encoder was trained on intensities from 0 to 1 in each slice; else on SAM's mean and deviation.
    """

    unit_range: ClassVar[bool] = False

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, int, int, int]
    window: int = 14
    neck: int = 256
    pdmm: tuple[int, int, int] = (256, 128, 64)
    prim_heads: int = 8
    prim_mlp: int = 2048
    prim_downsample: int = 2

    @property
    def grid(self) -> int:
        """Tokens along each side: h = w."""
        return self.image_size // self.patch


class MedSAMSpec(BackboneSpec):
    """MedSAM's ViT-B (Ma et al., 2024), of SAM's size. Its authors stretch slices to the square; here they keep their shape."""

    unit_range: ClassVar[bool] = True


BACKBONES: dict[str, BackboneSpec] = {
    "sam_tiny": BackboneSpec(
        256, 8, 128, 8, 4, (1, 3, 5, 7), window=8, neck=128, pdmm=(64, 32, 16), prim_heads=4, prim_mlp=512
    ),
    "vit_b": BackboneSpec(1024, 16, 768, 12, 12, (2, 5, 8, 11)),
    "vit_l": BackboneSpec(1024, 16, 1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": BackboneSpec(1024, 16, 1280, 32, 16, (7, 15, 23, 31)),
    "medsam": MedSAMSpec(1024, 16, 768, 12, 12, (2, 5, 8, 11)),
}


def get_backbone(name: str) -> BackboneSpec:
    """Return the sizes of a backbone.

    Raises:
        StudyError: There is no such backbone.
    """
    if name not in BACKBONES:
        raise StudyError(f"there is no backbone '{name}': choose from {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def build_image_encoder(spec: BackboneSpec) -> ImageEncoderViT:
    """Return SAM's image encoder at this size, with random weights."""
    return ImageEncoderViT(
        img_size=spec.image_size,
        patch_size=spec.patch,
        embed_dim=spec.width,
        depth=spec.depth,
        num_heads=spec.heads,
        mlp_ratio=4,
        out_chans=spec.neck,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=spec.window,
        global_attn_indexes=spec.global_blocks,
    )


def build_prompt_encoder(spec: BackboneSpec) -> PromptEncoder:
    """Return SAM's prompt encoder at this size, with random weights."""
    return PromptEncoder(
        embed_dim=spec.neck,
        image_embedding_size=(spec.grid, spec.grid),
        input_image_size=(spec.image_size, spec.image_size),
        mask_in_chans=16,
    )


def build_transformer(spec: BackboneSpec) -> TwoWayTransformer:
    """Return SAM's two-way transformer at this size, in which tokens and image attend to each other, with random weights."""
    return TwoWayTransformer(
        depth=2,
        embedding_dim=spec.neck,
        mlp_dim=spec.prim_mlp,
        num_heads=spec.prim_heads,
        attention_downsample_rate=spec.prim_downsample,
    )


def build_mask_decoder(spec: BackboneSpec, n_masks: int = SAM_MASKS) -> MaskDecoder:
    """Return SAM's own mask decoder at this size, with random weights and a token for each of ``n_masks`` masks."""
    return MaskDecoder(
        transformer_dim=spec.neck, transformer=build_transformer(spec), num_multimask_outputs=n_masks - 1
    )


@torch.no_grad()
def encode_levels(
    encoder: ImageEncoderViT, pixels: torch.Tensor, global_blocks: tuple[int, ...], *, fast: bool = True
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run the image encoder, without gradients, and keep what DeSAM needs on the way.

    Args:
        encoder: SAM's image encoder.
        pixels: ``(B, 3, S, S)`` float, normalised.
        global_blocks: The first three name the blocks after which tokens are kept.
        fast: Run the blocks as `desam_lite.model.fast_encoder` does: equal but for rounding, in less time and memory.

    Returns:
        Three maps ``(B, C, h, w)``, shallow to deep, and the neck's output ``(B, 256, h, w)``.
    """
    tokens = encoder.patch_embed(pixels)  # (B, h, w, C)
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    levels = []
    for number, block in enumerate(encoder.blocks):
        tokens = fast_encoder.run_block(block, tokens) if fast else block(tokens)  # (B, h, w, C)
        if number in global_blocks[:3]:
            levels.append(tokens.permute(0, 3, 1, 2))  # (B, C, h, w)
    return levels, encoder.neck(tokens.permute(0, 3, 1, 2))  # (B, 256, h, w)


def preprocess(slices: torch.Tensor, size: int, *, unit_range: bool = False) -> torch.Tensor:
    """Bring slices of one channel to SAM's square.

    Args:
        slices: ``(B, H, W)`` uint8, 0 to 255.
        size: S, the side of the square, in pixels.
        unit_range: Whether intensities shall run from 0 to 1 in each slice (`BackboneSpec.unit_range`).

    Returns:
        ``(B, 3, S, S)`` float32: longest side scaled to S, SAM's mean and standard deviation, zeros at bottom and right.
    """
    mean, std = (torch.tensor(v, device=slices.device)[None, :, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    intensities = slices[:, None].float()  # (B, 1, H, W)
    scaled = fit_square(intensities, size)  # (B, 1, S, S)
    inside = fit_square(torch.ones_like(intensities[:1]), size, nearest=True)  # (1, 1, S, S), 0 where padded
    if unit_range:
        low, high = (extreme(intensities, dim=(2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
        mean, std = low.expand(-1, 3, -1, -1), (high - low).clamp_min(1e-8)
    return (scaled - mean) / std * inside  # (B, 3, S, S)
