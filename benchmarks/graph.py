"""The study's jobs against a plain loop over the same runs, the time when nothing is to do, and what a job costs.

    python benchmarks/graph.py              # some minutes; --quick: half a minute

The study is the smoke profile's on a tiny synthetic task, so that what is measured is the engine and not the training.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Options, read_options, write_result

from desam_lite.study.workflow.records import stamp_file, stamp_folder, stamp_run, write_record
from desam_lite.utils.files import write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
NOTE = (
    "seconds: wall clock of whole commands. loop: one process that does the same runs one after the other, imports included. "
    "nothing_to_do: a plan whose runs and page are all recorded as done. job: a "
    "page without a notebook, which fails at once: what a process and its records cost."
)


def main() -> None:
    options = read_options(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _graph_and_loop(Path(folder), options),
            _nothing_to_do(Path(folder), options),
            _job_cost(options),
        ]
    write_result("graph", options, rows, note=NOTE)


def _graph_and_loop(folder: Path, options: Options) -> dict[str, Any]:
    """Do a small study cold by the graph and by a loop, and by the graph once more."""
    from small_study import write_study

    study = folder / "study"
    study.mkdir()
    write_study(study)
    methods = "prior" if options.quick else "prior,unet,desam_b,desam_p"
    words = ["--profile", "smoke", "-p", "sources=[A]", "-p", f"methods=[{methods}]", "-p", "jobs=1"]
    loop = _seconds(study, [sys.executable, "-c", LOOP, methods])
    cold = _seconds(study, _reproduce(*words))
    cached = _seconds(study, _reproduce(*words))
    record = json.loads(next((study / "results/graph/records").glob("page-*.json")).read_text())
    done = {"case": "cold and cached", "runs": len(methods.split(",")), "seconds_loop": loop}
    return done | {
        "seconds_graph": cold,
        "seconds_of_which_page": record["seconds"],
        "seconds_cached": cached,
    }


LOOP = """
import sys
from desam_lite.study.parallel import execute_runs
from desam_lite.study.plans import plan_experiment
from desam_lite.study.profiles import get_profile
wanted = {"sources": ["A"], "methods": sys.argv[1].split(",")}
specs = plan_experiment("domain_splits", get_profile("smoke"), "tiny.yaml", "data", **wanted)
assert all(run.finished for run in execute_runs(specs, "loop", jobs=1, progress=False))
"""


def _nothing_to_do(folder: Path, options: Options) -> dict[str, Any]:
    """Ask for a study whose runs are all done: records and run directories as the graph leaves them."""
    from small_study import write_study

    from desam_lite.study.workflow.plan import StudyOptions, make_plan

    study, count = folder / "finished", 20 if options.quick else 500
    study.mkdir()
    write_study(study)
    before = Path.cwd()
    os.chdir(study)
    try:
        seeds = list(range(count))
        parameters = {"methods": ["unet"], "sources": ["A"], "seeds": seeds}
        notebook = json.loads(Path("notebooks/domain_splits.ipynb").read_text())
        notebook["cells"][0]["source"] += "seeds: list[int] = []\n"
        Path("notebooks/domain_splits.ipynb").write_text(json.dumps(notebook))
        plan = make_plan(StudyOptions("smoke", parameters=parameters, book=False, pages=Path("pages")))
        graph = Path("results/graph").resolve()
        for job, entry in plan["jobs"].items():
            content: dict[str, Any] = {}
            if entry["kind"] == "data":
                content = {"stamp": stamp_folder(Path("data"))}
            elif entry["kind"] == "run":
                directory = _finished_run(Path("results/runs").resolve() / job, entry["spec"])
                content = {"directory": str(directory), "stamp": stamp_run(directory)}
            elif entry["kind"] == "page":
                Path("pages").mkdir()
                Path(entry["page"]).write_text("page")
                content = {"key": entry["key"], "stamp": stamp_file(Path(entry["page"]))}
            write_record(graph, job, "ok", **content)
    finally:
        os.chdir(before)
    words = [
        "--profile",
        "smoke",
        *(w for k, v in parameters.items() for w in ("-p", f"{k}={json.dumps(v)}")),
    ]
    return {
        "case": "nothing to do",
        "runs": count,
        "seconds": _seconds(study, _reproduce(*words)),
    }


def _finished_run(directory: Path, settings: dict[str, Any]) -> Path:
    directory.mkdir(parents=True)
    for name in ("metrics.csv", "split.csv", "history.csv", "done"):
        (directory / name).write_text("a,b\n1,2\n")
    write_json(directory / "run.json", {"minutes": {"training": 1.0}, "identity": {"settings": settings}})
    (directory / "model.safetensors").write_bytes(b"x" * 1000)
    (directory / "predictions").mkdir()
    for case in range(8):
        (directory / "predictions" / f"case{case}.nii.gz").write_bytes(b"x" * 100)
    return directory


def _job_cost(options: Options) -> dict[str, Any]:
    """Measure what a job costs beside its own work: the start of its process, its mark, record and log."""
    few, many = (1, 5) if options.quick else (1, 21)
    seconds = {}
    for count in (few, many):
        with tempfile.TemporaryDirectory() as place:
            page = {
                "kind": "page",
                "title": "none",
                "source": "none.ipynb",
                "page": "p.ipynb",
                "parameters": {},
            }
            page |= {"needs": [], "priority": 12, "cpus": 1, "gpu": 0}
            plan = {"root": place, "jobs": {f"page-{number}": page for number in range(count)}}
            write_json(Path(place) / "plan.json", plan)
            seconds[count] = _seconds(ROOT, [sys.executable, "-c", JOBS, place])
    return {"case": "job", "seconds": (seconds[many] - seconds[few]) / (many - few)}


JOBS = """
import sys
from pathlib import Path
from desam_lite.study.workflow.local import do_jobs
from desam_lite.study.workflow.plan import read_plan
if __name__ == "__main__":
    do_jobs(read_plan(sys.argv[1]), Path(sys.argv[1]), 1, gpu=False)
"""


def _reproduce(*words: str) -> list[str]:
    return [sys.executable, "-m", "desam_lite.cli.main", "reproduce", "--no-book", "--pages", "pages", *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _seconds(folder: Path, command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
