"""Prediction on a new scan: any orientation and spacing in, arrays in the frame of the slices out.

The way to files, for one scan or a folder of them, is `desam_lite.prediction.files`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from desam_lite.data.dicom import Frame, holds_dicom, read_series
from desam_lite.data.embeddings import encode_on_demand
from desam_lite.data.geometry import Geometry, to_slices
from desam_lite.data.manifest import Intensity
from desam_lite.data.nifti import Scan, read_image
from desam_lite.data.slices import prepare_intensity
from desam_lite.methods import TrainedModel
from desam_lite.methods.model_card import ModelCard
from desam_lite.methods.unet_box import largest_parts
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track


@dataclass(frozen=True, eq=False)
class ScanPrediction:
    """What a model predicts of a scan, in the frame of the slices."""

    images: npt.NDArray[np.uint8]  # ``(Z, H, W)`` uint8, the intensities that the model was given
    labels: npt.NDArray[
        np.uint8
    ]  # ``(Z, H, W)`` uint8: 0 background, 1..K the organs in the order of the card
    # ``(Z, K, H, W)`` float32, before threshold and cleaning; None unless asked for
    probability: npt.NDArray[np.float32] | None
    iou: npt.NDArray[
        np.float32
    ]  # ``(Z, K)`` float32, predicted by the model itself; NaN for one without IoU head
    geometry: Geometry  # the scan's grid, for the way back
    warnings: tuple[str, ...]  # what is odd about the scan
    header: Any = None  # nibabel's of a NIfTI scan, for files that lie where it does
    frames: tuple[Frame, ...] = ()  # slices of a DICOM series, which a Segmentation refers to


def choose_device(accelerator: str) -> torch.device:
    """Return the device to predict on: "auto" (a GPU if there is one), "cpu" or "gpu"."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise StudyError(f"there is no accelerator '{accelerator}': use auto, cpu or gpu.")
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    if accelerator == "gpu" and not gpu:
        raise StudyError("there is no GPU here that PyTorch can use: see 'desam-lite info', or use cpu.")
    return torch.device("cuda" if gpu else "cpu")


def predict_scan(
    model: TrainedModel,
    scan: Path | str,
    *,
    series: str | None = None,
    probability: bool = False,
    largest_part: bool = False,
    progress: bool = True,
) -> ScanPrediction:
    """Predict the organs of one scan.

    Args:
        model: What `desam_lite.methods.load_predictor` gave.
        scan: A ``.nii`` or ``.nii.gz`` file in any orientation and spacing, or a DICOM series: its folder, or one file.
        series: UID or number of the DICOM series, where a folder holds several.
        probability: Whether the probabilities are kept, four bytes per voxel and organ.
        largest_part: Whether `keep_largest_part` cleans the organs.
        progress: Whether to show a bar (one step per slice).

    Raises:
        StudyError: There is not one 3-D scan, or the model is an oracle.
    """
    if model.predictor.oracle:
        raise StudyError(
            f"{model.card.spec.label} takes its prompts from the reference so it cannot segment a scan without one: "
            "use a model with prompt_mode points or box."
        )
    path, card = Path(scan), model.card
    stored = read_series(path, series) if path.is_dir() or holds_dicom(path) else read_image(path)
    data = stored.data.astype(np.float32, copy=False)
    images = prepare_intensity(to_slices(data, stored.geometry), card.intensity)
    maps = None
    if model.predictor.encoder is not None:
        maps = encode_on_demand(model.predictor.encoder, images, card.spec.embedding_format or "float16")
    predicted, text = model.predictor.predict(images, maps), f"predicting {path.name}"
    bar = track(predicted, text, total=len(images), enabled=progress)
    slices = [(each.labels, each.iou, each.probability if probability else None) for each in bar]
    masks, iou, probabilities = zip(*slices, strict=True)
    labels = np.stack(masks)
    return ScanPrediction(
        images,
        keep_largest_part(labels) if largest_part else labels,
        np.stack(probabilities) if probability else None,
        np.stack(iou),
        stored.geometry,
        stored.warnings + _doubts_of_unit(data, card.intensity),
        *((stored.header, ()) if isinstance(stored, Scan) else (None, stored.frames)),
    )


