from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from small_task import LPS, image_data, label_data, save, write_task

from desam_lite.data.manifest import load_manifest
from desam_lite.study.report.contact_sheets import contact_sheet, scan_sheet


def sheet(manifest: Path, root: Path, **options: int) -> Figure:
    return contact_sheet(load_manifest(manifest), root, progress=False, **options).figure


def shape(tile: Axes) -> float:
    """The height of a pixel over its width, as it is drawn."""
    left, right, bottom, top = tile.images[0].get_extent()
    rows, columns = tile.images[0].get_array().shape
    assert tile.get_aspect() == 1.0
    return round((bottom - top) / rows / ((right - left) / columns), 6)


def test_each_domain_is_a_row_and_each_case_a_tile_with_its_contour(tmp_path: Path) -> None:
    figure = sheet(*write_task(tmp_path))
    drawn = [tile for tile in figure.axes if tile.images]
    assert len(drawn) == 4 and all(tile.collections for tile in drawn)
    assert [tile.get_xlabel().split()[0] for tile in drawn] == ["Case00", "Case01"] * 2
    assert [tile.get_title().strip() for tile in figure.axes[::2]] == ["Site A", "Site B"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["gland (reference)"]


def test_number_of_cases_is_limited(tmp_path: Path) -> None:
    assert len(sheet(*write_task(tmp_path), cases=1).axes) == 2


def test_faulty_cases_are_left_out_and_counted(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (root / "A" / "Case00.nii.gz").write_bytes(b"no scan")
    figure = sheet(manifest, root)
    assert sum(bool(tile.images) for tile in figure.axes) == 3
    assert "1 faulty case left out" in figure.get_suptitle()


def test_pixels_that_are_not_square_are_drawn_in_their_shape(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    affine = LPS @ np.diag([1.0, 2.0, 1.0, 1.0])
    save(root / "A" / "Case00.nii.gz", image_data(7), affine)
    save(root / "A" / "Case00_segmentation.nii.gz", label_data(), affine)
    assert [shape(tile) for tile in sheet(manifest, root).axes] == [2.0, 1.0, 1.0, 1.0]


def test_the_slice_shown_is_the_one_with_the_most_organs(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, organs=[{"name": "a", "label": 1}, {"name": "b", "label": 2}])
    labels = label_data()
    labels[3:8, 3:7, 2] = 1
    labels[9, 9, 4] = 2  # slice 4 shows both organs, slice 2 more voxels of one
    labels[:, :, 1] = 1
    save(root / "A" / "Case00_segmentation.nii.gz", labels)
    assert sheet(manifest, root).axes[0].get_xlabel() == "Case00 z=4"


@pytest.mark.parametrize(("task", "name"), [("prostate", "promise12_small"), ("abdomen", "abdomen")])
def test_real_sets_can_be_shown(realdata: Path, task: str, name: str) -> None:
    sheet = contact_sheet(load_manifest(name), realdata / task, cases=1, progress=False)
    assert len(sheet.encode_png()) > 20_000


def one_scan(labels: np.ndarray, spacing: tuple[float, float, float] = (3.0, 1.0, 1.0)) -> Figure:
    images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None], labels.shape)
    return scan_sheet(images, labels, {"gland": "#e69f00", "zone": "#56b4e9"}, spacing, "Case07").figure


def slices_shown(figure: Figure) -> list[int]:
    shown = [tile for tile in figure.axes if tile.images]
    named = [int(tile.get_xlabel().removeprefix("z=")) for tile in shown]
    assert named == [int(tile.images[0].get_array().max()) for tile in shown]  # each under its own name
    return named


def test_a_scan_is_shown_from_below_its_organs_to_above_them() -> None:
    labels = np.zeros((60, 8, 8), np.uint8)
    labels[20:24, 2:5, 2:5] = 1
    labels[22:31, 5:7, 5:7] = 2
    figure = one_scan(labels)
    shown = slices_shown(figure)
    assert len(shown) == 12 and (shown[0], shown[-1]) == (19, 31)
    contours = [len(tile.collections) for tile in figure.axes if tile.images]
    expected = [len(np.unique(labels[z])) - 1 for z in shown]
    assert contours == expected
    assert figure.get_suptitle() == "Case07"
    figure.draw_without_rendering()
    title, legend = figure._suptitle.get_window_extent(), figure.legends[0].get_window_extent()
    assert not title.overlaps(legend)
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "gland (prediction)",
        "zone (prediction)",
    ]


def test_few_slices_are_all_shown_and_an_empty_prediction_shows_the_whole_scan() -> None:
    labels = np.zeros((5, 8, 8), np.uint8)
    assert slices_shown(one_scan(labels)) == [0, 1, 2, 3, 4]
    labels[0, 2:5, 2:5] = 1
    assert slices_shown(one_scan(labels)) == [0, 1]
    wide = slices_shown(one_scan(np.zeros((100, 8, 8), np.uint8)))
    assert len(wide) == 12 and (wide[0], wide[-1]) == (0, 99)


def test_pixels_of_a_scan_keep_their_shape() -> None:
    figure = one_scan(np.zeros((2, 8, 8), np.uint8), (3.0, 2.0, 0.5))
    assert {shape(tile) for tile in figure.axes if tile.images} == {4.0}
