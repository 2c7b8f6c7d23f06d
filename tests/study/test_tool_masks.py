"""Masks of another tool become a run like all others, or one listing of what is wrong with them."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from small_run import spec_for

from desam_lite.data.nifti import read_label
from desam_lite.evaluation import statistics
from desam_lite.methods import load_predictor
from desam_lite.study.parallel import execute_runs
from desam_lite.study.profiles import get_profile, plan_domain_splits
from desam_lite.study.report.sentences import say_unfinished
from desam_lite.study.run import collect_metrics, execute_run
from desam_lite.study.tool_masks import score_masks
from desam_lite.utils.errors import StudyError

Place = tuple[Path, Path]
LABEL = "nnU-Net v2"


def plan(place: Place, label: str = LABEL, **asked: object):
    choice = {"sources": ["A"], "methods": [f"masks:{label}"], "seeds": [0], **asked}
    return plan_domain_splits(get_profile("smoke"), *place, **choice)


@pytest.fixture(scope="module")
def unet(tiny_task: Place, tmp_path_factory: pytest.TempPathFactory):
    """A finished run of this package, whose predictions serve as the masks of another tool."""
    return execute_run(
        spec_for(tiny_task), tmp_path_factory.mktemp("unet"), accelerator="cpu", progress=False
    )


@pytest.fixture
def masks(unet, tmp_path: Path) -> Path:
    """Its predictions, flat and named DOMAIN_CASE, with what nnU-Net leaves beside them."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for path in (unet.directory / "predictions").rglob("*.nii.gz"):
        shutil.copy(path, folder / f"{path.parent.name}_{path.name}")
    (folder / "plans.json").write_text("{}")
    return folder


def names_in(masks: Path) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in masks.glob("*.nii.gz"))


def score(masks: Path, place: Place, workspace: Path, label: str = LABEL, **options: bool):
    return score_masks(masks, plan(place, label)[0], workspace, progress=False, **options)


def test_masks_get_the_scores_that_the_same_predictions_had(
    masks: Path, unet, tiny_task: Place, tmp_path: Path
) -> None:
    run, notes = score(masks, tiny_task, tmp_path / "ws")
    assert notes == [] and run.finished and run.spec.label == LABEL
    own, theirs = run.metrics(), unet.metrics()
    columns = ["target", "case", "organ", "protocol", "dice", "hd95", "assd", "predicted_voxels"]
    pd.testing.assert_frame_equal(own[columns], theirs[columns])
    assert set(own["protocol"]) == {"whole_volume", "published"} and set(own["label"]) == {LABEL}
    assert (run.directory / "split.csv").read_text() == (unet.directory / "split.csv").read_text()
    assert np.array_equal(run.prediction("B", "B0"), unet.prediction("B", "B0"))
    listed = pd.read_csv(run.directory / "masks.csv")
    assert [f"{d}_{c}" for d, c in zip(listed["domain"], listed["case"], strict=True)] == names_in(masks)
    assert listed["sha256"][0] == read_label(Path(listed["file"][0])).sha256
    assert len(run.info["masks"]) == 64


def test_a_page_shows_them_beside_its_own_methods_and_compares(
    masks: Path, tiny_task: Place, tmp_path: Path
) -> None:
    score(masks, tiny_task, tmp_path / "ws")
    specs = plan(tiny_task, methods=["prior", f"masks:{LABEL}"])
    runs = execute_runs(specs, tmp_path / "ws", jobs=1, progress=False)
    assert say_unfinished(runs) == "All 2 runs are finished."
    scores = statistics.scores(collect_metrics(runs))
    assert set(scores["label"]) == {"Prior", LABEL}
    (row,) = statistics.compare(scores, [(LABEL, "Prior")]).query("~in_domain").to_dict("records")
    assert row["cases"] == 4 and row["verdict"] == "cannot tell"  # of one training


