"""Slices as pictures: data in, `Figure` out.

Grey levels stay as they are and so does the radiological view (anterior up, the patient's right on the left);
pixels keep their shape in millimetres; contours never hide what is under them; an organ has the manifest's
colour throughout.
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

from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.style import NO_RUNS, WIDTH, add_legend, empty_figure, styled

Image = npt.NDArray[np.uint8]
Crop = bool | Literal["reference"]

_REFERENCE = "white"
_DPI = 110  # enough for slices of some 200 pixels, and a page stays under 1 MB
_LETTERS = 11  # of a title, on an inch: longer ones would run into their neighbours
_MANY = 18  # more pictures than this in one figure are drawn smaller, for the same reason
_DASHED = (0, (2, 1.5))


def draw_slices(
    examples: Sequence[Example], organs: Mapping[str, str], *, columns: int = 3, crop: Crop = False
) -> Figure:
    """Draw slices side by side with contours.

    Without predictions, the reference is a solid line in the organ's colour. With them, the prediction is that line and the
    reference is a dashed white one.

    Args:
        examples: In reading order.
        organs: Name -> colour, in the order of the ids 1..K.
        columns: Most pictures per row.
        crop: Whether to show only the surroundings of the organs (at least 45 % of each side); "reference" goes by the reference
            alone, so that all pictures of one slice have one frame.

    Returns:
        The figure.
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
        compared = any(example.prediction is not None for example in examples)
        add_legend(figure, _contour_handles(organs, compared))
    return figure


def draw_slices_alt(examples: Sequence[Example], organs: Mapping[str, str]) -> str:
    """Say what `draw_slices` shows."""
    if not examples:
        return f"Empty figure: {NO_RUNS}."
    drawn = (
        "contours of prediction and reference"
        if examples[0].prediction is not None
        else "the reference contour"
    )
    listed = "; ".join(
        " ".join(f"{example.title}, {example.note}".split()).strip(", ") for example in examples
    )
    slices = "axial slice" if len(examples) == 1 else "axial slices"
    return f"{len(examples)} {slices} with {drawn} of {', '.join(organs)}: {listed}."


def draw_slice(ax: Axes, example: Example, colors: Sequence[str], *, crop: Crop = False) -> None:
    """Draw one slice with its contours into a part of a figure.

    Args:
        ax: Where.
        example: What.
        colors: Of the organs 1..K.
        crop: Whether to show only the surroundings of the organs.
    """
    height, width = example.image.shape
    sides = height * example.spacing[0], width * example.spacing[1]
    extent = (0.0, sides[1], sides[0], 0.0)  # mm, so that pixels keep their shape
    ax.imshow(
        example.image, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="nearest", aspect="equal"
    )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    for organ, color in enumerate(colors, start=1):
        if example.prediction is None:
            _contour(ax, example.reference == organ, extent, color, "solid")
            continue
        _contour(ax, example.prediction == organ, extent, color, "solid")
        _contour(ax, example.reference == organ, extent, _REFERENCE, _DASHED)
    if crop:
        _crop(ax, example._replace(prediction=None) if crop == "reference" else example)
    ax.set_title(example.title, pad=4)
    ax.set_xlabel(example.note, fontsize=8.5, color="#444444")


def _contour(ax: Axes, mask: npt.NDArray[np.bool_], extent: tuple[float, ...], color: str, line: Any) -> None:
    if not mask.any():
        return
    drawn = ax.contour(
        mask.astype(float),
        levels=[0.5],
        colors=[color],
        linestyles=[line],
        linewidths=1.4,
        origin="upper",
        extent=extent,
    )
    drawn.set_path_effects([withStroke(linewidth=2.4, foreground=(0, 0, 0, 0.55))])


def _crop(ax: Axes, example: Example) -> None:
    """Zoom to a square around both masks."""
    prediction = example.reference if example.prediction is None else example.prediction
    where = np.argwhere((example.reference > 0) | (prediction > 0))
    shape = np.array(example.image.shape)
    where = where if len(where) else np.array([shape // 2])
    spacing = np.array(example.spacing)
    first, last = where.min(axis=0) * spacing, (where.max(axis=0) + 1) * spacing
    side = min(
        max(float((last - first).max()) * 1.5, 0.45 * float((shape * spacing).max())),
        float((shape * spacing).min()),
    )
    low = np.clip((first + last - side) / 2, 0, shape * spacing - side)
    ax.set_xlim(low[1], low[1] + side)
    ax.set_ylim(low[0] + side, low[0])


def _contour_handles(organs: Mapping[str, str], compared: bool) -> list[Line2D]:
    kind = "prediction" if compared else "reference"
    handles = [Line2D([], [], color=color, lw=2, label=f"{name} ({kind})") for name, color in organs.items()]
    if compared:
        outlined = [withStroke(linewidth=3, foreground="#555555")]
        handles.append(
            Line2D([], [], color=_REFERENCE, lw=1.6, ls=_DASHED, label="reference", path_effects=outlined)
        )
    return handles
