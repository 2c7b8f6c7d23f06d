"""A study done once, kept, and its page made again from what was kept: nothing is trained, and nobody can tell."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import PARAMETERS, reproduce, write_notebook

from desam_lite.study.kept import read_kept
from desam_lite.study.workflow.plan import StudyOptions, make_plan
from desam_lite.study.workflow.status import say_plan

SYNTHETIC = (
    PARAMETERS.replace("tiny.yaml", "phantom_prostate").replace('"data"', '""').replace('["A", "B"]', '["A"]')
)


def kinds(plan: dict) -> list[str]:
    return [entry["kind"] for entry in plan["jobs"].values()]


def page_text(root: Path) -> str:
    return json.dumps(json.loads((root / "pages" / "domain_splits.ipynb").read_text())["cells"])


def test_a_kept_study_makes_the_page_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "data_manifests").mkdir()  # marks the root
    write_notebook(tmp_path / "notebooks" / "domain_splits.ipynb", SYNTHETIC)
    monkeypatch.chdir(tmp_path)
    code, _, err = run("keep", "--profile", "smoke")
    assert code == 1 and "no run is finished in results/anew: do the study first" in err
    assert reproduce(tmp_path, "--profile", "smoke", "--workspace", "results/anew").wait(600) == 0
    code, out, _ = run("keep", "--profile", "smoke")
    assert code == 0 and "kept 2 runs in results/published" in out

    options = StudyOptions(profile="smoke", book=False, pages=Path("pages"))
    plan = make_plan(options)
    assert kinds(plan) == ["data", "page"]
    assert "2 runs, 0 of them to do, 2 kept; page to be made" in say_plan(plan, Path("none"), 1)
    assert (
        kinds(make_plan(StudyOptions(profile="smoke", workspace=Path("results/anew"), book=False))).count(
            "run"
        )
        == 2
    )
    other = make_plan(StudyOptions(profile="smoke", parameters={"sources": ["A", "B"]}, book=False))
    assert kinds(other).count("run") == 2  # those of B alone

    assert reproduce(tmp_path, "--profile", "smoke").wait(600) == 0
    assert "All 2 runs are finished." in page_text(tmp_path)
    names = read_kept("results/published").names
    assert sorted(mark.parent.name for mark in Path("results/runs").glob("*/kept")) == names
    assert not list(Path("results/runs").glob("*/predictions"))
