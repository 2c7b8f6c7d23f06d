"""Bringing data from the layouts people have to the one this study reads: ``<domain>/<case>.nii.gz`` and its label.

Files that need no change are linked (a second name for the same bytes) where the disk allows it, and copied otherwise.
"""

import csv
import gzip
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from desam_lite.data.importers.archives import unpack
from desam_lite.data.importers.layouts import Found, Item, find_layout
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, digest, sha256_file
from desam_lite.utils.progress import track

IMPORT_VERSION = 1
INDEX_NAME = "import.csv"
_COLUMNS = [
    "domain",
    "case",
    "image",
    "label",
    "image_sha256",
    "label_sha256",
    "source_image",
    "source_label",
    "stamp",
]
_UNPACKED = ".unpacked"


@dataclass(frozen=True)
class ImportSummary:
    """What an import did.

    Attributes:
        out: The folder imported to; ``import.csv`` in it lists the cases.
        cases: Domain -> number of cases that are there now.
        made: How many of them were made just now.
        faults: A sentence for each case that could not be imported.
    """

    out: Path
    cases: dict[str, int]
    made: int
    faults: tuple[str, ...]


def import_data(
    layout: str, source: Path | str, out: Path | str, *, copy: bool = False, progress: bool = True
) -> ImportSummary:
    """Import all cases of a data set; what is there already and unchanged is kept.

    Args:
        layout: ``saml``, ``nnunet``, ``chaos``, ``btcv`` or ``folders``.
        source: A folder, or a zip archive of one.
        out: Folder to write to; made when missing.
        copy: Whether to copy files that need no change instead of linking them.
        progress: Whether to show progress bars.

    Returns:
        The summary. A case at fault is left out and told there; it never stops the others.

    Raises:
        StudyError: Unknown layout, no such source, nothing found in it, or ``out`` lies in ``source``.
    """
    source, out = Path(source), Path(out)
    finder = find_layout(layout)
    _require_apart(source, out)
    root = unpack(source, _unpack_folder(source, out), progress=progress) if source.is_file() else source
    items, faults = finder(root)
    items, faults = _refuse_doubles(items, faults)
    if not items and not faults:
        raise StudyError(
            f"no case of the layout {layout!r} below {source}: check the path, or choose another layout."
        )
    rows, made, failed = _import_items(layout, root, out, items, copy=copy, progress=progress)
    faults += failed
    if not faults:
        shutil.rmtree(out / _UNPACKED, ignore_errors=True)
    cases = Counter(domain for domain, _ in rows)
    return ImportSummary(out, dict(sorted(cases.items())), made, tuple(faults))


def _import_items(
    layout: str, root: Path, out: Path, items: list[Item], *, copy: bool, progress: bool
) -> tuple[dict[tuple[str, str], dict[str, str]], int, list[str]]:
    """Make the cases that are not there yet; return the index's rows, how many were made, and what went wrong."""
    rows = _read_index(out / INDEX_NAME)
    place, made, faults = partial(place_file, copy=copy), 0, []
    for item in track(items, f"importing {layout}", enabled=progress):
        key, stamp = (item.domain, item.case), _stamp(layout, root, item)
        there = all(path.is_file() for path in _targets(out, item))
        if there and key in rows and rows[key]["stamp"] == stamp:
            continue
        try:
            item.write(item, *_targets(out, item), place)
        except StudyError as error:
            faults.append(f"{item.domain}/{item.case}: {error}")
            continue
        rows[key], made = _row(out, item, stamp), made + 1
        _write_index(out / INDEX_NAME, rows)
    return rows, made, faults


def place_file(source: Path, target: Path, *, copy: bool = False) -> None:
    """Bring a NIfTI file to a name that ends in ``.nii.gz``: linked, copied, or compressed if it is not yet.

    Args:
        source: The file.
        target: Its new name; replaced in one step if it is there.
        copy: Whether to copy even where a link would do.

    Raises:
        StudyError: The file cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.name.lower().endswith(".gz") and not copy and _link(source.resolve(), target):
            return
        with atomic_path(target) as temporary, source.open("rb") as file:
            if source.name.lower().endswith(".gz"):
                with temporary.open("wb") as plain:
                    shutil.copyfileobj(file, plain, 1 << 20)
            else:
                with gzip.GzipFile(temporary, "wb", compresslevel=6, mtime=0) as packed:
                    shutil.copyfileobj(file, packed, 1 << 20)
    except FileNotFoundError as error:
        raise StudyError(f"{source} does not exist (a dangling link?): check it.") from error
    except PermissionError as error:
        raise StudyError(f"{source} cannot be read: check its permissions.") from error


def _link(source: Path, target: Path) -> bool:
    temporary = target.with_name(f".{target.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or a file system without links
        return False
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # replacing a file by itself leaves both names
    return True


def _require_apart(source: Path, out: Path) -> None:
    if not source.exists():
        raise StudyError(f"there is no {source}: check the path.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise StudyError(f"the folder to import to, {out}, lies in the source {source}: choose one outside.")


def _unpack_folder(source: Path, out: Path) -> Path:
    state = source.stat()
    return out / _UNPACKED / digest([source.name, state.st_size, state.st_mtime_ns])


def _refuse_doubles(items: list[Item], faults: list[str]) -> Found:
    """Leave out cases that would get one name: neither may overwrite the other."""
    counts = Counter((item.domain, item.case) for item in items)
    doubled = [item for item in items if counts[item.domain, item.case] > 1]
    told = [
        f"{item.domain}/{item.case}: {item.image} is one of two cases of that name: rename one."
        for item in doubled
    ]
    return [item for item in items if counts[item.domain, item.case] == 1], [*faults, *told]


def _targets(out: Path, item: Item) -> tuple[Path, Path]:
    folder = out / item.domain
    return folder / f"{item.case}.nii.gz", folder / f"{item.case}_segmentation.nii.gz"


def _stamp(layout: str, root: Path, item: Item) -> str:
    """Name the state of the files a case is made from, without reading them."""
    states = []
    for path in item.sources():
        state = path.stat() if path.exists() else None
        states.append([path.relative_to(root).as_posix(), state and [state.st_size, state.st_mtime_ns]])
    return digest([IMPORT_VERSION, layout, states])


def _row(out: Path, item: Item, stamp: str) -> dict[str, str]:
    image, label = _targets(out, item)
    values = [item.domain, item.case, *(path.relative_to(out).as_posix() for path in (image, label))]
    values += [sha256_file(image), sha256_file(label), str(item.image), str(item.label), stamp]
    return dict(zip(_COLUMNS, values, strict=True))


def _read_index(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows of earlier imports; a damaged index is as good as none, for cases are then made again."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        return {}
    return {
        (row["domain"], row["case"]): row
        for row in rows
        if set(row) == set(_COLUMNS) and None not in row.values()
    }


def _write_index(path: Path, rows: dict[tuple[str, str], dict[str, str]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))
