"""``desam-lite predict`` as a shell sees it."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from conftest import complaint
from dicom_files import oblique_affine, write_series
from saved_model import save_model

from desam_lite.data.tasks import open_task

Place = tuple[Path, Path]


pytestmark = pytest.mark.usefixtures("micro")


@pytest.fixture(scope="module")
def unet(tiny_task: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("unet"), "unet", tiny_task)


@pytest.fixture(scope="module")
def desam(tiny_task: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("desam"), "points", tiny_task)


@pytest.fixture
def folder(tiny_task: Place, tmp_path: Path) -> Path:
    """A folder with three scans, the middle one cut short."""
    for case in ("B0", "B1", "B2"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(tiny_task[1] / "B" / f"{case}.nii.gz", tmp_path / "in")
    broken = tmp_path / "in" / "B1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_scan_gets_its_mask_and_what_else_is_asked_for(
    run, desam: Path, tiny_task: Place, tmp_path: Path
) -> None:
    scan = tiny_task[1] / "B" / "B0.nii.gz"
    wanted = {
        "out": "mask.nii.gz",
        "probability": "new/p.nii.gz",
        "scores": "s.csv",
        "preview": "p.html",
    }
    options = [part for name, file in wanted.items() for part in (f"--{name}", tmp_path / file)]
    code, out, err = run("predict", scan, "--model", desam, *options, "--accelerator", "cpu")
    assert code == 0 and "predicting B0.nii.gz" in err
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == nib.load(scan).shape == nib.load(tmp_path / "new" / "p.nii.gz").shape
    ml = float((np.asarray(mask.dataobj) == 1).sum()) * 3 / 1000
    assert out.strip() == f"{tmp_path / 'mask.nii.gz'}: 1 blob {ml:.1f} ml" and ml > 0
    scores = pd.read_csv(tmp_path / "s.csv")
    assert len(scores) == 6 and scores["predicted_iou"].notna().all()
    page = (tmp_path / "p.html").read_text()
    assert (
        page.count("<figure>") == 6
        and "<h1>B0.nii.gz</h1>" in page
        and "slice 4 of 6; prediction: blob" in page
    )


@pytest.mark.parametrize(("rule", "told"), [("published", 1), ("foreground", 1), ("all", 0), (None, 0)])
def test_a_model_of_slices_with_organs_says_so_once_and_in_every_preview(
    rule: str | None, told: int, run, tiny_task: Place, folder: Path, tmp_path: Path
) -> None:
    (folder / "B1.nii.gz").unlink()
    case = open_task(*tiny_task, tmp_path, progress=False).slices.load("A", "A0")
    name, fields = ("unet", {"train_slices": rule}) if rule else ("prior", {})
    model = save_model(tmp_path / "model", name, tiny_task, [case], **fields)
    words = ["predict", folder, "--model", model, "--largest-part", "--preview", tmp_path / "pages"]
    code, _, err = run(*words, "--out", tmp_path / "masks")
    doubt = "this model was trained on slices with an organ only"
    assert code == 0 and err.count(f"note: {doubt}") == told
    assert [page.read_text().count(doubt) for page in (tmp_path / "pages").iterdir()] == [told, told]
    assert err.count("train with --train-slices all, or try --largest-part") == told


@pytest.mark.parametrize("name", ["tuned box", "samed", "dapsam", "unet box", "grid"])
def test_a_method_on_sam_predicts_a_new_scan_too(name: str, run, tiny_task: Place, tmp_path: Path) -> None:
    case = open_task(*tiny_task, tmp_path, progress=False).slices.load("A", "A0")
    model = save_model(tmp_path / "model", name, tiny_task, [case])
    scan = tiny_task[1] / "B" / "B0.nii.gz"
    code, _, err = run(
        "predict", scan, "--model", model, "--out", tmp_path / "m.nii.gz", "--accelerator", "cpu"
    )
    assert code == 0, err
    assert nib.load(tmp_path / "m.nii.gz").shape == nib.load(scan).shape


def test_of_a_folder_every_sound_scan_is_predicted_and_every_fault_listed(
    run, unet: Path, folder: Path, tmp_path: Path
) -> None:
    missing, out = tmp_path / "gone.nii.gz", tmp_path / "out"
    code, said, err = run("predict", folder, missing, "--model", unet, "--out", out)
    assert code == 1 and names(out) == ["B0_mask.nii.gz", "B2_mask.nii.gz"]
    assert said.count(" ml\n") == 2
    faults = err.replace("\r", "\n").strip().splitlines()[-3:]
    assert faults[0].endswith("desam-lite: 2 of 4 scans were not predicted:")
    assert "B1.nii.gz is truncated or damaged" in faults[1] and "gone.nii.gz does not exist" in faults[2]
    assert "predicting scans" in err and "Traceback" not in err


def test_what_is_done_is_skipped_unless_told_otherwise(run, unet: Path, folder: Path) -> None:
    (folder / "B1.nii.gz").unlink()
    words = ["predict", folder, "--model", unet, "--out", folder]  # masks beside the scans are no scans
    assert run(*words)[0] == 0
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*_mask.nii.gz")}
    assert len(stamps) == 2
    (folder / "B2_mask.nii.gz").unlink()
    code, out, _ = run(*words)
    assert code == 0 and out.startswith("1 of 2 scans are done already: --overwrite makes them again\n")
    assert (folder / "B2_mask.nii.gz").exists()
    assert (folder / "B0_mask.nii.gz").stat().st_mtime_ns == stamps[folder / "B0_mask.nii.gz"]
    code, out, _ = run(*words, "--overwrite")
    assert code == 0 and out.count(" ml\n") == 2
    assert (folder / "B0_mask.nii.gz").stat().st_mtime_ns > stamps[folder / "B0_mask.nii.gz"]
    assert names(folder) == ["B0.nii.gz", "B0_mask.nii.gz", "B2.nii.gz", "B2_mask.nii.gz"]


def test_the_scan_is_never_overwritten_even_when_told_to(run, unet: Path, folder: Path) -> None:
    scan = folder / "B0.nii.gz"
    before = scan.read_bytes()
    code, _, err = run("predict", scan, "--model", unet, "--out", scan, "--overwrite")
    assert code == 1 and "scans are never overwritten" in complaint(err)
    assert scan.read_bytes() == before


def test_of_a_folder_of_dicom_a_series_is_chosen_and_its_mask_is_dicom(
    run, unet: Path, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'desam-lite[dicom]'")
    data = np.random.default_rng(0).integers(0, 99, (16, 18, 3)).astype(np.int16)
    for number in (3, 4):
        write_series(tmp_path / "in" / str(number), data + number, oblique_affine(), number=number)
    words = ["predict", tmp_path / "in", "--model", unet, "--out", tmp_path / "m.dcm"]
    code, out, err = run(*words)
    assert (code, out) == (1, "") and "holds 2 DICOM series" in err and "4: T2 tra, MR, 3 slices" in err
    code, out, err = run(*words, "--series", "4")
    assert code == 0 and f"{tmp_path / 'm.dcm'}: 1 blob" in out, err
    assert "its mask names blob by a code of this package: the model's manifest gave no 'snomed'" in err
    referred = pydicom.dcmread(tmp_path / "m.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID
    (source,) = {pydicom.dcmread(path).SeriesInstanceUID for path in (tmp_path / "in" / "4").iterdir()}
    assert referred == source


def test_an_odd_header_is_warned_of(run, unet: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, (16, 18, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, None), tmp_path / "s.nii")
    code, _, err = run("predict", tmp_path / "s.nii", "--model", unet, "--out", tmp_path / "m.nii")
    assert code == 0 and f"warning: {tmp_path / 's.nii'}: its header gives no orientation" in err


def test_labels_in_a_folder_are_told_and_not_predicted(
    run, unet: Path, tiny_task: Place, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("B0.nii.gz", "B0_segmentation.nii.gz"):
        shutil.copy(tiny_task[1] / "B" / name, tmp_path / "in")
    code, _, err = run("predict", tmp_path / "in", "--model", unet, "--out", tmp_path / "out")
    assert code == 0 and names(tmp_path / "out") == ["B0_mask.nii.gz"]
    assert f"warning: {tmp_path / 'in'}: not predicted, as labels by their names" in err
    assert "B0_segmentation.nii.gz" in err


WRONG: dict[str, tuple[list[str], str]] = {
    "no model": (["--model", "nowhere"], "'nowhere' holds no model.json: give the folder of a finished run"),
    "accelerator": (["--accelerator", "abacus"], "no accelerator 'abacus': use auto, cpu or gpu."),
    "scores": (["--scores", "s.csv"], "U-Net gives no scores"),
    "series": (["--series", "5"], "--series 5 chooses a DICOM series, and no scan here is DICOM"),
    "name of the mask": (["--out", "mask.png"], "the mask cannot be written to 'mask.png'"),
    "a bad scan": ([], "B1.nii.gz is truncated"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    name: str, run, unet: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more, sentence = WRONG[name]
    code, out, err = run("predict", folder / "B1.nii.gz", "--model", unet, "--out", "m.nii.gz", *more)
    assert (code, out) == (1, "") and sentence in complaint(err) and "Traceback" not in err
    assert names(tmp_path) == ["in"]


def test_help_shows_an_example(run) -> None:
    code, out, _ = run("predict", "--help")
    assert code == 0 and "Example: desam-lite predict scan.nii.gz --model" in " ".join(out.split())
