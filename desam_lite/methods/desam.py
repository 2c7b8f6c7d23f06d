"""DeSAM as a method: the decoupled decoder, trained and prompted as in `desam_lite.methods.prompted`."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from desam_lite.data.slices import CaseSlices
from desam_lite.methods.frozen_encoder import build_model
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.checkpoints import load_checkpoint
from desam_lite.model.desam import DeSAM
from desam_lite.training.method import TENSORS


class DeSAMMethod(PromptedMethod):
    """DeSAM on stored embeddings (Gao et al., MICCAI 2024), with the whole image as box (B) or a grid of points (P).

    Its decoder takes four maps per slice, three of the encoder's blocks and SAM's neck (``(B, 256, h, w)``), and returns mask
    logits ``(B, K, 4h, 4w)`` and, if the variant has an IoU head, a predicted IoU ``(B, K)`` per prompt.
    """

    paper: ClassVar[str] = "desam"
    defaults_from: ClassVar[str] = "the public code of DeSAM"
    differs: ClassVar[tuple[str, ...]] = (
        "several organs can be segmented in one pass; the public code has one",
        "embeddings are kept as float16, the public code keeps float32",
        "where slices are finer than the maps, a target is the part of a pixel that the organ covers, not the nearest label",
        "each epoch is validated with the same points; the public code draws new ones every time",
    )

    model: DeSAM

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it for a run: frozen weights and decoder as `build_model` fills them."""
        return cls.with_prompts(build_model(spec, n_organs), spec)

    def load(self, directory: Path) -> None:
        """Load what `save` wrote, and the frozen weights that the card names."""
        load_checkpoint(self.model, directory / TENSORS)
