"""How all figures look: one width, one style, one colour and marker per method.

Colours are Okabe and Ito's and, where these end, Tol's: safe for colour-blind readers.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from PIL import Image

from desam_lite.methods.registry import CHOICES, METHOD_CHOICES
from desam_lite.methods.run_spec import RANDOM_ENCODER, label_of

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
    "lines.solid_capstyle": "butt",  # an interval ends where it ends
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "text.color": "#1a1a1a",
    "axes.labelcolor": "#1a1a1a",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 200,
    "svg.hashsalt": "DeSAM Lite",  # the same figure has the same bytes
}

_SHOWN = 100  # pixels of a page on an inch of a figure

_SPARE_COLORS = ("#cc79a7", "#56b4e9", "#e69f00", "#000000")  # of methods that are registered without one
_GREY = "#444444"
NO_RUNS = "no finished run to show"


class Unit(NamedTuple):
    """What a metric's axis is called, and what its values are multiplied by to be shown."""

    title: str
    factor: float


UNITS = {
    "dice": Unit("Dice (%)", 100.0),
    "hd95": Unit("HD95 (mm)", 1.0),
    "hd": Unit("HD (mm)", 1.0),
    "assd": Unit("ASSD (mm)", 1.0),
}


def is_oracle(label: str) -> bool:
    """Whether a label names a method whose prompts are made from the reference."""
    return label.partition(",")[0].endswith("(oracle)")


def oracle_note(labels: Iterable[str]) -> str:
    """Return what a figure says of oracles, if there are any among these labels."""
    return "\n(oracle): the prompt is made from the reference" if any(map(is_oracle, labels)) else ""


def method_look(label: str) -> tuple[str, str]:
    """Return colour and marker of a method, which are its own in every figure; grey for all oracles, which are no competitors.

    With another encoder or prompt the colour is the method's own, but darker: still readable as text. Its augmentation changes
    nothing unless it is a choice of its own.
    """
    looks = {label_of(METHOD_CHOICES[key]): (choice.color, choice.marker) for key, choice in CHOICES.items()}
    whole = label.removesuffix(f", {RANDOM_ENCODER}")
    first = whole.partition(",")[0]
    name = next((part for part in (whole, first, first.partition(" + ")[0]) if part in looks), "")
    color, marker = looks.get(name, ("", "o"))
    color = color or _SPARE_COLORS[sum(first.encode()) % len(_SPARE_COLORS)]
    red, green, blue = (0.6 * part for part in to_rgb(color))
    darker = "," in label.removeprefix(name) and not is_oracle(label)
    return to_hex((red, green, blue)) if darker else color, marker


def method_color(label: str) -> str:
    """Return the colour of `method_look`."""
    return method_look(label)[0]


def method_marker(label: str) -> str:
    """Return the marker of `method_look`, by matplotlib's name."""
    return method_look(label)[1]


@contextmanager
def styled() -> Iterator[None]:
    """Draw what is drawn inside in the common style."""
    settings: Any = _STYLE  # the stubs list every key as a literal
    with mpl.rc_context(settings):
        yield


def grey_handle(label: str, **look: Any) -> Line2D:
    """Return the entry of a legend for what all methods have in common."""
    return Line2D([], [], label=label, **{"color": _GREY, "lw": 2, "ms": 6.5, "mew": 1.7, **look})


def domain_handles(
    inside: str = "in domain", outside: str = "out of domain", *, lines: bool = False
) -> list[Line2D]:
    """Return the entries of a legend for filled and open markers; where there are lines, for solid and dashed ones too."""
    looks = ((inside, _GREY, "-"), (outside, "white", "--"))
    return [grey_handle(label, marker="o", mfc=face, ls=ls if lines else "none") for label, face, ls in looks]


def label_handles(
    labels: Iterable[str], colors: Mapping[str, str] | None = None, *, lines: bool = False
) -> list[Line2D]:
    """Return the entries of a legend for methods, each once; ``colors`` are of labels that are no methods."""
    look: dict[str, Any] = {"ls": "-" if lines else "none", "lw": 1.8, "ms": 5}
    looks = {label: method_look(label) for label in labels}
    shades = {label: color for label, (color, _) in looks.items()} | dict(colors or {})
    return [
        Line2D([], [], color=shades[label], marker=m, label=label, **look) for label, (_, m) in looks.items()
    ]


def add_legend(figure: Figure, handles: Sequence[Line2D], *, below: bool = False) -> None:
    """Put one legend over the whole figure, or below it, in as many lines as it needs."""
    if not handles:
        return
    room = 12 * figure.get_figwidth()  # characters of its font on one line
    longest = max(len(str(handle.get_label())) + 6 for handle in handles)
    columns = max(1, min(len(handles), int(room / longest)))
    place: Literal["outside lower center", "outside upper center"]
    place = "outside lower center" if below else "outside upper center"
    figure.legend(handles=list(handles), loc=place, ncols=columns, handlelength=2.2)


class DescribedFigure:
    """A figure with its alternative text, as Jupyter displays it; the book takes the text from there.

    Without images it is vectors; with ``vectors`` it is so with images in it, as in a diagram with thumbnails.
    """

    def __init__(self, figure: Figure, alt: str, *, vectors: bool = False):
        self.figure = figure
        self.alt = alt
        self.vectors = vectors or not figure.findobj(AxesImage)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        kind, drawn = (
            ("image/svg+xml", self.encode_svg())
            if self.vectors
            else ("image/png", base64.b64encode(self.encode_png()).decode())
        )
        look = {"alt": self.alt, "width": round(self.figure.get_figwidth() * _SHOWN)}
        return {kind: drawn, "text/plain": self.alt}, {kind: look}

    def encode_svg(self) -> str:
        """Draw the figure as vectors, letters as outlines, so that it looks the same with any fonts."""
        drawn = io.StringIO()
        with styled():
            self.figure.savefig(drawn, format="svg", metadata={"Date": None})
        return drawn.getvalue()

    def encode_png(self) -> bytes:
        """Draw the figure in 256 colours, chosen so that even the rarest keeps its hue: half the bytes of all colours."""
        drawn, packed = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi="figure")
        with Image.open(drawn) as image:
            few = image.convert("RGB").quantize(
                256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
            )
        few.save(packed, "png", optimize=True)
        return packed.getvalue()


def describe(what: str, parts: Mapping[str, str]) -> str:
    """Return an alternative text: what is drawn, then each part by its name."""
    listed = "; ".join(f"{name}: {text}" if name else text for name, text in parts.items())
    return " ".join(f"{what}. {listed}.".split())


def empty_figure() -> DescribedFigure:
    """Return the figure that stands where there is no run to show."""
    with styled():
        figure = Figure((WIDTH, 0.8))
        figure.text(0.5, 0.5, NO_RUNS, ha="center", va="center", color="#666666")
    return DescribedFigure(figure, f"Empty figure: {NO_RUNS}.")
