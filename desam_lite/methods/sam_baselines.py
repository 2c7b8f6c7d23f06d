"""Plain SAM as a method: not trained, or with its mask decoder tuned on the source (the coupled model)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import numpy.typing as npt
import torch

from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.methods.automatic_masks import automatic_masks, decode_on_slice
from desam_lite.methods.frozen_encoder import build_sam, load_frozen
from desam_lite.methods.oracle_prompts import oracle_prompts
from desam_lite.methods.prior import Prior
from desam_lite.methods.prompted import NEEDS_REFERENCE, PromptedMethod, each_slice, grid_settings
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.names import OracleMode, PromptMode
from desam_lite.model.predictor import GridSettings, sigmoid
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.sam_decoder import SAM
from desam_lite.training.method import Predictor, SlicePrediction, Volume


class SAMFinetuned(PromptedMethod):
    """SAM's own mask decoder tuned on stored embeddings: the coupled model, as MedSAM tunes it (Ma et al., 2024).

    Trained and prompted exactly as `DeSAMMethod`, so that the decoder alone differs: from the neck ``(B, 256, h, w)`` to mask
    logits ``(B, K, 4h, 4w)`` and predicted IoU ``(B, K)``. Organ k is the output of SAM's mask token k, the first being that of
    SAM's single mask, which MedSAM trains; its predicted IoU ranks the points of the grid for that organ.
    As an oracle (a tight box at training and at prediction) it is MedSAM as published, for which a person draws the box.
    """

    paper: ClassVar[str] = "medsam"
    defaults_from: ClassVar[str] = (
        "the public code of DeSAM, as for DeSAM; from MedSAM's, that edges of training boxes move by 20 of 1024 pixels at most"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "the image encoder is frozen and its embeddings are stored; MedSAM trains it too",
        "it starts from SAM's weights and is trained on the source alone, not on a million images",
        "but for the oracle, prompts are those of DeSAM (the whole image or a grid of points), not a box drawn by a person",
        "with points the IoU head is trained, to tell points in the organ from others, as DeSAM's is; MedSAM leaves it as it was",
        "several organs are segmented at once, one mask token each",
        "Adam without weight decay, the loss of all decoders here, the schedule and selection of all methods; MedSAM takes AdamW",
    )

    model: SAM

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it for a run; without a checkpoint the run's seed names the decoder's weights."""
        return cls.with_prompts(build_sam(spec, n_organs, seed=spec.seed), spec)

    def load(self, directory: Path) -> None:
        """Load what `save` wrote, and the frozen weights that the card names."""
        load_frozen(self.model, directory)
        super().load(directory)


