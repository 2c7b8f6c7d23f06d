"""Downloading a large file, going on where it broke off.

Own code, since neither pooch nor torch.hub goes on with a download that broke off, and weights are up to 2.6 GB.
"""

import math
import os
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from urllib.request import Request, urlopen

from filelock import FileLock

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file
from desam_lite.utils.progress import track

_BYTES_AT_ONCE = 1 << 20  # one step of the progress bar
_TIMEOUT = 60.0  # seconds without a byte
_PARTIAL = 206  # HTTP: the answer begins where the request said


def fetch_file(url: str, path: Path, size: int, sha256: str, *, progress: bool = True) -> None:
    """Fetch a published file, or what is left of it; a whole one is left alone, and a second process waits and has it then.

    What has come is kept in a hidden file beside the path, which is given only to the published content.

    Raises:
        StudyError: It cannot be read, or what came or is there is not the published file.
    """
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            if sha256_file(path) != sha256:
                raise StudyError(
                    f"'{path}' is there and is not the published file: move it away and fetch again."
                )
            return
        _download(url, part, path.name, size, progress=progress)
        came = sha256_file(part)
        if came != sha256:
            part.unlink()
            raise StudyError(
                f"what came from {url} has SHA-256 {came}, not the published {sha256}, and was deleted: "
                "fetch again, or from elsewhere with --mirror."
            )
        part.replace(path)


def _download(url: str, part: Path, name: str, expected: int, *, progress: bool) -> None:
    """Add to a partial file, if there is one, what it lacks of its published size, or begin anew where that is impossible."""
    size = part.stat().st_size if part.exists() else 0
    if size == expected:  # stopped before it was checked
        return
    start = size if size < expected else 0
    try:
        request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        with urlopen(request, timeout=_TIMEOUT) as answer:
            begin = start if answer.status == _PARTIAL else 0
            chunks = iter(lambda: answer.read(_BYTES_AT_ONCE), b"")
            first = next(chunks, b"")
            chunks = chain([first], chunks)
            kind = answer.headers.get_content_type()
            if kind == "text/html" or (not begin and first.lstrip().startswith((b"<", b"{"))):
                raise StudyError(
                    f"{url} gave a page instead of the file (a log-in?): see it in a browser and fetch again, or use --mirror."
                )
            size = begin + int(answer.headers["Content-Length"] or expected - begin)
            if size != expected:  # an error page, or half a copy
                raise StudyError(
                    f"{url} has {size} bytes, the published file {expected}: fetch it from elsewhere with --mirror."
                )
            steps = math.ceil((size - begin) / _BYTES_AT_ONCE)
            with part.open("ab" if begin else "wb") as file:
                for chunk in track(chunks, f"fetching {name}", total=steps, enabled=progress):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        if (ended := part.stat().st_size) < size:
            if getattr(answer, "chunked", False):  # it says where it ends: this is another file
                os.truncate(part, begin)
                raise StudyError(f"{url} has {ended} of {size} bytes: fetch from elsewhere with --mirror.")
            raise EOFError(f"it ended at {ended} of {size} bytes")
    except (OSError, HTTPException, ValueError, EOFError) as error:
        reason = str(error).strip("<>").removeprefix("urlopen error ") or type(error).__name__
        raise StudyError(
            f"{url} cannot be read ({reason}): fetch again, which goes on where it stopped, or from elsewhere with --mirror."
        ) from error
