"""Contact sheets: what a task, or a prediction, looks like at a glance."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from desam_lite.data.cases import CaseVolume, load_case
from desam_lite.data.index import build_index
from desam_lite.data.manifest import Manifest
from desam_lite.data.slices import prepare_intensity
from desam_lite.study.report.sentences import count
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.slice_figures import draw_slice
from desam_lite.study.report.style import styled
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path
from desam_lite.utils.progress import track

_TILE, _NOTE = 2.2, 0.25  # inches: of an image, of the line under it
_LEAST_WIDTH = 5.0  # inches; a title needs as much
_TILES, _COLUMNS = 12, 4  # of the sheet of one scan


def contact_sheet(manifest: Manifest, root: Path | str, *, cases: int = 6, progress: bool = True) -> Figure:
    """Draw the first sound cases of every domain, a row each, at the slice that shows the most organs.

    Raises:
        StudyError: There is no data, or no sound case.
    """
    index = build_index(manifest, root, progress=progress)
    sound = index[index["fault"] == ""]
    if sound.empty:
        raise StudyError(
            f"no case of {manifest.name!r} is sound: 'desam-lite data verify' lists what is wrong."
        )
    rows = []
    for name, domain in track(manifest.domains.items(), "drawing", enabled=progress):
        chosen = sound[sound["domain"] == name].head(cases).to_dict("records")
        volumes = (
            load_case(manifest, root, {str(key): value for key, value in row.items()}) for row in chosen
        )
        rows.append((domain.title, [_most_telling(manifest, volume) for volume in volumes]))
    left_out = len(index) - len(sound)
    title = manifest.title + (f" ({count(left_out, 'faulty case')} left out)" if left_out else "")
    return _draw_sheet(rows, {organ.name: organ.color for organ in manifest.organs}, title)


def scan_sheet(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    organs: Mapping[str, str],
    spacing: tuple[float, float, float],
    title: str,
) -> Figure:
    """Draw slices of one scan with its organs as contours: up to 12, spread evenly from below the organs to above them.

    Args:
        images: ``(Z, H, W)`` uint8, intensities 0..255.
        labels: ``(Z, H, W)`` uint8: 0 background, 1..K the organs. Where there is none at all, the whole scan is shown.
        organs: Name -> colour, in the order of the ids.
        spacing: ``(z, y, x)``, mm.
        title: Over the sheet.
    """
    inside, last = np.flatnonzero(labels.any(axis=(1, 2))), len(labels) - 1
    low, high = (max(inside[0] - 1, 0), min(inside[-1] + 1, last)) if len(inside) else (0, last)
    chosen = np.unique(np.linspace(low, high, _TILES).round().astype(int))
    examples = [Example("", f"z={z}", images[z], labels[z], None, spacing[1:]) for z in chosen]
    rows = [("", examples[start : start + _COLUMNS]) for start in range(0, len(examples), _COLUMNS)]
    return _draw_sheet(rows, organs, title)


def _most_telling(manifest: Manifest, volume: CaseVolume) -> Example:
    """Return the slice of a case with the most organs, and of these the one with the most organ voxels."""
    organs = [len(np.unique(plane)) for plane in volume.labels]
    z = int(np.lexsort(((volume.labels > 0).sum(axis=(1, 2)), organs))[-1])
    intensity = manifest.domain(volume.domain).intensity or manifest.intensity
    image = prepare_intensity(volume.image, intensity)[z].copy()  # the copy lets go of the other slices
    return Example(
        "", f"{volume.case} z={z}", image, volume.labels[z].copy(), None, volume.geometry.spacing[1:]
    )


def _draw_sheet(rows: Sequence[tuple[str, list[Example]]], organs: Mapping[str, str], title: str) -> Figure:
    """Draw heading -> slices, in radiological view (the patient's right on the left)."""
    columns = max(len(examples) for _, examples in rows)
    with styled():
        figure = Figure(
            (max(_TILE * columns, _LEAST_WIDTH), (_TILE + _NOTE) * len(rows) + 0.9), layout="constrained"
        )
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (heading, examples) in zip(axes, rows, strict=True):
            for ax, example in zip_longest(line, examples):
                if example is None:
                    ax.set_axis_off()
                else:
                    draw_slice(ax, example, list(organs.values()))
            line[0].set_title(heading, fontsize=9, loc="left", fontweight="bold")
        figure.suptitle(title, fontsize=11, wrap=True)
        handles = [Line2D([], [], color=color, label=name) for name, color in organs.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8)
    return figure


def write_png(path: Path | str, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
