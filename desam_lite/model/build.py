"""Building a DeSAM by name, filled from a checkpoint where one is given."""

from pathlib import Path
from typing import get_args

import torch

from desam_lite.model.checkpoints import load_checkpoint
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import Variant
from desam_lite.utils.errors import StudyError


def build_desam(
    backbone: str,
    variant: Variant = "desam",
    n_classes: int = 1,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DeSAM:
    """Build a DeSAM, in evaluation mode.

    Args:
        backbone: "sam_tiny", "vit_b", "vit_l", "vit_h" or "medsam".
        variant: "desam", "no_iou_head", "no_fusion" or "pdmm_only".
        n_classes: K, organs predicted in one pass.
        checkpoint: SAM's original weights, ours, the published DeSAM's, or "shipped" for `sam_tiny`'s; with ``#sha256=HEX``
            after the path where the content must have that hash (`desam_lite.model.checkpoints.load_checkpoint`); None for
            random ones.
        seed: Names the decoder's initial weights. A random encoder is always the same.
        device: Where the model goes.

    Raises:
        StudyError: A name is unknown, or the checkpoint does not fit.
    """
    variants = get_args(Variant)
    if variant not in variants:
        raise StudyError(f"there is no decoder variant '{variant}': choose from {', '.join(variants)}.")
    if n_classes < 1:
        raise StudyError(f"a model needs at least one organ, not {n_classes}: set n_classes to 1 or more.")
    model = DeSAM(backbone, variant, n_classes, seed)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model.to(device)
