"""All slices of a case with the contours of predictions and reference, as one HTML file that works offline.

Without a script the slices stand below each other; with it a single slice is shown, in the radiological view of all figures.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from PIL import Image

from desam_lite.data.manifest import PALETTE, did_you_mean
from desam_lite.data.tasks import Task
from desam_lite.study.report.sentences import count
from desam_lite.study.run import Run
from desam_lite.training.method import Volume
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_text

_PAGE = Path(__file__).with_name("case_viewer.html")
_MOST_BYTES = 2_900_000  # of a page, so that it can be sent by mail
_ENCODINGS = (
    ("PNG", 0, 1),
    ("JPEG", 92, 1),
    ("JPEG", 75, 1),
    ("JPEG", 50, 1),
    ("JPEG", 80, 2),
    ("JPEG", 65, 3),
    ("JPEG", 50, 4),
)
"""Format, quality and reduction of the images, the best first; the first that fits is taken."""


class _Layer(NamedTuple):
    """A prediction or the reference: its organ ids ``(Z, H, W)`` and the colour of each organ; the reference is dashed."""

    name: str
    labels: Volume
    colors: list[str]
    dashed: bool

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of organ in each slice."""
        return np.asarray((self.labels > 0).sum(axis=(1, 2)))


class CaseViewer:
    """All slices of a scan, with contours that can be switched off.

    Args:
        images: ``(Z, H, W)`` uint8, intensities 0..255.
        predictions: Name -> organ ids ``(Z, H, W)``. A single one has the organs' colours, several have one each.
        organs: Name -> colour, in the order of the ids.
        spacing: ``(z, y, x)``, mm.
        title: Of the page.
        reference: Organ ids ``(Z, H, W)``, drawn dashed in white; None where there is none.
        notes: Paragraphs under the title.
    """

    def __init__(
        self,
        images: Volume,
        predictions: Mapping[str, Volume],
        organs: Mapping[str, str],
        spacing: tuple[float, float, float],
        title: str,
        *,
        reference: Volume | None = None,
        notes: Sequence[str] = (),
    ):
        self.images, self.organs, self.spacing = images, organs, spacing
        self.reference, self.title, self.notes = reference, title, notes
        self.layers = (
            [] if reference is None else [_Layer("reference", reference, ["#ffffff"] * len(organs), True)]
        )
        for number, (name, labels) in enumerate(predictions.items()):
            own = [PALETTE[number % len(PALETTE)]] * len(organs)
            colors = own if len(predictions) > 1 else list(organs.values())
            self.layers.append(_Layer(name, labels, colors, False))

    def save(self, path: Path | str) -> None:
        """Write the page, atomically."""
        write_text(path, self.html())

    def __repr__(self) -> str:
        names = ", ".join(layer.name for layer in self.layers)
        return f"{self.title}: {count(len(self.images), 'slice')}, contours of {names}"

    def _repr_html_(self) -> str:
        """Show the page inside a notebook, in a frame of its own."""
        page, title = (html.escape(text, quote=True) for text in (self.html(), self.title))
        frame = 'sandbox="allow-scripts" loading="lazy" style="width: 100%; height: 46rem; border: 0"'
        return f'<iframe srcdoc="{page}" title="{title}" {frame}></iframe>'

    def html(self) -> str:
        """Return the page."""
        contours = ["".join(self._contours(z)) for z in range(len(self.images))]
        left = _MOST_BYTES - len(_PAGE.read_bytes()) - sum(map(len, contours)) - 500 * len(self.images)
        urls, encoding = encode_images(self.images, left)
        inside = np.flatnonzero(sum(layer.areas for layer in self.layers))
        stretch = self.spacing[1] / self.spacing[2]  # how much higher than wide a pixel is
        height, width = self.images.shape[1] * stretch, self.images.shape[2]
        sides = [("R", 0.03, 0.5), ("L", 0.97, 0.5), ("A", 0.5, 0.035), ("P", 0.5, 0.965)]
        marks = "".join(
            f'<text class="side" x="{width * x:.4g}" y="{height * y:.4g}">{letter}</text>'
            for letter, x, y in sides
        )
        texts = [html.escape(self._describe(z)) for z in range(len(self.images))]
        slices = [
            f'<li id="s{z + 1}"><figure><svg viewBox="0 0 {width} {height:.6g}" role="img" '
            f'aria-label="{text}"><image href="{url}" width="{width}" height="{height:.6g}" '
            f'preserveAspectRatio="none"/><g transform="scale(.5 {stretch / 2:.6g})">{paths}</g>{marks}</svg>'
            f"<figcaption>{text}</figcaption></figure></li>"
            for z, (url, paths, text) in enumerate(zip(urls, contours, texts, strict=True))
        ]
        boxes = [f'<input type="checkbox" id="l{n}" checked>' for n in range(len(self.layers))]
        return Template(_PAGE.read_text(encoding="utf-8")).substitute(
            title=html.escape(self.title),
            notes="\n".join(f"<p>{html.escape(note)}</p>" for note in self.notes),
            boxes="\n".join(boxes),
            legend="".join(self._legend()),
            rules="\n".join(self._rules()),
            count=len(self.images),
            first=int(inside[len(inside) // 2]) + 1 if len(inside) else len(self.images) // 2 + 1,
            strip="".join(self._strip()),
            slices="\n".join(slices),
            aspect=f"{width / height:.4g}",
            letter=f"{0.05 * min(width, height):.3g}px",
            footer=f"Radiological view: the patient's right is on the left. Slices from the feet to the head, {encoding}.",
        )

    def _describe(self, z: int) -> str:
        """Tell of a slice how well each prediction agrees with the reference; without one, how large the organs are."""
        parts = [f"slice {z + 1} of {len(self.images)}"]
        for layer in (layer for layer in self.layers if not layer.dashed):
            texts = []
            for number in self._organs_in(z):
                area, organ = layer.labels[z] == number, list(self.organs)[number - 1]
                cm2 = float(area.sum()) * self.spacing[1] * self.spacing[2] / 100
                told = f"{cm2:.1f} cm²"
                if self.reference is not None:
                    true = self.reference[z] == number
                    dice = 200 * float((area & true).sum()) / float((area.sum() + true.sum()) or 1)
                    told = f"{dice:.0f} %"
                texts.append(f"{organ} {told}")
            dice_of = "Dice of " if self.reference is not None else ""
            parts += [f"{dice_of}{layer.name}: {', '.join(texts)}"] if texts else []
        return "; ".join(parts)

    def _organs_in(self, z: int) -> list[int]:
        """Return the ids that any layer has in a slice."""
        ids = {int(each) for layer in self.layers for each in np.unique(layer.labels[z])}
        return sorted(ids & set(range(1, len(self.organs) + 1)))

    def _rules(self) -> Iterator[str]:
        """Yield the style of each layer, and what its box switches."""
        for number, layer in enumerate(self.layers):
            for organ, color in enumerate(layer.colors, start=1):
                yield f".l{number}.o{organ} {{ stroke: {color}; }}"
            yield f".l{number} {{ stroke: #ffffff; stroke-dasharray: 5 3.5; }}" if layer.dashed else ""
            label = f"~ .layers label[for=l{number}]"
            yield f"#l{number}:not(:checked) ~ .slices .l{number} {{ display: none; }}"
            yield f"#l{number}:checked {label} .box::after {{ content: '✓'; }}"
            yield f"#l{number}:focus-visible {label} {{ outline: 2px solid var(--mark); }}"

    def _legend(self) -> Iterator[str]:
        """Yield the entry of each layer: its box, name and line; where its organs have colours of their own, a line for each."""
        for number, layer in enumerate(self.layers):
            dashed = ' stroke-dasharray="5 3.5"' if layer.dashed else ""
            lines = {
                color: f'<svg viewBox="0 0 34 16" aria-hidden="true"><path d="M4 8H30" style="stroke: {color}"{dashed}/></svg>'
                for color in layer.colors
            }
            pairs = zip(layer.colors, self.organs, strict=True)
            each = " ".join(f"{lines[color]} {html.escape(organ)}" for color, organ in pairs)
            name = html.escape(layer.name)
            entry = f"{name}: {each}" if len(lines) > 1 else f"{lines[layer.colors[0]]} {name}"
            yield f'<label for="l{number}"><span class="box" aria-hidden="true"></span>{entry}</label>'

    def _strip(self) -> Iterator[str]:
        """Yield a line for each layer: how much of the organs each slice has."""
        most = max(1, *(int(layer.areas.max()) for layer in self.layers))
        for layer in self.layers:
            points = " ".join(f"{z + 0.5},{19 - 18 * area / most:.3g}" for z, area in enumerate(layer.areas))
            several = layer.dashed or len(set(layer.colors)) > 1
            dashed = ' stroke-dasharray="4 3"' if layer.dashed else ""
            color = "var(--text)" if several else layer.colors[0]
            yield f'<polyline points="{points}" style="stroke: {color}"{dashed}/>'

    def _contours(self, z: int) -> Iterator[str]:
        """Yield a path for each layer and organ of a slice, in halves of a pixel."""
        for number, layer in enumerate(self.layers):
            for organ in self._organs_in(z):
                mask = layer.labels[z] == organ
                if mask.any():
                    yield f'<path class="l{number} o{organ}" d="{"".join(outlines(mask))}"/>'


def outlines(mask: npt.NDArray[np.bool_]) -> Iterator[str]:
    """Yield the outlines of a mask ``(H, W)`` as SVG, halfway between its pixels and their neighbours; the origin is a corner."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    corner = np.array([columns[0], rows[0]])
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    for line in contour_generator(z=box.astype(float)).lines(0.5):
        points = np.rint(2 * (np.asarray(line) + corner) - 1).astype(int)
        steps = np.diff(points, axis=0)
        turns = (
            np.flatnonzero((np.diff(steps, axis=0) != 0).any(axis=1)) + 1
        )  # points in between are on a line
        corners = points[np.r_[0, turns]]
        moves = "".join(f"l{dx} {dy}".replace(" -", "-") for dx, dy in np.diff(corners, axis=0))
        yield f"M{corners[0][0]} {corners[0][1]}{moves}z"


def encode_images(images: Volume, most: int) -> tuple[list[str], str]:
    """Return slices as URLs that hold them, in the best encoding that fits into so many bytes, and how that is called."""
    urls: list[str] = []
    for kind, quality, step in _ENCODINGS:
        urls = []
        for image in images:
            picture, packed = Image.fromarray(image), io.BytesIO()
            options = {"optimize": True} if kind == "PNG" else {"quality": quality}
            picture.reduce(step).save(packed, kind, **options)
            data = base64.b64encode(packed.getvalue()).decode()
            urls.append(f"data:image/{kind.lower()};base64,{data}")
            if sum(map(len, urls)) > most:
                break
        else:
            reduced = f", {step} x {step} pixels as one" if step > 1 else ""
            return (
                urls,
                "every grey level as the models see it" if kind == "PNG" else f"packed as JPEG{reduced}",
            )
    raise StudyError(f"{len(images)} slices are too many for one page of {most / 1e6:.1f} MB: crop the scan.")


def view_case(task: Task, runs: Sequence[Run], domain: str, case: str) -> CaseViewer:
    """Show a case with the contours of its reference and of the predictions of runs."""
    slices, predictions, notes = task.slices.load(domain, case), {}, []
    labels = [run.spec.label for run in runs]
    for run in runs:
        spec = run.spec
        name = (
            spec.label if labels.count(spec.label) == 1 else f"{spec.label}, {spec.source}, seed {spec.seed}"
        )
        ids = [0] + [
            n
            for n, organ in enumerate(task.manifest.organs, start=1)
            if organ.name in (spec.organs or {organ.name})
        ]
        predictions[name] = np.array(ids, np.uint8)[run.prediction(domain, case)]
        rows = run.metrics().query("target == @domain and case == @case")
        scores = [f"{r['organ']} {100 * r['dice']:.1f} ({r['protocol']})" for r in rows.to_dict("records")]
        notes.append(f"{name}, trained on {spec.source}, seed {spec.seed}: Dice in % {', '.join(scores)}")
    organs = {organ.name: organ.color for organ in task.manifest.organs}
    title = f"{case} of {task.manifest.domain(domain).title}"
    return CaseViewer(
        slices.images, predictions, organs, slices.spacing, title, reference=slices.labels, notes=notes
    )


def find_case(run: Run, name: str) -> tuple[str, str]:
    """Return domain and case of a tested case by its name, ``CASE`` or ``DOMAIN/CASE``."""
    rows = run.metrics()[["target", "case"]].drop_duplicates()
    places = {f"{target}/{case}": (str(target), str(case)) for target, case in rows.itertuples(index=False)}
    meant = [place for full, place in places.items() if name in (full, place[1])]
    if not meant:
        close = did_you_mean(name, [*places, *(case for _, case in places.values())])
        raise StudyError(
            f"run {run.name} has tested no case '{name}': {close}choose from {', '.join(places)}."
        )
    if len(meant) > 1:
        raise StudyError(f"'{name}' may be {' or '.join('/'.join(place) for place in meant)}: write it so.")
    return meant[0]
