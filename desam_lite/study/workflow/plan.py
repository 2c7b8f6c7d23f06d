"""The whole study as a plan: which data, embeddings, runs and pages are to be made, and what each needs.

Which runs there are is asked of `desam_lite.study.plans`, with each notebook's own parameters: a notebook in the folder is in
the plan. `desam_lite.study.workflow.local` or `workflow/Snakefile` does it, job by job.

An entry of the plan's ``jobs`` has a ``kind`` (data, embeddings, run, page, book), a ``title``, the jobs it ``needs``, the
``priority`` with which it starts where several could, ``cpus`` and ``gpu``, and what its kind takes.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desam_lite.data.manifest import Manifest, find_manifest, load_manifest
from desam_lite.methods.run_spec import RUN_VERSION, RunSpec
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.study.plans import EXPERIMENTS, kept_folder, plan_experiment, study_root
from desam_lite.study.profiles import get_profile
from desam_lite.study.workflow.imports import PACKAGE, code_hash
from desam_lite.study.workflow.notebooks import read_parameters
from desam_lite.study.workflow.records import Plan
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest, sha256_file, write_json

if TYPE_CHECKING:
    from desam_lite.study.kept import KeptStudy

Declared = Mapping[str, tuple[str, Any]]
"""What a notebook can be given: parameter -> (type, default)."""
FALLBACK = "teach"
"""The profile of the notebooks that stay synthetic where the one asked for is meant for real data."""
IN_PAGE = {"click_lesson", "five_minutes", "own_hospital", "own_method", "prim_and_pdmm", "unet_from_scratch"}
"""Notebooks that train while they run, so that nothing of them can be kept: in the book of the study they are in `FALLBACK`."""
PRIORITIES = {"data": 30, "embeddings": 20, "early": 15, "page": 12, "run": 10, "book": 0}
"""Kind of job to priority; early are runs through the encoder, which take longest, and pages without runs, which may train."""
_GIB = 1024


@dataclass(frozen=True)
class StudyOptions:
    """What the user asked for; empty where they chose nothing.

    Attributes:
        profile: Amount of work.
        manifests: Tasks, by name or path, each for the notebooks that are meant for it (`choose_parameters`).
        data: Folders with their scans, in the same order; a single one without a manifest is that of the main task.
        weights: File with the frozen encoder's weights.
        parameters: Further parameters, for the notebooks that have them.
        experiments: Names of notebooks; all of them when empty.
        workspace: Folder for results and caches.
        notebooks: Folder with the notebooks.
        pages: Folder for the executed copies.
        book: Whether to build the book from them.
    """

    profile: str = "teach"
    manifests: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    weights: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()
    workspace: Path = Path("results")
    notebooks: Path = Path("notebooks")
    pages: Path = Path("book/executed")
    book: bool = True


def graph_folder(workspace: Path | str) -> Path:
    """Return the folder with the plan, its records and its logs."""
    return Path(workspace).resolve() / "graph"


def make_plan(options: StudyOptions) -> Plan:
    """Plan the study; nothing is computed and no data are read.

    Raises:
        StudyError: A notebook, manifest, parameter or setting is at fault.
    """
    _read_manifest.cache_clear()
    sources = _choose_notebooks(options)
    declared = {name: read_parameters(path) for name, path in sources.items()}
    kept = _find_kept(options.workspace)
    plan: Plan = {"jobs": {}, "root": str(Path.cwd()), "workspace": str(options.workspace.resolve())}
    for name, given in choose_parameters(options, declared).items():
        page = {"source": str(sources[name]), "page": str(options.pages / sources[name].name)}
        defaults = {key: default for key, (_, default) in declared[name].items()}
        _add_page(plan, kept, name, page | {"parameters": given}, defaults | given)
    if options.book:
        pages = [job for job, entry in plan["jobs"].items() if entry["kind"] == "page"]
        _add_job(plan, "book", "book", title="the book", needs=pages, sources=_book_sources(options.pages))
    return plan


def write_plan(plan: Plan, workspace: Path | str) -> Path:
    """Write a plan where the graph reads it; return its path."""
    path = graph_folder(workspace) / "plan.json"
    write_json(path, plan)
    return path


def read_plan(folder: Path | str) -> Plan:
    """Read the plan in a graph's folder.

    Raises:
        StudyError: There is none.
    """
    path = Path(folder) / "plan.json"
    if not path.is_file():
        raise StudyError(f"there is no plan {path}: 'desam-lite reproduce' makes one.")
    plan: Plan = json.loads(path.read_text(encoding="utf-8"))
    return plan


def choose_parameters(options: StudyOptions, declared: Mapping[str, Declared]) -> dict[str, dict[str, Any]]:
    """Say which parameters each notebook is given.

    A notebook is given only what it has. A manifest goes to the notebooks whose own task has the same organs. One whose organs
    no notebook's task has is a task of the user's own, and goes to the notebooks on the study's main task (the one most
    notebooks are on). The other notebooks keep their own synthetic task; they keep to the profile `FALLBACK` too where the
    profile asked for is meant for real data. Data without a manifest are those of the main task.

    Args:
        options: What the user asked for.
        declared: Notebook -> parameter -> (type, default).

    Raises:
        StudyError: A parameter is one of no notebook, or there are more data folders than manifests.
    """
    own = {name: str(has["manifest"][1]) for name, has in declared.items() if has.get("manifest")}
    own = {name: manifest for name, manifest in own.items() if manifest}
    places = _match_tasks(options, own)
    names = sorted({key for has in declared.values() for key in has})
    for key in options.parameters:
        if key not in names or key in ("manifest", "data_root", "profile"):
            raise StudyError(
                f"no notebook takes '{key}' as -p: choose from {', '.join(names)}; "
                "--profile, --manifest and --data set theirs."
            )
    return {
        name: _choose_for_notebook(options, name, has, places.get(name)) for name, has in declared.items()
    }


def _choose_for_notebook(
    options: StudyOptions, name: str, declared: Declared, place: tuple[str, str] | None
) -> dict[str, Any]:
    meant = place is not None or not options.manifests or not get_profile(options.profile).needs_weights
    manifest, data = place or ("", "")
    profile = FALLBACK if not meant or (options.profile == "study" and name in IN_PAGE) else options.profile
    values = {"manifest": manifest, "data_root": data, "weights": options.weights if meant else ""}
    values |= {"workspace": str(options.workspace), **options.parameters}
    chosen = {
        key: value for key, value in values.items() if key in declared and value not in ("", declared[key][1])
    }
    return chosen | ({"profile": profile} if "profile" in declared else {})


def _match_tasks(options: StudyOptions, own: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return notebook -> (manifest, data folder) for those that get one of the user's."""
    main = Counter(own.values()).most_common(1)[0][0] if own else ""
    manifests = options.manifests or (("",) if options.data else ())
    if len(options.data) > len(manifests):
        raise StudyError(
            f"{len(options.data)} data folders for {len(manifests)} manifests: name a manifest for each."
        )
    places: dict[str, tuple[str, str]] = {}
    for number, manifest in enumerate(manifests):
        data = options.data[number] if number < len(options.data) else ""
        path = str(find_manifest(manifest)) if "/" in manifest or manifest.endswith(".yaml") else manifest
        same = [name for name in own if manifest and _organs(own[name]) == _organs(manifest)]
        places |= dict.fromkeys(same or [name for name in own if own[name] == main], (path, data))
    return places


