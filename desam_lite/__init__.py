"""DeSAM Lite: an executable study of DeSAM (Gao et al., MICCAI 2024).

``from desam_lite import DeSAM, ImageEmbeddings, Prompts, build_desam`` gives the model; every stage is a module of its own.
The names are loaded when first used, so that ``import desam_lite`` and the command line stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from desam_lite.model.build import build_desam
    from desam_lite.model.desam import DeSAM
    from desam_lite.model.prompts import ImageEmbeddings, Prompts

_HOME = {"DeSAM": "desam", "build_desam": "build", "ImageEmbeddings": "prompts", "Prompts": "prompts"}
__all__ = ["DeSAM", "ImageEmbeddings", "Prompts", "build_desam"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"desam_lite.model.{_HOME[name]}"), name)
    raise AttributeError(f"module 'desam_lite' has no attribute '{name}'")
