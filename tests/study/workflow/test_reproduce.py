"""The study's graph end to end, on a study of seconds: failures, resuming, and that finished work is left alone."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from small_study import reproduce, write_study

from desam_lite.data.tasks import open_task
from desam_lite.study.plans import plan_experiment
from desam_lite.study.profiles import get_profile
from desam_lite.study.run import find_run, run_lock
from desam_lite.study.workflow.reproduce import reproduce_study

SLOWER = ("--profile", "smoke", "-p", "sources=[A]", "-p", "methods=[unet,desam_b,desam_p]")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose graph was run once, up to a kill in the middle and again."""
    return write_study(tmp_path_factory.mktemp("study"))


def told(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def wait_for(study: Path, pattern: str, newer: float = 0.0) -> Path:
    folder = study / "results" / "graph" / "running"
    for _ in range(2400):
        found = [path for path in folder.glob(pattern) if path.stat().st_mtime > newer]
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in two minutes")


def worker_of(study: Path, title: str) -> int:
    """Return the process that does a run, once it has said where the run lies: from then on it is the worker, not its watcher."""
    wait_for(study, "*.json")
    jobs = json.loads((study / "results" / "graph" / "plan.json").read_text())["jobs"]
    (job,) = [job for job, entry in jobs.items() if entry["title"] == title]
    for _ in range(6000):
        mark = study / "results" / "graph" / "running" / f"{job}.json"
        if mark.exists() and "directory" in (content := json.loads(mark.read_text())):
            return int(content["pid"])
        time.sleep(0.02)
    raise AssertionError(f"{title} did not begin in two minutes")


def run_directory(study: Path, method: str) -> Path:
    """Return where the run of a method at A lies, made before anybody does it."""
    (spec,) = plan_experiment(
        "domain_splits", get_profile("smoke"), "tiny.yaml", "data", methods=[method], sources=["A"]
    )
    directory = find_run(spec, open_task("tiny.yaml", "data", "results"), "results").directory
    (study / directory).mkdir(parents=True)
    return study / directory


def test_a_killed_worker_and_a_failing_run_stop_nothing_else(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study)
    with run_lock(run_directory(study, "unet")):  # the worker waits for it, however fast it is
        process = reproduce(study, "--profile", "smoke")
        os.kill(worker_of(study, "U-Net from A, seed 0"), signal.SIGKILL)
    status, out = told(process)
    assert status == 1
    assert "U-Net from A, seed 0: its process was killed (SIGKILL) (out of memory?)" in out
    assert "U-Net from B, seed 0: domain B has no case left to train or to validate on" in out
    assert re.search(r"\[\d/6\] .* left; now: ", out)
    page = (study / "pages" / "domain_splits.ipynb").read_text()
    assert "runs failed and are missing below" in page
    records = [
        json.loads(path.read_text()) for path in (study / "results" / "graph" / "records").glob("run-*.json")
    ]
    assert len(records) == 4
    assert sum(record["status"] == "ok" for record in records) == 2


def _source(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["identity"]["settings"]["source"])


def test_a_second_start_repeats_what_failed_and_nothing_else(study: Path) -> None:
    done = {path: path.stat().st_mtime_ns for path in (study / "results" / "runs").glob("*/done")}
    damaged = next(path.parent for path in sorted(done) if _source(path.parent) == "A")
    table = pd.read_csv(damaged / "metrics.csv")
    (damaged / "metrics.csv").write_text((damaged / "metrics.csv").read_text()[:-20])
    status, _ = told(reproduce(study, "--profile", "smoke", "-p", "sources=[A]"))
    assert status == 0
    pd.testing.assert_frame_equal(pd.read_csv(damaged / "metrics.csv"), table)
    assert "All 2 runs are finished." in (study / "pages" / "domain_splits.ipynb").read_text()
    kept = {path for path, changed in done.items() if path.stat().st_mtime_ns == changed}
    assert kept == done.keys() - {damaged / "done"}
    begin = time.time()
    status, out = told(reproduce(study, "--profile", "smoke", "-p", "sources=[A]"))
    assert (status, out) == (0, "all 4 jobs are done\n")
    assert not [p for p in (study / "results" / "graph" / "logs").iterdir() if p.stat().st_mtime > begin]
    status, out = told(reproduce(study, "--status"))
    assert "run        2 done\npage       1 done" in out


def test_two_at_once_in_one_workspace_are_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from desam_lite.study.workflow.plan import StudyOptions, graph_folder
    from desam_lite.study.workflow.reproduce import _study_lock
    from desam_lite.utils.errors import StudyError

    monkeypatch.chdir(study)
    with _study_lock(graph_folder("results")), pytest.raises(StudyError, match="is being done already"):
        reproduce_study(StudyOptions(profile="smoke", book=False))


def test_stopping_it_leaves_no_process_behind(study: Path) -> None:
    process = reproduce(study, *SLOWER)
    wait_for(study, "*-*.json", newer=time.time())
    process.send_signal(signal.SIGINT)
    status, out = told(process)
    assert status != 0 and "what is finished is kept" in out
    assert _processes(study) == []


def test_killed_outright_it_leaves_no_process_behind_and_goes_on_where_it_was(study: Path) -> None:
    process = reproduce(study, *SLOWER)
    wait_for(study, "run-*.json", newer=time.time())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while _processes(study):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finished = {path: path.stat().st_mtime_ns for path in (study / "results" / "runs").glob("*/done")}
    status, out = told(reproduce(study, *SLOWER))
    assert status == 0, out
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert "All 3 runs are finished." in (study / "pages" / "domain_splits.ipynb").read_text()


def _processes(study: Path) -> list[str]:
    """Return the processes that work in a study."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink().is_relative_to(study):
                lines.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines
