"""A U-Net says where the organ is, and SAM as it is outlines it: the cheap way to prompt SAM without a person."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.methods.frozen_encoder import build_sam, load_frozen
from desam_lite.methods.prompted import BOX_SHIFT
from desam_lite.methods.run_spec import RunSpec
from desam_lite.methods.sam_baselines import predict_from_labels
from desam_lite.methods.unet import UNetMethod
from desam_lite.model.sam_decoder import SAM
from desam_lite.training.method import SlicePrediction, Volume


class UNetBox(UNetMethod):
    """A U-Net's box handed to SAM, after Wang et al. (2024).

    The U-Net is trained as `UNetMethod` is, to the same weights. In a new slice the box of the largest part of each organ it
    predicts, with a margin, is the prompt of SAM, which is not trained here; SAM's single mask is the prediction. Where the
    U-Net predicts nothing, so does this.
    """

    paper: ClassVar[str] = "sam_parallel"
    defaults_from: ClassVar[str] = (
        "this study's U-Net; the largest connected part as in the authors' code (SARIHUST/SAMMed); the margin of 20 of 1024 "
        "pixels by which MedSAM's public code widens the boxes that it gives to SAM"
    )
    differs: ClassVar[tuple[str, ...]] = (
        "SAM's mask decoder is not tuned; the authors tune it on the source with the boxes of their network",
        "this study's U-Net at a probability of 0.5 and a box with a margin, not a ResNet at 0.75 and the tight box",
        "one slice fills SAM's square; the authors put four into it",
        "the epoch is chosen on validation cases of the source, as for all methods here; their code keeps that of the best Dice "
        "on the targets",
    )

    sam: SAM  # SAM; not a part of `module`

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build U-Net and SAM for a run."""
        method = super().build(spec, n_organs, cases)
        method.sam = build_sam(spec, n_organs)
        method.sam.requires_grad_(False).eval()
        method.encoder = method.sam
        return method

    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Predict with the U-Net, then each organ anew with SAM."""
        self.to(self.device)
        labels = np.stack([largest_parts(slice_.labels) for slice_ in super().predict(images, None)])
        margin = BOX_SHIFT * self.sam.image_size
        yield from predict_from_labels(self.sam, embeddings, labels, "box_oracle", margin)

    def to(self, device: torch.device | str) -> None:
        """Move U-Net and SAM to a device."""
        super().to(device)
        self.sam.to(device)

    def load(self, directory: Path) -> None:
        """Load the U-Net that `save` wrote, and the weights of SAM that the card names."""
        load_frozen(self.sam, directory)
        super().load(directory)


def largest_parts(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return organ ids ``(H, W)`` or ``(Z, H, W)`` with the largest part of each organ alone, joined by edges or faces.

    >>> largest_parts(np.array([[1, 0, 1, 1, 0, 2]], np.uint8)).tolist()
    [[0, 0, 1, 1, 0, 2]]
    """
    kept = np.zeros_like(labels)
    for organ in np.unique(labels[labels > 0]):
        parts, _ = ndimage.label(labels == organ)
        kept[parts == 1 + np.bincount(parts.ravel())[1:].argmax()] = organ
    return kept
