"""A new scan is predicted as the run that trained the model would have, however the scan is stored."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from saved_model import Bright, bright_model, lopsided, save_model, save_scan, spec_of
from small_model import sam_tensors

from desam_lite.data.manifest import Intensity
from desam_lite.methods import TrainedModel, load_predictor
from desam_lite.methods.model_card import ModelCard
from desam_lite.model.sam_decoder import SAM
from desam_lite.prediction.scan import choose_device, predict_scan, scores_table, volumes_ml
from desam_lite.study.run import Run, execute_run
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]


pytestmark = pytest.mark.usefixtures("micro")


def save_sam(path: Path) -> Path:
    torch.save(sam_tensors(), path)
    return path


def save_gentle_sam(path: Path) -> Path:
    """Weights near those of a new model, from which SAM's own decoder learns within seconds."""
    generator = torch.Generator().manual_seed(3)
    new = SAM("micro", seed=2).state_dict()
    torch.save({name: t + 0.02 * torch.randn(t.shape, generator=generator) for name, t in new.items()}, path)
    return path


NAMES = [
    "prior",
    "unet",
    "points",
    "box",
    "box on SAM",
    "grid on SAM",
    "tuned points",
    "tuned box on SAM",
    "samed on SAM",
    "dapsam on SAM",
    "unet box",
]


@pytest.fixture(scope="module", params=NAMES)
def finished(
    request: pytest.FixtureRequest, tiny_task: Place, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    name, _, sam = str(request.param).partition(" on ")
    fields: dict[str, Any] = {"epochs": 2, "learning_rate": 3e-3, "train_slices": "all"}
    if name in ("prior", "grid"):
        fields = {}
    elif not name.startswith(("unet", "points", "box")):  # SAM's decoder starts from drawing nothing
        fields |= {"epochs": 20, "learning_rate": 1e-2, "batch_size": 4}
    workspace = tmp_path_factory.mktemp("ws")
    save = save_gentle_sam if name.startswith(("tuned", "samed", "dapsam")) else save_sam
    weights = {"weights": str(save(workspace / "sam.pth"))} if sam else {}
    spec = spec_of(name, tiny_task, split="70_10_20", **fields, **weights)
    return execute_run(spec, workspace, accelerator="cpu", progress=False)


def test_a_case_of_the_study_gets_the_mask_that_the_run_stored(finished: Run, tiny_task: Place) -> None:
    model = load_predictor(finished.directory)
    drawn = 0
    for case in ("B0", "B2"):
        found = predict_scan(model, tiny_task[1] / "B" / f"{case}.nii.gz", progress=False)
        np.testing.assert_array_equal(found.labels, finished.prediction("B", case))
        drawn += int(found.labels.sum())
    assert drawn > 0
    assert model.card.title == f"{finished.spec.label} trained on A of Tiny"


def test_only_the_two_files_of_the_model_are_needed(finished: Run, tiny_task: Place, tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((finished.directory / name).read_bytes())
    found = predict_scan(load_predictor(tmp_path), tiny_task[1] / "B" / "B1.nii.gz", progress=False)
    np.testing.assert_array_equal(found.labels, finished.prediction("B", "B1"))


def test_frozen_weights_may_have_moved_beside_the_model(tiny_task: Place, tmp_path: Path) -> None:
    sam = save_sam(tmp_path / "sam.pth")
    folder = save_model(tmp_path / "run", "box", tiny_task, weights=str(sam))
    scan = tiny_task[1] / "B" / "B0.nii.gz"
    before = predict_scan(load_predictor(folder), scan, probability=True, progress=False).probability
    sam.rename(folder / "sam.pth")
    after = predict_scan(load_predictor(folder), scan, probability=True, progress=False).probability
    np.testing.assert_array_equal(after, before)
    (folder / "sam.pth").unlink()
    with pytest.raises(StudyError, match="put that file there, or beside it"):
        load_predictor(folder)


def test_a_model_tells_probabilities_and_its_own_judgement(finished: Run, tiny_task: Place) -> None:
    model = load_predictor(finished.directory)
    scan = tiny_task[1] / "B" / "B0.nii.gz"
    found = predict_scan(model, scan, probability=True, progress=False)
    assert found.probability is not None and found.probability.dtype == np.float32
    assert found.probability.shape == (6, 1, 40, 32) and found.iou.shape == (6, 1)
    assert found.probability.min() >= 0 and found.probability.max() <= 1
    inside, outside = found.labels == 1, found.labels == 0
    means = [found.probability[:, 0][part].mean() for part in (inside, outside)]
    assert means[0] > means[1]
    if finished.spec.method == "unet":
        np.testing.assert_array_equal(inside, found.probability[:, 0] > 0.5)
    assert np.isnan(found.iou).all() == (finished.spec.method in ("prior", "unet", "samed", "dapsam"))
    assert predict_scan(model, scan, progress=False).probability is None


def with_tensor(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: torch.ones(2)}, folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["unet", "points"])
@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "does not exist"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), "no whole safetensors"),
        (lambda folder: with_tensor(folder, "model.more"), r"'model\.more'"),
    ],
)
def test_tensors_that_are_gone_damaged_or_of_another_model_are_named(
    kind: str, harm: Callable[[Path], None], fault: str, tiny_task: Place, tmp_path: Path
) -> None:
    harm(save_model(tmp_path, kind, tiny_task))
    with pytest.raises(StudyError, match=rf"model\.safetensors.*{fault}|{fault}.*model\.safetensors"):
        load_predictor(tmp_path)


