"""How all figures look: one width, one style, one colour and marker per method.

Colours are Okabe and Ito's and, where these end, Tol's: safe for colour-blind readers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 5.8
"""Width of every figure in inches: a column of text, still readable on a telephone."""

_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "text.color": "#1a1a1a",
    "axes.labelcolor": "#1a1a1a",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 160,
}

_METHOD_COLORS = {"Prior": "#6b6b6b", "U-Net": "#d55e00", "DeSAM-B": "#0072b2", "DeSAM-P": "#009e73"}
_METHOD_COLORS |= {"U-Net + light aug.": "#d55e00", "U-Net + nnU-Net aug.": "#d55e00", "RandConv": "#56b4e9"}
_METHOD_COLORS |= {"MixStyle": "#117733", "CSDG": "#999933", "AdvBias": "#000000", "MaxStyle": "#332288"}
_METHOD_MARKERS = {"U-Net + light aug.": "^", "U-Net + nnU-Net aug.": "v", "RandConv": "s", "MixStyle": "D"}
_METHOD_MARKERS |= {"CSDG": "P", "AdvBias": "<", "MaxStyle": "h"}
_OTHER_COLORS = ("#cc79a7", "#56b4e9", "#e69f00", "#000000")
NO_RUNS = "no finished run to show"

UNITS = {
    "dice": ("Dice (%)", 100.0),
    "hd95": ("HD95 (mm)", 1.0),
    "hd": ("HD (mm)", 1.0),
    "assd": ("ASSD (mm)", 1.0),
}
"""What a metric's axis is called, and what its values are multiplied by to be shown."""


def method_color(label: str) -> str:
    """Return the colour of a method: the same in every figure."""
    if label in _METHOD_COLORS:
        return _METHOD_COLORS[label]
    return _OTHER_COLORS[sum(label.encode()) % len(_OTHER_COLORS)]


def method_marker(label: str) -> str:
    """Return matplotlib's name of a method's marker: with its colour, it tells a method from any other."""
    return _METHOD_MARKERS.get(label, "o")


@contextmanager
def styled() -> Iterator[None]:
    """Draw what is drawn inside in the common style."""
    settings: Any = _STYLE  # the stubs list every key as a literal
    with mpl.rc_context(settings):
        yield


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put one legend over the whole figure."""
    figure.legend(handles=list(handles), loc="outside upper center", ncols=len(handles), handlelength=2.2)


def nothing() -> Figure:
    """Return the figure that stands where there is no run to show."""
    with styled():
        figure = Figure((WIDTH, 0.8))
        figure.text(0.5, 0.5, NO_RUNS, ha="center", va="center", color="#666666")
    return figure
