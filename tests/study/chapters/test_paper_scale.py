"""Costs: runs from the plans, bytes from the shapes, seconds from records and nothing else."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from notebook_code import definitions

from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.sam import get_backbone
from desam_lite.study.chapters import paper_scale
from desam_lite.study.plans import EXPERIMENTS
from desam_lite.study.profiles import get_profile
from desam_lite.study.report import benchmark_tables

ROOT = Path(__file__).resolve().parents[3]


def list_runs(plans: dict[str, list[RunSpec]]) -> list[RunSpec]:
    return list(dict.fromkeys(spec for specs in plans.values() for spec in specs))


def test_bytes_are_those_of_the_maps() -> None:
    spec = get_backbone("sam_tiny")
    maps = [torch.zeros(spec.width, spec.grid, spec.grid, dtype=torch.float16) for _ in range(3)]
    maps.append(torch.zeros(spec.neck, spec.grid, spec.grid, dtype=torch.float16))
    assert paper_scale.embedding_bytes("sam_tiny", "float16") == sum(
        m.numel() * m.element_size() for m in maps
    )


def test_the_recorded_bytes_of_a_slice_agree() -> None:
    for row in benchmark_tables.read_benchmarks(ROOT / "benchmarks" / "results", "embeddings").to_dict(
        "records"
    ):
        expected = paper_scale.embedding_bytes(row["backbone"], row["fmt"])
        assert abs(row["bytes_per_slice"] - expected) < 0.01 * expected


def test_a_table_of_bytes_is_drawn_and_told() -> None:
    sizes = {fmt: {"vit_b": paper_scale.embedding_bytes("vit_b", fmt) / 1e6} for fmt in ("float32", "float8")}
    table = pd.DataFrame(sizes)
    assert table.loc["vit_b", "float8"] * 4 == table.loc["vit_b", "float32"]
    drawn = paper_scale.draw_bytes(table, 1000)
    assert f"vit_b: {table.loc['vit_b', 'float32']:.3g} in float32" in drawn.alt
    assert len(drawn.figure.axes) == 1


def test_runs_are_counted_once() -> None:
    plans = paper_scale.plan_study(get_profile("paper"), "sam.pth")
    counted = definitions("paper_scale").count_runs(plans)
    each = list_runs(plans)
    assert counted["of them new"].sum() == len(each) == len(set(each))
    priors = [spec for spec in each if spec.method == "prior" and "phantom" not in str(spec.manifest)]
    assert len(priors) == (6 + 2) * len(get_profile("paper").seeds)  # each source of both tasks
    assert counted["runs"].sum() == sum(map(len, plans.values()))
    made = {name for name, specs in plans.items() if any("phantom" in str(spec.manifest) for spec in specs)}
    synthetic = {name for name, usual in EXPERIMENTS.items() if usual.synthetic}
    assert made == synthetic  # the others are on real scans


def test_only_what_was_measured_has_a_row(tmp_path: Path) -> None:
    assert paper_scale.measured(tmp_path).empty
    record = {"code": {"commit": "c" * 40}, "quick": False, "device": "a GPU"}
    row = {"backbone": "vit_h", "batch": 8, "format": "bfloat16", "images_per_second": 4.0, "peak_mb": 9.0}
    (tmp_path / "encoder-gpu.json").write_text(json.dumps({**record, "rows": [row]}))
    (tmp_path / "encoder-quick.json").write_text(json.dumps({**record, "quick": True, "rows": [row]}))
    (row,) = paper_scale.measured(tmp_path).to_dict("records")
    assert (row["seconds"], row["MB"], row["device"]) == (0.25, 9.0, "a GPU")


def test_this_studys_records_give_rows_for_all_three_steps() -> None:
    assert set(paper_scale.measured(ROOT / "benchmarks" / "results")["step"]) == {
        "encode",
        "train, per epoch",
        "predict",
    }


STUDY = list_runs(paper_scale.plan_study(get_profile("paper"), "SAM.pth"))
RATES = pd.Series({"device": "a device", "encode": 10.0, "train": 20.0, "predict": 5.0})


PAGE = definitions("paper_scale")


@pytest.fixture
def page() -> Any:
    """The page's functions with its parameter of slices per case."""
    PAGE.run_seconds.__globals__["per_case"] = 20
    return PAGE


def timed_of(specs: list[RunSpec]) -> list[RunSpec]:
    methods = ("desam", "sam_finetuned", "sam_zero_shot")
    return [s for s in specs if s.method in methods and any(PAGE.cases_of(s.manifest).values())]


def test_a_run_is_its_epochs_over_the_training_slices_and_every_slice_once(page: Any) -> None:
    spec = next(s for s in STUDY if s.method == "desam" and s.source == "CT")
    trained = 50 * 0.9 * 30 * 20 / 20
    assert page.run_seconds(spec, RATES) == pytest.approx(trained + (30 + 20) * 20 / 5)


def test_more_devices_take_less_time_but_never_less_than_the_longest_run(page: Any) -> None:
    assert page.wall_hours([7200, 3600, 3600], 64) == 2 and page.wall_hours([3600, 3600, 7200], 2) == 2
    table = page.study_hours(timed_of(STUDY), len(STUDY), RATES).set_index("devices")
    assert table["wall_hours"].is_monotonic_decreasing
    whole = table.loc[1, "run_hours"] + table.loc[1, "encode_hours"]
    assert table.loc[1, "wall_hours"] == pytest.approx(whole)
    assert (table["wall_hours"] >= table["longest_run_hours"]).all()


def test_runs_on_scans_made_to_order_take_no_hours(page: Any) -> None:
    made = [spec for spec in STUDY if "phantom" in str(spec.manifest)]
    assert made and not timed_of(made)
    assert page.study_hours([], len(made), RATES).loc[0, "wall_hours"] == 0


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
    rates = paper_scale.read_rates(tmp_path, "vit_b")
    assert rates.to_numpy().tolist() == [["a processor, vit_b", 2.0, 3.0, 2.0]]
    assert paper_scale.read_rates(tmp_path, "vit_h").empty
    (tmp_path / "training-cpu.json").unlink()
    assert paper_scale.read_rates(tmp_path, "vit_b").empty


def test_the_arithmetic_in_words_holds_its_numbers(page: Any) -> None:
    timed = timed_of(STUDY)
    table = page.study_hours(timed, len(STUDY), RATES)
    untimed = [spec for spec in STUDY if spec not in timed]
    said = paper_scale.say_hours(untimed, table, RATES)
    assert f"{len(timed)} of {len(STUDY)} planned runs take" in said and "a device" in said
    assert f"The other {len(untimed)} runs have no measured rate and come on top: Prior " in said
    assert f"{table.loc[0, 'wall_hours']:.3g} h on 1" in said
    single = paper_scale.say_hours([], page.study_hours(timed[:1], 1, RATES), RATES)
    assert "1 of 1 planned run take" in single and "The other" not in single


def test_the_page_says_what_was_not_measured_on_a_gpu(tmp_path: Path) -> None:
    assert "**Nothing was measured on a GPU**" in paper_scale.say_gpu(tmp_path)
    (tmp_path / "encoder-cuda.json").write_text("{}")
    (tmp_path / "inference-cuda.json").write_text("{}")
    assert "no rate of this step was measured: train, per epoch.**" in paper_scale.say_gpu(tmp_path)
    (tmp_path / "training-cuda.json").write_text("{}")
    assert paper_scale.say_gpu(tmp_path) == ""