# What a scan may be like


def test_grey_levels_are_prepared_as_the_card_says(tmp_path: Path) -> None:
    model = bright_model()
    card = ModelCard(model.card.title, model.card.organs, Intensity(window=(100, 200)), model.card.spec)
    found = predict_scan(
        TrainedModel(card, Bright()), save_scan(tmp_path / "s.nii", lopsided()), progress=False
    )
    assert set(np.unique(found.images)) == {0, 128, 255}  # 20, 150 and 250 in the window 100..200


HU = np.random.default_rng(0).choice(
    [-1000.0, -90.0, 40.0, 60.0, 400.0], (9, 8, 7), p=[0.5, 0.1, 0.2, 0.18, 0.02]
)


@pytest.mark.parametrize(
    ("values", "doubtful"),
    [
        (HU, False),
        (np.clip(HU, -160, 240), False),
        (HU + 1024, True),
        (HU - 1024, True),
        ((HU + 1000) / 1400, True),
        ((HU - HU.mean()) / HU.std(), True),
        (np.rint((HU + 1000) / 1400 * 255), True),
    ],
    ids=["HU", "clipped HU", "HU + 1024", "HU - 1024", "0 to 1", "z-scores", "8 bit"],
)
def test_a_model_of_a_window_tells_that_intensities_hardly_fit(
    values: np.ndarray, doubtful: bool, tmp_path: Path
) -> None:
    model = bright_model()
    card = ModelCard(model.card.title, model.card.organs, Intensity(window=(-125, 275)), model.card.spec)
    scan = save_scan(tmp_path / "s.nii", values.astype(np.float32))
    warnings = predict_scan(TrainedModel(card, Bright()), scan, progress=False).warnings
    assert ["window -125 to 275" in each for each in warnings] == [True] * doubtful


def test_oddities_of_the_scan_are_told(tmp_path: Path) -> None:
    image = nib.Nifti1Image(lopsided(), None)
    nib.save(image, tmp_path / "s.nii")
    found = predict_scan(bright_model(), tmp_path / "s.nii", progress=False)
    assert len(found.warnings) == 1 and "no orientation" in found.warnings[0]


def test_progress_counts_the_slices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = save_scan(tmp_path / "s.nii", lopsided())
    predict_scan(bright_model(), scan)
    assert "predicting s.nii: 100%" in (err := capsys.readouterr().err) and "7/7" in err
    predict_scan(bright_model(), scan, progress=False)
    assert capsys.readouterr().err == ""


