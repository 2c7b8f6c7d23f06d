"""The weights that come with this package: the encoder this study trained itself, and its card."""

import json
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parent / "pretrained" / "sam_tiny.safetensors"
"""SAM's image encoder, prompt encoder and mask decoder at the size of `sam_tiny`, in half precision."""
SHIPPED_SHA256 = "4b6f63bcedc24e8357db1fd4b96c83ddc34cf7c54187ba66452e1af65505c0dd"


def shipped_card() -> dict[str, Any]:
    """Return what the shipped weights are: recipe, pictures seen, minutes, device, probe, licence."""
    card: dict[str, Any] = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
    return card
