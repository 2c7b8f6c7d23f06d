"""Records of the graph hold as long as what they speak of is there; logs and marks say how it goes."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from desam_lite.study.workflow.records import (
    FAILED,
    SILENT,
    Job,
    begin,
    drop_stale,
    fail,
    listing,
    mark_path,
    page_stamp,
    read_record,
    run_sizes,
    running,
    write_record,
)
from desam_lite.study.workflow.status import Estimate, Progress, open_jobs, say_failures, say_plan, say_status
from desam_lite.utils.files import write_json

RUN, DATA, PAGE, STORE = Job("run", "r"), Job("data", "d"), Job("page", "p"), Job("embeddings", "e")
SETTINGS: dict[str, Any] = {"method": "unet", "backbone": None, "epochs": 2, "source": "A", "seed": 0}


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    """A plan of one run, and everything of it done."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_text("scan")
    run = {"data": "d", "embeddings": "e", "title": "U-Net from A", "spec": SETTINGS, "experiments": ["p"]}
    page = {"runs": ["r"], "data": ["d"], "page": str(tmp_path / "p.ipynb"), "key": "k", "title": "page p"}
    page["parameters"] = {"profile": "smoke"}
    made: dict[str, Any] = {
        "data": {"d": {"root": str(tmp_path / "scans"), "title": "data of x"}},
        "embeddings": {"e": {"title": "embeddings of x"}},
        "runs": {"r": run},
        "pages": {"p": page},
        "book": False,
        "workspace": str(tmp_path),
    }
    directory = make_run(tmp_path / "runs" / "name")
    write_record(tmp_path, RUN, "ok", directory=str(directory), bytes=run_sizes(directory))
    (tmp_path / "p.ipynb").write_text("page")
    write_record(tmp_path, PAGE, "ok", key="k", stamp=page_stamp(tmp_path / "p.ipynb"), seconds=30.0)
    write_record(tmp_path, DATA, "ok", stamp=listing(tmp_path / "scans"))
    write_record(tmp_path, STORE, "ok")
    return made


def make_run(directory: Path, minutes: float = 3.0) -> Path:
    directory.mkdir(parents=True)
    for name in ("metrics.csv", "split.csv", "done"):
        (directory / name).write_text("text\n")
    record = {"minutes": {"training": minutes}, "identity": {"settings": SETTINGS}}
    write_json(directory / "run.json", record)
    (directory / "model.safetensors").write_bytes(b"model")
    (directory / "predictions").mkdir()
    (directory / "predictions" / "A.nii.gz").write_bytes(b"mask")
    return directory


def test_nothing_is_forgotten_while_all_is_as_it_was(plan: dict[str, Any], tmp_path: Path) -> None:
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == []
    assert say_plan(plan, tmp_path, 2).endswith("Nothing to do: all is made.")


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "metrics.csv").write_text("cut in the mid"),
        lambda run: (run / "metrics.csv").write_text(""),
        lambda run: (run / "run.json").unlink(),
        lambda run: (run / "model.safetensors").write_bytes(b"mod"),
        lambda run: (run / "predictions" / "A.nii.gz").unlink(),
        lambda run: (run / "done").unlink(),
    ],
)
def test_a_damaged_run_is_done_again(damage: Any, plan: dict[str, Any], tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "name"
    damage(directory)
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == [RUN]
    assert not (directory / "done").exists()


def test_a_damaged_record_is_no_record(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "runs" / "r.json").write_text('{"status": "o')
    assert open_jobs(plan, tmp_path) == [RUN]


def test_changed_data_are_checked_again(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "scans" / "b.nii.gz").write_text("one more")
    drop_stale(tmp_path, plan)
    assert read_record(tmp_path, DATA) is None


def test_a_page_that_was_made_otherwise_since_is_made_again(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "p.ipynb").write_text("a page of another profile")
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == [PAGE]


def test_embeddings_that_nothing_needs_are_not_made(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "embeddings" / "e.json").unlink()
    assert open_jobs(plan, tmp_path) == []
    (tmp_path / "runs" / "r.json").unlink()
    assert open_jobs(plan, tmp_path) == [STORE, RUN]


def test_a_failure_is_in_the_run_directory_and_forgotten_at_the_next_start(
    plan: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "runs" / "name"
    (directory / "done").unlink()
    begin(tmp_path, RUN, directory=str(directory))
    assert fail(tmp_path, RUN, "no memory") == 0
    assert (directory / FAILED).read_text() == "no memory\n"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run-r.log").write_text("step 1\n 10%\r 20%\nTraceback\n")
    said = "\n".join(say_failures(plan, tmp_path))
    assert "U-Net from A: no memory" in said and "     20%\n    Traceback" in said and "10%" not in said
    mark_path(tmp_path, RUN).unlink()
    assert "1 failed" in say_status(plan, tmp_path)
    drop_stale(tmp_path, plan)
    assert read_record(tmp_path, RUN) is None and not (directory / FAILED).exists()


def test_failed_data_stop_what_needs_them_and_are_seen(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "d.json").unlink()
    assert fail(tmp_path, DATA, "a case is cut") == 1
    assert not (tmp_path / "data" / "d.json").exists()
    assert any("data of x: a case is cut" in line for line in say_failures(plan, tmp_path))
    drop_stale(tmp_path, plan)
    assert say_failures(plan, tmp_path) == []


def test_what_runs_is_told_by_its_signs_of_life(plan: dict[str, Any], tmp_path: Path) -> None:
    mark = begin(tmp_path, RUN)
    assert list(running(tmp_path, plan)) == [RUN]
    assert "running    U-Net from A (0 s" in say_status(plan, tmp_path)
    past = time.time() - SILENT - 1
    os.utime(mark, (past, past))
    assert running(tmp_path, plan) == {}


def test_a_mark_whose_process_has_died_counts_for_nothing(plan: dict[str, Any], tmp_path: Path) -> None:
    mark = begin(tmp_path, RUN)
    write_json(mark, {**json.loads(mark.read_text()), "pid": 2**22 + 1})
    assert running(tmp_path, plan) == {}
    assert mark == mark_path(tmp_path, RUN)


def test_time_is_estimated_from_the_minutes_of_earlier_runs(plan: dict[str, Any], tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "other", minutes=5.0)
    assert Estimate(plan, tmp_path).minutes(RUN) == (4.0, True)
    plan["runs"]["r"]["spec"] = {**SETTINGS, "epochs": 20, "learning_rate": 1.0}
    assert Estimate(plan, tmp_path).minutes(RUN) == (40.0, True)
    plan["runs"]["r"]["spec"] = {**SETTINGS, "method": "desam"}
    assert Estimate(plan, tmp_path).minutes(RUN)[1] is False
    (tmp_path / "runs" / "r.json").unlink()
    assert "(a guess)" in say_plan(plan, tmp_path, 2)


def test_progress_speaks_only_when_something_has_changed(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "runs" / "r.json").unlink()
    progress = Progress(plan, tmp_path, 2)
    assert "[0/1]" in str(progress.line())
    assert progress.line() is None
    begin(tmp_path, RUN)
    assert "now: U-Net from A" in str(progress.line())
    mark_path(tmp_path, RUN).unlink()
    write_record(tmp_path, RUN, "ok")
    assert "[1/1]" in str(progress.line())
