"""The paper-sized study is counted from its specification and timed at measured rates."""

import json
from pathlib import Path

import pytest

from desam_lite.study.chapters.paper_scale import list_runs, plan_study
from desam_lite.study.chapters.scaling import Rates, read_rates, run_seconds, say_scaling, scaling, wall_hours
from desam_lite.study.profiles import get_profile

STUDY = list_runs(plan_study(get_profile("paper"), "SAM.pth"))
RATES = Rates("a device", encode=10.0, train=20.0, predict=5.0)


def test_a_run_is_its_epochs_over_the_training_slices_and_every_slice_once() -> None:
    spec = next(s for s in STUDY if s.method == "desam" and s.source == "CT")
    trained = 50 * 0.9 * 30 * 10 / 20
    assert run_seconds(spec, RATES, 10) == pytest.approx(trained + (30 + 20) * 10 / 5)


def test_more_devices_take_less_time_but_never_less_than_the_longest_run() -> None:
    assert wall_hours([7200, 3600, 3600], 64) == 2
    table = scaling(STUDY, RATES, 20).set_index("devices")
    assert table["wall_hours"].is_monotonic_decreasing
    assert table.loc[1, "wall_hours"] == pytest.approx(
        table.loc[1, "run_hours"] + table.loc[1, "encode_hours"]
    )
    assert (table["wall_hours"] >= table["longest_run_hours"]).all()


def test_runs_on_scans_made_to_order_take_no_hours() -> None:
    made = [spec for spec in STUDY if "phantom" in str(spec.manifest)]
    table = scaling(made, RATES, 20)
    assert made and table.loc[0, "runs_without_rate"] == len(made)
    assert table.loc[0, "wall_hours"] == 0


def test_rates_are_those_recorded_or_none(tmp_path: Path) -> None:
    same = {"backbone": "vit_b", "peak_mb": 1.0}
    rows = {
        "encoder": {"images_per_second": 2.0, "batch": 1, "format": "float32"},
        "training": {
            "samples_per_second": 3.0,
            "batch_size": 8,
            "precision": "32-true",
            "fmt": "float32",
            "placement": "ram",
        },
        "inference": {"seconds": 0.5, "points": 81},
    }
    for name, row in rows.items():
        record = {"device": "a processor", "code": {}, "rows": [{**same, **row}]}
        (tmp_path / f"{name}-cpu.json").write_text(json.dumps(record))
    assert read_rates(tmp_path, "vit_b") == [Rates("a processor, vit_b", 2.0, 3.0, 2.0)]
    assert read_rates(tmp_path, "vit_h") == []
    (tmp_path / "training-cpu.json").unlink()
    assert read_rates(tmp_path, "vit_b") == []


def test_the_arithmetic_in_words_holds_its_numbers() -> None:
    table = scaling(STUDY, RATES, 20)
    said = say_scaling(STUDY, table, RATES)
    assert f"{len(STUDY)} runs" in said and "a device" in said
    assert f"{table.loc[0, 'wall_hours']:.3g} h on 1" in said
