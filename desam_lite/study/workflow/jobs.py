"""Doing one job of the graph, in a process that has imported what it takes."""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from desam_lite.study.workflow.plan import Plan, read_plan
from desam_lite.study.workflow.records import (
    FAILED,
    NO_RETRY,
    Job,
    begin,
    fail,
    listing,
    page_stamp,
    read_record,
    run_sizes,
    write_record,
)
from desam_lite.utils.errors import StudyError


def do_job(folder: Path, job: Job) -> int:
    """Do a job and write its record; return 0, or 1 where nothing that needs it could go on.

    A run or page that fails is recorded as failed, with its reason, and ends with 0: the others, and the pages that tell of
    it, go on.

    Args:
        folder: Of the graph.
        job: Which one.
    """
    plan = read_plan(folder)
    os.chdir(plan["root"])
    start = time.time()
    try:
        more = _DO[job.kind](plan, folder, job)
    except Exception as error:  # whatever it is, it is this job's own
        known = isinstance(error, StudyError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        print(f"desam-lite: {reason}" if known else traceback.format_exc(), file=sys.stderr, flush=True)
        return fail(folder, job, reason)
    write_record(folder, job, "ok", seconds=time.time() - start, **more)
    return 0


def _data(plan: Plan, folder: Path, job: Job) -> dict[str, Any]:
    """Make synthetic data that are not there; check every case, prepare the slices."""
    from desam_lite.data.manifest import load_manifest
    from desam_lite.data.tasks import open_task
    from desam_lite.synthetic.phantoms import make_task

    data = plan["data"][job.key]
    root, manifest = Path(data["root"]), load_manifest(data["manifest"])
    if data["cases"] is not None:
        make_task(manifest.name, root, cases=data["cases"])
    elif not root.is_dir():
        raise StudyError(
            f"there are no data at {root}: name their folder. How to get them: {manifest.obtain}"
        )
    stamp = listing(root)  # before they are read: what changes meanwhile is seen the next time
    task = open_task(data["manifest"], root, plan["workspace"])
    return {"stamp": stamp, "data_hash": task.data_hash}


def _embeddings(plan: Plan, folder: Path, job: Job) -> dict[str, Any]:
    """Compute the embeddings of a task, if any run that is not finished needs them."""
    import torch

    from desam_lite.methods.frozen_encoder import open_embeddings
    from desam_lite.study.run import find_run

    store = plan["embeddings"][job.key]
    spec = _spec(store["spec"])
    task = _task(plan, spec)
    specs = [_spec(plan["runs"][key]["spec"]) for key in store["runs"]]
    if all(find_run(each, task, plan["workspace"]).finished for each in specs):
        return {"needed": False}
    torch.set_num_threads(int(os.environ.get("DESAM_LITE_THREADS", "1")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    open_embeddings(spec, task.slices, Path(plan["workspace"]), device)
    return {"needed": True}


def _run(plan: Plan, folder: Path, job: Job) -> dict[str, Any]:
    import torch

    from desam_lite.study.run import execute_run, find_run

    spec = _spec(plan["runs"][job.key]["spec"])
    run = find_run(spec, _task(plan, spec), plan["workspace"])
    begin(folder, job, directory=str(run.directory))
    if run.finished and not _readable(run):
        (run.directory / "done").unlink()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    run = execute_run(spec, plan["workspace"])
    (run.directory / FAILED).unlink(missing_ok=True)
    minutes = run.info.get("minutes", {})
    return {"directory": str(run.directory), "bytes": run_sizes(run.directory), "minutes": minutes}


def _readable(run: Any) -> bool:
    try:
        return bool(len(run.metrics())) and bool(run.info)
    except Exception:  # what a damaged table raises has many names
        return False


def _page(plan: Plan, folder: Path, job: Job) -> dict[str, Any]:
    from desam_lite.study.workflow.notebooks import execute_notebook

    page = plan["pages"][job.key]
    os.environ[NO_RETRY] = "1"
    out = execute_notebook(page["source"], page["page"], page["parameters"])
    failed = [
        key for key in page["runs"] if (read_record(folder, Job("run", key)) or {}).get("status") != "ok"
    ]
    return {"key": page["key"], "stamp": page_stamp(out), "without": failed}


def _book(plan: Plan, folder: Path, job: Job) -> dict[str, Any]:
    from desam_lite.study.workflow.notebooks import check_executed

    faults = check_executed("book/executed", sorted(Path("notebooks").glob("*.ipynb")))
    if faults:
        raise StudyError("\n".join([f"{len(faults)} page(s) are not fit for the book:", *faults]))
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--path-output", "."]
    # Anew each time: what Sphinx remembers of a page that has moved a label makes it see that label twice.
    done = subprocess.run([*command, "--all", "-W", "-n", "--keep-going", "--quiet"], check=False)
    if done.returncode:
        raise StudyError("jupyter-book found faults: see the log.")
    index = Path("_build/html/index.html")
    if not index.is_file():
        raise StudyError(f"the book was not written: there is no {index}; see {folder}/logs.")
    return {"index": str(index.resolve())}


def _spec(fields: dict[str, Any]) -> Any:
    from desam_lite.methods.run_spec import make_spec

    return make_spec(**fields)


def _task(plan: Plan, spec: Any) -> Any:
    from desam_lite.data.tasks import open_task

    return open_task(spec.manifest, spec.data_root, plan["workspace"], progress=False)


_DO: dict[str, Callable[[Plan, Path, Job], dict[str, Any]]] = {
    "data": _data,
    "embeddings": _embeddings,
    "run": _run,
    "page": _page,
    "book": _book,
}
