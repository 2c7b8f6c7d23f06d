"""SAM's three public weights files and MedSAM's: what they are, and how they get here."""

from dataclasses import dataclass
from pathlib import Path

from desam_lite.utils.download import fetch_file
from desam_lite.utils.errors import StudyError

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"


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
    """Fetch SAM's weights of a backbone, or what is left of them (`fetch_file`); a whole file is left alone.

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
    public = PUBLIC[backbone]
    path = Path(folder) / public.name
    if public.page and mirror is None and not path.exists():
        raise StudyError(
            f"the authors offer '{public.name}' for download in a browser only: get it from {public.page}, put it into "
            f"'{folder}', and run 'desam-lite weights check {path}'; or fetch it from elsewhere with --mirror."
        )
    origin = Path(mirror).absolute().as_uri() if mirror and "://" not in mirror else mirror or SAM_URL
    fetch_file(f"{origin.rstrip('/')}/{public.name}", path, public.size, public.sha256, progress=progress)
    return path
