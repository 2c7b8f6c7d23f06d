"""Models as runs save them, without training; scans to try them on; and a stand-in whose drawing is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from desam_lite.data.manifest import Intensity, load_manifest
from desam_lite.data.slices import CaseSlices
from desam_lite.methods import METHODS, TrainedModel
from desam_lite.methods.frozen_encoder import weights_hash
from desam_lite.methods.model_card import ModelCard, make_card
from desam_lite.methods.run_spec import RunSpec, make_spec
from desam_lite.training.method import Predictor, SlicePrediction

SETTINGS: dict[str, dict[str, Any]] = {
    "prior": {"method": "prior"},
    "unet": {"method": "unet", "unet_width": 4, "unet_size": 32},
    "points": {
        "method": "desam",
        "backbone": "micro",
        "points_per_side": 3,
        "iou_threshold": 0.0,
        "stability_threshold": 0.0,
        "min_area": 1,
    },
    "box": {"method": "desam", "backbone": "micro", "prompt_mode": "box", "min_area": 1},
    "tuned box": {"method": "sam_finetuned", "backbone": "micro", "prompt_mode": "box", "min_area": 1},
    "tuned points": {
        "method": "sam_finetuned",
        "backbone": "micro",
        "points_per_side": 3,
        "iou_threshold": 0.0,
        "stability_threshold": 0.0,
        "min_area": 1,
    },
    "samed": {"method": "samed", "backbone": "micro"},
    "dapsam": {"method": "dapsam", "backbone": "micro"},
    "unet box": {"method": "unet_box", "backbone": "micro", "unet_width": 4, "unet_size": 32},
    "grid": {
        "method": "sam_zero_shot",
        "backbone": "micro",
        "points_per_side": 3,
        "iou_threshold": 0.0,
        "stability_threshold": 0.0,
    },
}


def spec_of(name: str, task: tuple[Path, Path], **fields: Any) -> RunSpec:
    return make_spec(manifest=task[0], data_root=task[1], source="A", **{**SETTINGS[name], **fields})


def save_model(
    folder: Path, name: str, task: tuple[Path, Path], cases: list[CaseSlices] | None = None, **fields: Any
) -> Path:
    """Write the two files of a model with its initial weights; backbone "micro" must be known, a prior needs cases."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, manifest = spec_of(name, task, **fields), load_manifest(task[0])
    record = {
        "identity": {"settings": spec.settings(), "weights": weights_hash(spec)},
        "files": {"manifest": str(task[0]), "data_root": str(task[1]), "weights": spec.weights},
    }
    built = METHODS[spec.method](spec, len(manifest.organs), cases or [])
    built.save(folder, make_card(record, spec, manifest))
    return folder


class Bright(Predictor):
    """Draws what is brighter than its surroundings: grey levels above 100 are organ 1, above 200 organ 2 if there are two."""

    def __init__(self, organs: int = 1):
        self.cuts = (100, 200)[:organs]

    def predict(self, images: np.ndarray, embeddings: object) -> Iterator[SlicePrediction]:
        for z, image in enumerate(images):
            labels = sum((image > cut).astype(np.uint8) for cut in self.cuts)
            probability = np.stack([np.where(image > cut, 0.9, 0.1) for cut in self.cuts]).astype(np.float32)
            iou = np.array([(z + k) / 100 for k in range(len(self.cuts))], np.float32)
            yield SlicePrediction(np.asarray(labels), probability, iou)

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        raise NotImplementedError


def bright_model(organs: int = 1, name: str = "points") -> TrainedModel:
    """A model that draws bright voxels; ``name`` is what its card says it is."""
    colors = dict(zip(("blob", "core"), ("#e69f00", "#56b4e9"), strict=True))
    spec = spec_of(name, (Path("m"), Path("d")))
    chosen = {organ: colors[organ] for organ in list(colors)[:organs]}
    card = ModelCard("a bright idea", chosen, Intensity(window=(0, 255)), spec)
    return TrainedModel(card, Bright(organs))


def lopsided(shape: tuple[int, int, int] = (9, 12, 7)) -> np.ndarray:
    """Grey levels with a bright block that lies the same way round in no two orientations."""
    data = np.full(shape, 20, np.int16)
    data[1:3, 2:7, 1:6] = 150
    data[1:7, 2:4, 1:3] = 150
    data[2, 3, 1:5] = 250
    return data


def save_scan(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def places(data: np.ndarray, affine: np.ndarray, value: int = 1) -> np.ndarray:
    """Where in the patient (mm, sorted) the voxels of one value lie."""
    voxels = np.argwhere(data == value)
    found = voxels @ affine[:3, :3].T + affine[:3, 3]
    return found[np.lexsort(np.round(found, 3).T)]
