"""An image and its label made one case, in the frame of the slices."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from desam_lite.data.geometry import Array, Geometry, same_grid, to_slices
from desam_lite.data.manifest import Manifest
from desam_lite.data.nifti import Scan, read_image, read_label
from desam_lite.utils.errors import StudyError


@dataclass(frozen=True, eq=False)
class CaseVolume:
    """A case in the frame of the slices."""

    domain: str  #: its domain
    case: str  #: its id
    image: npt.NDArray[np.float32]  #: ``(Z, H, W)`` float32, the intensities of the file
    labels: npt.NDArray[
        np.uint8
    ]  #: ``(Z, H, W)`` uint8: 0 background, 1..K the organs in the order of the manifest
    geometry: Geometry  #: the stored grid, for the way back


def to_organ_ids(labels: Array, manifest: Manifest, domain: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Renumber the integer ids of a label file, any shape, to the organs of the manifest by the ``label_map`` of a domain.

    Returns:
        The same shape as uint8 (0 background, 1..K in the order of ``manifest.organs``), and the ids of the file that the
        manifest does not name (they become background).
    """
    label_map = manifest.domain(domain).label_map
    organ_ids = {0: 0, **{organ.label: number for number, organ in enumerate(manifest.organs, start=1)}}
    unknown, organs = [], np.zeros(labels.shape, dtype=np.uint8)
    for value in sorted(map(int, pd.unique(labels.ravel()))):
        target = label_map.get(value, value)
        if target not in organ_ids:
            unknown.append(value)
        elif organ_ids[target]:
            organs[labels == value] = organ_ids[target]
    return organs, unknown


def check_pair(
    manifest: Manifest, domain: str, image: Scan, label: Scan, label_path: Path
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Return the organ ids on the label's stored grid, and a sentence for each fault that forbids to take the two as one case."""
    organs, unknown = to_organ_ids(label.data, manifest, domain)
    if image.geometry.shape != label.geometry.shape:
        shapes = f"shape {label.geometry.shape} but its image {image.geometry.shape}"
        return organs, [f"label {label_path} has {shapes}: export the label on the image's grid."]
    faults = []
    if not same_grid(image.geometry, label.geometry):
        faults.append(
            f"label {label_path} has another affine than its image (it lies elsewhere): "
            "export the label on the image's grid."
        )
    if unknown:
        ids = ", ".join(map(str, unknown[:10]))
        faults.append(
            f"label {label_path} holds ids that are not in the manifest ({ids}): add them to 'organs' or to the "
            f"'label_map' of domain {domain!r}, for instance label_map: {{{unknown[0]}: {manifest.organs[0].label}}}."
        )
    elif not organs.any():
        faults.append(f"label {label_path} marks no organ at all: draw the label, or take the case out.")
    return organs, faults


def in_slices_frame(domain: str, case: str, image: Scan, organs: npt.NDArray[np.uint8]) -> CaseVolume:
    """Return an image and its organ ids, both on the stored grid, in the frame of the slices."""
    pixels, labels = to_slices(image.data, image.geometry), to_slices(organs, image.geometry)
    return CaseVolume(domain, case, pixels, labels, image.geometry)


def load_case(manifest: Manifest, root: Path | str, row: Mapping[str, Any]) -> CaseVolume:
    """Read a case, a row of :func:`desam_lite.data.index.build_index`, into the frame of the slices.

    Raises:
        StudyError: A file is at fault, or has not the ``image_sha256`` or ``label_sha256`` that it had when it was indexed.
    """
    domain, label_path = str(row["domain"]), Path(root) / str(row["label"])
    image, label = read_image(Path(root) / str(row["image"])), read_label(label_path)
    for kind, scan in (("image", image), ("label", label)):
        if row.get(f"{kind}_sha256", scan.sha256) != scan.sha256:
            raise StudyError(
                f"{kind} {Path(root) / str(row[kind])} has changed since it was indexed: start again."
            )
    organs, faults = check_pair(manifest, domain, image, label, label_path)
    if faults:
        raise StudyError(" ".join(faults))
    return in_slices_frame(domain, str(row["case"]), image, organs)
