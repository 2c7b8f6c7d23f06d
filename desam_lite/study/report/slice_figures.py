"""Slices with contours: data in, `Figure` out.

Intensities stay as they are (a dark slice has a display window, which its note states) and so does the radiological view
(anterior up, the patient's right on the left); pixels keep their shape in millimetres; contours never hide what is under them;
an organ has the manifest's colour throughout.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from desam_lite.study.report.sentences import count
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.style import WIDTH, DescribedFigure, add_legend, empty_figure, styled

Crop = bool | Literal["reference"]
"""Whether to show only the surroundings of the organs; "reference": of the reference's, so that one slice has one frame."""

_MANY = 36  # more images than this in one figure are drawn smaller: a page must stay under its limit
_LETTERS = 11  # of a title, on an inch: longer ones would run into their neighbours
_REFERENCE: dict[str, Any] = {"color": "white", "ls": (0, (2, 1.5))}
_INSIDE, _OUTSIDE = "#56b4e9", "#d55e00"  # clicks
_DARK = 40  # median of a slice, of 255: near an endorectal coil tissue is bright, and all the rest of the slice dark
_LEAST_CROP = 0.45  # of the longer side of the image is shown at least


def draw_slices(
    examples: Sequence[Example | None],
    organs: Mapping[str, str],
    *,
    columns: int = 3,
    crop: Crop = False,
    width: float = WIDTH,
    title: str = "",
    windows: bool = True,
) -> DescribedFigure:
    """Draw slices in rows with the contours of organs (name -> colour, in the order of the ids); None leaves a place empty.

    Without predictions, the reference is a solid line in the organ's colour. With them, the prediction is that line and the
    reference is a dashed white one. ``width`` is in inches. Without ``windows`` all slices are shown from 0 to 255, so that their
    brightness can be compared.
    """
    shown = [example for example in examples if example is not None]
    if not shown:
        return empty_figure()
    columns = min(columns, len(examples))
    rows = math.ceil(len(examples) / columns)
    kinds = {"prediction": any(example.prediction is not None for example in shown)}
    kinds["reference"] = any(example.reference.any() for example in shown)
    contours = [kind for kind, drawn in kinds.items() if drawn]
    with styled():
        size = (width, 0.35 + rows * (width / columns + 0.42))
        figure = Figure(size, layout=ConstrainedLayoutEngine(h_pad=0.13))
        figure.set_dpi(figure.dpi * min(1.0, math.sqrt(_MANY / len(examples))))
        letters = int(_LETTERS * width / columns)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax, example in zip_longest(axes.flat, examples):
            if example is None:
                ax.set_axis_off()
                continue
            wrapped = "\n".join(textwrap.fill(line, letters) for line in example.title.splitlines())
            shown_slice = example._replace(title=wrapped)
            draw_slice(ax, shown_slice, list(organs.values()), crop=crop, windows=windows)
        figure.suptitle(title, fontsize=11, wrap=True)
        add_legend(figure, _contour_handles(organs, contours), below=bool(title))
    listed = "; ".join(" ".join(f"{ex.title}, {ex.note}".split()).strip(", ") for ex in shown)
    drawn = f" with contours of {' and '.join(contours)} of {', '.join(organs)}" if contours else ""
    return DescribedFigure(figure, f"{count(len(shown), 'image')}{drawn}: {listed}.")


def display_white(image: npt.NDArray[np.uint8]) -> float:
    """Return the intensity of ``(H, W)`` that is shown as white: 255, in a dark slice with tissue in it the 97th percentile."""
    median, high = np.percentile(image, [50, 97])
    return float(high) if median < _DARK <= high else 255.0


def draw_slice(
    ax: Axes, example: Example, colors: Sequence[str], *, crop: Crop = False, windows: bool = True
) -> None:
    """Draw one slice with the contours of organs 1..K into a part of a figure."""
    where, white = place_in_mm(example), display_white(example.image) if windows else 255.0
    ax.imshow(example.image, cmap="gray", vmin=0, vmax=white, interpolation="nearest", **where)
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
    if example.prompt is not None:
        y, x = example.spacing
        _draw_prompt(ax, example.prompt * ((x, y, x, y) if example.prompt.ndim == 1 else (x, y, 1)))
    ax.set_title(example.title, pad=4)
    window = f"window 0 to {white:.0f}" if white < 255 else ""
    ax.set_xlabel("\n".join(filter(None, (example.note, window))), fontsize=8.5, color="#444444")


def place_in_mm(example: Example) -> dict[str, Any]:
    """Return where `imshow` puts an image of this slice: in millimetres, so that pixels keep their shape."""
    height, width = (side * mm for side, mm in zip(example.image.shape, example.spacing, strict=True))
    return {"origin": "upper", "extent": (0.0, width, height, 0.0)}


def _draw_prompt(ax: Axes, prompt: npt.NDArray[np.float64]) -> None:
    """Draw a box ``(4,)``, or clicks ``(N, 3)`` as x, y and 1 inside or 0 outside the object, in millimetres."""
    if prompt.ndim == 1:
        left, top, right, bottom = prompt
        box = Rectangle((left, top), right - left, bottom - top, fill=False, ec=_INSIDE, lw=1.8)
        box.set_path_effects([withStroke(linewidth=3.2, foreground="black")])
        ax.add_patch(box)
        return
    for x, y, inside in prompt:
        mark, color = ("P", _INSIDE) if inside else ("X", _OUTSIDE)
        ax.plot(x, y, mark, ms=8, color=color, mec="black", mew=0.8)


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


def _contour_handles(organs: Mapping[str, str], contours: Sequence[str]) -> list[Line2D]:
    """Return the entries of a legend: the first kind of contour has the organs' colours, a second one is dashed."""
    handles = [
        Line2D([], [], color=color, lw=2, label=f"{name} ({kind})")
        for kind in contours[:1]
        for name, color in organs.items()
    ]
    outline = [withStroke(linewidth=3, foreground="#555555")]
    second = [Line2D([], [], lw=1.6, label=kind, path_effects=outline, **_REFERENCE) for kind in contours[1:]]
    return handles + second
