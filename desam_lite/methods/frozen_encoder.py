"""The frozen encoder of a run: its weights, the models built on it, and the embeddings it computes of a task."""

from pathlib import Path

import torch

from desam_lite.data.embeddings import EmbeddingStore, fill_store
from desam_lite.data.slices import SliceStore
from desam_lite.methods.model_card import read_card
from desam_lite.methods.run_spec import RunSpec
from desam_lite.model.build import build_desam
from desam_lite.model.checkpoints import frozen_file, load_checkpoint, random_weights
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import RANDOM_WEIGHTS
from desam_lite.model.prompted_sam import FROZEN_SEED
from desam_lite.model.sam_decoder import SAM
from desam_lite.model.weights import find_weights, weights_sha256
from desam_lite.training.method import TENSORS


def weights_hash(spec: RunSpec) -> str | None:
    """Return what names the frozen weights of a run by content; None for a method without an encoder."""
    if spec.backbone is None:
        return None
    weights = _weights_file(spec)
    if weights is None:
        return random_weights(spec.backbone)
    return weights_sha256(find_weights(weights))[:16]


def check_weights(spec: RunSpec, n_organs: int) -> None:
    """Check that the weights of a run fit its model, without filling one; a StudyError names the first tensor at fault."""
    weights = _weights_file(spec)
    if spec.backbone is None or weights is None:
        return
    with torch.device("meta"):  # shapes without memory
        model = DeSAM(spec.backbone, spec.variant, n_organs) if spec.variant else SAM(spec.backbone, n_organs)
    load_checkpoint(model, weights, encoder=True)


def build_model(spec: RunSpec, n_organs: int) -> DeSAM:
    """Build the model of a run: frozen weights as the specification has them, decoder seeded by the run's seed.

    With SAM's checkpoint PRIM starts from SAM's mask decoder, as published; the seed then governs PDMM alone.
    """
    assert spec.backbone is not None
    model = build_desam(spec.backbone, spec.variant or "desam", n_organs, seed=spec.seed)
    weights = _weights_file(spec)
    if weights is not None:
        load_checkpoint(model, weights, encoder=True)
    return model


def build_sam(spec: RunSpec, n_organs: int, *, seed: int = FROZEN_SEED) -> SAM:
    """Build the SAM of a run; without a checkpoint ``seed`` names the weights of its decoder, by default that of the encoders."""
    assert spec.backbone is not None
    model = SAM(spec.backbone, n_organs, seed)
    weights = _weights_file(spec)
    if weights is not None:
        load_checkpoint(model, weights)
    return model


def load_frozen(model: SAM, directory: Path) -> None:
    """Fill SAM with the weights that the card of a run names; every model is built with the random ones."""
    card = read_card(directory)
    path = frozen_file(directory / TENSORS, model.backbone, card.spec.weights or "", card.weights_hash)
    if path is not None:
        load_checkpoint(model, path)


def _weights_file(spec: RunSpec) -> str | None:
    """Return the weights file of a run, with the hash that may be stated; None for random weights."""
    return None if spec.weights == RANDOM_WEIGHTS else spec.weights or ""


def open_embeddings(
    spec: RunSpec, slices: SliceStore, workspace: Path, device: torch.device, *, progress: bool = True
) -> EmbeddingStore:
    """Return the embeddings of a task's slices under a run's encoder, below ``workspace``, computing what is missing."""
    name = weights_hash(spec)
    assert spec.backbone is not None and name is not None
    folder = workspace / "embeddings" / f"{spec.backbone}-{name}"
    store = EmbeddingStore(folder, slices, spec.backbone, name, spec.embedding_format or "float16")
    if store.missing():
        model = build_model(spec, len(slices.manifest.organs))
        fill_store(store, model.to(device), progress=progress)
    return store