def _truncated(path: Path) -> None:
    path.write_bytes(save_scan(path, lopsided()).read_bytes()[:-30])


def _nan(path: Path) -> None:
    data = lopsided().astype(np.float32)
    data[0, 0, 0] = np.nan
    save_scan(path, data)


NO_SCANS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "no bytes": (lambda path: path.touch(), "is not a NIfTI file"),
    "text": (lambda path: path.write_text("a scan, honestly"), "is not a NIfTI file"),
    "empty archive": (lambda path: path.write_bytes(gzip.compress(b"")), "is not a NIfTI file"),
    "truncated": (_truncated, "is truncated"),
    "NaN": (_nan, "holds 1 NaN or infinite voxels"),
    "2-D": (lambda path: save_scan(path, lopsided()[..., 0]), "is 2-D"),
    "4-D": (lambda path: save_scan(path, np.stack([lopsided()] * 2, axis=-1)), "is 4-D"),
    "one grey level": (lambda path: save_scan(path, 0 * lopsided()), "has one intensity"),
    "colours": (
        lambda path: save_scan(path, np.zeros((4, 5, 6), [(c, "u1") for c in "RGB"])),
        "not intensities",
    ),
}


@pytest.mark.parametrize("kind", NO_SCANS)
def test_what_is_no_scan_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    make, fault = NO_SCANS[kind]
    path = tmp_path / "scan.nii"
    make(path)
    with pytest.raises(StudyError, match=fault) as caught:
        predict_scan(bright_model(), path, progress=False)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# What is said of it


@pytest.mark.parametrize("upwards", [True, False])
def test_scores_name_the_slice_in_our_frame_and_in_the_file(upwards: bool, tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 3.0 if upwards else -3.0, 1.0])
    scan = save_scan(tmp_path / "s.nii", lopsided(), affine)
    model = bright_model(2)
    table = scores_table(predict_scan(model, scan, progress=False), model.card)
    assert list(table["slice"]) == [z for z in range(7) for _ in range(2)]
    assert list(table["organ"]) == ["blob", "core"] * 7
    np.testing.assert_allclose(table["predicted_iou"], (table["slice"] + (table["organ"] == "core")) / 100)
    for row in table.to_dict("records"):
        plane = lopsided()[:, :, row["file_slice"]]
        expected = {"blob": (plane == 150).sum(), "core": (plane == 250).sum()}[row["organ"]]
        assert row["voxels"] == expected
    assert table["voxels"].sum() == (lopsided() > 100).sum()


@pytest.mark.parametrize("name", ["unet", "box", "prior"])
def test_a_model_that_was_not_trained_to_judge_gives_no_scores(name: str, tmp_path: Path) -> None:
    model = bright_model(name=name)
    found = predict_scan(model, save_scan(tmp_path / "s.nii", lopsided()), progress=False)
    with pytest.raises(StudyError, match="gives no scores"):
        scores_table(found, model.card)


def test_volumes_are_in_millilitres(tmp_path: Path) -> None:
    model, data = bright_model(2), lopsided()
    found = predict_scan(model, save_scan(tmp_path / "s.nii", data, np.diag([0.5, 2, 4, 1])), progress=False)
    expected = {"blob": (data == 150).sum() * 0.004, "core": (data == 250).sum() * 0.004}
    assert volumes_ml(found, model.card) == pytest.approx(expected)


def test_volumes_of_slanted_voxels_are_those_of_their_determinant(tmp_path: Path) -> None:
    model, data = bright_model(2), lopsided()
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(25))
    found = predict_scan(model, save_scan(tmp_path / "s.nii", data, affine), progress=False)
    assert volumes_ml(found, model.card)["blob"] == pytest.approx((data == 150).sum() * 0.003)


def test_the_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name).type for name in ("auto", "gpu", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(StudyError, match="there is no GPU here"):
        choose_device("gpu")
    with pytest.raises(StudyError, match="no accelerator 'abacus': use auto, cpu or gpu"):
        choose_device("abacus")