def _organs(manifest: str) -> set[str]:
    return {organ.name for organ in _read_manifest(manifest).organs}


@cache
def _read_manifest(manifest: str) -> Manifest:
    """Read a manifest once per plan, not once per run."""
    return load_manifest(manifest)


def _choose_notebooks(options: StudyOptions) -> dict[str, Path]:
    paths = {path.stem: path for path in sorted(Path(options.notebooks).glob("*.ipynb"))}
    if not paths:
        raise StudyError(f"there is no notebook in {options.notebooks}: start in the root of the repository.")
    for name in options.experiments:
        if name not in paths:
            raise StudyError(f"there is no experiment '{name}': choose from {', '.join(paths)}.")
    return {name: paths[name] for name in paths if name in (options.experiments or paths)}


def _add_job(plan: Plan, job: str, kind: str, **entry: Any) -> dict[str, Any]:
    """Return the entry of a job, adding it where there is none."""
    usual = {"kind": kind, "needs": [], "priority": PRIORITIES[kind], "cpus": 1, "gpu": 0, "mem_mb": 4 * _GIB}
    added: dict[str, Any] = plan["jobs"].setdefault(job, usual | {"runtime": 240} | entry)
    return added


def _find_kept(workspace: Path) -> "KeptStudy | None":
    """Return the kept study of the workspace; what reads it takes seconds to import, so a workspace without is asked first."""
    if not kept_folder(workspace).is_dir():
        return None
    from desam_lite.study.kept import find_kept

    return find_kept(workspace)


def _kept_name(kept: "KeptStudy | None", spec: RunSpec, profile: str) -> str:
    """Return the name of a run if it is kept, else ""; the name of real data is known only where they are."""
    task = _read_manifest(str(spec.manifest))
    if kept is None or not task.synthetic:
        return ""
    from desam_lite.study.run import identify
    from desam_lite.synthetic.phantoms import planned_hash

    data = planned_hash(task.name, get_profile(profile).cases, tuple(task.domains))
    name = digest(identify(spec, task, data))
    return name if name in kept else ""


