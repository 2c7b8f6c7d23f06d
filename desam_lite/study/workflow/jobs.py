"""``python -m desam_lite.study.workflow.jobs FOLDER JOB``: do one job of a plan and record how it ended.

Snakemake starts jobs so; on one machine `desam_lite.study.workflow.local` calls `execute_job` in processes that have imported
everything already.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from desam_lite.study.plans import FAILED, NO_RETRY
from desam_lite.study.workflow import records
from desam_lite.study.workflow.plan import read_plan
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec


def execute_job(folder: Path, job: str) -> None:
    """Do a job and write its record; whatever goes wrong is recorded as its failure, and the other jobs go on.

    Args:
        folder: Of the plan.
        job: Its name in the plan.
    """
    plan = read_plan(folder)
    os.chdir(plan["root"])
    start = time.time()
    with _marked(folder, job):
        try:
            _require_data(plan, folder, job)
            content = _ACTIONS[plan["jobs"][job]["kind"]](plan, folder, job)
        except Exception as error:
            foreseen = isinstance(error, StudyError)
            reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
            print(
                f"desam-lite: {reason}" if foreseen else traceback.format_exc(), file=sys.stderr, flush=True
            )
            records.record_failure(folder, job, reason)
        else:
            records.write_record(folder, job, "ok", seconds=time.time() - start, **content)


@contextlib.contextmanager
def _marked(folder: Path, job: str) -> Iterator[None]:
    """Hold the job's mark and touch it, so that others see that the job runs."""
    mark, ended = records.write_mark(folder, job), threading.Event()

    def beat() -> None:
        while not ended.wait(records.BEAT):
            with contextlib.suppress(OSError):
                os.utime(mark)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        mark.unlink(missing_ok=True)


def _require_data(plan: records.Plan, folder: Path, job: str) -> None:
    """Refuse a job whose data are at fault: their own record says why."""
    for need in plan["jobs"][job]["needs"]:
        entry = plan["jobs"][need]
        if entry["kind"] == "data" and records.status_of(folder, need) != "ok":
            raise StudyError(f"left out, because the {entry['title']} are not ready.")


def _prepare_data(plan: records.Plan, folder: Path, job: str) -> records.Record:
    """Make synthetic data that are not there; check every case, prepare the slices."""
    from desam_lite.data.manifest import load_manifest
    from desam_lite.data.tasks import open_task
    from desam_lite.synthetic.phantoms import make_task

    entry = plan["jobs"][job]
    root, manifest = Path(entry["root"]), load_manifest(entry["manifest"])
    if entry["cases"] is not None:
        make_task(manifest.name, root, cases=entry["cases"])
    elif not root.is_dir():
        raise StudyError(
            f"there are no data at {root}: name their folder. How to get them: {manifest.obtain}"
        )
    stamp = records.stamp_folder(root)  # before they are read: what changes meanwhile is seen the next time
    open_task(entry["manifest"], root, plan["workspace"])
    return {"stamp": stamp}


def _compute_embeddings(plan: records.Plan, folder: Path, job: str) -> records.Record:
    """Compute the embeddings of a task, if any run that is not finished needs them."""
    import torch

    from desam_lite.methods.frozen_encoder import open_embeddings
    from desam_lite.study.run import find_run

    spec = _read_spec(plan, job)
    task = _open_task_of(plan, spec)
    waiting = [run for run, entry in plan["jobs"].items() if job in entry["needs"] and entry["kind"] == "run"]
    runs = [find_run(_read_spec(plan, run), task, plan["workspace"]) for run in waiting]
    needed = not all(run.finished for run in runs)
    if needed:
        torch.set_num_threads(min(plan["jobs"][job]["cpus"], os.cpu_count() or 1))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        open_embeddings(spec, task.slices, Path(plan["workspace"]), device)
    return {"needed": needed}


def _do_run(plan: records.Plan, folder: Path, job: str) -> records.Record:
    import torch

    from desam_lite.study.run import execute_run, find_run

    spec = _read_spec(plan, job)
    directory = find_run(spec, _open_task_of(plan, spec), plan["workspace"]).directory
    records.write_mark(folder, job, directory=str(directory))
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    execute_run(spec, plan["workspace"])
    (directory / FAILED).unlink(missing_ok=True)
    return {"directory": str(directory), "stamp": records.stamp_run(directory)}


def _make_page(plan: records.Plan, folder: Path, job: str) -> records.Record:
    from desam_lite.study.workflow.notebooks import execute_notebook

    page = plan["jobs"][job]
    os.environ[NO_RETRY] = "1"
    out = execute_notebook(page["source"], page["page"], page["parameters"])
    return {"key": page["key"], "stamp": records.stamp_file(out)}


def _build_book(plan: records.Plan, folder: Path, job: str) -> records.Record:
    from desam_lite.study.workflow.notebooks import check_executed

    faults = check_executed("book/executed", sorted(Path("notebooks").glob("*.ipynb")))
    if faults:
        raise StudyError("\n".join([f"{len(faults)} page(s) are not fit for the book:", *faults]))
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--path-output", "."]
    # Anew each time: what Sphinx remembers of a page that has moved a label makes it see that label twice.
    done = subprocess.run([*command, "--all", "-W", "-n", "--keep-going", "--quiet"], check=False)
    index = Path("_build/html/index.html")
    if done.returncode or not index.is_file():
        raise StudyError(f"jupyter-book reports faults: see {records.log_path(folder, job)}.")
    return {"index": str(index.resolve())}


def _read_spec(plan: records.Plan, job: str) -> "RunSpec":
    from desam_lite.methods.run_spec import make_spec

    return make_spec(**plan["jobs"][job]["spec"])


def _open_task_of(plan: records.Plan, spec: "RunSpec") -> "Task":
    from desam_lite.data.tasks import open_task

    return open_task(spec.manifest, spec.data_root, plan["workspace"], progress=False)


_ACTIONS = {
    "data": _prepare_data,
    "embeddings": _compute_embeddings,
    "run": _do_run,
    "page": _make_page,
    "book": _build_book,
}


if __name__ == "__main__":
    _folder, _job = Path(sys.argv[1]).resolve(), sys.argv[2]
    os.environ.setdefault("OMP_NUM_THREADS", str(read_plan(_folder)["jobs"][_job]["cpus"]))
    execute_job(_folder, _job)
