"""Plain SAM as a method: asked as it is, or with its mask decoder tuned on the source (the coupled model)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import numpy.typing as npt
import torch

from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.methods.frozen_encoder import build_sam
from desam_lite.methods.model_card import read_card
from desam_lite.methods.prior import Prior
from desam_lite.methods.prompted import PromptedMethod, each_slice, grid_settings
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.automatic_masks import automatic_masks, decode_on_slice
from desam_lite.model.checkpoints import frozen_file, load_sam
from desam_lite.model.names import OracleMode, PromptMode
from desam_lite.model.oracle_prompts import oracle_prompts
from desam_lite.model.predictor import GridSettings, sigmoid
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.sam_decoder import SAM
from desam_lite.training.method import TENSORS, Predictor, SlicePrediction, combine_organs

Floats = npt.NDArray[np.float32]


class SAMFinetuned(PromptedMethod):
    """SAM's own mask decoder tuned on stored embeddings: the coupled model, as MedSAM tunes it (Ma et al., 2024).

    Trained and asked exactly as `DeSAMMethod`, so that the decoder alone differs. Organ k is drawn by SAM's mask token k, the
    first being that of SAM's single mask, which MedSAM trains; its predicted IoU ranks the points of the grid for that organ.
    As an oracle (a tight box at training and at prediction) it is MedSAM as published, for which a person draws the box.
    """

    paper: ClassVar[str] = "medsam"
    defaults_from: ClassVar[str] = (
        "the public code of DeSAM, as for DeSAM; from MedSAM's, that edges of training boxes move by 20 of 1024 pixels at most"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "the image encoder is frozen and its embeddings are stored; MedSAM trains it too",
        "it starts from SAM's weights and sees the source alone, not a million pictures",
        "but for the oracle, prompts are those of DeSAM (the whole image or a grid of points), not a box drawn by a person",
        "with points the IoU head is trained, to tell points in the organ from others, as DeSAM's is; MedSAM leaves it as it was",
        "several organs are drawn at once, one mask token each",
        "Adam without weight decay and the loss, schedule and selection of all methods here; MedSAM takes AdamW",
    )

    model: SAM

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it as a specification says."""
        return cls.with_prompts(build_sam(spec, n_organs, seed=spec.seed), spec)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote, and the frozen weights that the card names."""
        load_frozen(self.model, directory)
        super().load(directory)


class SAMZeroShot(Predictor):
    """SAM as it is, not trained on anything here (Kirillov et al., ICCV 2023).

    SAM draws things, and does not say which of them is the organ. Without a person, the labels of the source's training cases
    decide: of all masks the organ is the one with the highest expected Dice under the source's mean label (`Prior`), at the same
    relative height, ``2 sum(p in mask) / (area + sum(p))``; where the prior draws nothing, nothing is. No target's label, and no
    picture's brightness, enters this choice.

    - ``points``: the masks of segment-anything's automatic generator on a grid of points;
    - ``box``: SAM's four masks of the whole image as box;
    - ``point_oracle``: the reference's innermost point; of SAM's three guesses the one it thinks best;
    - ``box_oracle``: the reference's tight box; SAM's single mask.

    The oracles need no choice, but are told by the reference where an organ is and in which slices.

    Args:
        model: SAM, with its own decoder.
        mode: The prompt.
        grid: The point grid, and what is kept of its masks.
        prior: Of the source's training cases.
    """

    paper: ClassVar[str] = "sam"
    defaults_from: ClassVar[str] = (
        "the filters of segment-anything's automatic mask generator, with the grid and thresholds of the profile"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "embeddings are stored, so slices are scaled with antialiasing by torch rather than by Pillow",
        "no crops of the picture are asked about, as by default there",
        "one mask is chosen for each organ, by the source's mean label",
    )

    def __init__(self, model: SAM, mode: PromptMode, grid: GridSettings, prior: Prior):
        self.model, self.mode, self.grid, self.prior = model, mode, grid, prior
        self.encoder, self.oracle = model, mode in get_args(OracleMode)
        model.requires_grad_(False).eval()

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it as a specification says, with the prior of the training cases."""
        assert spec.prompt_mode is not None
        prior = Prior.fit(cases, n_organs)
        return cls(build_sam(spec, n_organs), spec.prompt_mode, grid_settings(spec), prior)

    def predict(
        self, images: npt.NDArray[np.uint8], embeddings: ReadEmbeddings | None
    ) -> Iterator[SlicePrediction]:
        """Draw in each slice the masks that fit the prior best.

        Raises:
            TypeError: It is an oracle, which needs the reference.
        """
        if self.oracle:
            raise TypeError("an oracle draws by predict_oracle alone: its prompts come from the reference")
        size = (images.shape[1], images.shape[2])
        expected = self.prior.maps(images.shape)  # (Z, K, H, W)
        present: npt.NDArray[np.bool_] = np.any(expected > self.prior.cut, axis=(2, 3))
        for z, emb in enumerate(each_slice(embeddings, len(images), self._device)):
            logits, iou = self._ask(emb, size) if present[z].any() else (np.zeros((0, *size)), np.zeros(0))
            yield _choose(logits, iou, expected[z], present[z])

    def _ask(self, emb: ImageEmbeddings, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """Return logits ``(N, H, W)`` and predicted IoU ``(N,)`` of what may be an organ."""
        if self.mode == "points":
            found = automatic_masks(self.model, emb, size, self.grid)
            return found.logits, found.iou
        whole = Prompts.whole_image()
        out = decode_on_slice(self.model, emb, whole, size)
        assert out.iou is not None
        return out.mask_logits[0].cpu().numpy(), out.iou[0].cpu().numpy()

    @torch.no_grad()
    def predict_oracle(
        self,
        images: npt.NDArray[np.uint8],
        embeddings: ReadEmbeddings | None,
        reference: npt.NDArray[np.uint8],
    ) -> Iterator[SlicePrediction]:
        """Draw each organ with the prompt that its reference gives; nothing where it is not."""
        size = (images.shape[1], images.shape[2])
        slices = each_slice(embeddings, len(images), self._device)
        for emb, labels in zip(slices, reference, strict=True):
            prompts = oracle_prompts(labels, self.model.n_classes, self.model.image_size, self.mode)
            found = [self._answer(emb, prompt, size) for prompt in prompts]
            probability = np.stack([organ for organ, _ in found])
            iou = np.array([judged for _, judged in found], np.float32)
            yield SlicePrediction(combine_organs(probability), probability, iou)

    def _answer(
        self, emb: ImageEmbeddings, prompt: Prompts | None, size: tuple[int, int]
    ) -> tuple[Floats, float]:
        """Return probability ``(H, W)`` and predicted IoU of what one prompt asks for."""
        if prompt is None:
            return np.zeros(size, np.float32), 0.0
        out = decode_on_slice(self.model, emb, prompt, size)
        assert out.iou is not None
        best = 0 if self.mode == "box_oracle" else 1 + int(out.iou[0, 1:].argmax())
        return sigmoid(out.mask_logits[0, best].cpu().numpy()), float(out.iou[0, best])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the prior; SAM is known by its hash."""
        self.prior.save(directory, card)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote, and the weights that the card names."""
        load_frozen(self.model, directory)
        self.prior.load(directory)


def load_frozen(model: SAM, directory: Path) -> None:
    """Fill SAM with the weights that the card of a run names; the random ones every model is built with.

    Raises:
        StudyError: They are not there or do not fit.
    """
    card = read_card(directory)
    place = frozen_file(directory / TENSORS, model.backbone, card.spec.weights or "", card.weights_hash)
    if place is not None:
        load_sam(model, place)


def _choose(
    logits: Floats | npt.NDArray[np.float64],
    iou: Floats | npt.NDArray[np.float64],
    expected: Floats,
    present: npt.NDArray[np.bool_],
) -> SlicePrediction:
    """Choose one of N masks ``(N, H, W)`` for each organ that the prior ``(K, H, W)`` expects in this slice."""
    probability = np.zeros(expected.shape, np.float32)
    judged = np.zeros(len(expected), np.float32)
    masks = logits > 0
    area = masks.sum(axis=(1, 2))
    for k in np.flatnonzero(present & bool(len(logits))):
        fit = 2 * np.einsum("nhw,hw->n", masks, expected[k]) / (area + expected[k].sum())
        best = int(fit.argmax())
        probability[k], judged[k] = sigmoid(np.asarray(logits[best], np.float32)), iou[best]
    return SlicePrediction(combine_organs(probability), probability, judged)
