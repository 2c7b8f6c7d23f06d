"""Many runs side by side: the same numbers as one after the other, and no failure stops the rest."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_run import spec_for

from desam_lite.methods.run_spec import RunSpec
from desam_lite.study import parallel
from desam_lite.study.parallel import default_jobs, execute_runs
from desam_lite.study.processes import process_context
from desam_lite.study.run import Run, execute_run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]


def test_runs_side_by_side_are_those_done_one_after_the_other(
    tiny_task: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = spec_for(tiny_task), spec_for(tiny_task, learning_rate=1e30)
    specs = [bad, good, spec_for(tiny_task, method="prior"), good]
    together = execute_runs(specs, tmp_path / "two", jobs=2, progress=False)
    assert [run.spec for run in together] == specs
    assert [run.finished for run in together] == [False, True, True, True]
    assert "loss of epoch" in together[0].error
    assert f"run {together[0].name} (U-Net from A) failed: the loss" in capsys.readouterr().out
    for run in together[1:3]:
        alone = execute_run(run.spec, tmp_path / "one", progress=False)
        pd.testing.assert_frame_equal(run.metrics(), alone.metrics())
        assert run.error == ""


def test_one_after_the_other_a_failure_does_not_stop_the_rest(tiny_task: Place, tmp_path: Path) -> None:
    specs = [spec_for(tiny_task, learning_rate=1e30), spec_for(tiny_task, method="prior")]
    runs = execute_runs(specs, tmp_path, jobs=1, progress=False)
    assert [run.finished for run in runs] == [False, True]


def test_finished_runs_start_no_process(
    tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec_for(tiny_task, method="prior", seed=seed) for seed in (0, 1)]
    first = execute_runs(specs, tmp_path, jobs=1, progress=False)
    monkeypatch.setattr(parallel, "_failures", lambda *_: pytest.fail("it was done again"))
    assert execute_runs(specs, tmp_path, progress=False) == first


def test_embeddings_are_made_once_before_the_runs(
    tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RunSpec] = []
    monkeypatch.setattr(parallel, "open_embeddings", lambda spec, *_, **__: made.append(spec))
    monkeypatch.setattr(parallel, "_failures", lambda *_: [])
    modes = [{"prompt_mode": "box"}, {"prompt_mode": "points"}, {"embedding_format": "float32"}]
    specs = [spec_for(tiny_task, method="desam", **mode) for mode in modes]
    execute_runs([*specs, spec_for(tiny_task)], tmp_path, progress=False)
    assert sorted(spec.embedding_format or "" for spec in made) == ["float16", "float32"]


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), KeyError("x"), AssertionError("y")])
def test_whatever_goes_wrong_in_a_run_is_its_own_reason(
    error: Exception, tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Run:
        raise error

    monkeypatch.setattr(parallel, "execute_run", fail)
    (run,) = execute_runs([spec_for(tiny_task)], tmp_path, progress=False)
    assert run.error == f"{type(error).__name__}: {error}"


def test_a_process_that_is_killed_is_the_reason(
    tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_attempt", die)
    specs = [spec_for(tiny_task, seed=seed) for seed in (0, 1)]
    runs = execute_runs(specs, tmp_path, jobs=2, progress=False)
    assert ["run again with fewer jobs" in run.error for run in runs] == [True, True]


def die(*_: object) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def idle() -> None:
    parallel._begin_worker()
    time.sleep(60)


def start_idle_worker(told: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=idle)
    worker.start()
    told.write_text(str(worker.pid))
    worker.join()


def test_a_worker_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    starter = process_context().Process(target=start_idle_worker, args=(told,))
    starter.start()
    wait_until(lambda: told.exists() and told.read_text() != "")
    starter.kill()
    starter.join()
    wait_until(lambda: not is_running(int(told.read_text())))


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_faulty_data_stop_everything_before_it_begins(tiny_task: Place, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nowhere"):
        execute_runs(
            [spec_for((tiny_task[0], tmp_path / "nowhere"), method="prior")], tmp_path, progress=False
        )
    with pytest.raises(StudyError, match="'Z'"):
        execute_runs(
            [spec_for(tiny_task), spec_for(tiny_task).model_copy(update={"source": "Z"})],
            tmp_path,
            progress=False,
        )
    assert not (tmp_path / "runs").exists()


def test_a_gpu_is_used_by_one_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_jobs() == 1
    assert process_context(gpu=True).get_start_method() == "spawn"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_jobs() == len(os.sched_getaffinity(0))
