"""The recorded comparison of all methods is told in the order of the numbers, with what it is compared with."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from desam_lite.study.report.benchmark_tables import (
    format_table,
    method_rows,
    method_table,
    say_methods,
    tuning_rows,
    tuning_table,
)

RECORD = {
    "device": "a machine",
    "averages": [
        {
            "task": "t",
            "label": label,
            "in_domain": inside,
            "dice": dice,
            "low": dice - 0.1,
            "high": dice + 0.1,
        }
        for label, inside, dice in (
            ("Prior", False, 0.5),
            ("DeSAM-B", False, 0.7),
            ("DeSAM-B", True, 0.9),
            ("U-Net", False, 0.6),
        )
    ],
    "differences": [
        {
            "task": "t",
            "first": "Prior",
            "second": "DeSAM-B",
            "dice": -0.2,
            "low": -0.3,
            "high": -0.1,
            "verdict": "worse",
        },
        {
            "task": "t",
            "first": "U-Net",
            "second": "Prior",
            "dice": 0.1,
            "low": 0,
            "high": 0.2,
            "verdict": "cannot tell",
        },
    ],
    "rows": [{"task": "t", "source": "A"}, {"task": "t", "source": "B"}, {"task": "t", "source": "A"}],
    "settings": [{"task": "t", "seeds": [0, 1], "runs": 12, "failed": ["one"]}],
}


def test_the_best_comes_first_and_pairs_are_those_with_the_method_asked_for() -> None:
    frame = method_rows(RECORD, "t").set_index("method")
    assert list(frame.index) == ["DeSAM-B", "U-Net", "Prior"]
    assert list(frame.loc["DeSAM-B"]) == ["90.0 (80.0 to 100.0)", "70.0 (60.0 to 80.0)", "", ""]
    assert list(frame.loc["Prior"]) == ["", "50.0 (40.0 to 60.0)", "-20.0 (-30.0 to -10.0)", "worse"]
    assert frame.loc["U-Net", "minus DeSAM-B"] == ""
    assert method_rows(RECORD, "t", "Prior").set_index("method").loc["U-Net", "verdict"] == "cannot tell"
    older = {
        **RECORD,
        "differences": [{k: v for k, v in row.items() if k != "verdict"} for row in RECORD["differences"]],
    }
    assert list(method_rows(older, "t").set_index("method").loc["Prior"]) == ["", "50.0", "-20.0", ""]
    said = say_methods(RECORD, "t")
    assert said.startswith("Trained at A or B") and "2 seeds, 12 runs of which 1 failed" in said


def test_a_page_says_when_nothing_is_recorded(tmp_path: Path) -> None:
    assert "Nothing is recorded of t" in repr(method_table("t", tmp_path))
    (tmp_path / "methods-cpu.json").write_text(json.dumps(RECORD))
    assert "DeSAM-B" in repr(method_table("t", tmp_path))
    assert "Nothing is recorded of other" in repr(method_table("other", tmp_path))


@pytest.mark.parametrize("task", ["phantom_prostate", "promise12_small"])
def test_the_record_of_this_repository_holds_both_tasks(task: str) -> None:
    frame = method_table(task, ROOT / "benchmarks" / "results").frame
    assert {"Prior", "DeSAM-B", "DeSAM-B, random encoder"} <= set(frame["method"])


def test_formats_are_told_beside_the_seeds_and_float32_is_not_compared_with_itself(tmp_path: Path) -> None:
    row = {"task": "t", "source": "A", "dice_targets": 0.5, "seed_spread": 0.03, "difference_targets": 0.0}
    row |= {"difference_low": -0.001, "difference_high": 0.002}
    rows = [{**row, "fmt": "float32"}, {**row, "fmt": "float8", "difference_targets": 0.001}]
    record = {"device": "a machine", "quick": False, "code": {"commit": "c"}, "rows": rows}
    (tmp_path / "embedding_dice-cpu.json").write_text(json.dumps(record))
    table = format_table(tmp_path)
    assert list(table.frame["minus float32"]) == ["", "+0.1 (-0.1 to +0.2)"]
    assert list(table.frame["between seeds"]) == ["3.0", "3.0"]
    assert "a machine" in table.caption
    assert "Nothing is recorded" in format_table(tmp_path / "nothing").caption


def tried(label: str, *losses: float) -> list[dict[str, Any]]:
    rows = [
        {"label": label, "learning_rate": rate, "loss": loss, "epochs": 40, "stopped": "plateau"}
        for rate, loss in zip((3e-4, 1e-3, 3e-3), losses, strict=False)
    ]
    return rows[::-1]


def test_what_was_tried_is_told_with_the_chosen_rate_and_whether_it_is_an_end() -> None:
    rows = pd.DataFrame(
        [*tried("U-Net", 0.3, 0.1, 0.2), *tried("CSDG", 0.1, 0.2, 0.3), *tried("SAMed", 0.2, 0.1)]
    )
    frame = tuning_rows(rows).set_index("method")
    assert frame.loc["U-Net"].tolist() == [
        "0.300 at 0.0003, 0.100 at 0.001, 0.200 at 0.003",
        "0.001",
        "40 (to the plateau)",
    ]
    assert frame.loc["CSDG", "chosen rate"] == "0.0003, an end of those tried"
    assert frame.loc["SAMed", "chosen rate"] == "not all tried yet"


def test_nothing_tried_is_told(tmp_path: Path) -> None:
    assert "Nothing is recorded of learning rates" in tuning_table(tmp_path).caption
