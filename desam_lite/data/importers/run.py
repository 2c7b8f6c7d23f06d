"""Bringing data from the layouts people have to the one this study reads: ``<domain>/<case>.nii.gz`` and its label.

Files that need no change are linked (a second name for the same bytes) where the disk allows it, and copied otherwise.
"""

import csv
import gzip
import os
import shutil
import stat
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from desam_lite.data.importers.layouts import Cases, Item, find_layout
from desam_lite.data.importers.pairing import SUFFIX
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, digest, sha256_file, walk
from desam_lite.utils.progress import track

IMPORT_VERSION = 3
INDEX_NAME = "import.csv"
_FIELDS = ["domain", "case", "image", "label", "image_sha256", "label_sha256"]
_FIELDS += ["source", "source_image", "source_label", "stamp"]
_UNPACKED = ".unpacked"
Rows = dict[tuple[str, str], dict[str, str]]  # (domain, case) -> fields of the index


@dataclass(frozen=True)
class ImportSummary:
    """What an import did."""

    out: Path  # the folder imported to; ``import.csv`` in it lists the cases
    cases: dict[str, int]  # domain -> number of cases that are there now
    made: int  # how many of them were made just now
    # ``DOMAIN/CASE`` of an earlier import that the source does not give any more; their files were removed
    withdrawn: tuple[str, ...]
    ids: dict[str, str]  # domain -> what the ids of its labels are, where the files tell
    faults: tuple[str, ...]  # A sentence for each case that could not be imported


