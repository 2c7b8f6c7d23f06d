"""Writing the cases of a synthetic task to disk: seeded, resumable, with every parameter written beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from desam_lite.data.geometry import Geometry, from_slices
from desam_lite.data.index import data_hash, read_sidecar
from desam_lite.data.nifti import write_mask, write_volume
from desam_lite.synthetic.phantoms.cases import Case, make_case
from desam_lite.synthetic.phantoms.dials import dialled
from desam_lite.synthetic.phantoms.sites import ABDOMEN_SITES, PROSTATE_SITES, Site
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest, sha256_file, write_json
from desam_lite.utils.progress import track

PHANTOM_VERSION = 5
TASKS: dict[str, dict[str, Site]] = {"phantom_prostate": PROSTATE_SITES, "phantom_abdomen": ABDOMEN_SITES}


def make_task(
    task: str,
    out: Path | str,
    *,
    cases: int = 10,
    seed: int = 0,
    domains: Sequence[str] | None = None,
    towards: str | None = None,
    dials: Mapping[str, float] | None = None,
    progress: bool = True,
) -> int:
    """Write a synthetic task: ``<domain>/CaseNN.nii.gz``, ``CaseNN_segmentation.nii.gz`` and ``CaseNN.json`` with all parameters.

    A case that is already there, whole and made the same way, is kept; anything else is made again. Cases beyond ``cases`` that
    an earlier call made in the same domains are removed, so that a folder holds what was asked for last; their number is
    returned.

    Args:
        task: Name of the task.
        out: Folder to write to.
        cases: Cases per domain.
        seed: Equal seeds give equal data; a case does not depend on how many others there are.
        domains: Which domains; all when None.
        towards: Domain that ``dials`` lead to; a domain keeps its patients whatever the dials.
        dials: Name of a dial to its position from 0 to 1 (`desam_lite.synthetic.phantoms.dials`).
        progress: Whether to show a bar.

    Raises:
        StudyError: There is no such task, domain or dial, a number makes no sense, or a case to be removed has been changed.
    """
    sites = _sites(task, domains, towards, dials or {})
    if cases < 1 or seed < 0:
        raise StudyError(
            f"{cases} cases with seed {seed} cannot be made: use 1 case or more and seed 0 or more."
        )
    shift = {"towards": towards, "dials": dict(dials or {})} if towards else {}
    recipes = _recipes(task, sites, cases, seed, shift)
    surplus = [files for name in sites for files in _surplus(Path(out) / name, cases)]
    for files in surplus:
        for path in reversed(files):  # the sidecar first: without it nothing is taken for whole
            path.unlink()
    files_of = {case: _case_files(Path(out), *case) for case in recipes}
    missing = [
        case for case, files in files_of.items() if read_sidecar(files[0]) != (recipes[case], _hashes(files))
    ]
    for domain, number in track(missing, f"making {task}", enabled=progress and bool(missing)):
        _write_case(Path(out), domain, number, sites[domain], recipes[domain, number])
    return len(surplus)


@lru_cache(maxsize=16)
def planned_hash(task: str, cases: int, domains: tuple[str, ...], seed: int = 0) -> str:
    """Return the name of the data (`desam_lite.data.index.index_hash`) that `make_task` makes of this; nothing is made."""
    recipes = _recipes(task, _sites(task, domains, None, {}), cases, seed, {})
    return data_hash(
        (domain, f"Case{case:02d}", digest(recipe)) for (domain, case), recipe in recipes.items()
    )


def _recipes(
    task: str, sites: Mapping[str, Site], cases: int, seed: int, shift: Mapping[str, Any]
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (domain, number) -> all that determines a case."""
    made_by = {"version": PHANTOM_VERSION, "task": task, "seed": seed}
    return {
        (name, number): {**made_by, "domain": name, "case": number, "site": asdict(site), **shift}
        for name, site in sites.items()
        for number in range(cases)
    }


def _sites(
    task: str, domains: Sequence[str] | None, towards: str | None, dials: Mapping[str, float]
) -> dict[str, Site]:
    """Return the sites to make cases of, by domain, their dials turned."""
    if task not in TASKS:
        raise StudyError(f"there is no synthetic task '{task}': choose from {', '.join(TASKS)}.")
    sites = TASKS[task]
    unknown = [name for name in [*(domains or []), *([towards] if towards else [])] if name not in sites]
    if unknown:
        raise StudyError(f"task '{task}' has no domain '{unknown[0]}': choose from {', '.join(sites)}.")
    if bool(dials) != bool(towards):
        raise StudyError("a dial needs both its position and the domain it leads to: give dials and towards.")
    names = dict.fromkeys(domains or sites)
    if not towards:
        return {name: sites[name] for name in names}
    return {name: dialled(sites[name], sites[towards], dials) for name in names}


def _surplus(folder: Path, cases: int) -> list[tuple[Path, Path, Path]]:
    """Return the files of the cases of a domain that an earlier call made and that are numbered beyond ``cases``."""
    surplus = []
    for sidecar in sorted(folder.glob("Case*.json")):
        recipe, hashes = read_sidecar(sidecar)
        number = recipe.get("case", -1)
        files = _case_files(folder.parent, folder.name, number)
        if recipe.get("task") not in TASKS or files[2] != sidecar or number < cases:
            continue
        if _hashes(files) != hashes:
            raise StudyError(
                f"{files[0]} is beyond the {cases} cases asked for but was changed since it was made: "
                "move it away, or make the cases in another folder."
            )
        surplus.append(files)
    return surplus


def _case_files(out: Path, domain: str, number: int) -> tuple[Path, Path, Path]:
    """Return image, label and sidecar of a case."""
    stem = out / domain / f"Case{number:02d}"
    return Path(f"{stem}.nii.gz"), Path(f"{stem}_segmentation.nii.gz"), Path(f"{stem}.json")


def _hashes(files: tuple[Path, Path, Path]) -> list[str]:
    return [sha256_file(path) for path in files[:2] if path.exists()]


def case_geometry(case: Case) -> Geometry:
    """Return where the voxels of a case lie: stored as LPS, the way most scanners' axial series arrive."""
    z, y, x = case.spacing
    slices, rows, columns = case.image.shape
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = [x * (columns - 1) / 2, y * (rows - 1) / 2, -z * (slices - 1) / 2]
    return Geometry((columns, rows, slices), affine)


def _write_case(out: Path, domain: str, number: int, site: Site, recipe: dict[str, Any]) -> None:
    task = recipe["task"]
    place = (list(TASKS).index(task), list(TASKS[task]).index(domain), number)
    case = make_case(site, np.random.default_rng(np.random.SeedSequence(recipe["seed"], spawn_key=place)))
    image, label, sidecar = _case_files(out, domain, number)
    geometry = case_geometry(case)
    sidecar.unlink(missing_ok=True)  # from here on the case is not whole until it is written last
    write_volume(image, from_slices(case.image, geometry), geometry.affine)
    write_mask(label, case.label, geometry)
    record = {
        "recipe": recipe,
        "patient": asdict(case.patient),
        "scanner": asdict(case.scanner),
        "sha256": [sha256_file(image), sha256_file(label)],
    }
    write_json(sidecar, record)
