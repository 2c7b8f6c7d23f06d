"""The kept study: finished runs in a few files, and run directories made of them again that pages cannot tell from others."""

import filecmp
import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_run import spec_for

from desam_lite.data.tasks import open_task
from desam_lite.methods import load_predictor
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study import kept, run
from desam_lite.study.kept import read_kept, write_kept
from desam_lite.study.plans import kept_folder
from desam_lite.study.run import Run, collect_history, collect_metrics, execute_run, find_run
from desam_lite.synthetic.phantoms import make_task
from desam_lite.utils.errors import StudyError

MANIFEST = """\
name: phantom_prostate
title: Two synthetic hospitals
synthetic: true
organs: [{name: prostate, label: 1}]
intensity: {percentiles: [0.5, 99.5]}
domains: {A: {title: A}, B: {title: B}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Manifest and data root of two synthetic hospitals of three patients."""
    folder = tmp_path_factory.mktemp("synthetic")
    (folder / "two.yaml").write_text(MANIFEST)
    make_task("phantom_prostate", folder / "data", cases=3, domains=["A", "B"], progress=False)
    return folder / "two.yaml", folder / "data"


@pytest.fixture(scope="module")
def specs(place: tuple[Path, Path]) -> list[RunSpec]:
    return [spec_for(place, seed=0), spec_for(place, seed=1), spec_for(place, method="prior")]


