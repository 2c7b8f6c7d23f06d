"""Broken data: each fault is one sentence that names the case, the file and the next step; all come in one listing.

Broken manifests are in test_manifest.py, broken imports in test_importing.py, the command line's side in test_cli.py.
"""

import gzip
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest
from small_task import LPS, SHAPE, image_data, label_data, save, save_case, write_manifest, write_task

from desam_lite.data.index import build_index, list_faults, require_sound
from desam_lite.data.manifest import load_manifest
from desam_lite.data.nifti import read_image, read_label
from desam_lite.utils.errors import StudyError

IMAGE, LABEL = "Case00.nii.gz", "Case00_segmentation.nii.gz"


def edit_header(path: Path, offset: int, content: bytes) -> None:
    """Overwrite some bytes of a header, as no library would let one."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw)))


def with_voxel(value: float) -> np.ndarray:
    data = image_data().astype(np.float32)
    data[2, 3, 4] = value
    return data


def moved(millimetres: float) -> np.ndarray:
    affine = LPS.copy()
    affine[0, 3] += millimetres
    return affine


def remove(folder: Path) -> None:
    (folder / IMAGE).unlink()


def remove_label(folder: Path) -> None:
    (folder / LABEL).unlink()


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def breaker(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return breaker


def cut_uncompressed(folder: Path) -> None:
    raw = gzip.decompress((folder / IMAGE).read_bytes())
    (folder / IMAGE).unlink()
    (folder / "Case00.nii").write_bytes(raw[:-100])


def flip_bits(folder: Path) -> None:
    content = bytearray((folder / IMAGE).read_bytes())
    for position in range(200, 220):
        content[position] ^= 0xFF
    (folder / IMAGE).write_bytes(bytes(content))


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def put(name: str, data: np.ndarray, affine: np.ndarray = LPS) -> Callable[[Path], None]:
    return lambda folder: save(folder / name, data, affine) and None


def folder_in_place_of_a_file(folder: Path) -> None:
    (folder / IMAGE).unlink()
    (folder / IMAGE).mkdir()


def dangling_link(folder: Path) -> None:
    (folder / IMAGE).unlink()
    (folder / IMAGE).symlink_to("nowhere.nii.gz")


def rgb(folder: Path, name: str = IMAGE) -> None:
    voxels = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(voxels, LPS), folder / name)


def two_files(folder: Path) -> None:
    save(folder / "Case00.nii", image_data())


def two_labels(folder: Path) -> None:
    save(folder / "Case00_segmentation.nii", label_data())


def endless_link(folder: Path) -> None:
    (folder / IMAGE).unlink()
    (folder / IMAGE).symlink_to(IMAGE)


def bomb(folder: Path) -> None:
    """A file that is as large as its header says, once unpacked: 64 GB of zeros would be, were this not only its start."""
    shape = (4000, 4000, 2000)
    image = nib.Nifti1Image(np.broadcast_to(np.uint8(0), (1, 1, 1)), LPS)
    image.header.set_data_shape(shape)
    image.header.set_data_dtype(np.uint16)
    packed = gzip.compress(image.header.binaryblock + b"\0" * 4)
    (folder / IMAGE).write_bytes(packed + b"\0" * (64_000_000_000 // 1032))


def second_organ(folder: Path) -> None:
    save(folder / "Case00_spleen.nii.gz", label_data())


def binary_255(folder: Path) -> None:
    save(folder / LABEL, label_data() * 255)


def same_scan_twice(folder: Path) -> None:
    shutil.copy(folder.parent / "B" / "Case01.nii.gz", folder / IMAGE)


def header(offset: int, layout: str, *values: float) -> Callable[[Path], None]:
    return lambda folder: edit_header(folder / IMAGE, offset, struct.pack(layout, *values))


def no_spacing(folder: Path) -> None:
    edit_header(folder / IMAGE, 80, struct.pack("<3f", 1.0, 1.0, 0.0))
    edit_header(
        folder / IMAGE, 252, struct.pack("<2h", 1, 0)
    )  # the affine is made from spacing and quaternion


def collapsed(folder: Path) -> None:
    edit_header(
        folder / IMAGE, 296, struct.pack("<4f", 0.0, -1.0, 0.0, 0.0)
    )  # srow_y = srow_x: a plane, not a volume
    edit_header(folder / IMAGE, 280, struct.pack("<4f", 0.0, -1.0, 0.0, 0.0))


IDS = label_data()
IDS[0, 0, 0], IDS[1, 0, 0] = 7, 200
HALF = label_data().astype(np.float32) * 0.5

# name -> (what breaks A/Case00, the case at fault, what the sentence must say)
FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "image missing": (remove, "A/Case00", r"has no image: add A/Case00.nii.gz, or take the case out"),
    "unlabelled": (remove_label, "A/Case00", r"has no label: add A/Case00_segmentation.nii.gz, or take"),
    "image truncated": (
        cut(IMAGE, 0.5),
        "A/Case00",
        r"A/Case00.nii.gz is truncated or damaged .* copy it again",
    ),
    "label truncated": (cut(LABEL, 0.6), "A/Case00", r"_segmentation.nii.gz is truncated or damaged"),
    "image cut to nothing": (cut(IMAGE, 0.0), "A/Case00", r"A/Case00.nii.gz is not a NIfTI file"),
    "uncompressed image truncated": (
        cut_uncompressed,
        "A/Case00",
        r"Case00.nii is truncated \(1692 of 1792 bytes\)",
    ),
    "bits flipped": (flip_bits, "A/Case00", r"A/Case00.nii.gz is truncated or damaged"),
    "text": (write(IMAGE, b"hello " * 100), "A/Case00", r"is not a NIfTI file .* convert the scan"),
    "compressed text": (write(IMAGE, gzip.compress(b"hello " * 100)), "A/Case00", r"is not a NIfTI file"),
    "a web page": (
        write(IMAGE, b"<!DOCTYPE html><html>Sign in</html>" * 20),
        "A/Case00",
        r"is not a NIfTI file",
    ),
    "folder": (folder_in_place_of_a_file, "A/Case00", r"is a folder, not a file: check the path"),
    "dangling link": (dangling_link, "A/Case00", r"does not exist: check the path"),
    "4-D": (
        put(IMAGE, np.stack([image_data()] * 2, -1)),
        "A/Case00",
        r"is 4-D \(12, 10, 6, 2\), not one 3-D volume",
    ),
    "2-D": (put(IMAGE, image_data()[..., 0]), "A/Case00", r"is 2-D \(12, 10\), not one 3-D volume"),
    "no voxels": (put(IMAGE, image_data()[:, :, :0]), "A/Case00", r"has no voxels|not a NIfTI file"),
    "colours": (rgb, "A/Case00", r"holds .* voxels, not grey levels"),
    "complex": (put(IMAGE, image_data().astype(np.complex64)), "A/Case00", r"holds complex64 voxels"),
    "NaN": (
        put(IMAGE, with_voxel(np.nan)),
        "A/Case00",
        r"image .* holds 1 NaN or infinite voxels: export it again",
    ),
    "infinite": (put(IMAGE, with_voxel(-np.inf)), "A/Case00", r"holds 1 NaN or infinite voxels"),
    "too large for a float32": (
        put(IMAGE, with_voxel(1).astype(np.float64) * 1e300),
        "A/Case00",
        r"NaN or infinite voxels",
    ),
    "constant": (put(IMAGE, image_data() * 0 + 7), "A/Case00", r"has one grey level \(7\) everywhere"),
    "header claims a huge size": (
        header(42, "<3h", 32000, 32000, 32000),
        "A/Case00",
        r"is truncated \(its header tells of 6.55e\+04 GB, too",
    ),
    "negative size": (header(42, "<h", -5), "A/Case00", r"not a NIfTI file|is truncated|has no voxels"),
    "unknown voxel type": (header(70, "<h", 999), "A/Case00", r"is not a NIfTI file"),
    "zero spacing in the header": (no_spacing, "A/Case00", r"zero voxel spacing"),
    "zero spacing in the affine": (
        header(320, "<f", 0.0),
        "A/Case00",
        r"zero voxel spacing or a collapsed affine",
    ),
    "collapsed affine": (
        collapsed,
        "A/Case00",
        r"zero voxel spacing or a collapsed affine: repair its header",
    ),
    "affine not finite": (
        header(292, "<f", float("nan")),
        "A/Case00",
        r"zero voxel spacing or a collapsed affine",
    ),
    "label of another shape": (
        put(LABEL, label_data()[:, :, :5]),
        "A/Case00",
        r"has shape \(12, 10, 5\) but its image",
    ),
    "label elsewhere": (
        put(LABEL, label_data(), moved(1.5)),
        "A/Case00",
        r"another affine than its image .* on the image's grid",
    ),
    "label mirrored": (
        put(LABEL, label_data(), np.diag([1.0, -1, 3, 1])),
        "A/Case00",
        r"another affine than its image",
    ),
    "label without foreground": (
        put(LABEL, label_data() * 0),
        "A/Case00",
        r"marks no organ at all: draw the label",
    ),
    "label ids unknown": (
        put(LABEL, IDS),
        "A/Case00",
        r"ids the manifest does not know \(7, 200\): add them",
    ),
    "negative label": (put(LABEL, -label_data().astype(np.int16)), "A/Case00", r"does not know \(-1\)"),
    "label interpolated": (
        put(LABEL, HALF),
        "A/Case00",
        r"voxels that are no whole numbers: export it again as ids",
    ),
    "label with NaN": (
        put(LABEL, with_voxel(np.nan)),
        "A/Case00",
        r"holds 1 voxels that are no whole numbers",
    ),
    "label with infinity": (
        put(LABEL, with_voxel(np.inf)),
        "A/Case00",
        r"holds 1 voxels that are no whole numbers",
    ),
    "label too large": (put(LABEL, with_voxel(1e12)), "A/Case00", r"numbers too large for an id"),
    "label is not NIfTI": (
        write(LABEL, b"hello " * 100),
        "A/Case00",
        r"_segmentation.nii.gz is not a NIfTI file",
    ),
    "two files for one case": (
        two_files,
        "A/Case00",
        r"has two image files \(A/Case00.nii and A/Case00.nii.gz\): remove",
    ),
    "two labels for one case": (two_labels, "A/Case00", r"has two label files .*: remove one"),
    "link to itself": (
        endless_link,
        "A/Case00",
        r"cannot be read \(Too many .*\): check it and its permissions",
    ),
    "more than the memory": (
        bomb,
        "A/Case00",
        r"unpacks to 64 GB but 1 GB of memory are free: crop the scan",
    ),
    "organ in a second file": (
        second_organ,
        "A/Case00_spleen",
        r"has no label: .*Is it a second label of case Case00\? Then bring all organs into one file",
    ),
    "label of 0 and 255": (
        binary_255,
        "A/Case00",
        r"does not know \(255\): .* for instance label_map: {255: 1}\.",
    ),
    "label in colours": (
        lambda folder: rgb(folder, LABEL),
        "A/Case00",
        r"Case00_segmentation.nii.gz holds .* voxels, not grey levels",
    ),
    "label 4-D": (put(LABEL, np.stack([label_data()] * 2, -1)), "A/Case00", r"_segmentation.nii.gz is 4-D"),
    "label unreadable as gzip": (
        write(LABEL, b"\x1f\x8b" + b"\0" * 300),
        "A/Case00",
        r"_segmentation.nii.gz is truncated or damaged",
    ),
    "one scan in two places": (
        same_scan_twice,
        "B/Case01",
        r"is the same scan as A/Case00, bit by bit: remove one",
    ),
}


def faults(manifest: Path, root: Path) -> list[str]:
    return list_faults(build_index(load_manifest(manifest), root, progress=False))


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_one_line_that_names_the_case_and_the_next_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker, case, sentence = FAULTS[name]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9))
    manifest, root = write_task(tmp_path)
    breaker(root / "A")
    found = faults(manifest, root)
    assert len(found) == 1, found
    assert found[0].startswith(f"{case}: ") and re.search(sentence, found[0]), found[0]
    assert "\n" not in found[0] and ": " in found[0].removeprefix(f"{case}: ") and found[0].endswith(".")


def test_the_table_of_faults_is_long_enough() -> None:
    assert len(FAULTS) >= 40


def test_every_fault_at_once_is_one_listing(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    breakers = [
        FAULTS[name][0] for name in ("NaN", "label elsewhere", "4-D", "unlabelled", "label ids unknown")
    ]
    for number, breaker in enumerate(breakers):
        folder = tmp_path / "one"
        save_case(folder, "Case00", seed=100 + number)
        breaker(folder)
        for file in folder.iterdir():
            file.rename(root / "B" / file.name.replace("Case00", f"Case1{number}"))
    with pytest.raises(StudyError) as caught:
        require_sound(build_index(load_manifest(manifest), root, progress=False))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [f"B/Case1{number}" for number in range(5)]


def test_image_and_label_at_fault_are_both_told(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    cut(IMAGE, 0.5)(root / "A")
    put(LABEL, HALF)(root / "A")
    assert re.search(r"Case00.nii.gz is truncated.*_segmentation.nii.gz holds", faults(manifest, root)[0])


def test_unreadable_file_is_named_with_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the system's refusal: tests may run as root, whom no permission stops."""
    manifest, root = write_task(tmp_path)
    original = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == IMAGE and path.parent.name == "A":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert re.search(
        r"A/Case00.nii.gz cannot be read \(Permission denied\): check it and its permissions",
        faults(manifest, root)[0],
    )


