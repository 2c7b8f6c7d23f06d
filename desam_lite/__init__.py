"""DeSAM Lite: an executable study of DeSAM (Gao et al., MICCAI 2024).

``from desam_lite import DeSAM, ImageEmbeddings, Prompts, build_desam`` gives the model; every stage is a module of its own.
The names are loaded when first used, so that ``import desam_lite`` and the command line stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from desam_lite.model import DeSAM, ImageEmbeddings, Prompts, build_desam

__all__ = ["DeSAM", "ImageEmbeddings", "Prompts", "build_desam"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("desam_lite.model"), name)
    raise AttributeError(f"module 'desam_lite' has no attribute '{name}'")
