"""Benchmarks run, write the fields they promise, and their README says what the recorded results say."""

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from desam_lite.study.profiles import METHOD_CHOICES, get_profile

FOLDER = ROOT / "benchmarks"
FIELDS = {
    "decision_rule": {
        *("seeds", "seed_sd", "patient_sd", "rest_sd"),
        *("coverage", "false_alarms", "half_width", "power", "coverage_bootstrap"),
    },
    "inference": {"backbone", "points", "seconds", "seconds_exhaustive", "ratio", "peak_mb"},
    "encoder": {
        "backbone",
        "format",
        *("batch", "batch_reference"),
        *("images_per_second", "images_per_second_reference"),
        *("ratio", "ratio_to_float32"),
        *("peak_mb", "peak_mb_reference"),
        *("difference", "matrix_share", "matrix_rate"),
    },
    "embeddings": {
        *(
            "backbone",
            "fmt",
            "slices",
            "bytes_per_slice",
            "bytes_over_float32",
            "bytes_over_npz",
            "ratio",
            "write_mb_s",
        ),
        *(f"{kind}_{state}_gb_s" for kind in ("raw", "raw_random", "read") for state in ("cold", "warm")),
        *(f"{state}_share_of_{raw}" for state in ("cold", "warm") for raw in ("raw", "raw_random")),
        *("decode_cpu_ms", "decode_gb_s", "rms_error"),
        *(f"published_{what}" for what in ("bytes_per_slice", "write_mb_s", "decode_cpu_ms")),
    },
    "tuning": {"choice", "label", "learning_rate", "loss", "epochs", "stopped", "cpu_minutes", "chosen"},
    "study_cost": {
        *("choice", "label", "train_seconds", "val_seconds", "predict_seconds"),
        *("epochs", "assumed", "sources", "minutes", "hours"),
    },
    "all_slices": {"protocol", "label", "in_domain", "sources", "seeds", "cases", "dice", "low", "high"},
    "methods": {"task", "label", "source", "target", "seeds", "dice", "low", "high"},
    "phantom_gap": {"task", "label", "source", "target", "dice", "low", "high"},
    "phantoms": {
        *(
            "task",
            "domain",
            "slices",
            "seconds",
            "slowest",
            "seconds_full_grid",
            "ratio",
            "peak_mb",
            "different",
        ),
    },
    "attention": {"kind", "way", "ms", "peak_mb", "difference", "error"},
    "public_code": {"label", "on", "seeds", "cases", "dice"},
    "pretrain": {"backbone", "side", "images", "seconds", "images_per_second", "peak_mb"},
    "training": {
        "backbone",
        "batch_size",
        "slices",
        "mode",
        "fmt",
        "placement",
        "precision",
        "samples_per_second",
        "samples_per_second_published",
        "samples_per_second_held",
        "ratio",
        "ratio_held",
        "peak_mb",
        "peak_mb_published",
    },
}

