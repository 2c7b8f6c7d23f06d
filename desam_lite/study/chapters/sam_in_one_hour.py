"""SAM at work, to look at: what its encoder sees of a slice, and what it draws for a prompt."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.resize import scaled_size, unfit_square
from desam_lite.model.sam import BACKBONES, SAM_MASKS, preprocess
from desam_lite.model.sam_decoder import SAM
from desam_lite.study.report.style import WIDTH, styled

if TYPE_CHECKING:
    from desam_lite.study.report.slice_examples import Example

_DPI = 110
_PROMPT = "#56b4e9"
_MASK = "#d55e00"
Mask = npt.NDArray[np.bool_]


class Drawn(NamedTuple):
    """What SAM made of one prompt.

    Attributes:
        title: The prompt in words.
        points: It, as (x, y, label) in pixels of the slice; empty for a box.
        box: It, as left, top, right, bottom; None for points.
        masks: ``(M, H, W)``, on the slice.
        predicted: ``(M,)``, the IoU SAM predicts.
        scores: ``(M,)``, the Dice with the reference.
    """

    title: str
    points: list[tuple[float, float, int]]
    box: tuple[float, ...] | None
    masks: Mask
    predicted: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    @property
    def best(self) -> int:
        """The mask that SAM thinks best."""
        return int(self.predicted.argmax())


def build_sam(backbone: str, weights: str) -> SAM:
    """Return SAM with its own decoder.

    Args:
        backbone: Its size.
        weights: Checkpoint, "shipped", or "random".

    Raises:
        StudyError: The weights do not fit.
    """
    from desam_lite.model.checkpoints import load_sam
    from desam_lite.model.names import RANDOM_WEIGHTS

    model = SAM(backbone)
    if weights != RANDOM_WEIGHTS:
        load_sam(model, weights)
    return model


def sizes() -> pd.DataFrame:
    """Return what SAM is at each size: input, patches, width, depth, and the numbers in its three parts."""
    rows = []
    for name, spec in BACKBONES.items():
        with torch.device("meta"):  # shapes without numbers: free at any size
            model = SAM(name)
        parts = {
            part: sum(p.numel() for p in getattr(model, part).parameters()) / 1e6
            for part in ("image_encoder", "prompt_encoder", "mask_decoder")
        }
        shape = {"input": spec.image_size, "patches": f"{spec.grid} x {spec.grid}", "width": spec.width}
        counts = {part.replace("_", " "): f"{count:.2f} M" for part, count in parts.items()}
        rows.append({"backbone": name, **shape, "blocks": spec.depth, **counts})
    return pd.DataFrame(rows)


def see(model: SAM, image: npt.NDArray[np.uint8]) -> ImageEmbeddings:
    """Run the encoder on one slice ``(H, W)``."""
    return model.encode(preprocess(torch.from_numpy(image)[None], model.image_size))


def ask(
    model: SAM,
    seen: ImageEmbeddings,
    example: "Example",
    prompts: Mapping[str, Prompts],
    *,
    guesses: bool = False,
) -> list[Drawn]:
    """Put prompts to SAM.

    Args:
        model: SAM.
        seen: `see` of the slice.
        example: The slice and its reference, of which organ 1 is meant.
        prompts: Title to one prompt.
        guesses: Whether to keep its three guesses, instead of its single mask.
    """
    found = []
    for title, prompt in prompts.items():
        with torch.no_grad():
            out = model.decode(seen, prompt, n_masks=SAM_MASKS)
        assert out.iou is not None
        kept = slice(1, None) if guesses else slice(0, 1)
        logits = unfit_square(out.mask_logits[:, kept], example.image.shape, model.image_size)
        masks = (logits[0] > 0).numpy()
        scores = np.array([_dice(mask, example.reference == 1) for mask in masks])
        points, box = _places(prompt, example.image.shape, model.image_size)
        found.append(Drawn(title, points, box, masks, out.iou[0, kept].double().numpy(), scores))
    return found


def _dice(mask: Mask, reference: Mask) -> float:
    both = int(mask.sum() + reference.sum())
    return 2 * int((mask & reference).sum()) / both if both else 1.0


def _places(
    prompt: Prompts, shape: tuple[int, ...], side: int
) -> tuple[list[tuple[float, float, int]], tuple[float, ...] | None]:
    """Return points and box of one prompt in pixels of the slice."""
    scale = max(shape) / side
    if prompt.xy is not None and prompt.labels is not None:
        pairs = zip((prompt.xy[0] * scale).tolist(), prompt.labels[0].tolist(), strict=True)
        return [(x, y, int(label)) for (x, y), label in pairs], None
    corners = torch.tensor([0, 0, side, side]) if prompt.xyxy is None else prompt.xyxy[0]
    return [], tuple((corners * scale).tolist())


def feature_maps(model: SAM, seen: ImageEmbeddings, example: "Example") -> dict[str, npt.NDArray[np.float64]]:
    """Turn each of the encoder's maps into a picture ``(h, w, 3)`` from 0 to 1: its first three principal components."""
    height, width = scaled_size(example.image.shape, model.image_size)
    rows, columns = (max(1, side * model.embedding_size // model.image_size) for side in (height, width))
    maps = {f"level {i}": level for i, level in enumerate(seen.levels)} | {"neck": seen.neck}
    return {name: _components(m[0, :, :rows, :columns].double().numpy()) for name, m in maps.items()}


def _components(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the first three principal components of ``(C, h, w)`` as ``(h, w, 3)``, each stretched to 0..1."""
    flat = features.reshape(len(features), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    low, high = np.percentile(axes[:3], [2, 98], axis=1, keepdims=True)[:, :, :]
    shown = np.clip((axes[:3] - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.moveaxis(shown.reshape(3, *features.shape[1:]), 0, -1)


def draw_features(example: "Example", maps: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """Draw a slice and, beside it, each map in false colours."""
    with styled():
        figure = Figure((WIDTH, WIDTH / (len(maps) + 1) + 0.45), dpi=_DPI, layout="constrained")
        axes = figure.subplots(1, len(maps) + 1)
        axes[0].imshow(example.image, cmap="gray", vmin=0, vmax=255)
        for ax, picture in zip(axes[1:], maps.values(), strict=True):
            ax.imshow(picture, interpolation="nearest")
        for ax, title in zip(axes, [example.title.split(" (")[0], *maps], strict=True):
            ax.set_title(title, fontsize=9)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    return figure


def draw_features_alt(example: "Example", maps: Mapping[str, npt.NDArray[np.float64]]) -> str:
    """Say what `draw_features` shows."""
    sides = "; ".join(
        f"{name}: {picture.shape[0]} x {picture.shape[1]} cells" for name, picture in maps.items()
    )
    return f"A slice of {example.title} and the encoder's maps of it in false colours. {sides}."


def draw_prompted(example: "Example", drawn: Sequence[Drawn], *, columns: int = 3) -> Figure:
    """Draw the best mask of each prompt as a contour, with the prompt and the reference (dashed)."""
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    with styled():
        figure = Figure((WIDTH, rows * (WIDTH / columns + 0.5)), dpi=_DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat[len(drawn) :]:
            ax.set_axis_off()
        for ax, one in zip(axes.flat, drawn, strict=False):
            _panel(ax, example, one)
    return figure


def _panel(ax: Axes, example: "Example", one: Drawn) -> None:
    ax.imshow(example.image, cmap="gray", vmin=0, vmax=255)
    for mask, color, line in (
        (example.reference == 1, "white", "dashed"),
        (one.masks[one.best], _MASK, "solid"),
    ):
        if mask.any():
            contour = ax.contour(mask.astype(float), [0.5], colors=[color], linestyles=[line], linewidths=1.3)
            contour.set_path_effects([withStroke(linewidth=2.2, foreground=(0, 0, 0, 0.55))])
    _mark(ax, one)
    ax.set_title(one.title, fontsize=9)
    ax.set_xlabel(f"Dice {one.scores[one.best]:.0%}", fontsize=8.5)
    ax.set(
        xticks=[],
        yticks=[],
        xlim=(-0.5, example.image.shape[1] - 0.5),
        ylim=(example.image.shape[0] - 0.5, -0.5),
    )
    ax.spines[:].set_visible(False)


def _mark(ax: Axes, one: Drawn) -> None:
    for x, y, label in one.points:
        ax.plot(x - 0.5, y - 0.5, "P" if label else "X", ms=8, color=_PROMPT, mec="black", mew=0.8)
    if one.box is not None:
        left, top, right, bottom = one.box
        frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=_PROMPT, lw=1.6)
        ax.add_patch(frame).set_clip_on(False)


def draw_prompted_alt(example: "Example", drawn: Sequence[Drawn]) -> str:
    """Say what `draw_prompted` shows."""
    said = "; ".join(f"{one.title}: Dice {one.scores[one.best]:.0%}" for one in drawn)
    return f"What SAM draws into a slice of {example.title} for {len(drawn)} prompts. {said}."