def keep_largest_part(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Fill gaps of one slice in each organ of ids ``(Z, H, W)``, then keep its largest part, whose voxels touch by faces.

    A gap is filled where both slices beside it have the organ and itself has no other. Made for organs of one piece: of a pair of
    kidneys with one name, one would be left. Spacing plays no part: voxels touch by their faces at any slice distance.

    >>> keep_largest_part(np.array([1, 0, 1, 0, 0, 1], np.uint8).reshape(6, 1, 1)).ravel().tolist()
    [1, 1, 1, 0, 0, 0]
    """
    filled = labels.copy()
    gaps = (labels[1:-1] == 0) & (labels[:-2] == labels[2:])  # of the organ on both sides, or of none
    filled[1:-1][gaps] = labels[:-2][gaps]
    return largest_parts(filled)


def doubt_of_slices(card: ModelCard) -> str:
    """Tell that a model was trained on no slice without organ, and what to do; "" where it was, or where nothing was trained."""
    if card.spec.train_slices in (None, "all"):
        return ""
    return (
        "this model was trained on slices with an organ only, so it may segment other tissue above and below: check these "
        "slices, train with --train-slices all, or try --largest-part"
    )


def _doubts_of_unit(data: npt.NDArray[np.float32], intensity: Intensity) -> tuple[str, ...]:
    """Tell whether intensities are hardly in the unit of the window that a model was trained with.

    Scans in Hounsfield units have little above a window of soft tissue; HU + 1024 has all of the body there. Other scales have a
    small range, or the 256 values of a picture.
    """
    if intensity.window is None:
        return ()
    (low, high), (least, most) = intensity.window, (float(data.min()), float(data.max()))
    eight_bit = low < 0 <= least and most <= 255
    beyond = np.mean(data >= high) > 0.15 or np.mean(data <= low) > 0.99
    if not (eight_bit or beyond or most - least < 0.05 * (high - low)):
        return ()
    return (
        f"its intensities, {least:g} to {most:g}, hardly fit the window {low:g} to {high:g} that the model was trained with, "
        "so they may be in another unit: give a CT in Hounsfield units",
    )


def require_iou_head(card: ModelCard) -> None:
    """Refuse, with a StudyError, to give scores of a model that predicts no IoU, or was not trained to."""
    if not card.spec.predicts_iou:
        raise StudyError(
            f"{card.spec.label} gives no scores: choose a model that is prompted with points and has an IoU head."
        )


def volumes_ml(prediction: ScanPrediction, card: ModelCard) -> dict[str, float]:
    """Return the volume of each organ in millilitres."""
    voxel = abs(float(np.linalg.det(prediction.geometry.affine[:3, :3]))) / 1000  # also of slanted voxels
    counts = np.bincount(prediction.labels.ravel(), minlength=len(card.organs) + 1)
    return {name: float(counts[number]) * voxel for number, name in enumerate(card.organs, start=1)}


def scores_table(prediction: ScanPrediction, card: ModelCard) -> pd.DataFrame:
    """Return one row per slice and organ.

    Returns:
        ``slice`` (0 is the lowest), ``file_slice`` (its index along the file's own axis), ``organ``, ``predicted_iou`` (0 where
        no prompt was good enough), ``voxels``.
    """
    require_iou_head(card)
    codes = prediction.geometry.orientation
    upwards, count = "S" in codes, len(prediction.labels)
    rows = [
        {
            "slice": z,
            "file_slice": z if upwards else count - 1 - z,
            "organ": name,
            "predicted_iou": float(prediction.iou[z, number]),
            "voxels": int((prediction.labels[z] == number + 1).sum()),
        }
        for z in range(count)
        for number, name in enumerate(card.organs)
    ]
    return pd.DataFrame(rows)
