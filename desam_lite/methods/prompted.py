"""Methods on a prompted model: how its decoder is trained on stored embeddings, and how it predicts without a human.

DeSAM and the coupled SAM share all of this, so that the decoder alone makes the difference between their numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.data.datasets import Batch
from desam_lite.data.embeddings import AT_ONCE, ReadEmbeddings
from desam_lite.methods.oracle_prompts import oracle_prompts, tight_box
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.names import MaskLoss, OracleMode, PromptMode
from desam_lite.model.predictor import GridSettings, predict_prompted, predict_slice
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.training.losses import IoULoss, mask_loss
from desam_lite.training.method import Method, SlicePrediction, Volume, combine_organs

BOX_SHIFT = 20 / 1024
"""How far an edge of a training box may lie outside the organ, as a fraction of the square (MedSAM's public code)."""
NEEDS_REFERENCE = "an oracle predicts with predict_oracle only: its prompts come from the reference"


def grid_settings(spec: RunSpec) -> GridSettings:
    """Return the point grid of a specification and the filters of its masks."""
    return GridSettings(
        points_per_side=spec.points_per_side or 1,
        iou_threshold=spec.iou_threshold or 0.0,
        stability_threshold=spec.stability_threshold or 0.0,
        selection=spec.selection or "published",
        min_area=spec.min_area or 0,
    )


class _Decoder(nn.Module):
    """A trained decoder as a function of tensors: wrappers for devices and mixed precision take nothing else."""

    def __init__(self, model: PromptedSAM):
        super().__init__()
        self.model = model

    def forward(
        self,
        levels: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        neck: torch.Tensor,
        xy: torch.Tensor | None,
        labels: torch.Tensor | None,
        xyxy: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return mask logits ``(B, K, 4h, 4w)`` and predicted IoU ``(B, K)``, None without a head."""
        out = self.model.decode(ImageEmbeddings(levels, neck), Prompts(xy, labels, xyxy, len(neck)))
        return out.mask_logits, out.iou


class PromptedMethod(Method):
    """A decoder on stored embeddings, with the whole image as box or a grid of points as prompt.

    Training draws one prompt per slice as the public DeSAM code does. A point: with probability 1/2 in an organ (where its IoU
    target is 1), else in the background (0), its label always 1. A box: always the whole image, and no IoU loss. Whatever the
    prompt, the target mask is that of the organ. As an oracle ("box_oracle") the box is tight around one organ of the slice,
    drawn among those present, each edge up to 2 % of the square outside of it; prediction then takes the tight box of each
    organ's reference. The epoch is selected by the mask loss; ``test_mode`` is the prompt of predictions where it is another.
    """

    inputs = "embeddings"

    def __init__(
        self,
        model: PromptedSAM,
        mode: PromptMode,
        grid: GridSettings,
        iou_loss: IoULoss | None = None,
        mask_loss: MaskLoss = "dice",
        test_mode: PromptMode | None = None,
    ):
        self.model, self.mode, self.grid = model, mode, grid
        self.test_mode = test_mode or mode
        self.encoder = model
        self.iou_loss, self.mask_loss = iou_loss or IoULoss(), mask_loss
        self.module = _Decoder(model)
        self.input_size, self.mask_size = model.image_size, 4 * model.embedding_size

    @classmethod
    def with_prompts(cls, model: PromptedSAM, spec: RunSpec) -> Self:
        """Build it on a model, with the prompts, thresholds and losses of a specification."""
        assert spec.prompt_mode is not None
        losses = IoULoss(spec.iou_loss or "l1", spec.iou_weight or 1.0), spec.mask_loss or "dice"
        return cls(model, spec.prompt_mode, grid_settings(spec), *losses, spec.test_prompt)

    @property
    def oracle(self) -> bool:  # type: ignore[override]
        """Whether the prompts of predictions are made from the reference."""
        return self.test_mode in get_args(OracleMode)

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Add one prompt per slice and, for points, the target of the IoU head."""
        side = self.model.image_size
        if self.mode == "box":
            return replace(batch, prompts=Prompts.whole_image(len(batch.cases)))
        masks = (batch.masks > 0.5).float().numpy()  # (B, K, h, w)
        step = side / masks.shape[-1]
        if self.mode in get_args(OracleMode):
            shift = BOX_SHIFT * side if augment else 0.0
            boxes = [draw_box(mask, step, shift, rng) for mask, rng in zip(masks, generators, strict=True)]
            return replace(batch, prompts=Prompts.box(torch.from_numpy(np.stack(boxes)).clamp(0, side)))
        inside = [mask[:, :height, :width] for mask, (height, width) in zip(masks, batch.sizes, strict=True)]
        points = np.stack([draw_point(mask, rng) for mask, rng in zip(inside, generators, strict=True)])
        rows = np.arange(len(masks))[:, None]
        targets = masks[rows, np.arange(masks.shape[1]), points[:, 1:], points[:, :1]]  # (B, K)
        xy = torch.from_numpy(points[:, None].astype(np.float32)) * step  # (B, 1, 2)
        prompts = Prompts.points(xy, torch.ones(len(masks), 1))
        return replace(batch, prompts=prompts, iou_targets=torch.from_numpy(targets.astype(np.float32)))

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss plus, for points, the loss of the IoU head."""
        logits, iou = self._decode(module, batch)
        loss = mask_loss(logits, batch.masks, self.mask_loss)
        if iou is not None and batch.iou_targets is not None:
            loss = loss + self.iou_loss(iou, batch.iou_targets)
        return loss

    def validation_loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss alone, by which the public code selects the epoch."""
        return mask_loss(self._decode(module, batch)[0], batch.masks, self.mask_loss)

    def _decode(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        embeddings, prompts = batch.embeddings, batch.prompts
        assert embeddings is not None and prompts is not None
        prompt = prompts.xy, prompts.labels, prompts.xyxy
        out: tuple[torch.Tensor, torch.Tensor | None] = module(embeddings.levels, embeddings.neck, *prompt)
        return out

    @torch.no_grad()
    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Predict slice by slice from the embeddings; the IoU is that of the prompt that was kept."""
        mode = self.test_mode
        if mode == "box_oracle" or mode == "point_oracle":
            raise TypeError(NEEDS_REFERENCE)
        self.module.eval()
        size = (images.shape[1], images.shape[2])
        for emb in each_slice(embeddings, len(images), self.model):
            masks = predict_slice(self.model, emb, mode, size, self.grid)
            yield SlicePrediction(combine_organs(masks.masked), masks.probability, masks.iou)

    @torch.no_grad()
    def predict_oracle(
        self, images: Volume, embeddings: ReadEmbeddings | None, reference: Volume
    ) -> Iterator[SlicePrediction]:
        """Predict slice by slice, each organ with the prompt from its reference; empty where the organ is not."""
        self.module.eval()
        size = (images.shape[1], images.shape[2])
        for emb, labels in zip(each_slice(embeddings, len(images), self.model), reference, strict=True):
            prompts = oracle_prompts(labels, self.model.n_classes, self.model.image_size, self.test_mode)
            masks = predict_prompted(self.model, emb, prompts, size, self.grid)
            yield SlicePrediction(combine_organs(masks.masked), masks.probability, masks.iou)


def each_slice(embeddings: ReadEmbeddings | None, count: int, model: nn.Module) -> Iterator[ImageEmbeddings]:
    """Yield the embeddings of ``count`` slices one by one, in float32 on a model's device; `AT_ONCE` are read together."""
    assert embeddings is not None
    device = next(model.parameters()).device
    for start in range(0, count, AT_ONCE):
        maps = embeddings(range(start, min(start + AT_ONCE, count)))
        for row in range(len(maps)):
            yield maps[row].to(device=device, dtype=torch.float32)


def draw_point(masks: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the training point ``(x, y)`` of one slice, in an organ or in the background by equal chance, in pixels of the masks.

    These are ``(K, h, w)``, 0 or 1, without padding: prediction puts no point there either.
    """
    inside = masks.any(axis=0)
    region = inside if rng.random() < 0.5 else ~inside
    candidates = np.argwhere(region if region.any() else ~region)
    y, x = candidates[rng.integers(len(candidates))]
    return np.array([x, y])


def draw_box(
    masks: npt.NDArray[np.float32], step: float, shift: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw the training box ``(4,)`` of one slice: around one of its organs, each edge moved out at random by up to ``shift``.

    Left, top, right, bottom are in pixels of the model's square, which they may leave: all of it where there is no organ. A
    pixel of the masks ``(K, h, w)`` is ``step`` of the square's.
    """
    present = np.flatnonzero(masks.any(axis=(1, 2)))
    if not len(present):
        return np.array([0, 0, masks.shape[2], masks.shape[1]], np.float32) * step
    box = tight_box(masks[rng.choice(present)] > 0) * step
    return np.asarray(box + rng.uniform(0, shift, 4) * (-1, -1, 1, 1), dtype=np.float32)
