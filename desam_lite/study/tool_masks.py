"""The masks of any other tool made a run like all others: paired with the tested cases, checked, laid on the scans' grids.

A run of masks is named by its label, source, seed and split, for the masks are its predictions. ``masks.csv`` in its folder names
the files by content, and other masks under the same name are refused: a row of a table stands for a single thing.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from desam_lite.data.geometry import Geometry, in_slices_axes, resample_nearest, same_grid, to_slices
from desam_lite.data.importers.pairing import find_scans, label_stem
from desam_lite.data.nifti import read_label, write_mask
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation.scoring import prediction_path
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.run import MASKS, Run, execute_run, find_run, scored_cases, write_csv
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

_LEAST_KEPT = 0.5
"""Share of a mask's volume that must lie within its scan: with less, it is of another place or another scan."""

CasePlace = tuple[str, str]  # domain, case


class PlacedMask(NamedTuple):
    """A mask on the grid of its scan: organ ids ``(Z, H, W)``, SHA-256 of its file, and how it came there if it was resampled."""

    labels: npt.NDArray[np.uint8]
    sha256: str
    note: str


def score_masks(
    folder: Path, spec: RunSpec, workspace: Path | str, *, resample: bool = False, progress: bool = True
) -> tuple[Run, list[str]]:
    """Score masks of another tool; what is scored already is not scored again.

    Args:
        folder: With a NIfTI file for each tested case, at any depth, named ``DOMAIN/CASE``, ``DOMAIN_CASE`` or, where a single
            domain has such a case, ``CASE``; ``_mask``, ``_segmentation`` and the like may follow.
        spec: A run of the method "masks".
        workspace: Folder for results and caches.
        resample: Whether masks on another grid are brought to that of their scan by nearest neighbour; else they are faults.
        progress: Whether to show bars.

    Returns:
        The finished run, and a sentence for each mask that was resampled.

    Raises:
        StudyError: Masks are missing, too many, unreadable, elsewhere, or hold ids of no organ (all in one listing, before
            anything is written), or the run has other masks already.
    """
    task = open_task(spec.manifest, spec.data_root, workspace, progress=progress)
    run = find_run(spec, task, workspace)
    paths, faults = pair_masks(folder, task, scored_cases(spec, task))
    rows, notes = [], []
    for domain, case in track(paths, "checking masks", enabled=progress):
        path = paths[domain, case]
        try:
            mask = read_mask(path, task, domain, case, resample=resample)
        except StudyError as error:
            faults.append(str(error))
            continue
        rows.append({"domain": domain, "case": case, "file": str(path), "sha256": mask.sha256})
        notes += [f"{path} {mask.note}"] if mask.note else []
    if faults:
        raise StudyError("\n".join([f"nothing was scored, {len(faults)} fault(s) of the masks:", *faults]))
    _require_same(run, rows)
    if not run.finished:
        write_csv(pd.DataFrame(rows), run.directory / MASKS)
        for domain, case in track(paths, "placing masks", enabled=progress):
            mask = read_mask(paths[domain, case], task, domain, case, resample=resample)
            geometry = task.slices.load(domain, case).geometry
            header = task.header(domain, case)
            write_mask(prediction_path(run.directory, domain, case), mask.labels, geometry, header)
    return execute_run(spec, workspace, accelerator="cpu", progress=progress), notes


