"""The paper-sized study is counted from its specification and timed at measured rates."""

import json
from pathlib import Path

import pytest

from desam_lite.profiles import PROFILES
from desam_lite.scaling import Rates, list_study, read_rates, run_seconds, say_scaling, scaling, wall_hours

RATES = Rates("a device", encode=10.0, train=20.0, predict=5.0)


def test_every_run_is_counted_once() -> None:
    specs = list_study(PROFILES["paper"])
    assert len(set(specs)) == len(specs)
    real = [spec for spec in specs if "phantom" not in str(spec.manifest)]
    prior = [spec for spec in real if spec.method == "prior"]
    assert len(prior) == (6 + 2) * len(PROFILES["paper"].seeds)


def test_a_run_is_its_epochs_over_the_training_slices_and_every_slice_once() -> None:
    spec = next(
        s for s in list_study(PROFILES["paper"], ["abdomen"]) if s.method == "desam" and s.source == "CT"
    )
    trained = 50 * 0.9 * 30 * 10 / 20
    assert run_seconds(spec, RATES, 10) == pytest.approx(trained + (30 + 20) * 10 / 5)


def test_more_devices_take_less_time_but_never_less_than_the_longest_run() -> None:
    assert wall_hours([7200, 3600, 3600], 64) == 2
    table = scaling(list_study(PROFILES["paper"]), RATES, 20).set_index("devices")
    assert table["wall_hours"].is_monotonic_decreasing
    assert table.loc[1, "wall_hours"] == pytest.approx(
        table.loc[1, "run_hours"] + table.loc[1, "encode_hours"]
    )
    assert (table["wall_hours"] >= table["longest_run_hours"]).all()


def test_rates_are_those_recorded_or_none(tmp_path: Path) -> None:
    rows = {
        "encoder": {"images_per_second": 2.0, "backbone": "vit_b"},
        "training": {"samples_per_second": 3.0, "backbone": "vit_b"},
        "inference": {"seconds": 0.5, "points": 81, "backbone": "vit_b"},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}-cpu.json").write_text(json.dumps({"device": "a processor", "rows": [row]}))
    assert read_rates(tmp_path, "cpu", "vit_b") == Rates("a processor, vit_b", 2.0, 3.0, 2.0)
    assert read_rates(tmp_path, "cpu", "vit_h") is None
    assert read_rates(tmp_path, "cuda", "vit_b") is None


def test_the_arithmetic_in_words_holds_its_numbers() -> None:
    specs = list_study(PROFILES["paper"])
    table = scaling(specs, RATES, 20)
    said = say_scaling(specs, table, RATES)
    assert f"{len(specs)} runs" in said and "a device" in said
    assert f"{table['wall_hours'].iloc[0]:.3g} h on 1" in said
