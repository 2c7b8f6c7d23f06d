"""Listing files, writing them so that an interrupted write is never read as whole, and naming content by its hash."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from desam_lite.utils.errors import StudyError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it onto ``path`` when the block succeeds; else ``path`` stays as it was.

    The temporary name keeps the full suffix (``.nii.gz`` stays readable to libraries that go by name). The data are
    flushed to disk before the rename, so that after a power cut the name holds the old content or the new, never half.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, dot, suffix = path.name.partition(".")
    handle, name = tempfile.mkstemp(prefix=f".{stem}-", suffix=f".tmp{dot}{suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; these are ordinary ones
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` to ``path`` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield all below a folder, sorted; links to folders are followed, what is hidden (``.git``) is left out."""
    above = (*above, folder.resolve())
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise StudyError(f"folder {folder} cannot be read ({error.strerror}): check it.") from error
    for path in paths:
        yield path
        if path.is_dir() and path.resolve() not in above:  # a link to a folder around it would never end
            yield from walk(path, above)


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON-like value: equal values, equal names, on every machine.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
