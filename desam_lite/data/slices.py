"""Prepared slices: uint8 intensities and organ ids, one cached file per case; which slices count; splits.

A file is named by the hash of what it was made from, so it is either right or not there.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from desam_lite.data.cases import CaseVolume, load_case
from desam_lite.data.geometry import Geometry
from desam_lite.data.index import content_of, require_sound
from desam_lite.data.manifest import Intensity, Manifest
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, digest
from desam_lite.utils.progress import track

if TYPE_CHECKING:
    import pandas as pd

SLICES_VERSION = 1
SliceRule = Literal["all", "foreground", "published"]
SplitRule = Literal["published_90_10", "80_10_10", "70_10_20", "half_tested"]
Part = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class CaseSlices:
    """One case, ready for a model."""

    task: str  #: name of the task
    domain: str  #: the case's domain
    case: str  #: its id
    images: npt.NDArray[np.uint8]  #: ``(Z, H, W)`` uint8, intensities 0..255
    labels: npt.NDArray[
        np.uint8
    ]  #: ``(Z, H, W)`` uint8: 0 background, 1..K the organs in the order of the manifest
    spacing: tuple[float, float, float]  #: voxel sides ``(z, y, x)``, mm
    geometry: Geometry  #: the grid of the scan's file, for the way back


class SliceStore:
    """The prepared slices of the sound cases of a task, files in a folder.

    Where names of organs are given, `load` numbers these 1, 2, ... in their order, the others being background; without, all are
    as the manifest numbers them. The files are the same.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, index: "pd.DataFrame", organs: Sequence[str] | None = None
    ):
        self.folder, self.manifest, self.index = folder, manifest, index
        self._ids = None if organs is None else _new_ids(manifest, organs)
        rows = [{str(key): value for key, value in row.items()} for row in index.to_dict("records")]
        self.rows = {(str(row["domain"]), str(row["case"])): row for row in rows}

    def only(self, organs: Sequence[str]) -> "SliceStore":
        """Return the same slices with these organs alone."""
        return SliceStore(self.folder, self.manifest, self.index, organs)

    def of_case(self, domain: str, case: str) -> "SliceStore":
        """Return the slices of one case alone."""
        row = (self.index["domain"] == domain) & (self.index["case"] == case)
        return SliceStore(self.folder, self.manifest, self.index[row])

    def cases(self, domain: str | None = None) -> list[tuple[str, str]]:
        """Return the (domain, case) pairs, of one domain or of all, in the order of the index."""
        return [pair for pair in self.rows if domain is None or pair[0] == domain]

    def patients(self, domain: str) -> dict[str, str]:
        """Return case -> patient of a domain, for :func:`split_cases`."""
        return {case: str(self.rows[home, case]["patient"]) for home, case in self.cases(domain)}

    def key(self, domain: str, case: str) -> str:
        """Return the 16 hexadecimal digits that name the content of a case's slices; StudyError when there is no such case."""
        if (domain, case) not in self.rows:
            raise StudyError(
                f"task {self.manifest.name!r} has no case {domain}/{case}: choose one of its index."
            )
        return _key(self.manifest, self.rows[domain, case])

    def path(self, domain: str, case: str) -> Path:
        """Return where the slices of a case are, or will be."""
        return self.folder / f"{self.key(domain, case)}.safetensors"

    def load(self, domain: str, case: str) -> CaseSlices:
        """Read a case; a StudyError where there is none, or its file is missing or damaged; a damaged one is removed."""
        path = self.path(domain, case)
        try:
            images, labels, geometry = _read_slices(path)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            if not isinstance(error, OSError):
                path.unlink()  # it is made again when the task is opened the next time
            raise StudyError(
                f"the prepared slices {path} of {domain}/{case} are missing or damaged: run again."
            ) from error
        labels = labels if self._ids is None else self._ids[labels]
        return CaseSlices(self.manifest.name, domain, case, images, labels, geometry.spacing, geometry)


def _key(manifest: Manifest, row: Mapping[str, Any]) -> str:
    preparation = manifest.preparation(str(row["domain"]))
    return digest([*content_of(row), preparation, SLICES_VERSION])


def write_slices(folder: Path, manifest: Manifest, row: Mapping[str, Any], volume: CaseVolume) -> None:
    """Prepare the slices of a case in memory, with its row of the index, unless they are in the folder already."""
    path = folder / f"{_key(manifest, row)}.safetensors"
    if path.exists():
        return
    images = prepare_intensity(volume.image, manifest.domain(volume.domain).intensity or manifest.intensity)
    # One metadata key: safetensors writes several in a random order, and equal cases should give equal files.
    checks = [zlib.crc32(images.data), zlib.crc32(volume.labels.data)]
    case = {"geometry": volume.geometry.to_json(), "crc32": checks}
    with atomic_path(path) as temporary:
        tensors = {"images": images, "labels": volume.labels}
        save_file(tensors, temporary, metadata={"case": json.dumps(case)})


def _read_slices(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Geometry]:
    """Read a file of `write_slices`; ValueError, KeyError, OSError or SafetensorError when it is damaged."""
    with safe_open(path, framework="numpy") as file:
        case = json.loads((file.metadata() or {})["case"])
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
    if [zlib.crc32(images.data), zlib.crc32(labels.data)] != case["crc32"]:
        raise ValueError("checksum differs")
    return images, labels, Geometry.from_json(case["geometry"])


