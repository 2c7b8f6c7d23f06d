"""SAM's three public weights files: what they are, how they get here, and whether a file is one of them.

A download is kept in a hidden file beside its final name and goes on where it stopped; the name is given only once the content is
the published one. pooch, which verifies too, begins every download anew, and these are up to 2.6 GB.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file
from desam_lite.utils.progress import track

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
_CHUNK = 1 << 20  # bytes; one step of the progress bar
_PATIENCE = 60.0  # seconds without a byte
_CANNOT_RESUME = 416  # HTTP: there is nothing from that byte on
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class PublicWeights:
    """One of SAM's files (Apache-2.0, by Meta AI), as its authors offer it.

    Attributes:
        backbone: Which encoder it holds.
        name: The file's name; it carries the first six digits of the MD5.
        size: In bytes.
        md5: Of the content.
        sha256: Of the content. The authors state none; these are the ones that micro-sam checks its downloads against
            (computational-cell-analytics/micro-sam, micro_sam/util.py).
    """

    backbone: str
    name: str
    size: int
    md5: str
    sha256: str

    @property
    def url(self) -> str:
        """Where the authors offer it."""
        return f"{SAM_URL}/{self.name}"


PUBLIC = {
    weights.backbone: weights
    for weights in (
        PublicWeights(
            "vit_b",
            "sam_vit_b_01ec64.pth",
            375042383,
            "01ec64d29a2fca3f0661936605ae66f8",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        PublicWeights(
            "vit_l",
            "sam_vit_l_0b3195.pth",
            1249524607,
            "0b3195507c641ddb6910d2bb5adee89c",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        PublicWeights(
            "vit_h",
            "sam_vit_h_4b8939.pth",
            2564550879,
            "4b8939a88964f0f4ff5f5b2642c598a6",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    )
}
"""Backbone to its public file."""


def fetch_weights(
    backbone: str, folder: Path | str, *, mirror: str | None = None, progress: bool = True
) -> Path:
    """Fetch SAM's weights of a backbone, or what is left of them; a whole file is left alone.

    Args:
        backbone: "vit_b", "vit_l" or "vit_h".
        folder: Where the file goes.
        mirror: Folder or URL (``http://``, ``https://``) that holds it under its name; None for SAM's own address.
        progress: Whether to show a bar (one step per MiB).

    Returns:
        The file; its content is the published one.

    Raises:
        StudyError: The backbone has no public file, it cannot be got (what came is kept and the next call goes on from there), or
            what came is not the published file (it is deleted).
    """
    if backbone not in PUBLIC:
        raise StudyError(f"there are no public weights of '{backbone}': choose from {', '.join(PUBLIC)}.")
    wanted, folder = PUBLIC[backbone], Path(folder)
    path, part = folder / wanted.name, folder / f".{wanted.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{wanted.name}.lock"):  # a second process waits and finds it done
        if path.exists():
            if not is_published(path, wanted):
                raise StudyError(
                    f"'{path}' is there and is not the published file: move it away and fetch again."
                )
            return path
        source = f"{mirror.rstrip('/')}/{wanted.name}" if mirror else wanted.url
        _complete(part, wanted, source, progress)
        if not is_published(part, wanted):
            found = sha256_file(part)
            part.unlink()
            raise StudyError(
                f"what came from {source} has SHA-256 {found}, not the published {wanted.sha256}, and was deleted: "
                "fetch again, or from elsewhere with --mirror."
            )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    return path


def is_published(path: Path, wanted: PublicWeights) -> bool:
    """Tell whether a file has the content that was published."""
    return path.stat().st_size == wanted.size and sha256_file(path) == wanted.sha256


def identify_weights(path: Path | str) -> str:
    """Say in a few words what a weights file is, once all of it has been read.

    Raises:
        StudyError: It is missing, damaged or could run code, or it bears the name of a public file and is not that file.
    """
    from desam_lite.model.weights import find_weights, read_tensors, weights_sha256

    found = find_weights(path)
    sha256 = weights_sha256(found)
    for public in PUBLIC.values():
        if sha256 == public.sha256:
            return f"SAM's {public.backbone} as published (SHA-256 {sha256})"
        if found.name == public.name:
            raise StudyError(
                f"'{found}' has SHA-256 {sha256}, not the published {public.sha256}: fetch it again."
            )
    return f"{len(read_tensors(found))} tensors, none of SAM's public files (SHA-256 {sha256})"


def _complete(part: Path, wanted: PublicWeights, source: str, progress: bool) -> None:
    """Add to ``part`` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    if have == wanted.size:  # stopped between the last byte and the check
        return
    with _opened(source, wanted, have if have < wanted.size else 0) as (stream, start):
        part.touch()
        steps = math.ceil((wanted.size - start) / _CHUNK)
        with part.open("r+b") as file:
            file.seek(start)
            file.truncate()
            for chunk in track(
                _chunks(stream, source), f"fetching {wanted.name}", total=steps, enabled=progress
            ):
                file.write(chunk)
    if part.stat().st_size < wanted.size:
        raise _broken_off(source, f"at {part.stat().st_size} of {wanted.size} bytes")


def _chunks(stream: BinaryIO, source: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = stream.read(_CHUNK)
        except (OSError, HTTPException) as error:
            raise _broken_off(source, str(error) or type(error).__name__) from error
        if not chunk:
            return
        yield chunk


def _broken_off(source: str, how: str) -> StudyError:
    return StudyError(f"reading {source} broke off ({how}): the same command goes on where it stopped.")


@contextmanager
def _opened(source: str, wanted: PublicWeights, start: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a URL or file from byte ``start`` on; yields the stream and the byte it really begins with."""
    opened = _request if source.startswith(("http://", "https://")) else _open_copy
    stream, begins, size = opened(source, start)
    with stream:
        if size not in (None, wanted.size):  # an error page, or half a copy: known before gigabytes have come
            raise StudyError(
                f"{source} has {size} bytes, the published file {wanted.size}: fetch it from elsewhere with --mirror."
            )
        yield stream, begins


def _open_copy(source: str, start: int) -> tuple[BinaryIO, int, int | None]:
    """Open a mirror's file at byte ``start``; gives the stream, where it begins, and the size of the whole."""
    path = Path(source)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise StudyError(
            f"the mirror's file {path} cannot be read ({error.strerror}): give a folder or a URL."
        ) from error
    stream.seek(start)
    return stream, start, path.stat().st_size


def _request(url: str, start: int) -> tuple[BinaryIO, int, int | None]:
    """Ask for a URL from byte ``start`` on; gives the answer, where it begins, and the size of the whole if it is told."""
    try:
        answer = urlopen(
            Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=_PATIENCE
        )
    except HTTPError as error:
        if start and error.code == _CANNOT_RESUME:
            return _request(url, 0)
        raise StudyError(
            f"{url} answers '{error.code} {error.reason}': fetch from elsewhere with --mirror."
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StudyError(
            f"{url} cannot be reached ({reason}): check the network, or fetch from elsewhere with --mirror."
        ) from error
    resumed = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if resumed:
        return answer, int(resumed[1]), int(resumed[2])
    length = answer.headers.get("Content-Length", "")
    return answer, 0, int(length) if length.isdigit() else None