def test_missing_folder_tells_how_to_get_the_data(tmp_path: Path) -> None:
    manifest, _ = write_task(tmp_path)
    with pytest.raises(
        StudyError, match=r"no data folder .*/nowhere for task 'tiny'.* ask the maker of this test"
    ):
        faults(manifest, tmp_path / "nowhere")


def test_empty_folder_tells_what_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    manifest, _ = write_task(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        StudyError,
        match=r"no case of 'tiny' .* \(looked for A/{case}.nii.gz, found no file at all\).* ask the maker",
    ):
        faults(manifest, tmp_path / "empty")


def test_pattern_that_matches_nothing_is_a_fault_of_its_domain(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, domains={"A": {"title": "A"}, "C": {"title": "C"}})
    assert faults(manifest, root) == [
        "C/*: no file fits its pattern (C/{case}.nii.gz or C/{case}_segmentation.nii.gz): get this domain's data, "
        "or take it out of the manifest."
    ]


def test_one_patient_in_two_domains_is_a_fault_where_ids_are_people(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, unique_patients=True)
    found = faults(manifest, root)
    assert [line.split(":")[0] for line in found] == ["A/Case00", "A/Case01", "B/Case00", "B/Case01"]
    assert "patient 'Case00' is in domain B too: keep one of them" in found[0]


