"""The page on the paper and its code reads what was measured from the record, and asks for nothing that nobody measures."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from desam_lite.methods.run_spec import RunSpec

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "paper_code_study.md").read_text(encoding="utf-8")


def load(path: Path) -> ModuleType:
    place = importlib.util.spec_from_file_location(path.stem, path)
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


EFFECT = load(ROOT / "book" / "_ext" / "recorded_effect.py")
RECORD: dict[str, Any] = {
    "device": "CPU, 1 thread(s)",
    "size": {"cases": 8, "targets": 3, "seeds": [0, 1, 2]},
    "recipe": {"mask_loss": "dice"},
    "effects": [
        {
            "name": "filter",
            "mean": -0.012,
            "low": -0.03,
            "high": 0.006,
            "verdict": "cannot tell",
            "seeds": 3,
            "cases": 15,
        },
        {
            "name": "split",
            "mean": 0.01,
            "low": None,
            "high": None,
            "verdict": "cannot tell",
            "seeds": 1,
            "cases": 15,
        },
    ],
    "choice": [
        {
            "name": "desam_b",
            "mean": 0.04,
            "low": 0.03,
            "high": 0.05,
            "verdict": "better",
            "seeds": 2,
            "cases": 7,
        }
    ],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("filter", "-1.2 (-3.0 to +0.6), 3 seeds, 15 cases: cannot tell"),
        ("split", "+1.0, 1 seed, 15 cases: cannot tell"),
        ("choice desam_b", "+4.0 (+3.0 to +5.0), 2 seeds, 7 cases: better"),
        ("selection", "not measured"),
        ("choice desam_p", "not measured"),
        ("recipe mask_loss", "dice"),
        ("facts", "CPU, 1 thread(s); 8 cases of the source, 3 of each other hospital; up to 3 seeds"),
    ],
)
def test_an_effect_is_said_with_its_interval_and_verdict_or_as_not_measured(
    name: str, text: str, tmp_path: Path
) -> None:
    assert EFFECT.say_effect(name, tmp_path) == "not measured"
    (tmp_path / "public_code-cpu.json").write_text(json.dumps(RECORD))
    assert EFFECT.say_effect(name, tmp_path) == text


def test_the_page_asks_for_what_the_benchmark_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setitem(sys.modules, "public_code", ModuleType("public_code"))
    benchmark = load(ROOT / "benchmarks" / "public_code.py")
    measured = {*benchmark.PAIRS, "mask loss", "mask loss, DeSAM-B", "facts"}
    measured |= {f"choice {method}" for method in ("desam_p", "desam_b", "pdmm_only", "sam_finetuned_b")}
    measured |= {f"recipe {name}" for name in RunSpec.model_fields}
    named = set(re.findall(r"\{effect\}`([^`]+)`", PAGE))
    assert named <= measured
    assert set(benchmark.PAIRS) <= named  # what is measured is shown


def test_no_effect_is_typed_in() -> None:
    section = PAGE[PAGE.index("## What each difference") : PAGE.index("## Consequences")]
    cells = [
        line.strip("| ").split("|")[-1].strip() for line in section.splitlines() if line.startswith("| ")
    ]
    numbers = [cell for cell in cells if re.search(r"\d", cell)]
    assert len(cells) > 12 and not [cell for cell in numbers if not re.fullmatch(r"\{effect\}`[^`]+`", cell)]
