"""Benchmarks run, write the fields they promise, and their README says what the recorded results say."""

import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

FOLDER = ROOT / "benchmarks"
FIELDS = {
    "inference": {"backbone", "points", "seconds", "seconds_exhaustive", "ratio", "peak_mb"},
    "encoder": {
        "backbone",
        "format",
        "batch",
        "images_per_second",
        "images_per_second_reference",
        "ratio",
        "peak_mb",
        "peak_mb_reference",
        "difference",
        "matrix_share",
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
    "training": {
        "backbone",
        "batch_size",
        "slices",
        "fmt",
        "placement",
        "precision",
        "samples_per_second",
        "samples_per_second_published",
        "ratio",
        "peak_mb",
        "peak_mb_published",
    },
}


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


@pytest.mark.parametrize("name", FIELDS)
def test_a_quick_run_writes_the_promised_fields(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quick(name, tmp_path, monkeypatch)
    assert {"device", "libraries", "code", "quick", "rows"} <= found.keys()
    assert found["quick"]
    assert found["rows"]
    for row in found["rows"]:
        assert row.keys() == FIELDS[name]
        numbers = {key: value for key, value in row.items() if not isinstance(value, str)}
        assert all(value >= 0 for value in numbers.values())
        assert row.get("ratio", 1) > 0
    for same in [*found.get("details", []), *(found["rows"] if name == "encoder" else [])]:
        assert same.get("largest_difference", same.get("difference")) < 1e-4


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
        assert not json.loads(path.read_text())["quick"], path.name
