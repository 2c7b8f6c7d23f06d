"""Averages per hospital follow the rule; the paper's numbers stand beside ours where they were read, and say if they compare."""

from pathlib import Path

import pandas as pd
import pytest

from desam_lite.data.manifest import load_manifest
from desam_lite.data.tasks import Task
from desam_lite.evaluation import statistics as results
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.profiles import get_profile, plan_domain_splits
from desam_lite.study.report import paper_numbers

ROOT = Path(__file__).resolve().parents[3]


def specs(name: str, **settings: object) -> list[RunSpec]:
    manifest = ROOT / "data_manifests" / f"{name}.yaml"
    usual = {"weights": "sam_vit_h.pth", "methods": ["desam_p", "desam_b"], "seeds": [0]}
    usual |= {"split": "published_90_10"}  # the profile's own leaves cases of the source to test on
    return plan_domain_splits(get_profile("paper"), manifest, "data", **{**usual, **settings})


def task(name: str) -> Task:
    """A task of which only the manifest is asked for."""
    manifest = load_manifest(ROOT / "data_manifests" / f"{name}.yaml")
    return Task(manifest, ROOT, pd.DataFrame(), "", None)  # type: ignore[arg-type]


def summary() -> pd.DataFrame:
    rows = [(label, inside, 0.6) for label in ("DeSAM-P", "DeSAM-B") for inside in (True, False)]
    return pd.DataFrame(rows, columns=["label", "in_domain", "mean"])


def test_every_number_of_the_paper_says_where_it_was_read() -> None:
    numbers = paper_numbers.read_paper_numbers()
    assert list(numbers["value"]) == [0.7902, 0.7006]
    assert numbers["source"].str.contains("arXiv 2306.00499v1").all()


def test_a_number_is_comparable_only_where_everything_is_the_papers() -> None:
    side = paper_numbers.compare_with_paper(task("prostate"), specs("prostate"), summary()).set_index("label")
    assert side.loc["DeSAM-P", "paper"] == "79.02" and side.loc["DeSAM-P", "comparable"] == "yes"
    assert side.loc["best earlier method (paper)", "paper"] == "70.06"
    assert list(side.loc["DeSAM-B", ["paper", "comparable", "read in"]]) == ["", "", ""]


@pytest.mark.parametrize(
    ("name", "settings", "protocol", "reason"),
    [
        ("phantom_prostate", {}, "published", "the scans are synthetic"),
        ("prostate", {"backbone": "vit_b"}, "published", "the encoder is not SAM's ViT-H"),
        ("prostate", {}, "whole_volume", "another protocol"),
        ("prostate", {"sources": ["A", "B"]}, "published", "trained at 2 of 6 hospitals"),
        ("prostate", {"split": "70_10_20"}, "published", "another split"),
        *(
            (
                "prostate",
                {name: value},
                "published",
                f"other settings ({name} {value})",
            )
            for name, value, default in (
                ("mask_loss", "dice_ce", "dice"),
                ("selection", "iou", "published"),
                ("stability_threshold", 0.6, 0.0),
                ("train_slices", "all", "published"),
                ("min_area", 0, 1000),
            )
        ),
    ],
)
def test_what_differs_is_said(name: str, settings: dict[str, object], protocol: str, reason: str) -> None:
    side = paper_numbers.compare_with_paper(
        task(name), specs(name, **settings), summary(), protocol=protocol
    ).set_index("label")
    assert side.loc["DeSAM-P", "comparable"] == f"not comparable: {reason}"


def test_another_metric_or_task_has_no_number_to_stand_beside() -> None:
    for side in (
        paper_numbers.compare_with_paper(task("prostate"), specs("prostate"), summary(), metric="hd95"),
        paper_numbers.compare_with_paper(task("phantom_abdomen"), specs("phantom_abdomen"), summary()),
    ):
        assert set(side["paper"]) == {""} and list(side["label"]) == ["DeSAM-P", "DeSAM-B"]


def test_columns_are_hospitals_and_the_last_follows_the_rule() -> None:
    rows = [
        ("U-Net", source, target, source == target, 0, f"{target}{case}", "dice", value)
        for source, target, value, cases in (
            ("A", "B", 0.2, 1),
            ("A", "C", 0.8, 3),
            ("B", "A", 0.4, 1),
            ("A", "A", 0, 1),
        )
        for case in range(cases)
    ]
    frame = pd.DataFrame(rows, columns=results.COLUMNS)
    by_source = paper_numbers.out_of_domain_by(frame, "source")
    assert list(by_source.columns) == ["label", "A", "B", "all"]
    assert list(by_source.iloc[0]) == ["U-Net", "50.0", "40.0", "45.0"]
    by_target = paper_numbers.out_of_domain_by(frame, "target", rule="cases")
    assert list(by_target.iloc[0]) == ["U-Net", "40.0", "20.0", "80.0", "60.0"]
