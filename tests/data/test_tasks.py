"""Opening a task: every file read once, all faults told together, and nothing done twice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_task import save, write_manifest, write_task

from desam_lite.data import nifti
from desam_lite.data import slices as slices_module
from desam_lite.data.tasks import Task, open_task
from desam_lite.utils.errors import StudyError


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """Counts the scans and labels that are read, and the cases that are prepared, since the last call."""
    counts = {"read": 0, "prepared": 0}

    def count(module: object, name: str, what: str) -> None:
        original = getattr(module, name)

        def spy(*args: object, **named: object) -> object:
            counts[what] += 1
            return original(*args, **named)

        monkeypatch.setattr(module, name, spy)

    count(nifti, "_read_scan", "read")
    count(slices_module, "save_file", "prepared")

    def since() -> tuple[int, int]:
        now = counts["read"], counts["prepared"]
        counts.update(read=0, prepared=0)
        return now

    return since


def reopen(folder: Path, manifest: Path | None = None, root: Path | None = None) -> Task:
    return open_task(manifest or folder / "tiny.yaml", root or folder / "data", folder / "ws", progress=False)


def test_an_open_task_tells_its_cases_by_domain(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = reopen(tmp_path)
    assert task.cases("A") == ["Case00", "Case01"]
    assert list(task.index["domain"]) == ["A", "A", "B", "B"]
    assert task.root == (tmp_path / "data").resolve()
    for domain in "AB":
        labels = task.slices.load(domain, "Case00").labels
        assert labels.sum() == 5 * 4 * 4


def test_each_file_is_read_once_and_not_again_when_the_task_is_opened_again(tmp_path: Path, work) -> None:
    write_task(tmp_path)
    first = reopen(tmp_path)
    assert work() == (8, 4)  # two files of each of four cases
    assert reopen(tmp_path).data_hash == first.data_hash
    assert work() == (0, 0)


@pytest.mark.parametrize("content", [b"", b"no table", b"\xff\xfe\x00", b"[1]", b'[{"stamp": "x"}]', b"{}"])
def test_a_damaged_index_is_made_again(content: bytes, tmp_path: Path, work) -> None:
    write_task(tmp_path)
    first = reopen(tmp_path)
    (cache,) = (tmp_path / "ws" / "index").glob("*.json")
    whole = cache.read_bytes()
    cache.write_bytes(content)
    work()
    assert reopen(tmp_path).data_hash == first.data_hash
    assert work() == (8, 0)
    assert cache.read_bytes() == whole


@pytest.mark.parametrize("harm", ["cut", "gone", "edited"])
def test_damaged_slices_are_prepared_again_and_no_others(harm: str, tmp_path: Path, work) -> None:
    write_task(tmp_path)
    first = reopen(tmp_path)
    path = first.slices.path("B", "Case01")
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-5] ^= 0xFF
    path.write_bytes(whole[:-7] if harm == "cut" else bytes(changed))
    if harm == "gone":
        path.unlink()
    with pytest.raises(StudyError, match="run again"):
        first.slices.load("B", "Case01")
    work()
    reopen(tmp_path)
    assert work() == (2, 1)
    assert path.read_bytes() == whole


def test_a_case_that_changes_is_checked_and_prepared_anew_and_names_other_data(tmp_path: Path, work) -> None:
    write_task(tmp_path)
    first = reopen(tmp_path)
    image = tmp_path / "data" / "A" / "Case00.nii.gz"
    save(image, np.random.default_rng(77).integers(0, 900, (12, 10, 6)).astype(np.int16))
    work()
    second = reopen(tmp_path)
    assert work() == (2, 1)
    assert second.data_hash != first.data_hash
    assert second.slices.path("A", "Case00") != first.slices.path("A", "Case00")


def test_the_same_data_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    write_task(tmp_path)
    first = reopen(tmp_path)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    moved = reopen(tmp_path, root=tmp_path / "moved")
    assert moved.data_hash == first.data_hash
    assert moved.slices.path("A", "Case00") == first.slices.path("A", "Case00")


def test_an_unknown_domain_is_named_with_the_known_ones(tmp_path: Path) -> None:
    write_task(tmp_path)
    with pytest.raises(StudyError, match=r"'Z'.*A.*B"):
        reopen(tmp_path).cases("Z")


def test_faults_are_listed_together_and_what_is_sound_is_not_read_again(tmp_path: Path, work) -> None:
    write_task(tmp_path)
    scan = tmp_path / "data" / "A" / "Case00.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(b"no scan")
    (tmp_path / "data" / "B" / "Case01_segmentation.nii.gz").unlink()
    with pytest.raises(
        StudyError, match=r"(?s)2 fault\(s\) in the data, nothing was started:.*A/Case00.*B/Case01"
    ):
        reopen(tmp_path)
    assert work() == (7, 2)
    scan.write_bytes(whole)
    with pytest.raises(StudyError, match=r"1 fault\(s\)"):
        reopen(tmp_path)
    assert work() == (3, 1)  # the repaired case, and the image without a label


def test_a_wrong_manifest_is_refused_before_the_data_are_looked_at(tmp_path: Path, work) -> None:
    write_task(tmp_path)
    wrong = write_manifest(tmp_path / "wrong.yaml", organ=[])
    with pytest.raises(StudyError, match="organ"):
        reopen(tmp_path, manifest=wrong)
    assert work() == (0, 0)