class SAMZeroShot(Predictor):
    """SAM as it is, not trained on anything here (Kirillov et al., ICCV 2023).

    SAM predicts masks of objects, not which of them is the organ. Without a person, the labels of the source's training cases
    decide: of all masks the organ is the one with the highest expected Dice under the source's mean label (`Prior`) at the same
    relative height, ``2 sum(p in mask) / (area + sum(p))``; where the prior is empty, so is the prediction. No target's label
    and no intensity of a scan enters this choice.

    - ``points``: the masks of segment-anything's automatic generator on a grid of points;
    - ``box``: SAM's four masks of the whole image as box;
    - ``point_oracle``: the reference's innermost point; of SAM's three guesses the one with the highest predicted IoU;
    - ``box_oracle``: the reference's tight box; SAM's single mask.

    The oracles need no choice: the reference tells them where an organ is and in which slices.
    """

    paper: ClassVar[str] = "sam"
    defaults_from: ClassVar[str] = (
        "the filters of segment-anything's automatic mask generator, with the grid and thresholds of the profile"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "embeddings are stored, so slices are scaled with antialiasing by torch rather than by Pillow",
        "no crops of the image are prompted, as by default there",
        "one mask is chosen for each organ, by the source's mean label",
    )

    def __init__(self, model: SAM, mode: PromptMode, grid: GridSettings, prior: Prior):
        self.model, self.mode, self.grid, self.prior = model, mode, grid, prior
        self.encoder, self.oracle = model, mode in get_args(OracleMode)
        model.requires_grad_(False).eval()

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it for a run, with the prior of the training cases."""
        assert spec.prompt_mode is not None
        prior = Prior.fit(cases, n_organs)
        return cls(build_sam(spec, n_organs), spec.prompt_mode, grid_settings(spec), prior)

    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Predict in each slice, for each organ, the mask that fits the prior best."""
        if self.oracle:
            raise TypeError(NEEDS_REFERENCE)
        size = (images.shape[1], images.shape[2])
        expected = self.prior.maps(images.shape)  # (Z, K, H, W)
        present: npt.NDArray[np.bool_] = np.any(expected > self.prior.cut, axis=(2, 3))  # (Z, K)
        for z, emb in enumerate(each_slice(embeddings, len(images), self.model)):
            logits, iou = np.zeros((0, *size), np.float32), np.zeros(0, np.float32)
            if present[z].any():
                logits, iou = self._candidates(emb, size)
            yield _choose_masks(logits, iou, expected[z], present[z])

    def _candidates(
        self, emb: ImageEmbeddings, size: tuple[int, int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return logits ``(N, H, W)`` and predicted IoU ``(N,)`` of the masks that may be an organ."""
        if self.mode == "points":
            return automatic_masks(self.model, emb, size, self.grid)[:2]
        out = decode_on_slice(self.model, emb, Prompts.whole_image(), size)
        assert out.iou is not None
        return out.mask_logits[0].cpu().numpy(), out.iou[0].cpu().numpy()

    def predict_oracle(
        self, images: Volume, embeddings: ReadEmbeddings | None, reference: Volume
    ) -> Iterator[SlicePrediction]:
        """Predict each organ with the prompt from its reference; empty where the organ is not."""
        yield from predict_from_labels(self.model, embeddings, reference, self.mode)

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the prior; the card names SAM by its hash."""
        self.prior.save(directory, card)

    def load(self, directory: Path) -> None:
        """Load what `save` wrote, and the weights that the card names."""
        load_frozen(self.model, directory)
        self.prior.load(directory)


@torch.no_grad()
def predict_from_labels(
    model: SAM, embeddings: ReadEmbeddings | None, labels: Volume, mode: str, margin: float = 0.0
) -> Iterator[SlicePrediction]:
    """Predict each organ of a scan with the prompt that `oracle_prompts` makes of labels ``(Z, H, W)``; empty where it is not.

    For a box it is SAM's single mask; for a point, of its three guesses the one with the highest predicted IoU.
    """
    size, n_organs = labels.shape[1:], model.n_classes
    for emb, in_slice in zip(each_slice(embeddings, len(labels), model), labels, strict=True):
        probability, iou = np.zeros((n_organs, *size), np.float32), np.zeros(n_organs, np.float32)
        for k, prompt in enumerate(oracle_prompts(in_slice, n_organs, model.image_size, mode, margin)):
            if prompt is not None:
                out = decode_on_slice(model, emb, prompt, (size[0], size[1]))
                assert out.iou is not None
                best = 0 if mode == "box_oracle" else 1 + int(out.iou[0, 1:].argmax())
                probability[k] = sigmoid(out.mask_logits[0, best].cpu().numpy())
                iou[k] = float(out.iou[0, best])
        yield SlicePrediction.from_probability(probability, iou)


def _choose_masks(
    logits: npt.NDArray[np.float32],
    iou: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    present: npt.NDArray[np.bool_],
) -> SlicePrediction:
    """Choose one of N masks ``(N, H, W)`` for each organ that the prior ``(K, H, W)`` expects in this slice."""
    probability, chosen_iou = np.zeros(expected.shape, np.float32), np.zeros(len(expected), np.float32)
    masks = logits > 0
    area = masks.sum(axis=(1, 2))
    for k in np.flatnonzero(present & bool(len(logits))):
        dice = 2 * np.einsum("nhw,hw->n", masks, expected[k]) / (area + expected[k].sum())
        best = int(dice.argmax())
        probability[k], chosen_iou[k] = sigmoid(logits[best]), iou[best]
    return SlicePrediction.from_probability(probability, chosen_iou)
