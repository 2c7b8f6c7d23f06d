"""``python -m desam_lite.study.workflow.jobs FOLDER KIND KEY``: do one job of a plan and record how it ended.

Snakemake starts jobs so; on one machine `desam_lite.study.workflow.local` calls `execute_job` in processes that have imported
everything already.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from desam_lite.study.plans import NO_RETRY
from desam_lite.study.workflow.plan import Plan, read_plan
from desam_lite.study.workflow.records import (
    BEAT,
    PARTS,
    StudyJob,
    entry_of,
    list_needs,
    record_failure,
    resources_of,
    stamp_file,
    stamp_folder,
    stamp_run,
    status_of,
    write_mark,
    write_record,
)
from desam_lite.utils.errors import StudyError


def execute_job(folder: Path, job: StudyJob) -> None:
    """Do a job and write its record; whatever goes wrong is recorded as its failure, and the other jobs go on.

    Args:
        folder: Of the plan.
        job: What to do.
    """
    plan = read_plan(folder)
    os.chdir(plan["root"])
    start = time.time()
    with _marked(folder, job):
        try:
            _require_data(plan, folder, job)
            content = _ACTIONS[job.kind](plan, folder, job)
        except Exception as error:
            foreseen = isinstance(error, StudyError)
            reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
            print(
                f"desam-lite: {reason}" if foreseen else traceback.format_exc(), file=sys.stderr, flush=True
            )
            record_failure(folder, job, reason)
        else:
            content |= {"seconds": time.time() - start, "work": entry_of(plan, job).get("work", job.kind)}
            write_record(folder, job, "ok", **content)


@contextlib.contextmanager
def _marked(folder: Path, job: StudyJob) -> Iterator[None]:
    """Hold the job's mark and touch it, so that others see that the job runs."""
    mark, ended = write_mark(folder, job), threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(mark)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        mark.unlink(missing_ok=True)


def _require_data(plan: Plan, folder: Path, job: StudyJob) -> None:
    """Refuse a job whose data are at fault: their own record says why."""
    for need in list_needs(plan, job):
        if need.kind == "data" and status_of(folder, need) != "ok":
            raise StudyError(f"left out, for the {entry_of(plan, need)['title']} are not ready.")


def _prepare_data(plan: Plan, folder: Path, job: StudyJob) -> dict[str, Any]:
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
    stamp = stamp_folder(root)  # before they are read: what changes meanwhile is seen the next time
    task = open_task(data["manifest"], root, plan["workspace"])
    return {"stamp": stamp, "data_hash": task.data_hash}


def _compute_embeddings(plan: Plan, folder: Path, job: StudyJob) -> dict[str, Any]:
    """Compute the embeddings of a task, if any run that is not finished needs them."""
    import torch

    from desam_lite.methods.frozen_encoder import open_embeddings
    from desam_lite.study.run import find_run

    store = plan["embeddings"][job.key]
    spec = _read_spec(store["spec"])
    task = _open_task_of(plan, spec)
    specs = [_read_spec(plan["runs"][key]["spec"]) for key in store["runs"]]
    needed = not all(find_run(each, task, plan["workspace"]).finished for each in specs)
    if needed:
        torch.set_num_threads(min(store["resources"]["cpus"], os.cpu_count() or 1))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        open_embeddings(spec, task.slices, Path(plan["workspace"]), device)
    return {"needed": needed}


def _do_run(plan: Plan, folder: Path, job: StudyJob) -> dict[str, Any]:
    import torch

    from desam_lite.study.plans import FAILED
    from desam_lite.study.run import execute_run, find_run

    spec = _read_spec(plan["runs"][job.key]["spec"])
    run = find_run(spec, _open_task_of(plan, spec), plan["workspace"])
    write_mark(folder, job, directory=str(run.directory))
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    run = execute_run(spec, plan["workspace"])
    (run.directory / FAILED).unlink(missing_ok=True)
    return {"directory": str(run.directory), "stamp": stamp_run(run.directory)}


def _make_page(plan: Plan, folder: Path, job: StudyJob) -> dict[str, Any]:
    from desam_lite.study.workflow.notebooks import execute_notebook

    page = plan["pages"][job.key]
    os.environ[NO_RETRY] = "1"
    out = execute_notebook(page["source"], page["page"], page["parameters"])
    return {"key": page["key"], "stamp": stamp_file(out)}


def _build_book(plan: Plan, folder: Path, job: StudyJob) -> dict[str, Any]:
    from desam_lite.study.workflow.notebooks import check_executed

    faults = check_executed("book/executed", sorted(Path("notebooks").glob("*.ipynb")))
    if faults:
        raise StudyError("\n".join([f"{len(faults)} page(s) are not fit for the book:", *faults]))
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--path-output", "."]
    # Anew each time: what Sphinx remembers of a page that has moved a label makes it see that label twice.
    done = subprocess.run([*command, "--all", "-W", "-n", "--keep-going", "--quiet"], check=False)
    if done.returncode:
        raise StudyError("jupyter-book reports faults: see the log.")
    index = Path("_build/html/index.html")
    if not index.is_file():
        raise StudyError(f"the book was not written: there is no {index}; see {folder}/logs.")
    return {"index": str(index.resolve())}


def _read_spec(fields: dict[str, Any]) -> Any:
    from desam_lite.methods.run_spec import make_spec

    return make_spec(**fields)


def _open_task_of(plan: Plan, spec: Any) -> Any:
    from desam_lite.data.tasks import open_task

    return open_task(spec.manifest, spec.data_root, plan["workspace"], progress=False)


_ACTIONS: dict[str, Callable[[Plan, Path, StudyJob], dict[str, Any]]] = {
    "data": _prepare_data,
    "embeddings": _compute_embeddings,
    "run": _do_run,
    "page": _make_page,
    "book": _build_book,
}


def _main() -> None:
    """Read the command line and do the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the plan's folder")
    parser.add_argument("kind", choices=PARTS)
    parser.add_argument("key")
    arguments = parser.parse_args()
    folder, job = arguments.folder.resolve(), StudyJob(arguments.kind, arguments.key)
    os.environ.setdefault("OMP_NUM_THREADS", str(resources_of(read_plan(folder), job)["cpus"]))
    execute_job(folder, job)


if __name__ == "__main__":
    _main()
