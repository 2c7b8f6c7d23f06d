"""A run is done once, survives being killed at any moment, and says where its numbers come from."""

import re
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import write_tiny_task
from filelock import FileLock
from small_run import spec_for

from desam_lite.data.tasks import open_task
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.processes import process_context
from desam_lite.study.run import Run, execute_run, find_run, scored_cases
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]


@pytest.fixture(scope="module")
def finished(tiny_task: Place, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return execute_run(spec_for(tiny_task, epochs=3), tmp_path_factory.mktemp("ws"), progress=False)


def test_a_run_tests_the_held_out_source_cases_and_every_target_case(finished: Run) -> None:
    metrics = finished.metrics()
    split = pd.read_csv(finished.directory / "split.csv")
    held_out = set(split.loc[split["part"] == "test", "case"])
    trained_on = set(split["case"]) - held_out
    assert set(metrics.loc[metrics["in_domain"], "case"]) == held_out
    assert set(metrics.loc[~metrics["in_domain"], "case"]) == {"B0", "B1", "B2", "B3"}
    assert not trained_on & set(metrics["case"])


def test_with_half_tested_every_domain_is_tested_on_its_last_half(tiny_task: Place, tmp_path: Path) -> None:
    task = open_task(*tiny_task, tmp_path, progress=False)
    tested = scored_cases(spec_for(tiny_task, split="half_tested"), task)
    assert tested == {"A": ["A2", "A3"], "B": ["B2", "B3"]}


@pytest.mark.parametrize("rule", ["published_90_10", "70_10_20"])
def test_no_patient_is_both_learnt_from_and_tested_on(rule: str, tmp_path: Path) -> None:
    """Three scans of each of three patients: what the run says of its split, and what it scored."""
    manifest, root = write_tiny_task(tmp_path, cases=9)
    for file in sorted((root / "A").iterdir()):
        number, rest = re.match(r"A(\d+)(.*)", file.name).groups()
        file.rename(file.with_name(f"p{int(number) % 3}-{int(number) // 3}{rest}"))
    manifest.write_text(manifest.read_text() + "patient: '^(p[0-9]+)'\n")
    run = execute_run(spec_for((manifest, root), method="prior", split=rule), tmp_path / "ws", progress=False)
    split = pd.read_csv(run.directory / "split.csv").set_index("case")["part"]
    patients = split.groupby(split.index.str[:2]).agg(set)
    assert len(split) == 9 and (patients.str.len() == 1).all()
    scored = run.metrics().query("target == 'A'")["case"].unique()
    assert set(scored) == set(split.index[split == "test"]) and len(scored) == (
        3 if rule == "70_10_20" else 0
    )


def test_metrics_have_one_row_per_case_organ_and_protocol(finished: Run) -> None:
    metrics = finished.metrics()
    assert not metrics.duplicated(["case", "organ", "protocol"]).any()
    assert set(metrics["protocol"]) == {"whole_volume", "published"}
    assert metrics[["dice", "hd95", "hd", "assd"]].notna().all().all()
    assert {"run", "task", "source", "target", "label", "seed"} <= set(metrics.columns)


def test_scores_are_those_of_the_stored_predictions(finished: Run, tiny_task: Place) -> None:
    task = open_task(*tiny_task, finished.directory.parents[1], progress=False)
    prediction, labels = finished.prediction("B", "B1"), task.slices.load("B", "B1").labels
    dice = 2 * ((prediction == 1) & (labels == 1)).sum() / ((prediction == 1).sum() + (labels == 1).sum())
    metrics = finished.metrics().query("case == 'B1' and protocol == 'whole_volume'")
    assert metrics["dice"].item() == pytest.approx(dice)


def test_run_json_says_where_the_numbers_come_from(finished: Run) -> None:
    info = finished.info
    assert set(info["identity"]) == {"settings", "manifest", "data", "weights", "version"}
    assert info["code"]["version"]
    assert info["libraries"]["torch"]
    assert info["device"]
    assert info["minutes"]["training"] > 0
    assert info["peak_memory"]["process_mib"] > 50


def test_a_finished_run_is_never_repeated(finished: Run) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in finished.directory.rglob("*") if p.name != ".lock"}
    again = execute_run(finished.spec, finished.directory.parents[1], progress=False)
    assert again.directory == finished.directory
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.parametrize(
    ("settings", "stopped"),
    [({}, "schedule"), ({"epochs": 2, "patience": 2}, "budget"), ({"epochs": 12, "patience": 1}, "plateau")],
)
def test_a_run_says_whether_its_training_ended_by_itself(
    settings: dict[str, Any], stopped: str, tiny_task: Place, tmp_path: Path
) -> None:
    run = execute_run(spec_for(tiny_task, learning_rate=1e-7, **settings), tmp_path, progress=False)
    assert (run.info["stopped"], run.info["epochs"]) == (stopped, len(run.history()))


def test_history_has_one_row_per_epoch(finished: Run) -> None:
    history = finished.history()
    assert list(history["epoch"]) == [1, 2, 3]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_other_data_is_another_run(tiny_task: Place, tmp_path: Path) -> None:
    from conftest import write_tiny_task

    fewer = write_tiny_task(tmp_path, cases=3)
    names = {
        find_run(spec_for(p), open_task(*p, tmp_path / "ws", progress=False), tmp_path).name
        for p in (tiny_task, fewer)
    }
    assert len(names) == 2