def _add_page(
    plan: Plan, kept: "KeptStudy | None", name: str, page: dict[str, Any], values: Mapping[str, Any]
) -> None:
    """Add a page and what it needs, but for the runs that are kept; ``values`` are all its parameters."""
    needs, taken = [], []
    if name in EXPERIMENTS:  # on the task of the notebook, or on a synthetic one where it needs that
        profile = get_profile(values["profile"])
        chosen = {key: values[key] for key in ("sources", "methods", "seeds", "weights") if key in values}
        specs = plan_experiment(name, profile, values["manifest"], values.get("data_root", ""), **chosen)
        names = {spec: _kept_name(kept, spec, values["profile"]) for spec in specs}
        taken = [[run, kept.info(run)["finished"]] for run in names.values() if kept and run]
        places = {(str(spec.manifest), str(spec.data_root)) for spec in specs}
        needs = [_add_data(plan, *place, values["profile"]) for place in sorted(places)]
        needs += [_add_run(plan, spec, values["profile"]) for spec in specs if not names[spec]]
    elif values.get("manifest") and "profile" in values:  # a notebook without one makes its data itself
        needs = [_add_data(plan, values["manifest"], values.get("data_root", ""), values["profile"])]
    source = Path(page["source"])
    key = digest(
        [sha256_file(source), page["parameters"], page["page"], code_hash(source), sorted(needs), *taken]
    )
    priority = PRIORITIES["page" if name in EXPERIMENTS else "early"]
    page |= {"title": f"page {name}", "needs": needs, "kept": len(taken), "key": key, "priority": priority}
    _add_job(plan, f"page-{name}", "page", **page)


def _add_data(plan: Plan, manifest: str, data_root: str, profile_name: str) -> str:
    profile, task = get_profile(profile_name), _read_manifest(manifest)
    root = study_root(manifest, data_root, profile)
    job = f"data-{digest([task.content_hash(), str(root.resolve())])}"
    cases = profile.cases if task.synthetic else None
    title = f"data of {task.name}"
    _add_job(plan, job, "data", title=title, manifest=manifest, root=str(root), cases=cases)
    return job


def _add_run(plan: Plan, spec: RunSpec, profile: str) -> str:
    """Add a run, its data, and the embeddings it reads."""
    data = _add_data(plan, str(spec.manifest), str(spec.data_root), profile)
    weights, task = _weights_stamp(spec.weights), _read_manifest(str(spec.manifest))
    fields, resources, needs = spec.model_dump(mode="json"), run_resources(spec, profile), [data]
    if spec.embedding_format is not None:
        store = f"embeddings-{digest([data, spec.backbone, weights, spec.embedding_format])}"
        title = f"embeddings of {task.name} by {spec.backbone} ({spec.weights})"
        # The small encoder takes a single processor: another job may go on meanwhile.
        amounts = resources | ({"cpus": 8} if resources["cpus"] > 1 else {})
        _add_job(plan, store, "embeddings", title=title, needs=[data], spec=fields, **amounts)
        needs.append(store)
    encodes = bool(spec.backbone) and spec.embedding_format is None
    parts = [RUN_VERSION, spec.settings(), task.content_hash(), data, weights]
    job, title = f"run-{digest(parts)}", f"{spec.label} from {spec.source}, seed {spec.seed}"
    priority = PRIORITIES["early" if encodes else "run"]
    _add_job(plan, job, "run", title=title, needs=needs, spec=fields, priority=priority, **resources)
    return job


def _weights_stamp(weights: str | None) -> list[Any]:
    """Return what tells that a weights file has changed, without reading it."""
    path = Path(weights or "")
    if weights in (None, "", SHIPPED_WEIGHTS) or not path.is_file():
        return [weights]
    return [weights, path.stat().st_size, path.stat().st_mtime_ns]


def run_resources(spec: RunSpec, profile: str) -> dict[str, int]:
    """Return what a run asks of a cluster: memory in MiB, minutes, processors, GPUs.

    Upper bounds, for a scheduler to plan with. On the profile for real data a method that trains gets a GPU, and memory by
    the size of its encoder; the small encoder and the small U-Net take one processor and stay below 3 GiB.
    """
    if not get_profile(profile).needs_weights:
        return {"mem_mb": 3 * _GIB, "runtime": 120, "cpus": 1, "gpu": 0}
    large = {"vit_h": 32, "vit_l": 24, "vit_b": 16, "medsam": 16}.get(spec.backbone or "", 12)
    trained = spec.method != "prior"
    return {"mem_mb": large * _GIB, "runtime": 720 if trained else 60, "cpus": 4, "gpu": int(trained)}


def _book_sources(pages: Path) -> list[str]:
    """Return the files of the book besides its executed pages: its own, and the code that its reference is made of."""
    files = [Path("_config.yml"), Path("_toc.yml"), *Path("book").rglob("*"), *PACKAGE.rglob("*.py")]
    made, left_out = pages.resolve(), "__pycache__"
    paths = {path.resolve() for path in files if path.is_file() and left_out not in path.parts}
    return sorted(str(path) for path in paths if made not in path.parents)
