"""The whole study as a plan: which data, embeddings, runs and pages there are, and what each waits for.

`workflow/Snakefile` reads the plan and says in which order it is done; `desam_lite.study.workflow.jobs` does one job of it.
Which runs there are is asked of `desam_lite.study.plans`, with each notebook's own parameters: a notebook in the folder is in
the graph.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from desam_lite.data.manifest import Manifest, find_manifest, load_manifest
from desam_lite.methods.run_spec import RUN_VERSION, RunSpec
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.study.plans import EXPERIMENTS, plan_experiment, study_root
from desam_lite.study.profiles import get_profile
from desam_lite.study.workflow.imports import code_hash
from desam_lite.study.workflow.records import StudyJob, entry_of
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest, sha256_file, write_json

Plan = dict[str, Any]
"""``data``, ``embeddings``, ``runs`` and ``pages``, each name -> what there is to do; and ``book``, whether to build it."""
FALLBACK = "teach"
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
    _manifest.cache_clear()
    sources = _choose_notebooks(options)
    declared = _read_declared(sources, graph_folder(options.workspace))
    chosen = choose_parameters(options, declared)
    plan: Plan = {"data": {}, "embeddings": {}, "runs": {}, "pages": {}, "root": str(Path.cwd())}
    plan |= {"workspace": str(Path(options.workspace).resolve()), "book": options.book}
    plan["book_sources"] = _book_sources(options.pages) if options.book else []
    for name, path in sources.items():
        _add_page(plan, name, path, options.pages, chosen[name], declared[name])
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


def choose_parameters(
    options: StudyOptions, declared: Mapping[str, Mapping[str, tuple[str, Any]]]
) -> dict[str, dict[str, Any]]:
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
    own = {
        name: str(has["manifest"][1]) for name, has in declared.items() if has.get("manifest", ("", ""))[1]
    }
    places = _match_tasks(options, own)
    unused = [
        key
        for key in options.parameters
        if not any(key in has for has in declared.values()) or key in ("manifest", "data_root", "profile")
    ]
    if unused:
        known = ", ".join(sorted({key for has in declared.values() for key in has}))
        raise StudyError(
            f"no notebook takes '{unused[0]}' as -p: choose from {known}; --profile, --manifest and --data set theirs."
        )
    return {name: _for_notebook(options, has, places.get(name)) for name, has in declared.items()}


def _for_notebook(
    options: StudyOptions, has: Mapping[str, tuple[str, Any]], place: tuple[str, str] | None
) -> dict[str, Any]:
    at_hand = place is not None or not options.manifests or not get_profile(options.profile).needs_weights
    manifest, data = place or ("", "")
    given = {"profile": options.profile if at_hand else FALLBACK, "manifest": manifest, "data_root": data}
    given["weights"] = options.weights if at_hand else ""
    given["workspace"] = str(options.workspace)
    given |= options.parameters
    return {
        key: value for key, value in given.items() if key in has and value != has[key][1] and value != ""
    } | ({"profile": given["profile"]} if "profile" in has else {})


def _match_tasks(options: StudyOptions, own: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return notebook -> (manifest, data folder) for those that get one of the user's."""
    main = Counter(own.values()).most_common(1)[0][0] if own else ""
    manifests = options.manifests or (("",) if options.data else ())
    if len(options.data) > len(manifests):
        raise StudyError(
            f"{len(options.data)} data folders for {len(manifests)} manifests: name a manifest for each."
        )
    organs = {name: _organs(manifest) for name, manifest in own.items()}
    found: dict[str, tuple[str, str]] = {}
    for number, manifest in enumerate(manifests):
        data = options.data[number] if number < len(options.data) else ""
        path = str(find_manifest(manifest)) if "/" in manifest or manifest.endswith(".yaml") else manifest
        same = [name for name in own if organs[name] == _organs(manifest or main)]
        meant = same if same and manifest else [name for name in own if own[name] == main]
        found |= dict.fromkeys(meant, (path, data))
    return found


def _organs(manifest: str) -> frozenset[str]:
    return frozenset(organ.name for organ in _manifest(manifest).organs)


@lru_cache(maxsize=64)
def _manifest(manifest: str) -> Manifest:
    """Read a manifest once per plan, not once per run."""
    return load_manifest(manifest)


def _choose_notebooks(options: StudyOptions) -> dict[str, Path]:
    found = {path.stem: path for path in sorted(Path(options.notebooks).glob("*.ipynb"))}
    if not found:
        raise StudyError(f"there is no notebook in {options.notebooks}: start in the root of the repository.")
    unknown = [name for name in options.experiments if name not in found]
    if unknown:
        raise StudyError(f"there is no experiment '{unknown[0]}': choose from {', '.join(found)}.")
    return {
        name: path for name, path in found.items() if not options.experiments or name in options.experiments
    }


def _read_declared(sources: Mapping[str, Path], folder: Path) -> dict[str, dict[str, tuple[str, Any]]]:
    """Read the parameters of notebooks; what is known of an unchanged one is kept, as its reader takes seconds to import."""
    cache = folder / "parameters.json"
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    now = {name: sha256_file(path) for name, path in sources.items()}
    if any(sha not in known for sha in now.values()):
        from desam_lite.study.workflow.notebooks import read_parameters

        known |= {
            now[name]: read_parameters(path) for name, path in sources.items() if now[name] not in known
        }
        write_json(cache, {sha: known[sha] for sha in known})
    # JSON files are written with sorted keys: the first parameter of a notebook is not the first here, which does no harm.
    return {
        name: {key: (kind, value) for key, (kind, value) in known[sha].items()} for name, sha in now.items()
    }


