"""Ways to break a case of the tiny task, each with the sentence that must answer it."""

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from small_task import LPS, SHAPE, image_data, label_data, save

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
    image.header["vox_offset"] = 352
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
    "colours": (rgb, "A/Case00", r"holds .* voxels, not intensities"),
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
    "constant": (put(IMAGE, image_data() * 0 + 7), "A/Case00", r"has one intensity \(7\) everywhere"),
    "header claims a huge size": (
        header(42, "<3h", 32000, 32000, 32000),
        "A/Case00",
        r"unpacks to 6.55e\+04 GB but 1 GB of memory are free: .* or copy the file again",
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
        r"ids that are not in the manifest \(7, 200\): add them",
    ),
    "negative label": (
        put(LABEL, -label_data().astype(np.int16)),
        "A/Case00",
        r"ids that are not in the manifest \(-1\)",
    ),
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
        r"ids that are not in the manifest \(255\): .* for instance label_map: {255: 1}\.",
    ),
    "label in colours": (
        lambda folder: rgb(folder, LABEL),
        "A/Case00",
        r"Case00_segmentation.nii.gz holds .* voxels, not intensities",
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
        r"is the same scan as A/Case00, voxel by voxel: remove one",
    ),
}
