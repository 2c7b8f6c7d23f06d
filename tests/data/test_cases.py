import itertools
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from small_task import LPS, description, image_data, label_data, save

from desam_lite.data.cases import load_case, to_organ_ids
from desam_lite.data.geometry import Geometry, from_slices, same_grid, to_slices
from desam_lite.data.manifest import Manifest, load_manifest
from desam_lite.data.nifti import read_image, read_label, write_mask
from desam_lite.utils.errors import StudyError

ORIENTATIONS = [
    np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
MANIFEST = Manifest.model_validate(description())
TURN = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])  # 16 degrees about the long axis


def oblique() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = TURN @ np.diag([-0.5, -0.7, 3.0])
    affine[:3, 3] = [10.0, -20.0, 30.5]
    return affine


def stored(data: np.ndarray, affine: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its axes swapped and flipped, and the affine that keeps it where it is."""
    return apply_orientation(data, orientation), affine @ inv_ornt_aff(orientation, data.shape)


@pytest.mark.parametrize("affine", [LPS, oblique()], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    "orientation", ORIENTATIONS, ids=lambda o: "".join(f"{int(a)}{int(f):+}" for a, f in o)
)
def test_all_48_orientations_of_a_scan_give_the_same_slices(
    orientation: np.ndarray, affine: np.ndarray, tmp_path: Path
) -> None:
    original = image_data()
    expected = to_slices(original, Geometry(original.shape, affine))
    data, its_affine = stored(original, affine, orientation)
    scan = read_image(save(tmp_path / "scan.nii", data, its_affine))
    assert np.array_equal(to_slices(scan.data, scan.geometry), expected)
    assert scan.geometry.slices_shape == expected.shape
    reference = Geometry(original.shape, affine)
    assert scan.geometry.spacing == pytest.approx(reference.spacing, abs=1e-6)
    assert np.array_equal(from_slices(expected, scan.geometry), data)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.1, 10.0)] * 3),
    seed=st.integers(0, 2**16),
)
def test_slices_return_to_the_original_grid_exactly(
    shape: tuple[int, int, int], orientation: np.ndarray, spacing: tuple[float, ...], seed: int
) -> None:
    data, affine = stored(image_data(seed, shape), np.diag([*spacing, 1.0]), orientation)
    geometry = Geometry(data.shape, affine)
    slices = to_slices(data, geometry)
    assert slices.shape == (shape[2], shape[1], shape[0])
    assert geometry.spacing == pytest.approx(spacing[::-1])
    assert np.array_equal(from_slices(slices, geometry), data)
    assert np.array_equal(to_slices(from_slices(slices, geometry), geometry), slices)


@settings(max_examples=25, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    tilted=st.booleans(),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
def test_written_mask_lies_on_the_grid_of_its_scan(
    orientation: np.ndarray, tilted: bool, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mask")
    data, affine = stored(image_data(), oblique() if tilted else LPS, orientation)
    scan = read_image(save(folder / f"scan{suffix}", data, affine))
    mask = to_slices(scan.data, scan.geometry) > 500
    write_mask(folder / f"mask{suffix}", mask, scan.geometry)
    written = nib.load(folder / f"mask{suffix}")
    assert np.array_equal(np.asanyarray(written.dataobj), data > 500)
    assert np.array_equal(written.affine, nib.load(folder / f"scan{suffix}").affine)
    assert written.get_data_dtype() == np.uint8
    assert same_grid(read_label(folder / f"mask{suffix}").geometry, scan.geometry)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_rows_run_to_the_back_and_columns_to_the_left_of_the_patient() -> None:
    data = np.zeros((4, 5, 6), np.uint8)  # stored RAS+: indices grow to the right, front and head
    data[3, 0, 5] = 1  # rightmost, rearmost, topmost voxel
    slices = to_slices(data, Geometry(data.shape, np.eye(4)))
    assert np.argwhere(slices).tolist() == [
        [5, 4, 0]
    ]  # top slice, last row (posterior), first column (right)


def test_geometry_survives_json_to_the_last_bit() -> None:
    geometry = Geometry((3, 4, 5), oblique() / 3)
    again = Geometry.from_json(geometry.to_json())
    assert again.shape == geometry.shape and np.array_equal(again.affine, geometry.affine)


def test_slices_of_another_scan_are_refused_on_the_way_back() -> None:
    with pytest.raises(StudyError, match=r"slices of shape \(2, 2, 2\)"):
        from_slices(np.zeros((2, 2, 2)), Geometry((3, 4, 5), np.eye(4)))


def test_header_scale_is_applied_to_grey_levels(tmp_path: Path) -> None:
    image = nib.Nifti1Image(image_data(), LPS)
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "scan.nii.gz")
    stored_values = nib.load(tmp_path / "scan.nii.gz")
    assert np.allclose(read_image(tmp_path / "scan.nii.gz").data, stored_values.get_fdata())


def test_float_label_of_whole_numbers_is_read_as_ids(tmp_path: Path) -> None:
    path = save(tmp_path / "label.nii.gz", label_data().astype(np.float64) + 1e-7)
    assert set(np.unique(read_label(path).data)) == {0, 1}


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(image_data(), LPS), tmp_path / "scan.nii")
    assert np.array_equal(read_image(tmp_path / "scan.nii").data, image_data())


def test_one_volume_with_a_time_axis_of_length_one_is_3d(tmp_path: Path) -> None:
    scan = read_image(save(tmp_path / "scan.nii.gz", image_data()[..., None]))
    assert scan.geometry.shape == image_data().shape and np.array_equal(scan.data, image_data())


def test_label_ids_become_positions_of_organs_and_unknown_ones_are_told() -> None:
    organs = [{"name": "liver", "label": 6}, {"name": "spleen", "label": 1}]
    domains = {"A": {"title": "A", "label_map": {2: 6, 4: 0}}}
    manifest = Manifest.model_validate(description(organs=organs, domains=domains))
    ids, unknown = to_organ_ids(np.array([0, 1, 2, 4, 6, 9, -3, 100_000]), manifest, "A")
    assert ids.tolist() == [0, 2, 1, 0, 1, 0, 0, 0] and unknown == [-3, 9, 100_000]


def test_grids_are_the_same_up_to_rounding_only() -> None:
    geometry = Geometry((100, 100, 20), oblique())
    rounded, moved, scaled = (oblique() for _ in range(3))
    rounded[:3] += 3e-4
    moved[0, 3] += 0.3
    scaled[:3, 0] *= 1.01
    assert same_grid(geometry, Geometry((100, 100, 20), rounded))
    assert not same_grid(geometry, Geometry((100, 100, 20), moved))
    assert not same_grid(geometry, Geometry((100, 100, 20), scaled))


def test_case_is_refused_when_a_file_changed_since_it_was_indexed(tmp_path: Path) -> None:
    save(tmp_path / "A" / "Case00.nii.gz", image_data())
    label = save(tmp_path / "A" / "Case00_segmentation.nii.gz", label_data())
    row = {"domain": "A", "case": "Case00", "image": "A/Case00.nii.gz", "label": f"A/{label.name}"}
    known = {**row, "label_sha256": read_label(label).sha256}
    assert load_case(MANIFEST, tmp_path, known).labels.sum() == label_data().sum()
    save(label, label_data()[::-1])
    with pytest.raises(
        StudyError, match=r"label .*Case00_segmentation.nii.gz has changed since it was indexed"
    ):
        load_case(MANIFEST, tmp_path, known)


@pytest.mark.parametrize(
    ("task", "domain", "case", "shape"),
    [("prostate", "UCL", "Case26", (32, 128, 128)), ("abdomen", "MR", "Case10", (36, 256, 256))],
)
def test_real_scan_is_upright(
    realdata: Path, task: str, domain: str, case: str, shape: tuple[int, int, int]
) -> None:
    """The couch side is behind the patient, and in the abdomen the liver is on the left of the picture."""
    manifest = load_manifest({"prostate": "promise12_small", "abdomen": "abdomen"}[task])
    row = {
        "domain": domain,
        "case": case,
        "image": f"{domain}/{case}.nii.gz",
        "label": f"{domain}/{case}_segmentation.nii.gz",
    }
    volume = load_case(manifest, realdata / task, row)
    assert volume.image.shape == shape
    if task == "abdomen":
        columns = [np.argwhere(volume.labels == organ)[:, 2].mean() for organ in (1, 4)]
        rows = [np.argwhere(volume.labels == organ)[:, 1].mean() for organ in (1, 2, 3)]
        assert columns[0] < shape[2] / 2 < columns[1]  # liver, spleen
        assert rows[0] < min(rows[1:])  # the kidneys lie behind the liver
    else:
        rectum = volume.image[16, 85:105, 58:70]  # its dark lumen is behind the gland
        assert np.argwhere(volume.labels)[:, 1].mean() < 85 and rectum.mean() < volume.image[16].mean()


def test_a_file_that_is_no_scan_makes_no_noise_beside_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as outside of pytest
    (tmp_path / "readme.nii").write_text("# Scans\n" * 100)
    with pytest.raises(StudyError, match="is not a NIfTI file"):
        read_image(tmp_path / "readme.nii")
    assert capfd.readouterr().err == ""
