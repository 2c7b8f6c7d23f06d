"""Slices with contours: data in, `Figure` out.

Intensities stay as they are and so does the radiological view (anterior up, the patient's right on the left); pixels keep their
shape in millimetres; contours never hide what is under them; an organ has the manifest's colour throughout.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from desam_lite.study.report.sentences import count
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.style import EMPTY_ALT, WIDTH, add_legend, empty_figure, styled

Crop = bool | Literal["reference"]
"""Whether to show only the surroundings of the organs; "reference": of the reference's, so that one slice has one frame."""

_DPI = 110  # enough for slices of some 200 pixels, and a page stays under 1 MB
_LETTERS = 11  # of a title, on an inch: longer ones would run into their neighbours
_MANY = 18  # more images than this in one figure are drawn smaller, for the same reason
_REFERENCE: dict[str, Any] = {"color": "white", "ls": (0, (2, 1.5))}
_LEAST_CROP = 0.45  # of the longer side of the image is shown at least


def draw_slices(
    examples: Sequence[Example], organs: Mapping[str, str], *, columns: int = 3, crop: Crop = False
) -> Figure:
    """Draw slices in rows with the contours of organs (name -> colour, in the order of the ids).

    Without predictions, the reference is a solid line in the organ's colour. With them, the prediction is that line and the
    reference is a dashed white one.
    """
    if not examples:
        return empty_figure()
    columns = min(columns, len(examples))
    rows = math.ceil(len(examples) / columns)
    with styled():
        height = 0.35 + rows * (WIDTH / columns + 0.42)
        dpi = _DPI * min(1.0, math.sqrt(_MANY / len(examples)))
        figure = Figure((WIDTH, height), dpi=dpi, layout=ConstrainedLayoutEngine(h_pad=0.09))
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat[len(examples) :]:
            ax.set_axis_off()
        letters = int(_LETTERS * WIDTH / columns)
        for ax, example in zip(axes.flat, examples, strict=False):
            title = "\n".join(textwrap.fill(line, letters) for line in example.title.splitlines())
            draw_slice(ax, example._replace(title=title), list(organs.values()), crop=crop)
        add_legend(
            figure, _contour_handles(organs, any(example.prediction is not None for example in examples))
        )
    return figure


def draw_slices_alt(examples: Sequence[Example], organs: Mapping[str, str]) -> str:
    """Tell what `draw_slices` shows."""
    if not examples:
        return EMPTY_ALT
    compared = any(example.prediction is not None for example in examples)
    contours = "contours of prediction and reference" if compared else "the reference contour"
    listed = "; ".join(" ".join(f"{ex.title}, {ex.note}".split()).strip(", ") for ex in examples)
    return f"{count(len(examples), 'axial slice')} with {contours} of {', '.join(organs)}: {listed}."


def draw_slice(ax: Axes, example: Example, colors: Sequence[str], *, crop: Crop = False) -> None:
    """Draw one slice with the contours of organs 1..K into a part of a figure."""
    height, width = (side * mm for side, mm in zip(example.image.shape, example.spacing, strict=True))
    where: dict[str, Any] = {
        "origin": "upper",
        "extent": (0.0, width, height, 0.0),
    }  # mm, so that pixels keep their shape
    ax.imshow(example.image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", **where)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    for organ, color in enumerate(colors, start=1):
        own: dict[str, Any] = {"color": color, "ls": "solid"}
        masks = [(example.reference, own)]
        if example.prediction is not None:
            masks = [(example.prediction, own), (example.reference, _REFERENCE)]
        for labels, line in masks:
            draw_contour(ax, labels == organ, line, where)
    if crop:
        predicted = (
            example.reference if example.prediction is None or crop == "reference" else example.prediction
        )
        _zoom(ax, (example.reference > 0) | (predicted > 0), example.spacing)
    ax.set_title(example.title, pad=4)
    ax.set_xlabel(example.note, fontsize=8.5, color="#444444")


def draw_contour(ax: Axes, mask: npt.NDArray[np.bool_], line: dict[str, Any], where: dict[str, Any]) -> None:
    """Draw the outline of a mask that is not empty: ``line`` has color and ls, ``where`` the origin and extent of the image."""
    if not mask.any() or min(mask.shape) < 2:
        return
    look: dict[str, Any] = {"colors": [line["color"]], "linestyles": [line["ls"]], "linewidths": 1.4}
    contour = ax.contour(mask.astype(float), levels=[0.5], **look, **where)
    contour.set_path_effects([withStroke(linewidth=2.4, foreground=(0, 0, 0, 0.55))])


def _zoom(ax: Axes, mask: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> None:
    """Show a square around a mask; around the middle of the image where it is empty."""
    shape = np.array(mask.shape)
    inside = np.argwhere(mask) if mask.any() else shape[None] // 2
    first, last = inside.min(axis=0) * spacing, (inside.max(axis=0) + 1) * spacing
    sides = shape * spacing
    side = min(max((last - first).max() * 1.5, _LEAST_CROP * sides.max()), sides.min())
    low = np.clip((first + last - side) / 2, 0, sides - side)
    ax.set(xlim=(low[1], low[1] + side), ylim=(low[0] + side, low[0]))


def _contour_handles(organs: Mapping[str, str], compared: bool) -> list[Line2D]:
    """Return the entries of a legend for contours of organs; where predictions are compared, of the reference too."""
    kind = "prediction" if compared else "reference"
    handles = [Line2D([], [], color=color, lw=2, label=f"{name} ({kind})") for name, color in organs.items()]
    outline = [withStroke(linewidth=3, foreground="#555555")]
    reference = Line2D([], [], lw=1.6, label="reference", path_effects=outline, **_REFERENCE)
    return [*handles, reference] if compared else handles