pytestmark = pytest.mark.usefixtures("methods_as_before")
GPU_STEPS = ("encoder", "training", "inference", "embeddings", "attention", "pretrain")
"""The benchmarks that `gpu.sh` runs, in its order."""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def quick(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    script = FOLDER / f"{name}.py"
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(
        sys, "argv", [str(script), "--quick", "--threads", "1", "--device", "cpu", "--out", str(out)]
    )
    runpy.run_path(str(script), run_name="__main__")
    written: dict[str, Any] = json.loads((out / f"{name}-cpu.json").read_text())
    return written


def check(name: str, record: dict[str, Any]) -> None:
    """Hold a quick run's record against the fields it promises."""
    assert {"device", "libraries", "code", "quick", "rows"} <= record.keys()
    assert record["quick"]
    assert record["rows"]
    for row in record["rows"]:
        assert row.keys() == FIELDS[name]
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        assert all(value >= 0 for value in numbers.values())
        assert row.get("ratio", 1) > 0


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - set(GPU_STEPS)))
def test_a_quick_run_writes_the_promised_fields(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(name, quick(name, tmp_path, monkeypatch))


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command for the GPU leaves when it is rehearsed on a processor."""
    out = tmp_path_factory.mktemp("gpu")
    words = ["--quick", "--device", "cpu", "--minutes", "20", "--out", str(out)]
    command = ["bash", str(FOLDER / "gpu.sh"), *words]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "== pretrain: passed" in (out / "gpu.log").read_text()
    assert {"checkpoint.pt.0", "sam_tiny.safetensors"} <= {path.name for path in out.iterdir()}
    content: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    return content


def test_the_command_for_the_gpu_goes_through_all_its_steps(rehearsal: dict[str, Any]) -> None:
    assert [step["name"] for step in rehearsal["steps"]] == ["tests", *GPU_STEPS]
    assert {step["outcome"] for step in rehearsal["steps"]} == {"passed"}
    assert {test["outcome"] for test in rehearsal["tests"]} == {"passed"}


@pytest.mark.parametrize("name", GPU_STEPS)
def test_a_step_for_the_gpu_writes_the_promised_fields(name: str, rehearsal: dict[str, Any]) -> None:
    record = rehearsal["records"][f"{name}-cpu"]
    check(name, record)
    for same in [*record.get("details", []), *record["rows"]]:
        tolerance = 2e-2 if same.get("format", "float32") != "float32" else 1e-4
        assert (same.get("largest_difference", same.get("difference")) or 0) < tolerance
        assert not same.get("error")
        assert same.get("pixels_different", 0) == 0


def begin(out: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[Any, Any]:
    """Return the module of the command for the GPU, and the command with other words; its steps can be replaced."""
    monkeypatch.syspath_prepend(FOLDER)
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(out), *words])
    (out / "work").mkdir()
    return gpu, gpu.Session(gpu._read_options(), out / "work", (out / "gpu.log").open("w"))


def test_a_step_that_fails_or_takes_too_long_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, session = begin(tmp_path, monkeypatch)
    monkeypatch.setattr(gpu, "STEP_LEAST", 0)
    codes = {
        "slow": "import time; time.sleep(60)",
        "broken": "raise KeyError('here')",
        "sound": "print('done')",
    }
    session.steps = [
        gpu.Step(name, ["-c", code], 2 if name == "slow" else 20) for name, code in codes.items()
    ]
    assert session.run() == 1
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [step["outcome"] for step in steps] == ["stopped", "failed", "passed"]
    assert steps[1]["tail"][-1] == "KeyError: 'here'"
    assert steps[0]["seconds"] < 15


def test_no_step_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, session = begin(tmp_path, monkeypatch, "--minutes", "0.1", "--steps", "encoder", "pretrain")
    assert session.run() == 1
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [(s["name"], s["outcome"]) for s in steps] == [("encoder", "not begun"), ("pretrain", "not begun")]


def test_what_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gpu, session = begin(tmp_path, monkeypatch)
    monkeypatch.setattr(gpu, "MODULES", ("torch", "no_such_module"))
    assert session.run() == 2
    sentence = capfd.readouterr().out.splitlines()[-1]
    assert sentence.startswith("gpu.py: no_such_module cannot be imported by ")
    assert "make wheels" in sentence
    session.chosen.wheels = tmp_path
    assert session.run() == 2
    assert f"'{tmp_path}' holds no wheel" in capfd.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _, session = begin(tmp_path, monkeypatch, "--device", "cuda")
    assert session.run() == 2
    assert "PyTorch finds no GPU here" in capfd.readouterr().out


def test_results_of_a_card_are_kept_each_in_its_file_and_a_rehearsal_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    results = importlib.import_module("gpu_results")
    (tmp_path / "results").mkdir()
    record = {
        "device": "a card",
        "libraries": {},
        "code": {"commit": None},
        "quick": False,
        "rows": [{"a": 1}],
    }
    steps = [{"name": "encoder", "outcome": "passed", "seconds": 1.0, "limit": 2, "tail": []}]
    content = {"quick": False, "device": "cuda", "machine": {}, "seconds": 1, "steps": steps, "tests": []}
    content["records"] = {"encoder-cuda": record, "training-cuda": {**record, "rows": []}}
    joined = results.join([content])
    assert [path.name for path in results.keep(joined, tmp_path)] == ["encoder-cuda.json", "gpu-cuda.json"]
    written = json.loads((tmp_path / "results" / "encoder-cuda.json").read_text())
    assert written["code"]["commit"] is not None
    assert [path.name for path in results.keep({**joined, "quick": True}, tmp_path)] == ["rehearsal.json"]
    with pytest.raises(SystemExit, match="no step measured anything"):
        results.keep(results.join([{**content, "records": {}}]), tmp_path)


def test_what_a_second_run_on_a_card_measured_replaces_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    first = {
        "seconds": 2,
        "steps": [{"name": "tests", "outcome": "passed"}, {"name": "training", "outcome": "not begun"}],
        "tests": [{"outcome": "passed"}],
        "records": {"encoder-cuda": {"code": "old", "rows": [1]}, "attention-cuda": {"rows": [2]}},
    }
    second = {
        "seconds": 3,
        "steps": [{"name": "training", "outcome": "passed"}],
        "tests": [],
        "records": {"encoder-cuda": {"code": "new", "rows": [3]}, "attention-cuda": {"rows": []}},
    }
    joined = importlib.import_module("gpu_results").join([first, second])
    assert joined["seconds"] == 5
    assert [step["name"] for step in joined["steps"]] == ["tests", "training"]
    assert joined["tests"] == first["tests"]
    encoder = {"code": "new", "rows": [3], "earlier": [{"code": "old", "rows": [1]}]}
    assert joined["records"] == {"encoder-cuda": encoder, "attention-cuda": {"rows": [2]}}


def test_a_task_that_is_not_run_again_keeps_what_is_recorded_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    methods = importlib.import_module("methods")
    options = methods.Options(False, tmp_path, torch.device("cpu"), "wall")
    monkeypatch.setattr(methods, "plan_at", lambda *_: [])
    monkeypatch.setattr(methods, "execute_runs", lambda *_, **__: [])
    for dice, tasks in ((0.7, methods.PLACES), (0.9, ["promise12_small"])):
        found = {part: [{"dice": dice}] for part in methods.PARTS}
        monkeypatch.setattr(
            methods, "_tables", lambda task, _, f=found: {part: [{"task": task, **f[part][0]}] for part in f}
        )
        methods._record({task: methods.PLACES[task] for task in tasks}, (0,), tmp_path, options)
    written = json.loads((tmp_path / "methods-cpu.json").read_text())
    for part in methods.PARTS:
        assert {row["task"]: row["dice"] for row in written[part]} == {
            "phantom_prostate": 0.7,
            "promise12_small": 0.9,
        }


def test_the_readme_says_what_the_results_say() -> None:
    said = runpy.run_path(str(FOLDER / "readme.py"))["text"]()
    assert (FOLDER / "README.md").read_text() == said, "run 'python benchmarks/readme.py'"


def test_recorded_results_are_not_quick_runs() -> None:
    recorded = sorted((FOLDER / "results").glob("*.json"))
    assert recorded
    for path in recorded:
        assert not json.loads(path.read_text()).get("quick"), path.name


def test_the_study_trains_with_the_rates_that_were_chosen() -> None:
    """Of every choice of which all three rates are recorded: what a table says was chosen is what is used."""
    path = FOLDER / "results" / "tuning-cpu.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rates = {name: [row for row in rows if row["choice"] == name] for name in {row["choice"] for row in rows}}
    study = get_profile("study")
    for name, own in rates.items():
        best = min(own, key=lambda row: row["loss"])
        assert [row["chosen"] for row in own] == [row is best for row in own]
        if len(own) == 3:
            used = study.settings(METHOD_CHOICES[name]["method"], name)["learning_rate"]
            assert used == best["learning_rate"], name
