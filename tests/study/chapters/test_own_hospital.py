"""The example of one's own data: a layout of its own, a label number of its own, and a scan without a label."""

from pathlib import Path

import pandas as pd
import pytest
from small_task import write_manifest

from desam_lite.data.index import build_index, list_faults
from desam_lite.data.manifest import load_manifest
from desam_lite.data.nifti import read_image
from desam_lite.evaluation.statistics import compare, summarise
from desam_lite.study.chapters.own_hospital import (
    HILL_LABEL,
    NEW_SCAN,
    make_example,
    say_against_prior,
    say_volume,
)

PATHS = {
    "image": "{domain}/patients/{case}/t2.nii.gz",
    "label": "{domain}/patients/{case}/t2_prostate.nii.gz",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    make_example(folder, 1, progress=False)
    return folder


def faults(folder: Path, tmp_path: Path, hill: dict[str, object]) -> list[str]:
    domains = {"harbour": {"title": "Harbour"}, "hill": {"title": "Hill", **hill}}
    manifest = write_manifest(tmp_path / "own.yaml", name="own", domains=domains, **PATHS)
    index = build_index(load_manifest(manifest), folder, progress=False)
    assert len(index) == 2
    return list_faults(index)


def test_a_manifest_brings_it_in(folder: Path, tmp_path: Path) -> None:
    assert faults(folder, tmp_path, {"label_map": {HILL_LABEL: 1}}) == []


def test_without_its_map_of_labels_the_hill_is_at_fault(folder: Path, tmp_path: Path) -> None:
    (fault,) = faults(folder, tmp_path, {})
    assert "hill" in fault and str(HILL_LABEL) in fault


def test_the_new_scan_has_no_label_and_what_is_there_is_kept(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    assert len(before) == 5
    make_example(folder, 1, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    assert read_image(folder / NEW_SCAN).data.ndim == 3


def scored(ours: float, prior: float, seeds: int) -> pd.DataFrame:
    rows = [
        {"label": label, "source": "harbour", "target": "hill", "in_domain": False, "seed": seed}
        | {"case": f"P{case}", "metric": "dice", "value": value}
        for label, value in (("DeSAM-B", ours), ("Prior", prior))
        for seed in range(seeds)
        for case in range(3)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ours", "prior", "seeds", "verdict"),
    [
        (0.3, 0.47, 2, "worse than Prior: -17.0"),
        (0.47, 0.3, 2, "better than Prior"),
        (0.3, 0.3, 2, "equivalent to Prior"),
        (0.3, 0.47, 1, "not distinguishable from Prior"),  # one seed
    ],
)
def test_a_method_is_compared_with_the_prior_by_the_rule(
    ours: float, prior: float, seeds: int, verdict: str
) -> None:
    scores = scored(ours, prior, seeds)
    summary = summarise(scores, ["label", "source", "target"])
    said = say_against_prior(compare(scores, [("DeSAM-B", "Prior")]), summary, "DeSAM-B")
    assert said.startswith(
        f"Dice (%) of DeSAM-B and of the prior: {ours * 100:.0f} and {prior * 100:.0f} at hill."
    )
    assert f"DeSAM-B is {verdict}" in said and said.endswith(", n = 3 cases.")
    assert "no method to compare" in say_against_prior(compare(scores, []), summary, "Prior")


def test_a_volume_beyond_all_labelled_ones_is_told() -> None:
    assert say_volume(133.2, [18, 95]).startswith(
        "133 ml is outside the range of the 2 labelled cases, 18 to 95 ml, so look"
    )
    assert "10 ml is outside" in say_volume(10, [18, 95])
    assert "18 ml is within the range of the 1 labelled case, 18 to 18 ml, which does not show" in say_volume(
        18, [18]
    )
