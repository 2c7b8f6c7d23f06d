"""Contact sheets: what a task, or a prediction, looks like at a glance."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from desam_lite.data.cases import CaseVolume, load_case
from desam_lite.data.index import build_index
from desam_lite.data.manifest import Manifest
from desam_lite.data.slices import prepare_intensity
from desam_lite.study.report.sentences import count
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.slice_figures import draw_slices
from desam_lite.study.report.style import WIDTH, DescribedFigure
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

_TILE = 2.2  # inches, of an image
_TILES, _COLUMNS = 12, 4  # of the sheet of one scan


def contact_sheet(
    manifest: Manifest, root: Path | str, *, cases: int = 6, progress: bool = True
) -> DescribedFigure:
    """Draw the first sound cases of every domain, a row each, at the slice that shows the most organs."""
    index = build_index(manifest, root, progress=progress)
    sound = index[index["fault"] == ""]
    if sound.empty:
        raise StudyError(
            f"no case of {manifest.name!r} is sound: 'desam-lite data verify' lists what is wrong."
        )
    columns = min(cases, int(sound.groupby("domain").size().max()))
    shown: list[Example | None] = []
    for name, domain in track(manifest.domains.items(), "drawing", enabled=progress):
        rows = sound[sound["domain"] == name].head(columns).to_dict("records")
        volumes = (load_case(manifest, root, {str(key): value for key, value in row.items()}) for row in rows)
        row = [_most_telling(manifest, volume) for volume in volumes]
        row[:1] = [example._replace(title=f"{domain.title}\n{example.title}") for example in row[:1]]
        shown += [*row, *[None] * (columns - len(row))]
    left_out = len(index) - len(sound)
    title = manifest.title + (f" ({count(left_out, 'faulty case')} left out)" if left_out else "")
    organs = {organ.name: organ.color for organ in manifest.organs}
    return draw_slices(shown, organs, columns=columns, width=max(_TILE * columns, WIDTH), title=title)


def scan_sheet(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    organs: Mapping[str, str],
    spacing: tuple[float, float, float],
    title: str,
) -> DescribedFigure:
    """Draw slices of one scan with its predicted organs: up to 12, spread evenly from below the organs to above them.

    Images and labels are ``(Z, H, W)`` uint8, ``spacing`` is ``(z, y, x)`` in mm. Without any label the whole scan is shown.
    """
    inside, last = np.flatnonzero(labels.any(axis=(1, 2))), len(labels) - 1
    low, high = (max(inside[0] - 1, 0), min(inside[-1] + 1, last)) if len(inside) else (0, last)
    chosen = np.unique(np.linspace(low, high, _TILES).round().astype(int))
    empty = np.zeros_like(labels[0])
    examples = [Example("", f"z={z}", images[z], empty, labels[z], spacing[1:]) for z in chosen]
    return draw_slices(examples, organs, columns=_COLUMNS, width=_TILE * _COLUMNS, title=title)


def _most_telling(manifest: Manifest, volume: CaseVolume) -> Example:
    """Return the slice of a case with the most organs, and of these the one with the most organ voxels."""
    organs = [len(np.unique(plane)) for plane in volume.labels]
    z = int(np.lexsort(((volume.labels > 0).sum(axis=(1, 2)), organs))[-1])
    intensity = manifest.domain(volume.domain).intensity or manifest.intensity
    image = prepare_intensity(volume.image, intensity)[z].copy()  # the copy lets go of the other slices
    spacing = volume.geometry.spacing[1:]
    return Example("", f"{volume.case} z={z}", image, volume.labels[z].copy(), None, spacing)
