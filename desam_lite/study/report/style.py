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

from desam_lite.methods.registry import CHOICES, METHOD_CHOICES
from desam_lite.methods.run_spec import label_of

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
    known = _looks().get(name, ("", ""))[0]
    color = known or _OTHER_COLORS[sum(name.encode()) % len(_OTHER_COLORS)]
    return _darker(color) if encoder and not is_oracle(name) else color


def _looks() -> dict[str, tuple[str, str]]:
    """Return label -> colour and marker, as the methods are registered; "" for a colour that was left open."""
    return {label_of(METHOD_CHOICES[name]): (choice.color, choice.marker) for name, choice in CHOICES.items()}


def _darker(color: str) -> str:
    """Return a colour on its way to black: still readable as text."""
    red, green, blue = (0.6 * part for part in to_rgb(color))
    return to_hex((red, green, blue))


def method_marker(label: str) -> str:
    """Return matplotlib's name of a method's marker: with its colour, it tells a method from any other."""
    name = label.partition(",")[0]
    return _looks().get(name, ("", "o"))[1]


@contextmanager
def styled() -> Iterator[None]:
    """Draw what is drawn inside in the common style."""
    settings: Any = _STYLE  # the stubs list every key as a literal
    with mpl.rc_context(settings):
        yield


def add_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put one legend over the whole figure, in as many lines as it needs."""
    room = 12 * figure.get_figwidth()  # characters of its font on one line
    longest = max((len(str(handle.get_label())) + 6 for handle in handles), default=1)
    columns = max(1, min(len(handles), int(room / longest)))
    figure.legend(handles=list(handles), loc="outside upper center", ncols=columns, handlelength=2.2)


def empty_figure() -> Figure:
    """Return the figure that stands where there is no run to show."""
    with styled():
        figure = Figure((WIDTH, 0.8))
        figure.text(0.5, 0.5, NO_RUNS, ha="center", va="center", color="#666666")
    return figure
