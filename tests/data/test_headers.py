"""A mask carries the header of its scan; a header that is wrong is refused, a doubtful one is told."""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_task import LPS, image_data, save

from desam_lite.data.geometry import to_slices
from desam_lite.data.nifti import read_image, write_mask
from desam_lite.utils.errors import StudyError

MATRIX = ["srow_x", "srow_y", "srow_z"]
QUATERNION = ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
NUMBERS = st.floats(-9, 9, width=32)


def patched(path: Path, **fields: object) -> Path:
    """A sound scan with some fields of its header overwritten, which no library checks on the way."""
    image = nib.load(save(path, image_data()))
    content = bytearray(image.to_bytes())
    header = image.header.copy()
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(bytes(content))
    return path


def stored_header(path: Path, kind: type = nib.Nifti1Header) -> nib.Nifti1Header:
    """As the bytes are: nibabel's own loading mends some fields."""
    return kind(path.read_bytes()[: kind.template_dtype.itemsize], check=False)


@settings(max_examples=40, deadline=None)
@given(
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    sides=st.tuples(*[st.floats(0.125, 9, width=32)] * 3),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 4),
    turn=st.tuples(*[st.floats(-0.5, 0.5, width=32)] * 3),
    shear=st.floats(-0.5, 0.5, width=32),
    offsets=st.tuples(*[NUMBERS] * 6),
    unit=st.sampled_from(["unknown", "mm", "micron", "meter"]),
    kind=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    order=st.sampled_from("<>"),
)
def test_a_mask_has_the_header_of_its_scan(
    codes, sides, signs, turn, shear, offsets, unit, kind, order, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("header")
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.int16)
    header["sform_code"], header["qform_code"] = codes
    header["pixdim"][:4] = [signs[3], *(np.array(sides) * signs[:3])]
    header.set_xyzt_units(unit)
    rows = np.diag(sides)
    rows[0, 2] = shear
    for n, name in enumerate(MATRIX):
        header[name] = [*rows[n], offsets[n]]
    for name, value in zip(QUATERNION, [*turn, *offsets[3:]], strict=True):
        header[name] = value
    data = image_data()
    image = kind(data, None, header)
    (folder / "scan.nii").write_bytes(image.to_bytes())
    scan = read_image(folder / "scan.nii")
    write_mask(folder / "mask.nii", to_slices(data > 500, scan.geometry), scan.geometry, scan.header)
    before, after = (stored_header(folder / name, kind.header_class) for name in ("scan.nii", "mask.nii"))
    for name in ["pixdim", "qform_code", "sform_code", "xyzt_units", *MATRIX, *QUATERNION]:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    mask = nib.load(folder / "mask.nii")
    assert mask.get_data_dtype() == np.uint8 and np.array_equal(np.asarray(mask.dataobj), data > 500)


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1)])
def test_a_quaternion_that_rounding_made_too_long_is_no_fault(codes: tuple[int, int], tmp_path: Path) -> None:
    path = patched(
        tmp_path / "s.nii",
        sform_code=codes[0],
        qform_code=codes[1],
        quatern_b=0.0,
        quatern_c=0.001,
        quatern_d=1.00001,
    )
    scan = read_image(path)
    assert scan.warnings == () and scan.geometry.spacing == pytest.approx((3, 1, 1), rel=1e-3)
    write_mask(tmp_path / "m.nii", to_slices(scan.data > 500, scan.geometry), scan.geometry, scan.header)
    np.testing.assert_allclose(nib.load(tmp_path / "m.nii").affine, scan.geometry.affine, atol=1e-3)


def test_a_quaternion_that_is_no_rotation_is_refused_where_it_decides(tmp_path: Path) -> None:
    fields = {"quatern_b": 0.0, "quatern_c": 0.9, "quatern_d": 0.9, "qform_code": 1}
    with pytest.raises(StudyError, match=r"quaternion of length 1\.27, no rotation: repair its header"):
        read_image(patched(tmp_path / "s.nii", **fields, sform_code=0))
    warnings = read_image(patched(tmp_path / "s.nii", **fields, sform_code=1)).warnings
    assert len(warnings) == 1 and "two orientations" in warnings[0]


@pytest.mark.parametrize("offset", [0.0, 200.0, -16.0])
def test_voxels_that_begin_in_the_header_are_refused(offset: float, tmp_path: Path) -> None:
    path = patched(tmp_path / "s.nii")
    content = bytearray(path.read_bytes())
    content[108:112] = struct.pack("<f", offset)
    path.write_bytes(bytes(content))
    with pytest.raises(StudyError, match=r"begin at byte|offset"):
        read_image(path)


@pytest.mark.parametrize(("unit", "scale"), [("micron", 1000), ("mm", 1), ("unknown", 1), ("meter", 0.001)])
def test_lengths_are_read_in_the_unit_of_the_header(unit: str, scale: float, tmp_path: Path) -> None:
    affine = LPS.copy()
    affine[:3] *= scale
    image = nib.Nifti1Image(image_data(), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "s.nii")
    scan = read_image(tmp_path / "s.nii")
    np.testing.assert_allclose(scan.geometry.affine, LPS, rtol=1e-5)
    assert len(scan.warnings) == (scale != 1) and all(f"lengths in {unit}s" in each for each in scan.warnings)


def test_doubtful_voxel_sizes_are_told(tmp_path: Path) -> None:
    sizes = {"sform_code": 1, "qform_code": 0, "pixdim": [-1, 0.5, 0.5, 3, 1, 1, 1, 1]}
    warnings = read_image(patched(tmp_path / "s.nii", **sizes)).warnings
    assert len(warnings) == 1 and "two voxel sizes (pixdim and sform) that disagree" in warnings[0]
    sizes = {"sform_code": 0, "qform_code": 1, "pixdim": [1, -1, 1, 3, 1, 1, 1, 1]}
    warnings = read_image(patched(tmp_path / "s.nii", **sizes)).warnings
    assert len(warnings) == 1 and "a negative voxel size" in warnings[0]
