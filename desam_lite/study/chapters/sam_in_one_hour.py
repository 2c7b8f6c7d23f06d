"""SAM on one slice: its encoder's maps, and the masks it predicts for a prompt."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from desam_lite.evaluation.metrics import Mask
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size
from desam_lite.model.sam_decoder import SAM
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.slice_figures import draw_slices
from desam_lite.study.report.style import DescribedFigure


class PromptedMasks(NamedTuple):
    """What SAM predicts for a prompt.

    Attributes:
        title: The prompt in words.
        prompt: The prompt.
        masks: ``(M, H, W)``, on the slice.
        predicted_iou: ``(M,)``.
        dice: ``(M,)``, with the reference.
    """

    title: str
    prompt: Prompts
    masks: Mask
    predicted_iou: npt.NDArray[np.float64]
    dice: npt.NDArray[np.float64]

    @property
    def best(self) -> int:
        """The mask with the highest predicted IoU."""
        return int(self.predicted_iou.argmax())


def say_click(single: Sequence[PromptedMasks], three: PromptedMasks, backbone: str) -> str:
    """Say whether the predicted IoU picks the best of three masks, and what Dice the single mask of each prompt has."""
    chosen, best = three.best, int(three.dice.argmax())
    picks = "picks the best one" if three.dice[chosen] == three.dice[best] else "picks a worse one"
    each = ", ".join(f"{p.dice[p.best]:.0%} for {p.title}" for p in single)
    return (
        f"**It offers three masks, and its IoU head {picks}**: {say_choice(three)} SAM's single mask has Dice {each} "
        f"(one slice, encoder `{backbone}`)."
    )


def say_choice(three: PromptedMasks) -> str:
    """Say which of several masks has the highest predicted IoU, and which the highest Dice."""
    chosen, best = three.best, int(three.dice.argmax())
    iou, dice = three.predicted_iou[chosen], three.dice[chosen]
    head = f"guess {chosen + 1} has the highest predicted IoU ({iou:.2f}) and Dice {dice:.0%}"
    if three.dice[chosen] == three.dice[best]:
        return f"{head}, which no other guess exceeds."
    return f"{head}; guess {best + 1} has Dice {three.dice[best]:.0%} and predicted IoU {three.predicted_iou[best]:.2f}."


def draw_features(model: SAM, embeddings: ImageEmbeddings, example: Example) -> DescribedFigure:
    """Draw a slice and, beside it, the first principal component of each of the encoder's maps in grey, stretched."""
    size = scaled_size(example.image.shape, model.image_size)
    rows, columns = (max(1, side * model.embedding_size // model.image_size) for side in size)
    shown = [example._replace(title=example.title.split(" (")[0], note="", reference=0 * example.reference)]
    maps = {f"level {i}": level for i, level in enumerate(embeddings.levels)} | {"neck": embeddings.neck}
    spacing = (example.image.shape[0] / rows, example.image.shape[1] / columns)
    for name, features in maps.items():
        flat = features[0, :, :rows, :columns].double().flatten(1)
        component = torch.pca_lowrank(flat.T, q=1)[0].view(rows, columns)
        low, high = component.quantile(0.02), component.quantile(0.98)
        grey = ((component - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) * 255
        image = grey.round().byte().numpy()
        note = f"{rows} x {columns} cells"
        shown.append(Example(name, note, image, np.zeros_like(image), None, spacing))
    return draw_slices(shown, {}, columns=len(shown))


def prompted_examples(model: SAM, example: Example, predictions: Sequence[PromptedMasks]) -> list[Example]:
    """Return the slice with the best mask of each prompt, and the prompt, to be drawn."""
    examples = []
    scale, limits = max(example.image.shape) / model.image_size, np.tile(example.image.shape[::-1], 2)
    for p in predictions:
        if p.prompt.xy is not None and p.prompt.labels is not None:
            prompt = torch.cat([p.prompt.xy[0] * scale, p.prompt.labels[0, :, None]], 1).double().numpy()
        else:
            whole = [0, 0, model.image_size, model.image_size]
            corners = whole if p.prompt.xyxy is None else p.prompt.xyxy[0].tolist()
            prompt = np.clip(np.array(corners) * scale, 0, limits)
        mask, note = p.masks[p.best].astype(np.uint8), f"Dice {p.dice[p.best]:.0%}"
        examples.append(example._replace(title=p.title, note=note, prediction=mask, prompt=prompt))
    return examples
