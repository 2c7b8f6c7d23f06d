"""What notebooks share: where they work, which data they open, which slices they show."""

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from desam_lite.data.tasks import Task
from desam_lite.study.profiles import get_profile
from desam_lite.study.report import notebook, slice_examples, style
from desam_lite.study.run import collect_history, collect_metrics
from desam_lite.utils.errors import StudyError

MANIFEST = """
name: two_sites
title: Two sites
organs: [{name: liver, label: 1}]
obtain: ask me
domains:
  A: {title: North, vendor: GE, field_strength: [1.5], coil: body}
  B: {title: South}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "two_sites.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def task(tmp_path: Path, manifest: Path) -> Task:
    """Two sites of three cases; the organ of case n is a cube of n + 2 voxels, in LPS order of axes."""
    for domain in "AB":
        (tmp_path / "scans" / domain).mkdir(parents=True)
        for number in range(3):
            image = (
                np.random.default_rng([number, ord(domain)]).normal(100, 20, (16, 16, 8)).astype(np.float32)
            )
            label = np.zeros((16, 16, 8), np.uint8)
            label[4 : 6 + number, 4 : 6 + number, 3 : 5 + number] = 1
            stem = tmp_path / "scans" / domain / f"Case{number}"
            affine = np.diag([-1.0, -1.0, 3.0, 1.0])
            nib.save(nib.Nifti1Image(image, affine), f"{stem}.nii.gz")
            nib.save(nib.Nifti1Image(label, affine), f"{stem}_segmentation.nii.gz")
    return notebook.open_study(manifest, str(tmp_path / "scans"), tmp_path / "results", get_profile("smoke"))


def test_root_is_the_folder_of_the_manifests_above_a_notebook(tmp_path: Path) -> None:
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / "why.ipynb"
    source.touch()
    assert notebook.project_root(source) == tmp_path
    assert notebook.project_root(tmp_path / "notebooks") == tmp_path


def test_a_notebook_away_from_the_repository_works_where_it_is(tmp_path: Path) -> None:
    assert notebook.project_root(tmp_path) == tmp_path


def test_start_moves_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    notebook.start()
    assert Path.cwd() == tmp_path


def test_failures_a_reader_can_act_on_are_shown_as_a_sentence() -> None:
    shown: list[Any] = []
    shell = SimpleNamespace(_showtraceback=lambda *what: shown.append(what))
    error = StudyError("no data: pass data_root.")
    assert notebook._show_sentence(shell, StudyError, error, None, tb_offset=None) == [
        "no data: pass data_root."
    ]
    assert shown == [(StudyError, error, ["no data: pass data_root."])]


@pytest.mark.parametrize("kind", ["image/svg+xml", "image/png"])
def test_a_chart_is_vectors_an_image_pixels_and_both_carry_their_words(kind: str) -> None:
    figure = Figure((5.8, 2))
    axes = figure.add_subplot()
    if kind == "image/png":
        axes.imshow(np.eye(3))
    drawn = style.DescribedFigure(figure, "two dots")
    data, metadata = drawn._repr_mimebundle_()
    assert data.keys() == {kind, "text/plain"} and data["text/plain"] == "two dots"
    assert metadata == {kind: {"alt": "two dots", "width": 580}}
    if kind == "image/png":
        assert base64.b64decode(data[kind]).startswith(b"\x89PNG")
    else:
        assert "<text" not in data[kind] and data[kind] == drawn.encode_svg()  # outlines; the same each time


def test_images_have_twice_the_pixels_of_their_place() -> None:
    with style.styled():
        figure = Figure((5.8, 2))
    figure.add_subplot().imshow(np.eye(3))
    data, metadata = style.DescribedFigure(figure, "a square")._repr_mimebundle_()
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
        assert image.width == 2 * metadata["image/png"]["width"]


@pytest.mark.parametrize(("cmap", "limit"), [("gray", 6), ("viridis", 14)])
def test_packing_a_picture_leaves_its_colours_alone(cmap: str, limit: int) -> None:
    figure = Figure((4, 4), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.tile(np.arange(256), (256, 1)), cmap=cmap, aspect="auto")
    figure.text(
        0.1, 0.5, "a title", color="#d55e00", fontsize=20
    )  # few pixels between very many of other colours
    plain = io.BytesIO()
    figure.savefig(plain, format="png", dpi="figure")
    packed = style.DescribedFigure(figure, "ramp").encode_png()
    before, after = (
        np.asarray(Image.open(f).convert("RGB")).astype(int) for f in (plain, io.BytesIO(packed))
    )
    assert (before == (0xD5, 0x5E, 0x00)).all(axis=-1).any()
    assert np.abs(before - after).max() <= limit
    assert len(packed) < len(plain.getvalue())


def test_missing_scans_are_answered_with_how_to_get_them(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"there are no data at .*nowhere: pass data_root\. .*ask me"):
        notebook.open_study(manifest, str(tmp_path / "nowhere"), tmp_path, get_profile("smoke"))


def test_synthetic_scans_are_made_where_the_profile_wants_them(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        "desam_lite.synthetic.phantoms.make_task",
        lambda name, root, *, cases: made.append((name, root, cases)),
    )
    monkeypatch.setattr("desam_lite.data.tasks.open_task", lambda *_: "the task")
    manifest.write_text(MANIFEST + "synthetic: true\n")
    assert notebook.open_study(manifest, "", tmp_path, get_profile("smoke")) == "the task"
    assert made == [("two_sites", Path("data/two_sites_3"), 3)]


def test_sites_show_the_case_of_median_volume_at_its_largest_slice(task: Task) -> None:
    north, south = slice_examples.site_examples(task)
    middle = task.slices.load("A", "Case1")
    assert np.array_equal(north.image, middle.images[3])
    assert (north.title, north.note, north.spacing) == ("North", "GE, 1.5 T\nbody", (1.0, 1.0))
    assert (south.title, south.note, south.prediction) == ("South", "", None)


def test_a_chosen_case_is_shown_with_the_prediction_of_its_run(task: Task) -> None:
    def run(seed: int) -> Any:
        spec = SimpleNamespace(label="U-Net", source="A", seed=seed, organs=None)
        return SimpleNamespace(spec=spec, prediction=lambda *_: np.full((8, 16, 16), seed, np.uint8))

    row = pd.Series(
        {
            "label": "U-Net",
            "source": "A",
            "target": "B",
            "seed": 1,
            "case": "Case2",
            "metric": "dice",
            "value": 0.25,
        }
    )
    shown = slice_examples.case_example(task, [run(0), run(1)], row, "worst")
    assert shown.note == "worst: Dice (%) 25\nCase2 of B,\ntrained on A, seed 1"
    assert shown.prediction is not None and (shown.prediction == 1).all()
    assert np.array_equal(shown.image, task.slices.load("B", "Case2").images[3])


def test_results_of_finished_runs_are_stacked() -> None:
    def run(finished: bool, *dice: float) -> Any:
        frame = pd.DataFrame({"dice": dice})
        return SimpleNamespace(finished=finished, metrics=lambda: frame, history=lambda: frame)

    runs = [run(True, 0.1, 0.2), run(False), run(True), run(True, 0.3)]
    assert collect_metrics(runs)["dice"].tolist() == [0.1, 0.2, 0.3]
    assert collect_history(runs)["dice"].tolist() == [0.1, 0.2, 0.3]
    assert collect_metrics([run(False)]).empty
