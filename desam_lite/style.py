"""How all figures look: one width, one style, one colour and marker per method.

Colours are Okabe and Ito's and, where these end, Tol's: safe for colour-blind readers.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
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

# Colour and marker of each method.
_LOOKS = {
    "Prior": ("#6b6b6b", "o"),
    "U-Net": ("#d55e00", "o"),
    "U-Net + light aug.": ("#d55e00", "^"),
    "U-Net + nnU-Net aug.": ("#d55e00", "v"),
    "RandConv": ("#56b4e9", "s"),
    "MixStyle": ("#117733", "D"),
    "CSDG": ("#999933", "P"),
    "AdvBias": ("#000000", "<"),
    "MaxStyle": ("#332288", "h"),
    "DeSAM-B": ("#0072b2", "o"),
    "DeSAM-P": ("#009e73", "o"),
    "PDMM alone": ("#0072b2", "s"),
    "DeSAM-P without IoU head": ("#009e73", "^"),
    "DeSAM-P without fusion": ("#009e73", "s"),
    "SAM grid": ("#882255", "o"),
    "SAM box": ("#cc6677", "o"),
    "SAM point (oracle)": ("#767676", "*"),
    "SAM tight box (oracle)": ("#767676", "s"),
    "Tuned SAM-B": ("#cc79a7", "o"),
    "Tuned SAM-P": ("#aa4499", "o"),
    "Tuned SAM tight box (oracle)": ("#767676", "D"),
    "SAMed": ("#a66f00", "p"),
}
_OTHER_COLORS = ("#cc79a7", "#56b4e9", "#e69f00", "#000000")
NO_RUNS = "no finished run to show"

UNITS = {
    "dice": ("Dice (%)", 100.0),
    "hd95": ("HD95 (mm)", 1.0),
    "hd": ("HD (mm)", 1.0),
    "assd": ("ASSD (mm)", 1.0),
}
"""What a metric's axis is called, and what its values are multiplied by to be shown."""


def is_oracle(label: str) -> bool:
    """Whether a label names a method whose prompts are made from the reference."""
    return label.partition(",")[0].endswith("(oracle)")


def oracle_note(labels: Iterable[str]) -> str:
    """Return what a figure says of oracles, if there are any among these labels."""
    return "\n(oracle): the prompt is made from the reference" if any(map(is_oracle, labels)) else ""


def method_color(label: str) -> str:
    """Return the colour of a method: the same in every figure; grey for all oracles, which are no competitors.

    With an encoder that has never been trained it is the method's own, but darker.
    """
    name, _, encoder = label.partition(",")
    color = _LOOKS[name][0] if name in _LOOKS else _OTHER_COLORS[sum(name.encode()) % len(_OTHER_COLORS)]
    return _darker(color) if encoder and not is_oracle(name) else color


def _darker(color: str) -> str:
    """Return a colour on its way to black: still readable as text."""
    red, green, blue = (0.6 * part for part in to_rgb(color))
    return to_hex((red, green, blue))


def method_marker(label: str) -> str:
    """Return matplotlib's name of a method's marker: with its colour, it tells a method from any other."""
    name = label.partition(",")[0]
    return _LOOKS[name][1] if name in _LOOKS else "o"


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
