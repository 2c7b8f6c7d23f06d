"""A task as nnU-Net v2 wants it, with the split of this study; the way there and back where nnU-Net is installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import complaint, write_tiny_task
from hypothesis import given, settings
from hypothesis import strategies as st
from small_task import save, write_manifest

from desam_lite.data.export import export_nnunet
from desam_lite.data.geometry import Geometry, in_slices_axes, resample_nearest, to_slices
from desam_lite.data.tasks import Task, open_task
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]
SPLIT = {"A0": "train", "A1": "train", "A2": "val", "A3": "test"}
TESTED = {"A": ["A3"], "B": ["B0", "B1"]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_data_set_has_the_parts_and_the_split_of_the_study(task: Task, tmp_path: Path) -> None:
    folder = export_nnunet(task, tmp_path / "raw", "A", SPLIT, TESTED, number=7, progress=False)
    assert folder.name == "Dataset007_tiny_A" and names(tmp_path / "raw") == [folder.name]
    assert names(folder / "imagesTr") == [f"A_A{n}_0000.nii.gz" for n in range(3)]
    assert names(folder / "labelsTr") == [f"A_A{n}.nii.gz" for n in range(3)]
    assert names(folder / "imagesTs") == [f"{name}_0000.nii.gz" for name in ("A_A3", "B_B0", "B_B1")]
    described = json.loads((folder / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "blob": 1} and described["numTraining"] == 3
    assert (described["channel_names"], described["file_ending"]) == ({"0": "MRI"}, ".nii.gz")
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert fold == {"train": ["A_A0", "A_A1"], "val": ["A_A2"]}


def test_scans_keep_intensities_and_place_and_labels_lie_on_them(task: Task, tmp_path: Path) -> None:
    folder = export_nnunet(task, tmp_path, "A", SPLIT, TESTED, number=7, progress=False)
    for domain, case, part in (("A", "A0", "Tr"), ("B", "B1", "Ts")):
        stored = nib.load(task.root / domain / f"{case}.nii.gz")
        written = nib.load(folder / f"images{part}" / f"{domain}_{case}_0000.nii.gz")
        assert np.array_equal(written.get_fdata(), stored.get_fdata())
        assert np.allclose(written.affine, stored.affine)
    label, image = (nib.load(folder / kind) for kind in ("labelsTr/A_A0.nii.gz", "imagesTr/A_A0_0000.nii.gz"))
    for field in ("pixdim", "srow_x", "qoffset_x", "xyzt_units", "sform_code"):
        assert np.array_equal(label.header[field], image.header[field])
    reference = nib.load(task.root / "A" / "A0_segmentation.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj), np.asarray(reference.dataobj))


def test_labels_are_the_organs_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    """Files with ids of their own, one of them mapped, one with a window of Hounsfield units."""
    for number in range(2):
        volume = np.arange(12 * 10 * 6, dtype=np.int16).reshape(12, 10, 6) - number
        ids = np.zeros((12, 10, 6), np.uint8)
        ids[2:5, 2:5, 2:4], ids[6:9, 6:9, 2:4] = 7, 4
        save(tmp_path / "data" / "A" / f"c{number}.nii.gz", volume)
        save(tmp_path / "data" / "A" / f"c{number}_segmentation.nii.gz", ids)
    organs = [{"name": "spleen", "label": 4}, {"name": "liver", "label": 6}]
    domain = {
        "title": "A",
        "label_map": {7: 6},
        "intensity": {"window": [-160, 240]},
        "modality": "portal CT",
    }
    manifest = write_manifest(tmp_path / "two.yaml", organs=organs, domains={"A": domain})
    task = open_task(manifest, tmp_path / "data", tmp_path / "ws", progress=False)
    folder = export_nnunet(task, tmp_path, "A", {"c0": "train", "c1": "val"}, {}, number=7, progress=False)
    label = np.asarray(nib.load(folder / "labelsTr" / "A_c0.nii.gz").dataobj)
    assert label[3, 3, 3] == 2 and label[7, 7, 3] == 1 and set(np.unique(label)) == {0, 1, 2}
    described = json.loads((folder / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "spleen": 1, "liver": 2}
    assert described["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize(
    ("split", "number", "sentence"),
    [
        (SPLIT, 8, "Dataset008_other has the number 8 already: remove it, or give another --number"),
        (dict.fromkeys(SPLIT, "train"), 9, "the split of A leaves no case to validate on"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(
    split: dict[str, str], number: int, sentence: str, task: Task, tmp_path: Path
) -> None:
    (tmp_path / "Dataset008_other").mkdir()
    with pytest.raises(StudyError, match=sentence):
        export_nnunet(task, tmp_path, "A", split, TESTED, number=number, progress=False)
    assert names(tmp_path) == ["Dataset008_other"]


def test_two_cases_of_one_name_are_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="two cases of 'tiny' would get one name"):
        export_nnunet(task, tmp_path, "A", SPLIT, {"A": ["A3", "A3"]}, number=7, progress=False)


def test_an_interrupted_export_leaves_nothing(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("desam_lite.data.export.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        export_nnunet(task, tmp_path, "A", SPLIT, TESTED, number=7, progress=False)
    assert names(tmp_path) == []


def test_the_command_says_what_it_wrote_or_what_is_wrong(run, tiny_task: Place, tmp_path: Path) -> None:
    call = ["data", "export", "nnunet", tiny_task[0], "--data", tiny_task[1], "--source", "B"]
    call += ["--out", tmp_path / "raw", "--workspace", tmp_path / "ws", "--profile", "smoke"]
    code, out, _ = run(*call)
    folder = tmp_path / "raw" / "Dataset502_tiny_B"
    assert (code, out) == (0, f"{folder}: 2 cases to train on, 1 to validate on, 5 to predict\n")
    code, _, err = run(*call)
    assert code == 1 and "has the number 502 already" in complaint(err)
    code, _, err = run(*["data", "export", "mnist", *call[3:]])
    assert code == 1 and "there is no layout 'mnist' to export to: use nnunet." in complaint(err)


# Grids


@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_ids_brought_to_a_grid_of_the_same_voxels_are_turned_and_nothing_else(
    order: list[int], flips: tuple[bool, ...], seed: int
) -> None:
    """Between two of the 48 ways to store a volume, nearest neighbour is an exact permutation."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 4, (5, 6, 7)).astype(np.uint8)
    plain = nib.Nifti1Image(data, np.diag([-0.7, -0.7, 3.0, 1.0]))
    orientation = np.array([(axis, -1 if flip else 1) for axis, flip in zip(order, flips, strict=True)])
    turned = plain.as_reoriented(orientation)
    first, second = (Geometry(image.shape, image.affine) for image in (plain, turned))
    moved = resample_nearest(data, first, second)
    assert np.array_equal(moved, np.asarray(turned.dataobj))
    assert np.array_equal(to_slices(moved, second), to_slices(data, first))
    axes = [in_slices_axes(grid) for grid in (first, second)]
    assert axes[0].shape == axes[1].shape and np.allclose(axes[0].affine, axes[1].affine)
    assert axes[0].orientation == "LPS"


