"""Costs: runs from the plans, bytes from the shapes, seconds from records and nothing else."""

import json
from pathlib import Path

import torch

from desam_lite.model.sam import get_backbone
from desam_lite.study.chapters import paper_scale
from desam_lite.study.plans import EXPERIMENTS
from desam_lite.study.profiles import get_profile
from desam_lite.study.report import benchmark_tables

ROOT = Path(__file__).resolve().parents[3]


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
    table = paper_scale.embedding_table(1000)
    assert table.loc["vit_h", "float8"] * 4 == table.loc["vit_h", "float32"]
    assert f"vit_b: {table.loc['vit_b', 'float32']:.3g} in float32" in paper_scale.draw_bytes_alt(table, 1000)
    assert len(paper_scale.draw_bytes(table, 1000).axes) == 1


def test_runs_are_counted_once() -> None:
    plans = paper_scale.plan_study(get_profile("paper"), "sam.pth")
    counted = paper_scale.count_runs(plans)
    each = paper_scale.list_runs(plans)
    assert counted["of them new"].sum() == len(each) == len(set(each))
    priors = [spec for spec in each if spec.method == "prior" and "phantom" not in str(spec.manifest)]
    assert len(priors) == (6 + 2) * len(get_profile("paper").seeds)  # each source of both tasks
    assert counted["runs"].sum() == sum(map(len, plans.values()))
    made = {name for name, specs in plans.items() if any("phantom" in str(spec.manifest) for spec in specs)}
    asked = {name for name, usual in EXPERIMENTS.items() if usual.synthetic}
    assert made == asked  # the others are on real scans


def test_only_what_was_measured_has_a_row(tmp_path: Path) -> None:
    assert paper_scale.measured(tmp_path).empty
    record = {"code": {"commit": "c" * 40}, "quick": False, "device": "a GPU"}
    row = {"backbone": "vit_h", "batch": 8, "format": "bfloat16", "images_per_second": 4.0, "peak_mb": 9.0}
    (tmp_path / "encoder-gpu.json").write_text(json.dumps({**record, "rows": [row]}))
    (tmp_path / "encoder-quick.json").write_text(json.dumps({**record, "quick": True, "rows": [row]}))
    (one,) = paper_scale.measured(tmp_path).to_dict("records")
    assert (one["seconds"], one["MB"], one["device"]) == (0.25, 9.0, "a GPU")
    assert paper_scale.devices(paper_scale.measured(tmp_path)) == ["a GPU"]


def test_this_studys_records_give_rows_for_all_three_steps() -> None:
    assert set(paper_scale.measured(ROOT / "benchmarks" / "results")["step"]) == {
        "encode",
        "train, per epoch",
        "predict",
    }