def _add_page(
    plan: Plan,
    name: str,
    source: Path,
    pages: Path,
    given: Mapping[str, Any],
    declared: Mapping[str, tuple[str, Any]],
) -> None:
    full = {key: default for key, (_, default) in declared.items()} | dict(given)
    page: dict[str, Any] = {
        "source": str(source),
        "page": str(pages / source.name),
        "parameters": dict(given),
    }
    page |= {"data": [], "runs": [], "title": f"page {name}"}
    page["work"] = f"page {name} {given.get('profile', '')}"
    if name in EXPERIMENTS:
        for spec in _specs(
            name, full
        ):  # on the task of the notebook, or on a synthetic one where it needs that
            data = _add_data(plan, {**full, "manifest": str(spec.manifest), "data_root": str(spec.data_root)})
            page["runs"].append(_add_run(plan, spec, data, full, name))
            page["data"] = [data]
    elif full.get("manifest") and "profile" in full:  # a notebook without one makes its data itself
        page["data"] = [_add_data(plan, full)]
    page["key"] = digest(
        [sha256_file(source), page["parameters"], page["page"], code_hash(source), sorted(page["runs"])]
    )
    plan["pages"][name] = page


def _specs(name: str, full: Mapping[str, Any]) -> list[RunSpec]:
    chosen = {key: full[key] for key in ("sources", "methods", "seeds", "weights") if key in full}
    profile = get_profile(str(full["profile"]))
    return plan_experiment(name, profile, full["manifest"], full.get("data_root", ""), **chosen)


def _add_data(plan: Plan, full: Mapping[str, Any]) -> str:
    profile = get_profile(str(full["profile"]))
    root = study_root(full["manifest"], full.get("data_root", ""), profile)
    task = _manifest(full["manifest"])
    key = digest([task.content_hash(), str(root.resolve())])
    cases, title = profile.cases if task.synthetic else None, f"data of {task.name}"
    plan["data"].setdefault(
        key,
        {"manifest": full["manifest"], "root": str(root), "cases": cases, "title": title, "work": key},
    )
    return key


def _add_run(plan: Plan, spec: RunSpec, data: str, full: Mapping[str, Any], experiment: str) -> str:
    fields = spec.model_dump(mode="json")
    weights = _file_stamp(spec.weights)
    key = digest([RUN_VERSION, spec.settings(), _manifest(str(spec.manifest)).content_hash(), data, weights])
    title = f"{spec.label} from {spec.source}, seed {spec.seed}"
    run: dict[str, Any] = {
        "spec": fields,
        "data": data,
        "embeddings": None,
        "title": title,
        "experiments": [],
    }
    run["work"] = f"{spec.label}, {spec.epochs} epochs, {spec.backbone}"
    run |= {"resources": run_resources(spec, str(full["profile"]))}
    run = plan["runs"].setdefault(key, run)
    run["experiments"].append(experiment)
    if spec.embedding_format is not None:
        run["embeddings"] = _add_embeddings(plan, spec, data, weights, key)
    return key


def _add_embeddings(plan: Plan, spec: RunSpec, data: str, weights: Any, run: str) -> str:
    key = digest([data, spec.backbone, weights, spec.embedding_format])
    title = f"embeddings of {_manifest(str(spec.manifest)).name} by {spec.backbone} ({spec.weights})"
    store = plan["embeddings"].setdefault(
        key, {"data": data, "spec": spec.model_dump(mode="json"), "runs": [], "title": title, "work": key}
    )
    asked = plan["runs"][run][
        "resources"
    ]  # one processor: the small encoder, beside which another job may go on
    store["resources"] = asked if asked["cpus"] == 1 else {**asked, "cpus": 8}
    if run not in store["runs"]:
        store["runs"].append(run)
    return key


def _file_stamp(weights: str | None) -> list[Any]:
    """Return what tells that a weights file has changed, without reading it."""
    path = Path(weights or "")
    known = weights in (None, "", SHIPPED_WEIGHTS) or not path.is_file()
    return [weights] if known else [weights, path.stat().st_size, path.stat().st_mtime_ns]


def resources_of(plan: Plan, job: StudyJob) -> dict[str, int]:
    """Return the processors and GPUs that a job takes, and for a run or embeddings what else it asks of a cluster."""
    resources: dict[str, int] = entry_of(plan, job).get("resources", {"cpus": 1, "gpu": 0})
    return resources


def run_resources(spec: RunSpec, profile: str) -> dict[str, int]:
    """Return what a run asks of a cluster: memory in MiB, minutes, processors, GPUs.

    Upper bounds, for a scheduler to plan with. On the profile for real data a method that trains gets a GPU, and memory by
    the size of its encoder; the small encoder and the small U-Net take one processor and stay below 3 GiB.
    """
    if not get_profile(profile).needs_weights:
        return {"mem_mb": 3 * _GIB, "runtime": 120, "cpus": 1, "gpu": 0}
    large = {"vit_h": 32, "vit_l": 24, "vit_b": 16}.get(spec.backbone or "", 12)
    trained = spec.method != "prior"
    return {"mem_mb": large * _GIB, "runtime": 720 if trained else 60, "cpus": 4, "gpu": int(trained)}


def _book_sources(pages: Path) -> list[str]:
    """Return the files of the book besides its executed pages."""
    files = [Path("_config.yml"), Path("_toc.yml"), *Path("book").rglob("*")]
    made = pages.resolve()
    return sorted(
        str(path.resolve())
        for path in files
        if path.is_file() and made not in path.resolve().parents and "__pycache__" not in path.parts
    )
