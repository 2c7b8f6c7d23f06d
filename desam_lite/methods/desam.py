"""DeSAM as a method: one prompt per slice in training, a grid of points or the whole image at prediction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from desam_lite.cards import TENSORS
from desam_lite.checkpoints import load_checkpoint
from desam_lite.datasets import Batch
from desam_lite.embeddings import AT_ONCE, ReadEmbeddings
from desam_lite.inference import GridSettings, predict_slice
from desam_lite.methods.base import Method, SlicePrediction, combine_organs, mask_loss
from desam_lite.model import DeSAM, ImageEmbeddings, Prompts

PromptMode = Literal["points", "box"]


@dataclass(frozen=True)
class IoULoss:
    """What the IoU head pays for a wrong judgement.

    The public code takes L1 and has a switch for the square. On a PRIM that starts from random weights L1 can get stuck at a
    constant: its gradient does not grow with the error.

    Attributes:
        kind: "l1" or "mse".
        weight: Its weight beside the mask loss.
    """

    kind: Literal["l1", "mse"] = "l1"
    weight: float = 1.0

    def __call__(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean over ``(B, K)`` judgements, a scalar."""
        distance = {"l1": nn.functional.l1_loss, "mse": nn.functional.mse_loss}[self.kind]
        return self.weight * distance(predicted, target)


class _Decoder(nn.Module):
    """DeSAM's trained half as a function of tensors: wrappers for devices and mixed precision take nothing else."""

    def __init__(self, model: DeSAM):
        super().__init__()
        self.model = model

    def forward(
        self,
        level0: torch.Tensor,
        level1: torch.Tensor,
        level2: torch.Tensor,
        neck: torch.Tensor,
        xy: torch.Tensor | None,
        labels: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return mask logits ``(B, K, 4h, 4w)`` and predicted IoU ``(B, K)`` (None without a head).

        Points and their labels are those of `Prompts`; without them the prompt is the whole image.
        """
        prompts = (
            Prompts.whole_image(len(neck)) if xy is None or labels is None else Prompts.points(xy, labels)
        )
        out = self.model.decode(ImageEmbeddings((level0, level1, level2), neck), prompts)
        return out.mask_logits, out.iou


class DeSAMMethod(Method):
    """DeSAM on stored embeddings (Gao et al., MICCAI 2024), with the whole image as box (B) or a grid of points (P).

    Training draws one prompt per slice as the public code does. A point: with probability 1/2 in the organ (its IoU target
    is 1), else in the background (0), its label always 1. A box: always the whole image, and no IoU loss.

    Args:
        model: The model; only its decoder is trained.
        mode: Which prompt is used, for training and for prediction.
        grid: The point grid and its thresholds at prediction.
        judge: The loss of the IoU head; the default is that of the public code.
    """

    inputs = "embeddings"

    def __init__(self, model: DeSAM, mode: PromptMode, grid: GridSettings, judge: IoULoss | None = None):
        self.model, self.mode, self.grid = model, mode, grid
        self.judge = judge or IoULoss()
        self.module = _Decoder(model)
        self.input_size, self.mask_size = model.image_size, 4 * model.embedding_size

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Add one prompt per slice and, for points, what the IoU head should say of it."""
        side = self.model.image_size
        if self.mode == "box":
            return replace(batch, prompts=Prompts.whole_image(len(batch.cases)))
        masks = batch.masks.numpy()
        inside = [mask[:, :height, :width] for mask, (height, width) in zip(masks, batch.sizes, strict=True)]
        places = np.stack([draw_point(mask, rng) for mask, rng in zip(inside, generators, strict=True)])
        rows = np.arange(len(masks))[:, None]
        targets = masks[rows, np.arange(masks.shape[1]), places[:, 1:], places[:, :1]]
        xy = torch.from_numpy(places[:, None].astype(np.float32)) * (side / masks.shape[-1])
        prompts = Prompts.points(xy, torch.ones(len(masks), 1))
        return replace(batch, prompts=prompts, iou_targets=torch.from_numpy(targets.astype(np.float32)))

    def loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss plus, for points, the distance of the predicted IoU from its target."""
        logits, iou = self._forward(module, batch)
        loss = mask_loss(logits, batch.masks)
        if iou is not None and batch.iou_targets is not None:
            loss = loss + self.judge(iou, batch.iou_targets)
        return loss

    def validation_loss(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mask loss alone, by which the public code selects the epoch."""
        return mask_loss(self._forward(module, batch)[0], batch.masks)

    def _forward(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        assert batch.embeddings is not None
        assert batch.prompts is not None
        prompts = batch.prompts
        out: tuple[torch.Tensor, torch.Tensor | None] = module(
            *batch.embeddings.levels, batch.embeddings.neck, prompts.xy, prompts.labels
        )
        return out

    @torch.no_grad()
    def predict(
        self, images: npt.NDArray[np.uint8], embeddings: ReadEmbeddings | None
    ) -> Iterator[SlicePrediction]:
        """Predict slice by slice from the embeddings; the IoU is that of the prompt that was kept."""
        assert embeddings is not None
        self.module.eval()
        device = next(self.module.parameters()).device
        count, *size = images.shape
        for start in range(0, count, AT_ONCE):
            maps = embeddings(range(start, min(start + AT_ONCE, count)))
            for row in range(len(maps)):
                emb = maps[row].to(device=device, dtype=torch.float32)
                found = predict_slice(self.model, emb, self.mode, (size[0], size[1]), self.grid)
                yield SlicePrediction(combine_organs(found.masked), found.probability, found.iou)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote, and the frozen weights that the card names."""
        load_checkpoint(self.model, directory / TENSORS)


def draw_point(masks: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the training point of one slice: in an organ or in the background with equal chance.

    Args:
        masks: ``(K, h, w)``, 0 or 1, without padding: prediction puts no point there either.
        rng: The slice's random stream.

    Returns:
        ``(x, y)`` in pixels of the ``h x w`` grid.
    """
    inside = masks.any(axis=0)
    wanted = inside if rng.random() < 0.5 else ~inside
    candidates = np.argwhere(wanted if wanted.any() else ~wanted)
    y, x = candidates[rng.integers(len(candidates))]
    return np.array([x, y])