def _require_same(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to put masks under a name that others have."""
    path = run.directory / MASKS
    if not path.is_file():
        return
    earlier = pd.read_csv(path, dtype=str)[["domain", "case", "sha256"]].to_numpy().tolist()
    if sorted(earlier) != sorted([str(row[key]) for key in ("domain", "case", "sha256")] for row in rows):
        raise StudyError(
            f"other masks are scored as '{run.spec.label}' from {run.spec.source}, seed {run.spec.seed} already: give another "
            f"--label or --seed, or delete {run.directory} first."
        )


def pair_masks(
    folder: Path, task: Task, tested: Mapping[str, Sequence[str]]
) -> tuple[dict[CasePlace, Path], list[str]]:
    """Find the mask of each tested case by its file's name.

    Returns:
        (domain, case) -> file, and a sentence for each case without or with several, and for each file that is of no tested case.
    """
    if not folder.is_dir():
        raise StudyError(f"there is no folder {folder}: give the one with the masks.")
    places = [(domain, case) for domain in task.manifest.domains for case in task.cases(domain)]
    tested_places = [(domain, case) for domain, cases in tested.items() for case in cases]
    names: dict[str, list[CasePlace]] = defaultdict(list)
    for domain, case in places:
        for name in (f"{domain}/{case}", f"{domain}_{case}", case):
            names[name].append((domain, case))
    files: dict[CasePlace, list[Path]] = defaultdict(list)
    faults = []
    for path in find_scans(folder):
        meant = next(filter(None, (names.get(name) for name in _names_of(path))), [])
        if len(meant) == 1 and meant[0] in tested_places:
            files[meant[0]].append(path)
        elif len(meant) == 1:
            faults.append(f"{path} is of {'/'.join(meant[0])}, which is not tested: take it out.")
        elif meant:
            domains = " and ".join(domain for domain, _ in meant)
            faults.append(f"{path} may be of {domains}: put it into a folder of its domain's name.")
        else:
            faults.append(
                f"{path} has the name of no case of the task: call it DOMAIN_CASE.nii.gz, or take it out."
            )
    for domain, case in tested_places:
        if not files[domain, case]:
            faults.append(f"{domain}/{case} has no mask: add {folder / f'{domain}_{case}.nii.gz'}.")
        elif len(files[domain, case]) > 1:
            several = " and ".join(map(str, files[domain, case]))
            faults.append(f"{domain}/{case} has several masks ({several}): keep a single one.")
    return {place: files[place][0] for place in tested_places if len(files[place]) == 1}, faults


def _names_of(path: Path) -> Iterator[str]:
    """Yield what a file may be called, the most telling first."""
    for stem in dict.fromkeys((label_stem(path), label_stem(path, whole=True))):
        yield f"{path.parent.name}/{stem}"
        yield stem


def read_mask(path: Path, task: Task, domain: str, case: str, *, resample: bool) -> PlacedMask:
    """Read a mask and bring it to the frame of its scan's slices.

    Raises:
        StudyError: It is unreadable, holds other ids than 1..K, or lies elsewhere.
    """
    scan, geometry = read_label(path), task.slices.load(domain, case).geometry
    ids = np.unique(scan.data)
    organs = [organ.name for organ in task.manifest.organs]
    if ids.min() < 0 or ids.max() > len(organs):
        numbered = ", ".join(f"{number} {name}" for number, name in enumerate(organs, start=1))
        others = ", ".join(str(each) for each in ids if not 0 <= each <= len(organs))
        raise StudyError(f"mask {path} holds the ids {others}: number its organs {numbered}.")
    data = scan.data.astype(np.uint8)
    if same_grid(in_slices_axes(scan.geometry), in_slices_axes(geometry)):
        return PlacedMask(to_slices(data, scan.geometry), scan.sha256, "")
    grids = f"{_say_grid(scan.geometry)}, its scan {_say_grid(geometry)}"
    if not resample:
        raise StudyError(
            f"mask {path} lies on another grid than its scan ({grids}): export it on the scan's, or give --resample."
        )
    placed = resample_nearest(data, scan.geometry, geometry)
    before, after = (_volume(*pair) for pair in ((data, scan.geometry), (placed, geometry)))
    if after < _LEAST_KEPT * before:
        raise StudyError(
            f"mask {path} lies elsewhere than its scan ({after / before:.0%} of it would be left): export it again."
        )
    note = f"was brought to the grid of its scan by nearest neighbour ({grids})"
    return PlacedMask(to_slices(placed, geometry), scan.sha256, note)


def _say_grid(geometry: Geometry) -> str:
    shape, spacing = geometry.slices_shape, geometry.spacing
    return f"{'x'.join(map(str, shape))} of {'x'.join(f'{side:.3g}' for side in spacing)} mm"


def _volume(ids: npt.NDArray[np.uint8], geometry: Geometry) -> float:
    """Return the volume of all organs in mm³."""
    return float(np.count_nonzero(ids)) * abs(float(np.linalg.det(geometry.affine[:3, :3])))