@pytest.mark.parametrize(("data", "warned"), [(image_data() % 256, True), (image_data() - 500, False)])
def test_eight_bit_values_where_hounsfield_units_are_expected_are_warned_of(
    data: np.ndarray, warned: bool, tmp_path: Path
) -> None:
    manifest, root = write_task(tmp_path, intensity={"window": [-125, 275]})
    save(root / "A" / IMAGE, data)
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    assert ("A/Case00: image: Hounsfield units expected" in " ".join(list_faults(index, "warning"))) is warned


def test_header_without_orientation_is_warned_of(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    for name in (IMAGE, LABEL):
        edit_header(root / "A" / name, 252, struct.pack("<2h", 0, 0))
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    assert "gives no orientation" in list_faults(index, "warning")[0]


@pytest.mark.parametrize(("turned", "warned"), [(False, False), (True, True)])
def test_two_orientations_that_disagree_are_warned_of(turned: bool, warned: bool, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    image = nib.load(root / "A" / IMAGE)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), LPS)
    image.set_qform(LPS @ np.diag([-1.0, 1, 1, 1]) if turned else LPS, code=1)
    nib.save(image, root / "A" / IMAGE)
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    found = " ".join(list_faults(index, "warning"))
    assert (
        "A/Case00: image: its header gives two orientations (sform and qform) that disagree" in found
    ) is warned


def test_spacing_that_cannot_be_millimetres_is_warned_of(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    save_case(root / "A", "Case00", 60, LPS / 1000)
    index = build_index(load_manifest(manifest), root, progress=False)
    assert list_faults(index) == []
    assert "spacing 0.003 x 0.001 x 0.001 mm is unlikely" in list_faults(index, "warning")[0]


def test_nothing_of_the_data_is_written_to(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    cut(IMAGE, 0.5)(root / "A")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*.nii.gz")}
    faults(manifest, root)
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()
    } == before


def test_single_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"/scan.nii.gz does not exist"):
        read_image(tmp_path / "scan.nii.gz")
    with pytest.raises(StudyError, match=r"/mask.nii.gz does not exist"):
        read_label(tmp_path / "mask.nii.gz")
    assert write_manifest(tmp_path / "m.yaml").exists()
