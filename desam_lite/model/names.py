"""Names that settings, models and messages share; nothing heavy is imported here."""

from typing import Literal

RANDOM_WEIGHTS = "random"
"""Weights of an encoder that was never trained."""
SHIPPED_WEIGHTS = "shipped"
"""The weights of `sam_tiny` that come with this package."""

PromptMode = Literal["points", "box", "point_oracle", "box_oracle"]
Variant = Literal["desam", "no_iou_head", "no_fusion", "pdmm_only"]
