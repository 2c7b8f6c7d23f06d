"""Bad input given to the commands: one sentence, a non-zero status, before any training, and nothing written is harmed.

What each module says of each fault is tested with it (test_bad_input.py, test_manifest.py, test_weights.py, test_execution.py);
here the commands are shown to say it, for every kind of fault the study promises to answer.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_scans import FAULTS
from conftest import complaint
from small_task import write_manifest, write_task

DATA_FAULTS = [
    *("image missing", "unlabelled", "image truncated", "label truncated", "uncompressed image truncated"),
    *("label of another shape", "label elsewhere", "label without foreground", "NaN"),
]


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file with its bytes and time of change; locks and the cached index are not content."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock" and p.parent.name != "index"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def run_words(manifest: Path | str, root: Path, workspace: Path, *more: object) -> list[object]:
    return [
        *("run", manifest, "--data", root, "--source", "A", "--workspace", workspace),
        *("--profile", "smoke", "--method", "prior", "--accelerator", "cpu", *more),
    ]


@pytest.fixture
def study(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Manifest, data root and a workspace that holds a finished run."""
    manifest, root = write_task(tmp_path)
    assert run(*run_words(manifest, root, tmp_path / "ws"))[0] == 0
    return manifest, root, tmp_path / "ws"


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_a_faulty_case_stops_verify_and_run_with_the_same_sentence(
    fault: str, run, study: tuple[Path, Path, Path]
) -> None:
    manifest, root, workspace = study
    FAULTS[fault][0](root / "A")
    before, data = contents(workspace), contents(root)
    told = []
    for words in (["data", "verify", manifest, "--data", root], run_words(*study, "--method", "unet")):
        code, out, err = run(*words)
        assert (code, out) == (1, "") and "Traceback" not in err and "1 fault(s)" in err
        told.append(complaint(err))
    assert told[0] == told[1] and told[0].startswith("A/Case00: ")
    assert contents(workspace) == before
    assert contents(root) == data


def test_all_faults_of_a_task_are_in_one_listing(run, study: tuple[Path, Path, Path]) -> None:
    _, root, _ = study
    for fault, domain in (("NaN", "A"), ("label elsewhere", "B")):
        FAULTS[fault][0](root / domain)
    (root / "B" / "Case01_segmentation.nii.gz").unlink()
    code, _, err = run(*run_words(*study))
    listing = err.replace("\r", "\n").strip().splitlines()
    start = next(
        number for number, line in enumerate(listing) if "3 fault(s) in the data, nothing was started" in line
    )
    assert code == 1
    assert [line.partition(":")[0] for line in listing[start + 1 :]] == ["A/Case00", "B/Case00", "B/Case01"]


def test_no_data_at_all_tells_how_to_get_them(run, study: tuple[Path, Path, Path], tmp_path: Path) -> None:
    code, out, err = run(*run_words(study[0], tmp_path / "nowhere", tmp_path / "new"))
    assert (code, out) == (1, "") and "ask the maker of this test" in complaint(err)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["run", "data verify", "data index", "data show"])
def test_a_manifest_with_a_wrong_key_is_refused_by_every_command(
    command: str, run, study: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, root, workspace = study
    wrong = write_manifest(tmp_path / "wrong.yaml", domian={"A": {"title": "A"}})
    before = contents(workspace)
    words = (
        run_words(wrong, root, workspace) if command == "run" else [*command.split(), wrong, "--data", root]
    )
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "wrong.yaml" in complaint(err) and "domian" in complaint(err)
    assert contents(workspace) == before


@pytest.mark.parametrize(
    ("option", "sentence"), [("--source", "no domain 'Z'"), ("--method", "no method 'Z'")]
)
def test_unknown_names_are_answered_before_anything_starts(
    option: str, sentence: str, run, study: tuple[Path, Path, Path]
) -> None:
    before = contents(study[2])
    code, out, err = run(*run_words(*study, option, "Z"))
    assert (code, out) == (1, "") and sentence in complaint(err) and "choose from" in complaint(err)
    assert contents(study[2]) == before


class Evil:
    """Makes a folder when it is unpickled as usual."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.place,)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("missing", "does not exist: name a checkpoint"),
        ("hash", "has SHA-256"),
        ("pickle", "which could run code, and is refused"),
        ("cut", "is damaged, cut short"),
        ("backbone", "there is no backbone 'vit_x'"),
    ],
)
def test_weights_that_cannot_be_trusted_are_refused_before_embedding(
    fault: str, sentence: str, run, study: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "it_ran"
    torch.save({"x": torch.ones(50)}, path)
    stated = "#sha256=" + "0" * 64 if fault == "hash" else ""
    if fault == "missing":
        path.unlink()
    elif fault == "pickle":
        path.write_bytes(pickle.dumps({"x": Evil(trace)}, protocol=2))
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-60])
    more = ["--method", "desam_b", "--set", f"weights={path}{stated}"]
    if fault == "backbone":
        more += ["--set", "backbone=vit_x"]
    before = contents(study[2])
    code, out, err = run(*run_words(*study, *more))
    assert (code, out) == (1, "") and sentence in complaint(err)
    assert len(complaint(err)) < 400 and "Traceback" not in err
    assert not trace.exists()
    assert contents(study[2]) == before
