"""Records of the graph hold as long as what they speak of is there; logs and marks say how it goes."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from desam_lite.study.plans import FAILED
from desam_lite.study.workflow.jobs import execute_job
from desam_lite.study.workflow.plan import graph_folder, write_plan
from desam_lite.study.workflow.records import (
    SILENT,
    drop_stale,
    list_running,
    mark_path,
    record_failure,
    stamp_file,
    stamp_folder,
    stamp_run,
    status_of,
    write_mark,
    write_record,
)
from desam_lite.study.workflow.status import (
    USUAL_SECONDS,
    ProgressLine,
    estimate_seconds,
    open_jobs,
    say_failed_jobs,
    say_plan,
    say_status,
)

RUN, DATA, PAGE, STORE = "run-r", "data-d", "page-p", "embeddings-e"


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    """A plan of one run, and everything of it done."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_text("scan")
    page = {"page": str(tmp_path / "p.ipynb"), "key": "k", "kept": 0, "parameters": {"profile": "smoke"}}
    jobs = {
        DATA: {"kind": "data", "needs": [], "title": "data of x", "root": str(tmp_path / "scans")},
        STORE: {"kind": "embeddings", "needs": [DATA], "title": "embeddings of x"},
        RUN: {"kind": "run", "needs": [DATA, STORE], "title": "U-Net from A"},
        PAGE: {"kind": "page", "needs": [DATA, RUN], "title": "page p", **page},
    }
    directory = make_run(tmp_path / "runs" / "name")
    (tmp_path / "p.ipynb").write_text("page")
    write_record(tmp_path, DATA, "ok", stamp=stamp_folder(tmp_path / "scans"))
    write_record(tmp_path, STORE, "ok")
    write_record(tmp_path, RUN, "ok", directory=str(directory), stamp=stamp_run(directory))
    write_record(tmp_path, PAGE, "ok", key="k", stamp=stamp_file(tmp_path / "p.ipynb"), seconds=30.0)
    return {"jobs": jobs, "root": str(tmp_path), "workspace": str(tmp_path)}


def make_run(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("metrics.csv", "split.csv", "done"):
        (directory / name).write_text("text\n")
    (directory / "run.json").write_text("{}")
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
    assert open_jobs(plan, tmp_path) == [RUN, PAGE]
    assert not (directory / "done").exists()


def test_records_of_an_older_edition_are_made_again_and_its_finished_runs_stay(
    plan: dict[str, Any], tmp_path: Path
) -> None:
    for job, more in (
        (RUN, {"directory": str(tmp_path / "runs" / "name"), "bytes": {}}),
        (PAGE, {}),
        (DATA, {}),
    ):
        write_record(tmp_path, job, "ok", **more)
    drop_stale(tmp_path, plan)
    assert not status_of(tmp_path, RUN) and not status_of(tmp_path, PAGE) and not status_of(tmp_path, DATA)
    assert (tmp_path / "runs" / "name" / "done").is_file()


def test_a_damaged_record_is_no_record(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "records" / "run-r.json").write_text('{"status": "o')
    assert open_jobs(plan, tmp_path) == [RUN]


def test_changed_data_are_checked_again_with_all_that_was_made_of_them(
    plan: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "scans" / "b.nii.gz").write_text("another")
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == [DATA, STORE, RUN, PAGE]
    assert (tmp_path / "runs" / "name" / "done").exists()


def test_data_deleted_after_use_are_not_made_again(plan: dict[str, Any], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "scans")
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == []


def test_a_book_older_than_its_sources_is_built_again(plan: dict[str, Any], tmp_path: Path) -> None:
    source, index, book = tmp_path / "intro.md", tmp_path / "index.html", "book"
    for path in (source, index):
        path.write_text("text")
    plan["jobs"][book] = {"kind": "book", "needs": [PAGE], "title": "the book", "sources": [str(source)]}
    write_record(tmp_path, book, "ok", index=str(index))
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == []
    future = time.time() + 10
    os.utime(source, (future, future))
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == [book]


def test_a_page_that_was_made_otherwise_since_is_made_again(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "p.ipynb").write_text("a page of another profile")
    drop_stale(tmp_path, plan)
    assert open_jobs(plan, tmp_path) == [PAGE]


def test_embeddings_that_nothing_needs_are_not_made(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "records" / "embeddings-e.json").unlink()
    assert open_jobs(plan, tmp_path) == []
    (tmp_path / "records" / "run-r.json").unlink()
    assert open_jobs(plan, tmp_path) == [STORE, RUN]


def test_a_failure_is_in_the_run_directory_and_forgotten_at_the_next_start(
    plan: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "runs" / "name"
    (directory / "done").unlink()
    write_mark(tmp_path, RUN, directory=str(directory))
    record_failure(tmp_path, RUN, "no memory")
    assert (directory / FAILED).read_text() == "no memory\n"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run-r.log").write_text("step 1\n 10%\r 20%\nTraceback\n")
    said = "\n".join(say_failed_jobs(plan, tmp_path))
    assert "U-Net from A: no memory" in said and "     20%\n    Traceback" in said and "10%" not in said
    mark_path(tmp_path, RUN).unlink()
    assert "1 failed" in say_status(plan, tmp_path)
    drop_stale(tmp_path, plan)
    assert status_of(tmp_path, RUN) == "" and not (directory / FAILED).exists()


def test_a_job_whose_data_failed_is_left_out(
    plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which the job does too, for good
    write_plan(plan, tmp_path)
    folder = graph_folder(tmp_path)
    record_failure(folder, DATA, "a case is cut")
    execute_job(folder, RUN)
    lines = "\n".join(say_failed_jobs(plan, folder))
    assert "data of x: a case is cut" in lines and "U-Net from A: left out" in lines
    drop_stale(folder, plan)
    assert say_failed_jobs(plan, folder) == []


def test_what_runs_is_told_by_its_signs_of_life(plan: dict[str, Any], tmp_path: Path) -> None:
    mark = write_mark(tmp_path, RUN)
    assert list(list_running(tmp_path, plan)) == [RUN]
    assert "running    U-Net from A (0 s" in say_status(plan, tmp_path)
    past = time.time() - SILENT - 1
    os.utime(mark, (past, past))
    assert list_running(tmp_path, plan) == {}


def test_time_is_estimated_from_what_jobs_of_a_kind_took(plan: dict[str, Any], tmp_path: Path) -> None:
    for number, seconds in enumerate([3.0, 5.0, 60.0]):
        write_record(tmp_path, f"run-r{number}", "ok", seconds=seconds)
    assert estimate_seconds(plan, tmp_path, [RUN, RUN, PAGE]) == 5.0 + 5.0 + 30.0
    assert estimate_seconds(plan, tmp_path, [DATA]) == USUAL_SECONDS["data"]
    (tmp_path / "records" / "run-r.json").unlink()
    assert "1 jobs, 5 s of computing, about 2 s with 2 at once" in say_plan(plan, tmp_path, 2)


def test_progress_is_shown_when_a_job_has_ended(
    plan: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        progress.show()
        return capsys.readouterr().err

    (tmp_path / "records" / "run-r.json").unlink()
    write_mark(tmp_path, RUN)
    progress = ProgressLine(plan, tmp_path, [RUN], 2)
    assert re.fullmatch(r"\[0/1\] 0 s, about \d+ s left; now: U-Net from A \(0 s\)\n", shown())
    assert shown() == ""
    mark_path(tmp_path, RUN).unlink()
    write_record(tmp_path, RUN, "ok")
    assert shown() == "[1/1] 0 s\n"
