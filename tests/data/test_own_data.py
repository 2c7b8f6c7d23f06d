"""A user's own set: the real spinal cord scans, flat in one folder, come in through one manifest and no code."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_task import write_manifest

from desam_lite.data.index import build_index, list_faults
from desam_lite.data.manifest import load_manifest
from desam_lite.data.slices import prepare_slices

SUBJECTS = [
    "10062",
    "9418",
    "9584",
    "9604",
    "9669",
    "9709",
]  # of six hospitals; the first and the last came twice
VISITS = {f"sub-{subject}": 2 if subject in ("10062", "9709") else 1 for subject in SUBJECTS}


@pytest.fixture
def place(realdata: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The manifest and the folder of the scans."""
    manifest = write_manifest(
        tmp_path / "spinalcord.yaml",
        name="spinalcord",
        title="Grey matter of the spinal cord, T2* MRI of six hospitals",
        organs=[{"name": "grey matter", "label": 1}],
        domains={domain: {"title": domain} for domain in VISITS},
        image="{domain}{case}_T2starw.nii.gz",
        label="{domain}{case}_T2starw_gmseg-manual.nii.gz",
    )
    return manifest, realdata / "spinalcord"


def test_every_scan_is_found_and_sound(place: tuple[Path, Path], tmp_path: Path) -> None:
    task, root = load_manifest(place[0]), place[1]
    index = build_index(task, root, progress=False)
    assert list_faults(index) == []
    assert index.groupby("domain").size().to_dict() == VISITS
    store = prepare_slices(task, root, index[index["domain"] == "sub-9709"], tmp_path / "s", progress=False)
    for domain, case in store.cases():
        prepared = store.load(domain, case)
        stored = nib.load(root / f"{domain}{case}_T2starw_gmseg-manual.nii.gz").get_fdata()
        assert prepared.images.shape == (20, 192, 256)
        assert np.count_nonzero(prepared.labels == 1) == np.count_nonzero(stored) > 0


def test_an_experiment_runs_on_it(run, place: tuple[Path, Path], tmp_path: Path) -> None:
    """Trained on one visit and validated on the other: too little to learn from, enough to see every stage work."""
    words = [
        "--source",
        "sub-9709",
        "--profile",
        "smoke",
        "--accelerator",
        "cpu",
        "--workspace",
        tmp_path / "ws",
    ]
    code, out, err = run("run", place[0], "--data", place[1], "--method", "desam_b", *words)
    assert code == 0, err
    (directory,) = (tmp_path / "ws" / "runs").iterdir()
    metrics = pd.read_csv(directory / "metrics.csv").query("protocol == 'whole_volume'")
    targets = {domain: visits for domain, visits in VISITS.items() if domain != "sub-9709"}
    assert metrics.groupby("target").size().to_dict() == targets
    assert set(metrics["organ"]) == {"grey matter"} and metrics["dice"].between(0, 1).all()
    assert "sub-10062" in out
