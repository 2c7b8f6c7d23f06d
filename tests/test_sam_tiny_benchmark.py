"""The probe of the shipped weights runs, measures both encoders and the pixels, and its parts compute what they say."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    threads = torch.get_num_threads()
    import sam_tiny

    yield sam_tiny
    torch.set_num_threads(threads)


def test_a_quick_run_measures_contrast_of_both_encoders_and_of_the_pixels(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "_places", lambda *_: iter(()))
    given = [
        "sam_tiny.py",
        "--quick",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
        "--parts",
        "b",
    ]
    monkeypatch.setattr(sys, "argv", given)
    benchmark.main()
    found = json.loads((tmp_path / "sam_tiny-cpu.json").read_text())
    assert found["quick"]
    assert {row["weights"] for row in found["rows"]} == {"shipped", "random", "pixels"}
    assert all(0 <= row["value"] <= 1 for row in found["rows"])
    level = {row["weights"]: row["value"] for row in found["rows"] if row["measure"] == "agreement level 3"}
    assert level["shipped"] > level["random"]


def test_the_linear_probe_finds_what_is_linear_and_nothing_in_noise(benchmark: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2000, 5, generator=generator) for _ in range(2))
    wanted = x @ torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0]) > 1.5
    fitted = benchmark._fit([(x[:1000], wanted[:1000])])
    assert benchmark._dice(fitted, (x[1000:], wanted[1000:])) > 0.85
    assert benchmark._dice(fitted, (noise[1000:], wanted[1000:])) < 0.5


def test_real_organs_are_answered_where_they_are_at_hand(benchmark: ModuleType, tmp_path: Path) -> None:
    real = ROOT.parent / "shared" / "realdata" / "prostate"
    if not real.exists():
        pytest.skip("no real scans beside the repository")
    place = benchmark.Place(benchmark.list_manifests()["promise12_small"], real)
    task = benchmark.open_task(place.manifest, place.data, tmp_path, progress=False)
    cases = benchmark._cases(task, "UCL", 2)
    shipped, untrained = (
        benchmark._answers_on(benchmark._promptable(w), cases, 1, 1)["box"] for w in ("shipped", "random")
    )
    assert shipped > untrained + 0.2


def test_what_is_not_measured_again_is_kept_on_the_same_weights_only(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    rows = [{"part": part, "data": data} for part, data in (("a", "x"), ("d", "here"), ("d", "there"))]
    (tmp_path / "sam_tiny-cpu.json").write_text(json.dumps({"weights_sha256": "w", "rows": rows}))
    options = benchmark.Options(False, tmp_path, torch.device("cpu"), "wall")
    assert benchmark._measured_before(options, "w", "d", ["here"]) == [rows[0], rows[2]]
    assert benchmark._measured_before(options, "w", "ad", ["here", "there"]) == []
    assert benchmark._measured_before(options, "other", "d", ["here"]) == []