def test_what_lies_outside_of_a_mask_is_background() -> None:
    grid = Geometry((4, 4, 4), np.eye(4))
    larger = Geometry((8, 4, 4), np.diag([1.0, 1.0, 1.0, 1.0]))
    ids = np.ones((4, 4, 4), np.uint8)
    assert resample_nearest(ids, grid, larger)[:, 0, 0].tolist() == [1] * 4 + [0] * 4


# The way there and back

TRAINER = """\
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerFewSteps(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):  # nnU-Net reads the names
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 3, 1

    def perform_actual_validation(self, save_probabilities=False):
        pass  # of the validation cases after training: not needed here
"""


def test_nnunet_accepts_trains_and_predicts_and_its_masks_are_scored(
    run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With nnU-Net v2 itself: its integrity check, its plans, a few steps of its training on our split, its prediction."""
    if shutil.which("nnUNetv2_train") is None:
        pytest.skip("nnU-Net v2 is not installed: pip install 'desam-lite[nnunet]'")
    manifest, data = write_tiny_task(tmp_path)
    common = ["--data", data, "--source", "A", "--workspace", tmp_path / "ws", "--profile", "smoke"]
    code, out, _ = run("data", "export", "nnunet", manifest, *common, "--out", tmp_path / "raw")
    assert code == 0
    log = [f"$ desam-lite data export nnunet\n{out}"]
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "few_steps.py").write_text(TRAINER)
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    others = {"nnUNet_extTrainer": str(tmp_path / "trainers"), "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    environment = {**os.environ, **folders, **others, "OMP_NUM_THREADS": "1"}

    def call(*words: object) -> None:
        done = subprocess.run(
            [*map(str, words)], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        log.append(f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
        (tmp_path / "round_trip.log").write_text("\n".join(log))
        assert done.returncode == 0, log[-1]

    name, tr = "Dataset501_tiny_A", ["-tr", "nnUNetTrainerFewSteps"]
    call(
        "nnUNetv2_plan_and_preprocess",
        "-d",
        501,
        "-c",
        "2d",
        "-np",
        1,
        "-npfp",
        1,
        "--verify_dataset_integrity",
    )
    assert "If you didn't see any error messages then your dataset is most likely OK" in log[-1]
    assert "Warning" not in log[-1]
    shutil.copy(tmp_path / "raw" / name / "splits_final.json", tmp_path / "preprocessed" / name)
    call("nnUNetv2_train", 501, "2d", 0, *tr, "-device", "cpu")
    assert "This split has 2 training and 1 validation cases" in log[-1]
    images, masks = tmp_path / "raw" / name / "imagesTs", tmp_path / "masks"
    folders_of = ["-i", images, "-o", masks, "-d", 501, "-c", "2d", "-f", 0]
    call("nnUNetv2_predict", *folders_of, *tr, "-device", "cpu", "--disable_tta", "-npp", 0, "-nps", 0)
    code, out, err = run("score", masks, "--manifest", manifest, *common, "--label", "nnU-Net v2")
    log.append(f"$ desam-lite score\n{out}")
    (tmp_path / "round_trip.log").write_text("\n".join(log))
    assert code == 0, err
    (directory,) = (tmp_path / "ws" / "runs").iterdir()
    metrics = pd.read_csv(directory / "metrics.csv")
    assert len(metrics) == 2 * 5 and metrics["dice"].between(0, 1).all()
