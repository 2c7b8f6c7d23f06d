"""Contact sheets: what a task looks like at a glance."""

from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from desam_lite.errors import StudyError
from desam_lite.files import atomic_path
from desam_lite.index import build_index
from desam_lite.manifest import Manifest
from desam_lite.progress import track
from desam_lite.slices import prepare_intensity
from desam_lite.volumes import CaseVolume, load_case

_TILE = 2.2  # inches
_LEAST_WIDTH = 5.0  # inches; a title needs as much


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
    _add_legend(figure, manifest)
    return figure


def _add_legend(figure: Figure, manifest: Manifest) -> None:
    handles = [Line2D([], [], color=organ.color, label=organ.name) for organ in manifest.organs]
    columns = min(6, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _draw(tile: Axes, manifest: Manifest, volume: CaseVolume) -> None:
    intensity = manifest.domain(volume.domain).intensity or manifest.intensity
    z = _telling_slice(volume.labels)
    _, y, x = volume.geometry.spacing
    grey = prepare_intensity(volume.image, intensity)[z]
    tile.imshow(grey, cmap="gray", vmin=0, vmax=255, aspect=y / x, interpolation="nearest")
    for number, organ in enumerate(manifest.organs, start=1):
        mask = volume.labels[z] == number
        if mask.any() and min(mask.shape) >= 2:
            tile.contour(mask, levels=[0.5], colors=[organ.color], linewidths=1.0)
    text = tile.text(0.02, 0.02, f"{volume.case} z={z}", transform=tile.transAxes, color="white", fontsize=6)
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
