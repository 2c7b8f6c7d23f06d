"""A task that is ready to be used: manifest read, every case checked, slices prepared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.data.index import build_index, index_hash
from desam_lite.data.manifest import Manifest, load_manifest
from desam_lite.data.nifti import read_grid_header
from desam_lite.data.slices import SliceStore, prepare_slices, write_slices
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest


@dataclass(frozen=True)
class Task:
    """A manifest with its checked cases and prepared slices."""

    manifest: Manifest  # what the task is
    root: Path  # folder with its data
    index: pd.DataFrame  # one row per case
    data_hash: str  # names the content of all cases
    slices: SliceStore  # the prepared slices

    def only(self, organs: Sequence[str] | None) -> "Task":
        """Return the task as if it had no other organs than these, in the order of the manifest; None changes nothing."""
        if organs is None:
            return self
        kept = [organ for organ in self.manifest.organs if organ.name in organs]
        unknown = set(organs) - {organ.name for organ in kept}
        if unknown:
            names = ", ".join(organ.name for organ in self.manifest.organs)
            raise StudyError(
                f"task '{self.manifest.name}' has no organ '{min(unknown)}': choose from {names}."
            )
        manifest = self.manifest.model_copy(update={"organs": tuple(kept)})
        return replace(self, manifest=manifest, slices=self.slices.only([organ.name for organ in kept]))

    def cases(self, domain: str) -> list[str]:
        """Return the case ids of a domain, in order."""
        self.manifest.domain(domain)
        return [case for _, case in self.slices.cases(domain)]

    def header(self, domain: str, case: str) -> Any:
        """Return the header of a case's image, for masks that lie where it does."""
        return read_grid_header(self.root / str(self.slices.rows[domain, case]["image"]))


def open_task(
    manifest: Path | str, root: Path | str, workspace: Path | str, *, progress: bool = True
) -> Task:
    """Read a manifest, check every case below ``root``, prepare the slices; each step is skipped where its result is still right.

    Each file is opened once: a sound case is prepared as soon as it is checked, also where another turns out to be at fault.
    Results and caches go below ``workspace``.

    Raises:
        StudyError: The manifest is wrong, or cases are; all faults of the task are in one message.
    """
    root, workspace = Path(root).resolve(), Path(workspace).resolve()
    task, folder = load_manifest(manifest), workspace / "slices"
    cache = workspace / "index" / f"{digest([task.content_hash(), str(root)])}.json"
    index = build_index(task, root, cache=cache, keep=partial(write_slices, folder, task), progress=progress)
    slices = prepare_slices(task, root, index, folder, progress=progress)
    return Task(task, root, index, index_hash(index), slices)
