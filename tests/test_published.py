"""The kept study of the repository, once there is one: whole, small, and enough for every page."""

from pathlib import Path

import pytest

from desam_lite.study.kept import LIMIT, read_kept
from desam_lite.study.workflow.plan import StudyOptions, make_plan

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "published"
pytestmark = pytest.mark.skipif(
    not PUBLISHED.exists(), reason="no study is kept yet: make reproduce, make keep"
)


def test_it_is_whole_and_small() -> None:
    study = read_kept(PUBLISHED)
    assert set(study.metrics()["run"]) == set(study.names)
    assert sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()) <= LIMIT


def test_the_book_asks_for_no_run_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    jobs = make_plan(StudyOptions(profile="study"))["jobs"].values()
    assert [job["title"] for job in jobs if job["kind"] in ("run", "embeddings")] == []
