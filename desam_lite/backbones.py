"""The frozen encoder of a run: which weights it has, and the embeddings it gives of a task."""

from dataclasses import asdict
from pathlib import Path

import torch

from desam_lite.embeddings import EmbeddingStore, fill_store
from desam_lite.errors import StudyError
from desam_lite.files import digest, sha256_file
from desam_lite.model import FROZEN_SEED, DeSAM, build_desam
from desam_lite.sam import get_backbone
from desam_lite.slices import SliceStore
from desam_lite.spec import RANDOM_WEIGHTS, RunSpec


def weights_hash(spec: RunSpec) -> str | None:
    """Return what names the frozen weights of a run by content; None for a method without an encoder.

    Raises:
        StudyError: The weights file does not exist.
    """
    if spec.backbone is None:
        return None
    if spec.weights == RANDOM_WEIGHTS:
        return digest({"random": asdict(get_backbone(spec.backbone)), "seed": FROZEN_SEED})
    path = Path(spec.weights or "")
    if not path.is_file():
        raise StudyError(
            f"the weights file '{path}' of backbone {spec.backbone} does not exist: give the path of SAM's checkpoint, "
            f"or '{RANDOM_WEIGHTS}' for an untrained encoder."
        )
    return sha256_file(path)[:16]


def build_model(spec: RunSpec, n_organs: int) -> DeSAM:
    """Build the model of a run: frozen weights as the specification says, decoder seeded by the run's seed."""
    assert spec.backbone is not None
    checkpoint = None if spec.weights == RANDOM_WEIGHTS else spec.weights
    return build_desam(spec.backbone, spec.variant or "desam", n_organs, checkpoint, seed=spec.seed)


def open_embeddings(
    spec: RunSpec, slices: SliceStore, workspace: Path, device: torch.device, *, progress: bool = True
) -> EmbeddingStore:
    """Return the embeddings of a task's slices under a run's encoder, computing what is missing.

    Args:
        spec: Names backbone, weights and number format.
        slices: The prepared slices of the task.
        workspace: Folder for results and caches.
        device: Where to compute.
        progress: Whether to show a bar.

    Raises:
        StudyError: The weights do not fit.
    """
    assert spec.backbone is not None
    name = weights_hash(spec)
    assert name is not None
    folder = workspace / "embeddings" / f"{spec.backbone}-{name}"
    store = EmbeddingStore(folder, slices, spec.backbone, name, spec.embedding_format or "float16")
    if store.missing():
        fill_store(store, build_model(spec, 1).to(device), progress=progress)
    return store