def test_what_is_not_scored_yet_is_one_sentence_on_a_page(
    masks: Path, tiny_task: Place, tmp_path: Path
) -> None:
    score(masks, tiny_task, tmp_path / "ws")
    runs = execute_runs(plan(tiny_task, sources=["A", "B"]), tmp_path / "ws", jobs=1, progress=False)
    assert [run.finished for run in runs] == [True, False]
    said = say_unfinished(runs)
    assert (
        "there are no masks of nnU-Net v2 trained on B, seed 0: score them with desam-lite score MASKS"
        in said
    )


@pytest.mark.parametrize(
    "layout", ["{domain}/{case}", "{case}", "{domain}_{case}_mask", "deep/{domain}/{case}_segmentation"]
)
def test_masks_are_told_by_the_names_people_give(
    layout: str, masks: Path, tiny_task: Place, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for name in names_in(masks):
        domain, _, case = name.partition("_")
        path = other / f"{layout.format(domain=domain, case=case)}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(masks / f"{name}.nii.gz", path)
    run, _ = score(other, tiny_task, tmp_path / "ws")
    assert run.finished


def test_every_fault_is_in_one_listing_and_nothing_is_written(
    masks: Path, unet, tiny_task: Place, tmp_path: Path
) -> None:
    split = pd.read_csv(unet.directory / "split.csv").set_index("case")["part"]
    trained = split.index[split == "train"][0]
    image = nib.load(masks / "B_B1.nii.gz")
    data = np.asarray(image.dataobj)
    (masks / "B_B0.nii.gz").unlink()
    shutil.copy(masks / "B_B3.nii.gz", masks / f"A_{trained}.nii.gz")
    shutil.copy(masks / "B_B3.nii.gz", masks / "B3_mask.nii.gz")
    shutil.copy(masks / "B_B3.nii.gz", masks / "extra.nii.gz")
    shifted = image.affine.copy()
    shifted[0, 3] += 5
    nib.save(nib.Nifti1Image(data, shifted), masks / "B_B1.nii.gz")
    data = np.asarray(nib.load(masks / "B_B2.nii.gz").dataobj).copy()
    data[0, 0, 0] = 4
    nib.save(nib.Nifti1Image(data, image.affine), masks / "B_B2.nii.gz")
    with pytest.raises(StudyError) as refused:
        score(masks, tiny_task, tmp_path / "ws")
    heading, *faults = str(refused.value).splitlines()
    assert heading == f"nothing was scored, {len(faults)} fault(s) of the masks:" and len(faults) == 6
    for sentence in (
        f"A_{trained}.nii.gz is of A/{trained}, which is not tested: take it out",
        "B/B3 has several masks",
        "extra.nii.gz has the name of no case of the task",
        "B/B0 has no mask: add",
        "B_B1.nii.gz lies on another grid than its scan",
        "B_B2.nii.gz holds the ids 4: number its organs 1 blob.",
    ):
        assert any(sentence in fault for fault in faults), sentence
    assert not (tmp_path / "ws" / "runs").exists()


def test_a_case_that_several_domains_have_needs_its_domain(tiny_task: Place, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(4):
        for name in (f"{number}.nii.gz", f"{number}_segmentation.nii.gz"):
            for domain in "AB":
                (data / domain).mkdir(parents=True, exist_ok=True)
                shutil.copy(tiny_task[1] / domain / f"{domain}{name}", data / domain / f"C{name}")
    (tmp_path / "masks").mkdir()
    shutil.copy(data / "B" / "C0_segmentation.nii.gz", tmp_path / "masks" / "C0.nii.gz")
    with pytest.raises(StudyError, match=r"C0.nii.gz may be of A and B: put it into a folder of its domain"):
        score(tmp_path / "masks", (tiny_task[0], data), tmp_path / "ws")


def test_with_a_word_masks_are_brought_to_the_grid_of_their_scan(
    masks: Path, unet, tiny_task: Place, tmp_path: Path
) -> None:
    """A mask of twice the resolution: each voxel of the scan has the id of the finer one nearest to its centre."""
    path = masks / "B_B1.nii.gz"
    image = nib.load(path)
    fine = np.repeat(np.repeat(np.asarray(image.dataobj), 2, axis=0), 2, axis=1)
    affine = image.affine @ np.diag([0.5, 0.5, 1, 1])
    affine[:3, 3] = (image.affine @ [-0.25, -0.25, 0, 1])[:3]
    nib.save(nib.Nifti1Image(fine, affine), path)
    with pytest.raises(
        StudyError, match=r"another grid .*\(6x80x64 of 3x0.5x0.5 mm, its scan 6x40x32 of 3x1x1 mm\)"
    ):
        score(masks, tiny_task, tmp_path / "ws")
    run, (note,) = score(masks, tiny_task, tmp_path / "ws", resample=True)
    assert note.startswith(f"{path} was brought to the grid of its scan by nearest neighbour (6x80x64")
    assert np.array_equal(run.prediction("B", "B1"), unet.prediction("B", "B1"))


def test_a_turned_mask_lies_on_the_same_grid(masks: Path, unet, tiny_task: Place, tmp_path: Path) -> None:
    path = masks / "B_B1.nii.gz"
    image = nib.load(path)
    nib.save(nib.as_closest_canonical(image), path)
    assert nib.aff2axcodes(nib.load(path).affine) != nib.aff2axcodes(image.affine)
    run, notes = score(masks, tiny_task, tmp_path / "ws")
    assert notes == [] and np.array_equal(run.prediction("B", "B1"), unet.prediction("B", "B1"))


def test_a_mask_of_another_place_is_refused_even_with_the_word(
    masks: Path, tiny_task: Place, tmp_path: Path
) -> None:
    path = masks / "B_B1.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 400
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    with pytest.raises(
        StudyError, match=r"B_B1.nii.gz lies elsewhere than its scan \(0% of it would be left\)"
    ):
        score(masks, tiny_task, tmp_path / "ws", resample=True)


def test_other_masks_under_the_same_name_are_refused_and_the_same_are_not_scored_again(
    masks: Path, tiny_task: Place, tmp_path: Path
) -> None:
    run, _ = score(masks, tiny_task, tmp_path / "ws")
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*.*")}
    score(masks, tiny_task, tmp_path / "ws")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    image = nib.load(masks / "B_B1.nii.gz")
    grown = ndimage.binary_dilation(np.asarray(image.dataobj)).astype(np.uint8)
    nib.save(nib.Nifti1Image(grown, image.affine), masks / "B_B1.nii.gz")
    with pytest.raises(StudyError, match="other masks are scored as 'nnU-Net v2' from A, seed 0 already"):
        score(masks, tiny_task, tmp_path / "ws")
    another, _ = score(masks, tiny_task, tmp_path / "ws", "nnU-Net v2 (mended)")
    assert another.name != run.name


def test_an_interrupted_scoring_goes_on(
    masks: Path, tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "desam_lite.study.tool_masks.execute_run",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            score(masks, tiny_task, tmp_path / "ws")
    run, _ = score(masks, tiny_task, tmp_path / "ws")
    assert run.finished


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("U-Net", "'U-Net' is the name of a method of this study: give another label"),
        ("", "run setting 'tool' = ''"),
        ("a, b", "run setting 'tool' = 'a, b'"),
        ("x" * 61, "run setting 'tool'"),
    ],
)
def test_a_label_that_tables_cannot_show_is_refused(label: str, sentence: str, tiny_task: Place) -> None:
    with pytest.raises(StudyError, match=sentence):
        plan(tiny_task, label)


def test_masks_are_no_model(masks: Path, tiny_task: Place, tmp_path: Path) -> None:
    run, _ = score(masks, tiny_task, tmp_path / "ws")
    with pytest.raises(
        StudyError, match="holds masks of nnU-Net v2 and no model: predict new scans with that tool"
    ):
        load_predictor(run.directory)


def test_a_folder_that_is_not_there_is_one_sentence(tiny_task: Place, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"there is no folder .*nowhere: give the one with the masks"):
        score(tmp_path / "nowhere", tiny_task, tmp_path / "ws")
