"""The weights of a pretraining as a file that others read, and the card beside it that says what they are."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from desam_lite.model.sam import get_backbone
from desam_lite.model.weights import find_weights
from desam_lite.synthetic.pretraining.probe import probe
from desam_lite.utils.files import sha256_file, write_json
from desam_lite.utils.provenance import code_version, device_name, library_versions

if TYPE_CHECKING:
    from desam_lite.synthetic.pretraining.loop import Pretraining

_DATA = (
    "An endless stream of synthetic scenes (desam_lite/synthetic/pretraining): random regions, random grey levels. "
    "No scan, no phantom of this study and no organ."
)
_LIMITS = (
    "A stand-in for SAM that is small enough to come with a book: not SAM, not for clinical use, and not comparable with "
    "numbers of SAM's own encoders. It has seen synthetic scenes only, mostly smaller than the 256 pixels it works at."
)


def write_weights(run: "Pretraining", path: Path, history: Path | str | None = None) -> dict[str, Any]:
    """Write the weights under SAM's names, in half precision, and their card beside them (``.json``).

    Args:
        run: Trained on any device; afterwards its model holds what was written, rounded.
        path: The weights file.
        history: Weights that the run began with; their card is kept in this one.

    Returns:
        The card.
    """
    run.export(path)
    run.begin_with(path)
    side = run.model.spec.image_size
    begun = find_weights(history).with_suffix(".json") if history else None
    card = {
        "name": path.stem,
        "sha256": sha256_file(path),
        "sizes": asdict(get_backbone(run.recipe.backbone)),
        "parameters": {
            name: sum(p.numel() for p in part.parameters()) for name, part in run.model.named_children()
        },
        "data": _DATA,
        "recipe": asdict(run.recipe),
        "steps": run.step,
        "pictures": run.pictures,
        "minutes": round(run.minutes, 1),
        "device": device_name(run.device),
        "libraries": library_versions(),
        "code": code_version(),
        "probe": {"side": side, "held out": probe(run.model.eval(), side, batches=8)},
        "curve": run.log,
        "limits": _LIMITS,
        "licence": "MIT",
        "began with": json.loads(begun.read_text(encoding="utf-8")) if begun and begun.exists() else None,
    }
    write_json(path.with_suffix(".json"), card)
    return card
