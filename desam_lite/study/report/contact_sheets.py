"""Contact sheets: what a task, or a prediction, looks like at a glance."""

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from desam_lite.data.cases import CaseVolume, load_case
from desam_lite.data.index import build_index
from desam_lite.data.manifest import Manifest
from desam_lite.data.slices import prepare_intensity
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path
from desam_lite.utils.progress import track

_TILE = 2.2  # inches
_LEAST_WIDTH = 5.0  # inches; a title needs as much
_TILES, _COLUMNS = 12, 4  # of the sheet of one scan


def contact_sheet(manifest: Manifest, root: Path | str, *, cases: int = 6, progress: bool = True) -> Figure:
    """Draw the first sound cases of every domain, each at the slice that shows the most organs.

    Args:
        manifest: The task.
        root: Folder that its patterns start from.
        cases: Most cases per domain.
        progress: Whether to show progress bars.

    Returns:
        A figure with a row per domain, in radiological view (the patient's right on the left), organs as contours.

    Raises:
        StudyError: There is no data, or no sound case.
    """
    index = build_index(manifest, root, progress=progress)
    sound = index[index["fault"] == ""]
    if sound.empty:
        raise StudyError(
            f"no case of {manifest.name!r} is sound: 'desam-lite data verify' lists what is wrong."
        )
    left_out = len(index) - len(sound)
    columns, rows = min(cases, int(sound.groupby("domain").size().max())), len(manifest.domains)
    size = (max(_TILE * columns, _LEAST_WIDTH), _TILE * rows + 0.9)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for line, domain in zip(axes, track(manifest.domains, "drawing", enabled=progress), strict=True):
        chosen = sound[sound["domain"] == domain].head(cases).to_dict("records")
        for tile, row in zip_longest(line, chosen):
            tile.set_axis_off()
            if row is not None:
                _draw(
                    tile, manifest, load_case(manifest, root, {str(key): value for key, value in row.items()})
                )
        line[0].set_title(manifest.domains[domain].title, fontsize=9, loc="left", fontweight="bold")
    figure.suptitle(
        manifest.title + (f" ({left_out} faulty cases left out)" if left_out else ""), fontsize=11
    )
    _add_legend(figure, {organ.name: organ.color for organ in manifest.organs})
    return figure


def scan_sheet(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    organs: Mapping[str, str],
    spacing: tuple[float, float, float],
    title: str,
) -> Figure:
    """Draw slices of one scan with its organs as contours: up to 12, spread evenly from below the organs to above them.

    Args:
        images: ``(Z, H, W)`` uint8, grey levels 0..255.
        labels: ``(Z, H, W)`` uint8: 0 background, 1..K the organs. Where there is none at all, the whole scan is shown.
        organs: Name -> colour, in the order of the ids.
        spacing: ``(z, y, x)``, mm.
        title: Over the sheet.

    Returns:
        A figure in radiological view (the patient's right on the left).
    """
    chosen = _spread(labels)
    columns = min(_COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    size = (max(_TILE * columns, _LEAST_WIDTH), _TILE * rows + 0.9)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    for tile, z in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, chosen):
        tile.set_axis_off()
        if z is not None:
            _draw_slice(tile, images[z], labels[z], list(organs.values()), spacing[1] / spacing[2], f"z={z}")
    figure.suptitle(title, fontsize=10, wrap=True)
    _add_legend(figure, organs)
    return figure


def _spread(labels: npt.NDArray[np.uint8]) -> list[int]:
    """Return the slices of ``(Z, H, W)`` to be shown: the organs', one more at either end, not more than fit."""
    found = np.flatnonzero(labels.any(axis=(1, 2)))
    last = len(labels) - 1
    low, high = (max(found[0] - 1, 0), min(found[-1] + 1, last)) if len(found) else (0, last)
    return [int(z) for z in np.unique(np.linspace(low, high, _TILES).round())]


def _add_legend(figure: Figure, organs: Mapping[str, str]) -> None:
    handles = [Line2D([], [], color=color, label=name) for name, color in organs.items()]
    columns = min(6, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _draw(tile: Axes, manifest: Manifest, volume: CaseVolume) -> None:
    intensity = manifest.domain(volume.domain).intensity or manifest.intensity
    z = _telling_slice(volume.labels)
    _, y, x = volume.geometry.spacing
    grey = prepare_intensity(volume.image, intensity)[z]
    colors = [organ.color for organ in manifest.organs]
    _draw_slice(tile, grey, volume.labels[z], colors, y / x, f"{volume.case} z={z}")


def _draw_slice(
    tile: Axes,
    grey: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    colors: Sequence[str],
    aspect: float,
    note: str,
) -> None:
    """Draw a slice ``(H, W)`` with the contours of its organs; ``aspect`` is the height of a pixel over its width."""
    tile.imshow(grey, cmap="gray", vmin=0, vmax=255, aspect=aspect, interpolation="nearest")
    for number, color in enumerate(colors, start=1):
        mask = labels == number
        if mask.any() and min(mask.shape) >= 2:
            tile.contour(mask, levels=[0.5], colors=[color], linewidths=1.0)
    text = tile.text(0.02, 0.02, note, transform=tile.transAxes, color="white", fontsize=6)
    text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _telling_slice(labels: npt.NDArray[np.uint8]) -> int:
    """Return the slice of ``(Z, H, W)`` with the most organs, and of these the one with the most organ voxels."""
    organs = [len(np.unique(plane)) for plane in labels]
    voxels = (labels > 0).sum(axis=(1, 2))
    return int(np.lexsort((voxels, organs))[-1])


def write_png(path: Path | str, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
