"""SAM on one slice: its encoder's maps, and the masks it predicts for a prompt."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from desam_lite.evaluation.metrics import Mask
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size, unfit_square
from desam_lite.model.sam_decoder import SAM
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.slice_figures import draw_slices
from desam_lite.study.report.style import WIDTH, styled

_DPI_OF_SLICES = 110
_CLICK_COLOR = "#56b4e9"


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


@torch.no_grad()
def predict_masks_of(
    model: SAM,
    embeddings: ImageEmbeddings,
    example: Example,
    prompts: Mapping[str, Prompts],
    *,
    n_masks: int = 1,
) -> list[PromptedMasks]:
    """Predict organ 1 of a slice for each prompt; with several masks, those after SAM's single mask are returned."""
    predictions = []
    for title, prompt in prompts.items():
        out = model.decode(embeddings, prompt, n_masks=n_masks)
        assert out.iou is not None
        first = min(1, n_masks - 1)
        logits = unfit_square(out.mask_logits[:, first:], example.image.shape, model.image_size)
        masks = (logits[0] > 0).numpy()
        dice = [_slice_dice(mask, example.reference == 1) for mask in masks]
        iou = out.iou[0, first:].double().numpy()
        predictions.append(PromptedMasks(title, prompt, masks, iou, np.array(dice)))
    return predictions


def _slice_dice(mask: Mask, reference: Mask) -> float:
    pixels = int(mask.sum() + reference.sum())
    return 2 * int((mask & reference).sum()) / pixels if pixels else 1.0


def feature_images(
    model: SAM, embeddings: ImageEmbeddings, example: Example
) -> dict[str, npt.NDArray[np.float64]]:
    """Turn each of the encoder's maps into an image ``(h, w, 3)`` from 0 to 1: its first three principal components."""
    height, width = scaled_size(example.image.shape, model.image_size)
    rows, columns = (max(1, side * model.embedding_size // model.image_size) for side in (height, width))
    maps = {f"level {i}": level for i, level in enumerate(embeddings.levels)} | {"neck": embeddings.neck}
    return {name: _components(m[0, :, :rows, :columns].double().numpy()) for name, m in maps.items()}


def _components(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the first three principal components of ``(C, h, w)`` as ``(h, w, 3)``, each stretched to 0..1."""
    flat = features.reshape(len(features), -1)
    _, _, axes = np.linalg.svd(flat - flat.mean(axis=1, keepdims=True), full_matrices=False)
    low, high = np.percentile(axes[:3], [2, 98], axis=1, keepdims=True)
    shown = np.clip((axes[:3] - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.moveaxis(shown.reshape(3, *features.shape[1:]), 0, -1)


def draw_features(example: Example, images: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """Draw a slice and, beside it, each map in false colours."""
    with styled():
        figure = Figure((WIDTH, WIDTH / (len(images) + 1) + 0.45), dpi=_DPI_OF_SLICES, layout="constrained")
        axes = figure.subplots(1, len(images) + 1)
        axes[0].imshow(example.image, cmap="gray", vmin=0, vmax=255)
        for ax, image in zip(axes[1:], images.values(), strict=True):
            ax.imshow(image, interpolation="nearest")
        for ax, title in zip(axes, [example.title.split(" (")[0], *images], strict=True):
            ax.set_title(title, fontsize=9)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    return figure


def draw_features_alt(example: Example, images: Mapping[str, npt.NDArray[np.float64]]) -> str:
    """Say what `draw_features` shows."""
    sides = "; ".join(f"{name}: {image.shape[0]} x {image.shape[1]} cells" for name, image in images.items())
    return f"A slice of {example.title} and the encoder's maps of it in false colours. {sides}."


def draw_predictions_of(
    model: SAM, example: Example, predictions: Sequence[PromptedMasks], organs: Mapping[str, str]
) -> Figure:
    """Draw the best mask of each prompt as a contour, with the prompt and the reference (dashed)."""
    examples = [
        example._replace(
            title=p.title, note=f"Dice {p.dice[p.best]:.0%}", prediction=p.masks[p.best].astype(np.uint8)
        )
        for p in predictions
    ]
    figure = draw_slices(examples, organs)
    y_mm, x_mm = (step * max(example.image.shape) / model.image_size for step in example.spacing)
    for ax, prediction in zip(figure.axes, predictions, strict=False):
        prompt = prediction.prompt
        if prompt.xy is not None and prompt.labels is not None:
            for (x, y), label in zip(prompt.xy[0].tolist(), prompt.labels[0].tolist(), strict=True):
                mark = "P" if label else "X"
                ax.plot(x * x_mm, y * y_mm, mark, ms=8, color=_CLICK_COLOR, mec="black", mew=0.8)
            continue
        whole = [0, 0, model.image_size, model.image_size]
        left, top, right, bottom = whole if prompt.xyxy is None else prompt.xyxy[0].tolist()
        corner, size = (left * x_mm, top * y_mm), ((right - left) * x_mm, (bottom - top) * y_mm)
        ax.add_patch(Rectangle(corner, *size, fill=False, ec=_CLICK_COLOR, lw=1.6)).set_clip_on(False)
    return figure


def draw_predictions_of_alt(example: Example, predictions: Sequence[PromptedMasks]) -> str:
    """Say what `draw_predictions_of` shows."""
    parts = "; ".join(f"{p.title}: Dice {p.dice[p.best]:.0%}" for p in predictions)
    return f"SAM's masks in a slice of {example.title} for {len(predictions)} prompts. {parts}."
