"""Which image and which label below a folder are one case, told by the names people give them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from desam_lite.utils.files import walk

SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_LABEL_WORDS = "segmentation|seg|label|labels|mask|masks|gt|groundtruth|roi"
_LABEL_NAME = re.compile(rf"(?:(?P<case>.+)[_.-])?(?:{_LABEL_WORDS})", re.IGNORECASE)
_LABEL_FOLDER = re.compile(rf"(?:{_LABEL_WORDS}|segmentations|labelsTr)", re.IGNORECASE)
_IMAGE_NAME = re.compile(r"(?:(?P<case>.+?)[_.-])?(?:image|img|scan|volume|0000)", re.IGNORECASE)
_PAIR_FOLDER = re.compile(
    rf"(?:{_LABEL_WORDS}|segmentations|labelsTr|images?|imgs?|scans?|imagesTr)", re.IGNORECASE
)


def find_scans(folder: Path) -> list[Path]:
    """Return the NIfTI files at any depth, hidden ones (half-written, macOS's) left out."""
    return [path for path in walk(folder) if SUFFIX.search(path.name) and not path.is_dir()]


def case_stem(path: Path) -> str:
    """Return a file's name without its suffix."""
    return SUFFIX.sub("", path.name)


def label_stem(path: Path, *, whole: bool = False) -> str:
    """Return a label file's name without its suffix and, unless the whole is asked for, without the word that says it is one."""
    named = None if whole else _LABEL_NAME.fullmatch(case_stem(path))
    return (named and named["case"]) or case_stem(path)


def safe_name(name: str) -> str:
    """Return a name that a manifest and any disk take; letters of any script stay, in their composed form."""
    return re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", name)).strip("-.") or "unnamed"


def pair_files(folder: Path, domain: str) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Match images and labels below a folder by the case that their names tell.

    With a sentence for all that has no partner or too many.
    """
    images: dict[str, list[Path]] = defaultdict(list)
    labels: dict[str, list[Path]] = defaultdict(list)
    for path in find_scans(folder):
        named, placed = _LABEL_NAME.fullmatch(case_stem(path)), _LABEL_FOLDER.fullmatch(path.parent.name)
        named_image = _IMAGE_NAME.fullmatch(case_stem(path))
        if named or placed:
            labels[_case(folder, path, named["case"] if named else case_stem(path))].append(path)
        else:
            images[_case(folder, path, named_image["case"] if named_image else case_stem(path))].append(path)
    pairs, faults = [], []
    for case in sorted(images.keys() | labels.keys()):
        several = [paths for paths in (images[case], labels[case]) if len(paths) > 1]
        if several:
            names = " and ".join(str(path) for path in several[0])
            faults.append(
                f"case {case} of domain {domain} has several files for one thing ({names}): keep one."
            )
        elif not images[case]:
            faults.append(f"label {labels[case][0]} has no image: add it, or take the label out.")
        elif not labels[case]:
            faults.append(f"image {images[case][0]} has no label: add it, or take the image out.")
        else:
            pairs.append((safe_name(case), images[case][0], labels[case][0]))
    return pairs, faults


def _case(folder: Path, path: Path, told: str | None) -> str:
    """Return the case a file name tells, or its folder's name where files are called ``image`` and ``label``."""
    if told:
        return told
    parents: Iterable[Path] = [path.parent, *path.parent.parents]
    own = next((parent for parent in parents if not _PAIR_FOLDER.fullmatch(parent.name)), folder)
    return own.name