@pytest.fixture(scope="module")
def done(specs: list[RunSpec], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three finished runs; a page has shown one mask of the first."""
    workspace = tmp_path_factory.mktemp("done")
    runs = [execute_run(spec, workspace, progress=False) for spec in specs]
    runs[0].prediction("B", "Case01")
    return runs


@pytest.fixture
def workspace(done: list[Run], tmp_path: Path) -> Path:
    """A workspace with nothing but the kept study of these runs; the model of the first is kept."""
    write_kept([each.directory for each in done], kept_folder(tmp_path), models={done[0].name})
    return tmp_path


def restored(spec: RunSpec, workspace: Path) -> Run:
    return find_run(spec, open_task(spec.manifest, spec.data_root, workspace, progress=False), workspace)


def test_a_kept_run_has_the_scores_and_epochs_of_the_run(
    done: list[Run], specs: list[RunSpec], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "execute", None)  # nothing is trained
    again = [execute_run(spec, workspace, progress=False) for spec in specs]
    assert [each.name for each in again] == [each.name for each in done]
    assert [each.is_kept for each in (*again, *done)] == [True] * 3 + [False] * 3
    for collect in (collect_metrics, collect_history):
        pd.testing.assert_frame_equal(collect(again), collect(done), rtol=1e-5, check_dtype=False)
    assert [each.info for each in again] == [each.info for each in done]
    assert (again[0].directory / "done").read_text() == (done[0].directory / "done").read_text()


def test_a_kept_study_read_as_a_whole_has_the_columns_of_its_runs(done: list[Run], workspace: Path) -> None:
    study = read_kept(kept_folder(workspace))
    by_name = sorted(done, key=lambda each: each.name)
    pd.testing.assert_frame_equal(study.metrics(), collect_metrics(by_name), rtol=1e-5)
    pd.testing.assert_frame_equal(study.history(), collect_history(by_name), rtol=1e-5, check_dtype=False)
    assert study.names == [each.name for each in by_name] and study.specs == [each.spec for each in by_name]
    assert study.info(done[0].name)["minutes"] == done[0].info["minutes"]
    with pytest.raises(StudyError, match=r"not kept in .*reproduce"):
        study.info("0" * 16)


def test_masks_that_a_page_showed_are_kept_and_others_are_refused_by_name(
    done: list[Run], specs: list[RunSpec], workspace: Path
) -> None:
    again = restored(specs[0], workspace)
    assert np.array_equal(again.prediction("B", "Case01"), done[0].prediction("B", "Case01"))
    with pytest.raises(
        StudyError, match=r"mask of B/Case02 by U-Net from A, seed 0, was not kept: .*reproduce"
    ):
        again.prediction("B", "Case02")
    with pytest.raises(StudyError, match=r"mask of B/Case01 .* seed 1"):
        restored(specs[1], workspace).prediction("B", "Case01")


def test_a_kept_model_predicts_nearly_as_before_and_others_are_refused(
    done: list[Run], specs: list[RunSpec], workspace: Path, place: tuple[Path, Path]
) -> None:
    case = open_task(*place, workspace, progress=False).slices.load("B", "Case01")
    models = [load_predictor(each.directory).predictor for each in (done[0], restored(specs[0], workspace))]
    with torch.no_grad():
        first, second = ([each.probability for each in model.predict(case.images, None)] for model in models)
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) < 0.02
    with pytest.raises(StudyError, match="model"):
        load_predictor(restored(specs[1], workspace).directory)


def test_equal_runs_give_equal_bytes(done: list[Run], workspace: Path, tmp_path: Path) -> None:
    directories = [each.directory for each in done]
    write_kept(directories[::-1], tmp_path / "second", models={done[0].name})
    files = [
        path.relative_to(tmp_path / "second") for path in (tmp_path / "second").rglob("*") if path.is_file()
    ]
    same, different, errors = filecmp.cmpfiles(
        kept_folder(workspace), tmp_path / "second", files, shallow=False
    )
    assert len(same) == len(files) == 9 and not different and not errors
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "sha256sums.txt"], cwd=tmp_path / "second")
    assert checked.returncode == 0


def test_several_processes_put_a_kept_run_in_its_place_at_once(specs: list[RunSpec], workspace: Path) -> None:
    code = (
        "import sys; from desam_lite.methods.run_spec import RunSpec; from desam_lite.study import run; run.execute = None\n"
        "done = run.execute_run(RunSpec.model_validate_json(sys.argv[1]), sys.argv[2], progress=False)\n"
        "assert done.is_kept and len(done.metrics())"
    )
    command = [sys.executable, "-c", code, specs[0].model_dump_json(), str(workspace)]
    started = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(600) for process in started] == [0, 0]


def test_an_unfinished_run_gives_way_to_the_kept_one(
    done: list[Run], specs: list[RunSpec], workspace: Path
) -> None:
    directory = workspace / "runs" / done[0].name
    shutil.copytree(done[0].directory, directory)
    (directory / "done").unlink()
    again = restored(specs[0], workspace)
    assert again.finished and again.is_kept and not (directory / "predictions").exists()


def test_a_damaged_study_is_refused_by_file(specs: list[RunSpec], workspace: Path) -> None:
    path = kept_folder(workspace) / "metrics.csv.gz"
    with gzip.open(path, "at") as file:
        file.write("x")
    with pytest.raises(StudyError, match=r"metrics\.csv\.gz is not what was kept: .*git checkout"):
        restored(specs[0], workspace)


def test_of_runs_on_real_scans_scores_alone_are_kept(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    real = execute_run(spec_for(tiny_task), tmp_path / "done", progress=False)
    real.prediction("B", "B1")
    write_kept([real.directory], tmp_path / "kept", models={real.name})
    assert not list((tmp_path / "kept").glob("m*s/*"))
    study = read_kept(tmp_path / "kept")
    assert len(study.metrics()) == len(real.metrics())
    assert study.info(real.name)["files"]["data_root"] == "data/tiny"  # and not where the scans lay


def test_a_study_that_is_too_large_is_refused_and_the_earlier_one_stays(
    done: list[Run], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "LIMIT", 20_000)
    with pytest.raises(StudyError, match=r"(?s)keep fewer models.*models +2 +\d{5}"):
        write_kept([done[0].directory], kept_folder(workspace), models={done[0].name})
    assert len(read_kept(kept_folder(workspace)).names) == 3
    (done[1].directory / "done").rename(done[1].directory / "hidden")
    with pytest.raises(StudyError, match="no finished run"):
        write_kept([done[1].directory], kept_folder(workspace), models=())
    (done[1].directory / "hidden").rename(done[1].directory / "done")