def test_an_unknown_source_is_refused_before_training(tiny_task: Place, tmp_path: Path) -> None:
    spec = spec_for(tiny_task).model_copy(update={"source": "Z"})
    with pytest.raises(StudyError, match="Z"):
        execute_run(spec, tmp_path, progress=False)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_could_be_tested_on_nothing_is_refused_before_training(tmp_path: Path) -> None:
    manifest, data = write_tiny_task(tmp_path, cases=2)
    spec = spec_for((manifest, data))
    task = open_task(manifest, data, tmp_path / "ws", progress=False)
    assert scored_cases(spec, task) == {"A": [], "B": ["B0", "B1"]}  # its targets are enough
    manifest.write_text(manifest.read_text().replace(", B: {title: B}", ""))
    with pytest.raises(StudyError, match=r"the 2 case\(s\) of A alone leave none to test on"):
        execute_run(spec, tmp_path / "ws", progress=False)
    assert not (tmp_path / "ws" / "runs").exists()


def test_missing_metrics_say_that_the_run_is_not_finished(tiny_task: Place, tmp_path: Path) -> None:
    run = find_run(spec_for(tiny_task), open_task(*tiny_task, tmp_path, progress=False), tmp_path)
    with pytest.raises(StudyError, match="not finished"):
        run.metrics()


def work(fields: dict[str, Any], workspace: str) -> None:
    """What a process that will be killed does."""
    torch.set_num_threads(1)
    execute_run(RunSpec(**fields), workspace, accelerator="cpu", progress=False)


def start(spec: RunSpec, workspace: Path) -> BaseProcess:
    """Start a run in a process of its own, forked from one that has imported what runs import."""
    context = process_context()
    fields = spec.model_dump(mode="json", exclude_none=True)
    process = context.Process(target=work, args=(fields, str(workspace)))
    process.start()
    return process


def kill_when(process: BaseProcess, ready: Callable[[], bool]) -> None:
    """SIGKILL a process as soon as ``ready``, which must be before its end."""
    deadline = time.monotonic() + 120
    while not ready() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_run_killed_twice_ends_in_the_same_metrics(tiny_task: Place, tmp_path: Path) -> None:
    spec = spec_for(tiny_task, method="desam", epochs=4, prompt_mode="points", points_per_side=3)
    calm = execute_run(spec, tmp_path / "calm", progress=False).directory
    killed = tmp_path / "killed" / "runs" / calm.name
    kill_when(start(spec, tmp_path / "killed"), (killed / "checkpoint.pt").exists)
    assert not (killed / "predictions").exists()
    kept = torch.load(killed / "checkpoint.pt", weights_only=True)["history"]
    kill_when(start(spec, tmp_path / "killed"), lambda: any(killed.glob("predictions/*/*.nii.gz")))
    assert not (killed / "metrics.csv").exists()
    execute_run(spec, tmp_path / "killed", progress=False)
    assert (killed / "metrics.csv").read_bytes() == (calm / "metrics.csv").read_bytes()
    history, losses = pd.read_csv(killed / "history.csv"), ["epoch", "train_loss", "val_loss"]
    pd.testing.assert_frame_equal(history[losses], pd.read_csv(calm / "history.csv")[losses])
    assert list(history["seconds"][: len(kept)]) == [row["seconds"] for row in kept]  # not trained again


def test_a_half_written_prediction_or_checkpoint_is_never_taken_for_whole(
    tiny_task: Place, tmp_path: Path
) -> None:
    run = execute_run(spec_for(tiny_task, epochs=3), tmp_path, progress=False)
    before = (run.directory / "metrics.csv").read_bytes()
    (run.directory / "done").unlink()
    prediction = run.directory / "predictions" / "B" / "B0.nii.gz"
    prediction.write_bytes(prediction.read_bytes()[:100])
    (run.directory / ".checkpoint-x.tmp.pt").write_bytes(b"half")
    execute_run(run.spec, tmp_path, progress=False)
    assert (run.directory / "metrics.csv").read_bytes() == before


def test_two_processes_asked_for_the_same_run_do_it_once(tiny_task: Place, tmp_path: Path) -> None:
    spec = spec_for(tiny_task, epochs=4)
    both = [start(spec, tmp_path) for _ in range(2)]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    run = find_run(spec, open_task(*tiny_task, tmp_path, progress=False), tmp_path)
    done = (run.directory / "done").stat().st_mtime_ns
    written = [p for p in run.directory.rglob("*") if p.is_file() and p.name != ".lock"]
    assert len(run.history()) == 4
    assert [p.name for p in written if p.stat().st_mtime_ns > done] == []


def test_a_run_that_another_process_holds_is_waited_for(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    done, nearly = finished.directory / "done", finished.directory / "nearly"
    done.rename(nearly)
    taken = threading.Event()

    def finish_elsewhere() -> None:
        with FileLock(finished.directory / ".lock"):
            taken.set()
            time.sleep(0.5)
            nearly.rename(done)

    other = threading.Thread(target=finish_elsewhere)
    other.start()
    taken.wait()
    stamp = (finished.directory / "metrics.csv").stat().st_mtime_ns
    assert execute_run(finished.spec, finished.directory.parents[1], progress=False).finished
    other.join()
    assert f"another process is doing run {finished.name}" in capsys.readouterr().err
    assert (finished.directory / "metrics.csv").stat().st_mtime_ns == stamp


def test_where_embeddings_are_held_changes_no_number(tiny_task: Place, tmp_path: Path) -> None:
    spec = spec_for(tiny_task, method="desam", prompt_mode="box")
    runs = [execute_run(spec, tmp_path / p, placement=p, progress=False) for p in ("memory", "disk")]
    pd.testing.assert_frame_equal(runs[0].metrics(), runs[1].metrics())
