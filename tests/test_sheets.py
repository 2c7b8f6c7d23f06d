from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from small_task import LPS, image_data, label_data, save, write_task

from desam_lite.manifest import load_manifest
from desam_lite.sheets import contact_sheet, write_png


def sheet(manifest: Path, root: Path, **options: int) -> Figure:
    return contact_sheet(load_manifest(manifest), root, progress=False, **options)


def test_each_domain_is_a_row_and_each_case_a_tile_with_its_contour(tmp_path: Path) -> None:
    figure = sheet(*write_task(tmp_path))
    drawn = [tile for tile in figure.axes if tile.images]
    assert len(drawn) == 4 and all(tile.collections for tile in drawn)
    assert [tile.texts[0].get_text().split()[0] for tile in drawn] == ["Case00", "Case01"] * 2
    assert [tile.get_title(loc="left") for tile in figure.axes[::2]] == ["Site A", "Site B"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["gland"]


def test_number_of_cases_is_limited(tmp_path: Path) -> None:
    assert len(sheet(*write_task(tmp_path), cases=1).axes) == 2


def test_faulty_cases_are_left_out_and_counted(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (root / "A" / "Case00.nii.gz").write_bytes(b"no scan")
    figure = sheet(manifest, root)
    assert sum(bool(tile.images) for tile in figure.axes) == 3
    assert "1 faulty cases left out" in figure.get_suptitle()


def test_pixels_that_are_not_square_are_drawn_in_their_shape(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    affine = LPS @ np.diag([1.0, 2.0, 1.0, 1.0])
    save(root / "A" / "Case00.nii.gz", image_data(7), affine)
    save(root / "A" / "Case00_segmentation.nii.gz", label_data(), affine)
    assert [tile.get_aspect() for tile in sheet(manifest, root).axes] == [2.0, 1.0, 1.0, 1.0]


def test_the_slice_shown_is_the_one_with_the_most_organs(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, organs=[{"name": "a", "label": 1}, {"name": "b", "label": 2}])
    labels = label_data()
    labels[3:8, 3:7, 2] = 1
    labels[9, 9, 4] = 2  # slice 4 shows both organs, slice 2 more voxels of one
    labels[:, :, 1] = 1
    save(root / "A" / "Case00_segmentation.nii.gz", labels)
    assert sheet(manifest, root).axes[0].texts[0].get_text() == "Case00 z=4"


@pytest.mark.parametrize(("task", "name"), [("prostate", "promise12_small"), ("abdomen", "abdomen")])
def test_real_sets_can_be_shown(realdata: Path, tmp_path: Path, task: str, name: str) -> None:
    figure = contact_sheet(load_manifest(name), realdata / task, cases=1, progress=False)
    write_png(tmp_path / "sheet.png", figure)
    assert (tmp_path / "sheet.png").stat().st_size > 20_000
