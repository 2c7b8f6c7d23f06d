"""The trained half: PRIM scores the prompt, PDMM predicts the mask (Gao et al., MICCAI 2024, section 2 and figure 2)."""

from functools import partial
from typing import NamedTuple

import torch
from segment_anything.modeling.mask_decoder import MLP
from torch import nn
from torch.nn import functional

from desam_lite.model.sam import SAM_MASKS, BackboneSpec, build_transformer

_SQUEEZE = 16  # reduction of the squeeze-and-excitation, as in the public code
_norm = functional.instance_norm
_act = partial(functional.leaky_relu, negative_slope=0.01)  # the slope is that of the public code
_double = partial(nn.ConvTranspose2d, kernel_size=2, stride=2, bias=False)  # twice as high and wide
_IOU_HIDDEN = 256  # channels inside the IoU head, as in SAM


class Context(NamedTuple):
    """What PDMM computes of an image before any prompt.

    Attributes:
        coarse: ``(B, P0, h, w)``, from the deepest level.
        middle: ``(B, P1, 2h, 2w)``.
        fine: ``(B, P2, 4h, 4w)``, from the shallowest level.
    """

    coarse: torch.Tensor
    middle: torch.Tensor
    fine: torch.Tensor


class SqueezeResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with squeeze-and-excitation and a shortcut, without any bias.

    Args:
        inputs: Channels in.
        outputs: Channels out; where they differ, the shortcut is a normalised 1 x 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None
        self.squeeze = nn.Linear(outputs, outputs // _SQUEEZE, bias=False)
        self.excite = nn.Linear(outputs // _SQUEEZE, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, h, w)``."""
        y = _act(_norm(self.conv1(x)))  # (B, outputs, h, w)
        y = _norm(self.conv2(y))
        # As published, the squeeze comes after the norm: it sees means of zero, so that every channel is weighted by one half.
        weight = self.excite(torch.relu(self.squeeze(y.mean((2, 3))))).sigmoid()  # (B, outputs)
        shortcut = x if self.shortcut is None else _norm(self.shortcut(x))
        return _act(y * weight[:, :, None, None] + shortcut)


class ContextBranch(nn.Module):
    """From one level of the encoder to PDMM's channels, doubled in size ``doublings`` times."""

    def __init__(self, inputs: int, outputs: int, doublings: int):
        super().__init__()
        self.first = SqueezeResidualBlock(inputs, outputs)
        self.doubles = nn.ModuleList(_double(outputs, outputs) for _ in range(doublings))
        self.blocks = nn.ModuleList(SqueezeResidualBlock(outputs, outputs) for _ in range(doublings))

    def forward(self, level: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, h, w)`` to ``(B, outputs, h * 2^doublings, w * 2^doublings)``."""
        x: torch.Tensor = self.first(level)  # (B, outputs, h, w)
        for double, block in zip(self.doubles, self.blocks, strict=True):
            x = block(double(x))  # twice as high and wide each time
        return x


class UpStep(nn.Module):
    """One step of the up path: double the size, join the context of that size."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.upsample = _double(inputs, outputs)
        self.block = SqueezeResidualBlock(2 * outputs, outputs)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Map ``(B, inputs, h, w)`` and context ``(B, outputs, 2h, 2w)`` to ``(B, outputs, 2h, 2w)``."""
        joined: torch.Tensor = self.block(torch.cat([self.upsample(x), context], dim=1))
        return joined


class PDMM(nn.Module):
    """Prompt-decoupled mask module: predicts the masks from the encoder's levels, with or without the mask embedding.

    Args:
        spec: Sizes.
        n_classes: K, masks predicted.
        fusion: Whether PRIM's mask embedding is joined to the coarse context.
    """

    def __init__(self, spec: BackboneSpec, n_classes: int, *, fusion: bool):
        super().__init__()
        coarse, middle, fine = spec.pdmm
        self.context = nn.ModuleList(
            ContextBranch(spec.width, width, doublings) for doublings, width in enumerate(spec.pdmm)
        )
        self.fusion = SqueezeResidualBlock(coarse + (spec.neck if fusion else 0), coarse)
        self.up = nn.ModuleList([UpStep(coarse, middle), UpStep(middle, fine)])
        self.head = nn.Conv2d(fine, n_classes, 1, bias=False)

    def read_context(self, levels: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Context:
        """Compute what does not depend on the prompt, from three levels ``(B, C, h, w)``, shallow to deep."""
        return Context(*(branch(level) for branch, level in zip(self.context, reversed(levels), strict=True)))

    def forward(self, context: Context, mask_embedding: torch.Tensor | None) -> torch.Tensor:
        """Predict the masks.

        Args:
            context: Of batch B, or 1 for many prompts on one image.
            mask_embedding: ``(B, 256, h, w)``; None without fusion.

        Returns:
            Logits ``(B, K, 4h, 4w)``.
        """
        count = len(context.coarse) if mask_embedding is None else len(mask_embedding)
        coarse, middle, fine = (m.expand(count, -1, -1, -1) for m in context)
        if mask_embedding is not None:
            coarse = torch.cat([mask_embedding, coarse], dim=1)  # (B, 256 + P0, h, w)
        x = self.fusion(coarse)  # (B, P0, h, w)
        x = self.up[0](x, middle)  # (B, P1, 2h, 2w)
        x = self.up[1](x, fine)  # (B, P2, 4h, 4w)
        logits: torch.Tensor = self.head(x)
        return logits


class PRIM(nn.Module):
    """Prompt-relevant IoU module: SAM's two-way transformer, which yields the predicted IoU and the mask embedding.

    Args:
        spec: Sizes.
        n_classes: K, organs whose IoU is predicted.
        iou_head: Whether it predicts IoU at all.
    """

    def __init__(self, spec: BackboneSpec, n_classes: int, *, iou_head: bool):
        super().__init__()
        self.n_classes = n_classes
        self.transformer = build_transformer(spec)
        self.iou_token = nn.Embedding(1, spec.neck)
        self.mask_tokens = nn.Embedding(SAM_MASKS, spec.neck)
        # SAM's head has an output for each of its masks; the published model uses the first alone.
        outputs = max(SAM_MASKS, n_classes)
        self.iou_head = MLP(spec.neck, _IOU_HIDDEN, outputs, num_layers=3) if iou_head else None

    @property
    def output_tokens(self) -> torch.Tensor:
        """The IoU token and four mask tokens, which join those of a prompt: ``(5, 256)``."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def forward(
        self, neck: torch.Tensor, position: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Relate the prompts to the image.

        Args:
            neck: ``(B, 256, h, w)``, or batch 1 for many prompts on one image.
            position: ``(1, 256, h, w)``, SAM's positional encoding.
            sparse: ``(B, N, 256)`` prompt tokens.
            dense: ``(B, 256, h, w)``, SAM's dense prompt map.

        Returns:
            The mask embedding ``(B, 256, h, w)`` and the predicted IoU ``(B, K)`` (None without a head).
        """
        count = len(sparse)
        tokens = torch.cat([self.output_tokens.expand(count, -1, -1), sparse], dim=1)  # (B, 5 + N, 256)
        image = neck.expand(count, -1, -1, -1) + dense  # (B, 256, h, w)
        # tokens (B, 5 + N, 256), updated (B, h w, 256)
        tokens, updated = self.transformer(image, position.expand(count, -1, -1, -1), tokens)
        embedding = updated.transpose(1, 2).reshape(image.shape)  # (B, 256, h, w)
        iou = None if self.iou_head is None else self.iou_head(tokens[:, 0])[:, : self.n_classes]
        return embedding, iou
