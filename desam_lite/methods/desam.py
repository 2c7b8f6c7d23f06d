"""DeSAM as a method: the decoupled decoder, trained and asked as `desam_lite.methods.prompted` has it."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from desam_lite.data.slices import CaseSlices
from desam_lite.methods.frozen_encoder import build_model
from desam_lite.methods.prompted import IoULoss, PromptedMethod, draw_point
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.checkpoints import load_checkpoint
from desam_lite.model.desam import DeSAM
from desam_lite.training.method import TENSORS

__all__ = ["DeSAMMethod", "IoULoss", "draw_point"]


class DeSAMMethod(PromptedMethod):
    """DeSAM on stored embeddings (Gao et al., MICCAI 2024), with the whole image as box (B) or a grid of points (P)."""

    paper: ClassVar[str] = "desam"
    defaults_from: ClassVar[str] = "the public code of DeSAM"
    differs: ClassVar[tuple[str, ...]] = (
        "several organs can be drawn in one pass; the public code has one",
        "embeddings are kept as float16, the public code keeps float32",
    )

    model: DeSAM

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it as a specification says."""
        return cls.with_prompts(build_model(spec, n_organs), spec)

    def load(self, directory: Path) -> None:
        """Take over what `save` wrote, and the frozen weights that the card names."""
        load_checkpoint(self.model, directory / TENSORS)
