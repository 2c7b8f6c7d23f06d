"""The recorded comparison of all methods is told in the order of the numbers, with what it is compared with."""

import importlib.util
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
    say_controls,
    say_methods,
    say_slices,
    slices_rows,
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


def slices_record(labels: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """A record of labels with their Dice by both protocols, compared with the first and the last of them."""
    rows = [
        {
            "protocol": protocol,
            "label": label,
            "in_domain": inside,
            "cases": 7,
            "dice": dice,
            "low": None,
            "high": None,
        }
        for label, pair in labels.items()
        for protocol, dice in zip(("published", "whole_volume"), pair, strict=True)
        for inside in (True, False)
    ]
    names = list(labels)
    differences = [
        {
            "protocol": protocol,
            "first": label,
            "second": other,
            "in_domain": inside,
            "verdict": verdict,
            "mean": labels[label][1] - labels[other][1],
            "low": -0.01,
            "high": 0.3,
        }
        for label in names[:-1]
        for other in {names[0], names[-1]} - {label}
        for protocol, inside, verdict in (
            ("published", False, "worse"),
            ("whole_volume", True, "worse"),
            ("whole_volume", False, "better"),
        )
    ]
    slices = {"all": 40, "published": 20}
    settings = {
        "task": "t",
        "sources": ["A", "B"],
        "seeds": [0, 1],
        "slices": slices,
        "epochs": 6,
        "failed": [],
    }
    return {"device": "a machine", "rows": rows, "differences": differences, "settings": settings}


def test_ways_of_training_are_told_by_both_protocols_with_the_verdict_on_the_whole_volume() -> None:
    record = slices_record({"D": (0.7, 0.5), "D, all slices": (0.6, 0.65), "Prior": (0.5, 0.5)})
    assert slices_rows(record).to_numpy().tolist() == [
        ["D", "70.0", "50.0", "", "+0.0 (-1.0 to +30.0): better"],
        ["D, all slices", "60.0", "65.0", "+15.0 (-1.0 to +30.0): better", "+15.0 (-1.0 to +30.0): better"],
        ["Prior", "50.0", "50.0", "", ""],
    ]
    assert say_slices(record).startswith(
        "Trained at A or B of t, Dice (%) out of domain by both protocols: 2 seeds"
    )
    assert "7 cases" in say_slices(
        record
    ) and "The published rule takes 20 of the 40 slices of the sources" in say_slices(record)


def test_the_page_on_predicting_shows_the_record_or_that_there_is_none(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("slices_table", ROOT / "book" / "_ext" / "slices_table.py")
    assert spec is not None and spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    assert extension.markdown(tmp_path) == ["*Not measured yet.*"]
    record = slices_record({"D": (0.7, 0.5), "Prior": (0.5, 0.5)})
    (tmp_path / "all_slices-cpu.json").write_text(json.dumps(record))
    lines = extension.markdown(tmp_path)
    assert lines[2:4] == [
        "| D | 70.0 | 50.0 |  | +0.0 (-1.0 to +30.0): better |",
        "| Prior | 50.0 | 50.0 |  |  |",
    ]
    assert ":::{slices-table}" in (ROOT / "book" / "predict_a_scan.md").read_text(encoding="utf-8")


def test_methods_below_a_control_are_named_whichever_these_are() -> None:
    rows = [
        ["SAM point (oracle)", "10.0"],
        ["A", "60.0 (50.0 to 70.0)"],
        ["Prior", "50.0"],
        ["B", "50.0"],
        ["C", "40.0"],
    ]
    frame = pd.DataFrame(rows, columns=["method", "out of domain"]).assign(verdict="")
    told = say_controls(frame)
    assert told.startswith(
        "Mean Dice (%) out of domain below Prior (50.0): C. There are no verdicts"
    )  # a tie is not below
    turned = frame[frame["method"] != "C"].assign(verdict="better")
    assert say_controls(turned) == "Mean Dice (%) out of domain below Prior (50.0): no method."
    assert "no control" in say_controls(frame[:2])