def import_data(
    layout: str, source: Path | str, out: Path | str, *, copy: bool = False, progress: bool = True
) -> ImportSummary:
    """Import all cases of a data set; what is there already and unchanged is kept, what it has no longer is removed.

    A case at fault is left out and told in the summary; it never stops the others. The source is a folder, or a zip archive of
    one, in a layout of `LAYOUTS`; files that need no change are linked unless ``copy`` says otherwise.

    Raises:
        StudyError: Unknown layout, no such source, nothing in it, or ``out`` lies in ``source``.
    """
    source, out = Path(source), Path(out)
    finder = find_layout(layout)
    if not source.exists():
        raise StudyError(f"there is no {source}: check the path.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise StudyError(f"the folder to import to, {out}, lies in the source {source}: choose one outside.")
    root = source if source.is_dir() else _unpack(source, out / _UNPACKED, progress)
    items, faults = _refuse_doubles(*finder(root))
    faults += [
        f"{path} is a link that leads nowhere: mend it, or take it out."
        for path in walk(root)
        if not path.exists() and not SUFFIX.search(path.name)  # those of scans are told with their case
    ]
    if not items and not faults:
        raise StudyError(
            f"no case of the layout {layout!r} below {source}: check the path, or choose another layout."
        )
    rows, made, given = _read_import_index(out / INDEX_NAME), 0, set()
    where = f"{layout} {source.absolute()}"
    for item in track(items, f"importing {layout}", enabled=progress):
        try:
            made += _import_item(where, root, out, item, rows, copy)
            given.add((item.domain, item.case))
        except StudyError as error:
            faults.append(f"{item.domain}/{item.case}: {error}")
    withdrawn = [key for key, row in rows.items() if row["source"] == where and key not in given]
    for key in withdrawn:
        del rows[key]
        for path in _files(out, *key):
            if path.resolve().is_relative_to(out.resolve()):  # the index is a file that anybody can edit
                path.unlink(missing_ok=True)
    if rows or withdrawn:
        _write_import_index(out / INDEX_NAME, rows)
    if root != source and not faults:  # else its sentences name files that are still there
        shutil.rmtree(root)
    cases = Counter(domain for domain, _ in rows)
    ids = {item.domain: item.ids for item in items if item.ids}
    names = tuple("/".join(key) for key in withdrawn)
    return ImportSummary(out, dict(sorted(cases.items())), made, names, ids, tuple(faults))


def _files(out: Path, domain: str, case: str) -> list[Path]:
    """Return where the image and the label of a case are, or will be."""
    return [out / domain / f"{case}{end}.nii.gz" for end in ("", "_segmentation")]


def _import_item(where: str, root: Path, out: Path, item: Item, rows: Rows, copy: bool) -> bool:
    """Make a case and its row of the index, unless it is there and unchanged; return whether it was made."""
    image, label = _files(out, item.domain, item.case)
    key, stamp = (item.domain, item.case), _state_of_sources(where.partition(" ")[0], root, item)
    if image.is_file() and label.is_file() and key in rows and rows[key]["stamp"] == stamp:
        rows[key]["source"] = where  # it may lie elsewhere by now
        return False
    item.write(item, image, label, partial(place_file, copy=copy))
    names = [path.relative_to(out).as_posix() for path in (image, label)]
    hashes = [sha256_file(image), sha256_file(label)]
    values = [*key, *names, *hashes, where, str(item.image), str(item.label), stamp]
    rows[key] = dict(zip(_FIELDS, values, strict=True))
    _write_import_index(out / INDEX_NAME, rows)
    return True


def _state_of_sources(layout: str, root: Path, item: Item) -> str:
    """Name the state of the files a case is made from, without reading them."""
    states = []
    for path in item.sources():
        state = path.stat() if path.exists() else None
        states.append([path.relative_to(root).as_posix(), state and [state.st_size, state.st_mtime_ns]])
    return digest([IMPORT_VERSION, layout, states])


def _refuse_doubles(items: list[Item], faults: list[str]) -> Cases:
    """Leave out cases that would get one name: neither may overwrite the other."""
    counts = Counter((item.domain, item.case) for item in items)
    doubled = [
        f"{item.domain}/{item.case}: {item.image} is one of two cases of that name: rename one."
        for item in items
        if counts[item.domain, item.case] > 1
    ]
    return [item for item in items if counts[item.domain, item.case] == 1], [*faults, *doubled]


def place_file(source: Path, target: Path, *, copy: bool = False) -> None:
    """Bring a NIfTI file to a name that ends in ``.nii.gz``, in one step: linked, copied, or compressed if it is not yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"  # by content, for names lie
        if packed and not copy and _link(source.resolve(), target):
            return
        with atomic_path(target) as temporary, source.open("rb") as file, temporary.open("wb") as plain:
            if packed:
                shutil.copyfileobj(file, plain)
            else:
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) as writer:
                    shutil.copyfileobj(file, writer)
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


def _unpack(archive: Path, folder: Path, progress: bool) -> Path:
    """Unpack a zip archive into a new folder; nothing is written of one that would leave it or does not fit on the disk."""
    shutil.rmtree(folder, ignore_errors=True)  # of an import that was stopped
    try:
        with zipfile.ZipFile(archive) as source:
            members = [m for m in source.infolist() if not (m.is_dir() or m.filename.startswith("__MACOSX/"))]
            for member in members:
                _require_inside(archive, member)
            folder.mkdir(parents=True)
            needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
            if needed > free:
                raise StudyError(
                    f"{archive} unpacks to {needed / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB: make room."
                )
            for member in track(members, f"unpacking {archive.name}", enabled=progress):
                packed_at = time.mktime((*member.date_time, 0, 0, -1))  # by it an import knows it again
                os.utime(source.extract(member, folder), (packed_at, packed_at))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise StudyError(f"{archive} is no whole zip archive ({error}): download it again.") from error
    except RuntimeError as error:  # zipfile's way to tell that a password is needed
        raise StudyError(
            f"{archive} cannot be unpacked ({error}): unpack it by hand and give the folder."
        ) from error
    return folder


def _require_inside(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    parts = [*PurePosixPath(name).parts, *PureWindowsPath(name).parts]
    leaves = ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive or "\0" in name
    if leaves or stat.S_ISLNK(member.external_attr >> 16):
        raise StudyError(
            f"{archive} holds {name!r}, a link or a path that leaves the folder: do not use this archive."
        )


def _read_import_index(path: Path) -> Rows:
    """Return the rows of earlier imports; a damaged index is as good as none, for cases are then made again."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                row for row in csv.DictReader(file) if set(row) == set(_FIELDS) and None not in row.values()
            ]
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return {}
    return {(row["domain"], row["case"]): row for row in rows}


def _write_import_index(path: Path, rows: Rows) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _FIELDS)
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))
