"""A tiny two-domain task on disk, for the tests of data handling; every test that breaks it starts from a sound one."""

from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

LPS = np.diag([-1.0, -1.0, 3.0, 1.0])
SHAPE = (12, 10, 6)


def image_data(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def label_data(shape: tuple[int, int, int] = SHAPE, label: int = 1) -> np.ndarray:
    data = np.zeros(shape, np.uint8)
    data[3:8, 3:7, 1:5] = label
    return data


def save(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def save_case(folder: Path, case: str, seed: int, affine: np.ndarray = LPS) -> None:
    save(folder / f"{case}.nii.gz", image_data(seed), affine)
    save(folder / f"{case}_segmentation.nii.gz", label_data(), affine)


def description(**changes: object) -> dict[str, object]:
    """A manifest as plain data, with some keys replaced."""
    sound: dict[str, object] = {
        "name": "tiny",
        "title": "A tiny task",
        "organs": [{"name": "gland", "label": 1}],
        "domains": {"A": {"title": "Site A"}, "B": {"title": "Site B"}},
        "obtain": "ask the maker of this test.",
    }
    return {**sound, **changes}


def write_manifest(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(description(**changes), sort_keys=False))
    return path


def write_task(folder: Path, **changes: object) -> tuple[Path, Path]:
    """Write manifest and data of the sound task: A and B, two cases each. Returns (manifest, data root)."""
    for number, name in enumerate(["A/Case00", "A/Case01", "B/Case00", "B/Case01"]):
        domain, case = name.split("/")
        save_case(folder / "data" / domain, case, seed=number)
    return write_manifest(folder / "tiny.yaml", **changes), folder / "data"
