"""The clean-up of a whole mask on masks made by hand."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from saved_model import bright_model, lopsided, save_scan

from desam_lite.prediction.files import ScanJob, predict_files
from desam_lite.prediction.scan import keep_largest_part


def stack(*rows: str) -> np.ndarray:
    """A mask of one row a slice, from below to above."""
    return np.array([[list(map(int, row))] for row in rows], np.uint8)


@pytest.mark.parametrize(
    ("mask", "cleaned"),
    [
        (["1100", "1100", "0001"], ["1100", "1100", "0000"]),
        (["1001", "0001"], ["0001", "0001"]),  # a part within a slice that has the organ
        (["10", "01", "01"], ["00", "01", "01"]),  # an edge is no face
        (["11", "00", "11"], ["11", "11", "11"]),  # a gap of one slice is filled,
        (["11", "00", "00", "10"], ["11", "00", "00", "00"]),  # a wider one parts
        (
            ["0110", "0000", "0011"],
            ["0110", "0010", "0011"],
        ),  # only where both slices beside it have the organ
        (["11", "22", "11"], ["11", "22", "00"]),  # no other organ gives way
        (["1102", "1002", "0020", "0020", "0020"], ["1100", "1000", "0020", "0020", "0020"]),
        (["1", "1"], ["1", "1"]),  # up to the first and last slice
        (["00", "00"], ["00", "00"]),
    ],
)
def test_a_mask_keeps_the_largest_part_of_each_organ(mask: list[str], cleaned: list[str]) -> None:
    before = stack(*mask)
    after = keep_largest_part(before)
    np.testing.assert_array_equal(after, stack(*cleaned))
    np.testing.assert_array_equal(before, stack(*mask))
    np.testing.assert_array_equal(keep_largest_part(after), after)
    assert after.dtype == np.uint8


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 0.6, 6.0)])
def test_a_cleaned_mask_lies_where_its_scan_lies(spacing: tuple[float, float, float], tmp_path: Path) -> None:
    data = lopsided()
    data[-1, -1, -1] = data[data > 200].max()  # an island of the second organ
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-31.5, 12.25, 470)
    job = ScanJob(save_scan(tmp_path / "s.nii.gz", data, affine), {"mask": tmp_path / "m.nii.gz"})
    masks = []
    for largest_part in (False, True):
        prediction = predict_files(bright_model(2), job, largest_part=largest_part, progress=False)
        mask = nib.load(job.outputs["mask"])
        np.testing.assert_array_equal(mask.affine, nib.load(job.scan).affine)
        masks.append(np.asarray(mask.dataobj))
        assert np.bincount(masks[-1].ravel()).tolist() == np.bincount(prediction.labels.ravel()).tolist()
    assert masks[0][-1, -1, -1] == 2 and masks[1][-1, -1, -1] == 0
    assert set(np.unique(masks[1])) == {0, 1, 2}
