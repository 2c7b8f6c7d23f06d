"""The specification of a run that trains in a second, for the tests of running."""

from pathlib import Path
from typing import Any

from desam_lite.methods.run_spec import RunSpec, make_spec

_TINY: dict[str, Any] = {
    "method": "unet",
    "unet_width": 4,
    "unet_size": 32,
    "epochs": 1,
    "learning_rate": 1e-3,
    "split": "70_10_20",
    "train_slices": "all",
}


def spec_for(place: tuple[Path, Path], **fields: Any) -> RunSpec:
    """A U-Net trained on A for one epoch, with some fields replaced; place: manifest and data root."""
    return make_spec(manifest=place[0], data_root=place[1], source="A", **{**_TINY, **fields})
