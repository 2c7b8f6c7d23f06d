"""Masks of another tool as a method: its predictions are read from the run's folder, where `desam-lite score` has put them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from desam_lite.data.embeddings import ReadEmbeddings
from desam_lite.data.slices import CaseSlices
from desam_lite.methods.run_spec import RunSpec
from desam_lite.training.method import CARD, Predictor, SlicePrediction, Volume
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_json


class ToolMasks(Predictor):
    """What another tool, which the specification names, predicted of the tested cases; it knows of no other scan."""

    paper = "unknown"
    defaults_from = "another tool"
    differs = ("its masks were made outside of this study, so their training is not known",)

    def __init__(self, spec: RunSpec):
        self.spec = spec

    @classmethod
    def build(cls, spec: RunSpec, n_organs: int, cases: Sequence[CaseSlices]) -> Self:
        """Build it; no case changes it."""
        return cls(spec)

    def predict(self, images: Volume, embeddings: ReadEmbeddings | None) -> Iterator[SlicePrediction]:
        """Refuse: a case is asked for whose mask is not there."""
        tool, source, seed = self.spec.tool, self.spec.source, self.spec.seed
        raise StudyError(
            f"there are no masks of {tool} trained on {source}, seed {seed}: score them with "
            f"desam-lite score MASKS --source {source} --seed {seed} --label '{tool}'."
        )

    def save(self, directory: Path, card: dict[str, Any]) -> None:
        """Write the card; there are no tensors."""
        write_json(directory / CARD, card)

    def load(self, directory: Path) -> None:
        """Refuse: there is no model."""
        raise StudyError(
            f"'{directory}' holds masks of {self.spec.tool} and no model: predict new scans with that tool."
        )