def prepare_slices(
    manifest: Manifest,
    root: Path | str,
    index: "pd.DataFrame",
    cache_dir: Path | str,
    *,
    progress: bool = True,
) -> SliceStore:
    """Prepare the slices of every case of an index, or of some of its rows, that has none yet in the cache.

    Raises:
        StudyError: A case of the index is at fault, or a file has changed since.
    """
    require_sound(index)
    store = SliceStore(Path(cache_dir), manifest, index)
    missing = [pair for pair in store.cases() if not store.path(*pair).exists()]
    for pair in track(missing, f"preparing {manifest.name}", enabled=progress and bool(missing)):
        row = store.rows[pair]
        write_slices(store.folder, manifest, row, load_case(manifest, root, row))
    return store


def prepare_intensity(image: npt.NDArray[np.float32], intensity: Intensity) -> npt.NDArray[np.uint8]:
    """Bring the intensities of a volume ``(Z, H, W)``, in the unit of the file, to 0..255 uint8.

    The lower bound (a percentile of the whole volume, or a window's) and below is 0, the upper and above 255, linear between.
    """
    if intensity.percentiles is not None:
        low, high = np.percentile(image, intensity.percentiles).tolist()
    else:
        low, high = intensity.window or (0.0, 1.0)
    if intensity.percentiles is not None and not low < high:  # nearly all of one intensity: they coincide
        low, high = float(image.min()), float(image.max())
    scaled = (image - low) * (255.0 / max(high - low, np.finfo(np.float32).tiny))
    prepared: npt.NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return prepared


def select_slices(labels: npt.NDArray[Any], rule: SliceRule) -> list[int]:
    """Choose the slices of labels ``(Z, H, W)`` that are trained on or scored: ascending indices; possibly none.

    The rule is ``all``; ``foreground``, those with an organ; or ``published``, those but the last, because the public code of
    DeSAM ends its range one slice early.

    >>> select_slices(np.array([0, 1, 1, 1, 0]).reshape(5, 1, 1), "published")
    [1, 2]
    """
    if rule not in get_args(SliceRule):
        raise StudyError(f"there is no slice rule {rule!r}: choose from {', '.join(get_args(SliceRule))}.")
    if rule == "all":
        return list(range(labels.shape[0]))
    foreground = [int(z) for z in np.flatnonzero(labels.any(axis=(1, 2)))]
    return foreground if rule == "foreground" else foreground[:-1]


def split_cases(
    cases: Sequence[str], rule: SplitRule, seed: int, *, patients: Mapping[str, str] | None = None
) -> dict[str, Part]:
    """Divide the cases of a domain into parts: case -> part, in the order given; the cases of one patient stay together.

    There is always one to train on; with two patients, one to validate on. Without ``patients``, each case is its own.

    Args:
        cases: Case ids.
        rule: ``published_90_10``: the first 90 % in the order given train, the rest validate, none test.
            ``70_10_20``, ``80_10_10``: drawn with the seed; at least one patient each to validate and to test when there
            are three or more. ``half_tested``: the last half in the order given tests, whatever the seed, so that a domain is
            tested on the same patients as source and as target; of the first half a fifth, drawn with the seed, validates.
        seed: Of the draw; the order of ``cases`` does not matter to it.
        patients: Case -> patient.

    >>> split_cases(["a", "b", "c"], "published_90_10", seed=0)
    {'a': 'train', 'b': 'train', 'c': 'val'}
    """
    if rule not in get_args(SplitRule):
        raise StudyError(f"there is no split rule {rule!r}: choose from {', '.join(get_args(SplitRule))}.")
    part_of: dict[str, Part]
    patient_of = {case: patients[case] if patients else case for case in cases}
    unique = list(dict.fromkeys(patient_of.values()))
    if rule == "published_90_10":
        train = max(1, len(unique) * 9 // 10)
        part_of = {patient: "train" if n < train else "val" for n, patient in enumerate(unique)}
    elif rule == "half_tested":
        half = (len(unique) + 1) // 2
        part_of = {**_drawn(unique[:half], seed, 20, 0), **dict.fromkeys(unique[half:], "test")}
    else:
        part_of = _drawn(unique, seed, *map(int, rule.split("_")[1:]))
    return {case: part_of[patient] for case, patient in patient_of.items()}


def _drawn(patients: list[str], seed: int, val_share: int, test_share: int) -> dict[str, Part]:
    """Draw what validates and tests, in percent; at least one each where there are enough patients."""
    count = len(patients)
    val = max(1, round(val_share / 100 * count)) if count >= 2 else 0
    test = max(1, round(test_share / 100 * count)) if count >= 3 and test_share else 0
    drawn = [str(patient) for patient in np.random.default_rng(seed).permutation(sorted(patients))]
    return {
        patient: "val" if number < val else "test" if number < val + test else "train"
        for number, patient in enumerate(drawn)
    }


def _new_ids(manifest: Manifest, organs: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return the new id of each organ id of the task, by place; 0 is background."""
    names = [organ.name for organ in manifest.organs]
    ids = np.zeros(len(names) + 1, dtype=np.uint8)
    for number, organ in enumerate(organs, start=1):
        ids[1 + names.index(organ)] = number
    return ids
