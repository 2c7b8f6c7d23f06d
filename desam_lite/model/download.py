"""SAM's three public weights files and MedSAM's: what they are, and how they get here.

Own code, since neither pooch nor torch.hub goes on with a download that broke off, and these are up to 2.6 GB.
"""

import math
import os
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from urllib.request import Request, urlopen

from filelock import FileLock

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file
from desam_lite.utils.progress import track

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
_BYTES_AT_ONCE = 1 << 20  # one step of the progress bar
_TIMEOUT = 60.0  # seconds without a byte
_PARTIAL = 206  # HTTP: the answer begins where the request said


@dataclass(frozen=True)
class PublicWeights:
    """One of SAM's files (by Meta AI) or MedSAM's (by the Wang lab), both Apache-2.0, as its authors offer it.

    Attributes:
        backbone: Which encoder it holds.
        name: The file's name.
        size: In bytes.
        sha256: Of the content. The authors state the first digits of the MD5 alone (in the name); these are the ones that
            micro-sam checks its downloads against (computational-cell-analytics/micro-sam, micro_sam/util.py). MedSAM's authors
            state none; this is the one that several unrelated public repositories record for the file of the authors' folder.
        page: Where the authors offer it to a browser, if they have no address of the file itself.
    """

    backbone: str
    name: str
    size: int
    sha256: str
    page: str = ""

    @property
    def url(self) -> str:
        """Where the authors offer it."""
        return self.page or f"{SAM_URL}/{self.name}"

    @property
    def title(self) -> str:
        """What it is, in words."""
        return f"{'MedSAM' if self.backbone == 'medsam' else 'SAM'}'s {self.backbone} as published"


_VIT_B = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
_VIT_L = "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
_VIT_H = "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
_MEDSAM = "34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74"
_MEDSAM_PAGE = "https://drive.google.com/drive/folders/1ETWmi4AiniJeWOt6HAsYgTjYv_fkgzoN"  # from bowang-lab/MedSAM, README.md
PUBLIC = {
    "vit_b": PublicWeights("vit_b", "sam_vit_b_01ec64.pth", 375042383, _VIT_B),
    "vit_l": PublicWeights("vit_l", "sam_vit_l_0b3195.pth", 1249524607, _VIT_L),
    "vit_h": PublicWeights("vit_h", "sam_vit_h_4b8939.pth", 2564550879, _VIT_H),
    "medsam": PublicWeights("medsam", "medsam_vit_b.pth", 375049145, _MEDSAM, _MEDSAM_PAGE),
}
"""Backbone to its public file."""


def fetch_weights(
    backbone: str, folder: Path | str, *, mirror: str | None = None, progress: bool = True
) -> Path:
    """Fetch SAM's weights of a backbone, or what is left of them; a whole file is left alone.

    What has come is kept in a hidden file beside the final name, which is given only to the published content.

    Args:
        backbone: "vit_b", "vit_l", "vit_h" or, with a mirror alone, "medsam".
        folder: Where the file goes.
        mirror: Folder or URL that holds it under its name; None for SAM's own address.
        progress: Whether to show a bar (one step per MiB).

    Raises:
        StudyError: The backbone has no public file, or it cannot be read, or what came is not the published file.
    """
    if backbone not in PUBLIC:
        raise StudyError(f"there are no public weights of '{backbone}': choose from {', '.join(PUBLIC)}.")
    public, folder = PUBLIC[backbone], Path(folder)
    path, part = folder / public.name, folder / f".{public.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{public.name}.lock"):  # a second process waits, and has it then
        if path.exists():
            if sha256_file(path) != public.sha256:
                raise StudyError(
                    f"'{path}' is there and is not the published file: move it away and fetch again."
                )
            return path
        if public.page and mirror is None:
            raise StudyError(
                f"the authors offer '{public.name}' to a browser alone: get it from {public.page}, put it into '{folder}', and "
                f"run 'desam-lite weights check {path}'; or fetch it from elsewhere with --mirror."
            )
        origin = Path(mirror).absolute().as_uri() if mirror and "://" not in mirror else mirror or SAM_URL
        url = f"{origin.rstrip('/')}/{public.name}"
        _download(url, part, public, progress)
        sha256 = sha256_file(part)
        if sha256 != public.sha256:
            part.unlink()
            raise StudyError(
                f"what came from {url} has SHA-256 {sha256}, not the published {public.sha256}, and was deleted: "
                "fetch again, or from elsewhere with --mirror."
            )
        part.replace(path)
    return path


def _download(url: str, part: Path, public: PublicWeights, progress: bool) -> None:
    """Add to ``part`` what it lacks, or begin anew where the server cannot begin elsewhere."""
    size = part.stat().st_size if part.exists() else 0
    if size == public.size:  # stopped before it was checked
        return
    start = size if size < public.size else 0
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
            size = begin + int(answer.headers["Content-Length"] or public.size - begin)
            if size != public.size:  # an error page, or half a copy
                raise StudyError(
                    f"{url} has {size} bytes, the published file {public.size}: fetch it from elsewhere with --mirror."
                )
            steps = math.ceil((size - begin) / _BYTES_AT_ONCE)
            with part.open("ab" if begin else "wb") as file:
                for chunk in track(chunks, f"fetching {public.name}", total=steps, enabled=progress):
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
