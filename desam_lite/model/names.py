"""Names that settings, models and messages share; nothing heavy is imported here."""

from typing import Literal

RANDOM_WEIGHTS = "random"
"""Weights of an encoder that was never trained."""
SHIPPED_WEIGHTS = "shipped"
"""The weights of `sam_tiny` that come with this package."""

SAM_BACKBONES = ("sam_tiny", "vit_b", "vit_l", "vit_h")
"""The usual encoders, which a table need not name; runs on any other have its name in their label."""

AutomaticMode = Literal["points", "box"]
"""Prompts without a person: a grid of points, or the whole image as box."""
OracleMode = Literal["point_oracle", "box_oracle"]
"""Prompts from the reference: the innermost point of an organ, or its tight box."""
PromptMode = Literal[AutomaticMode, OracleMode]
MaskLoss = Literal["dice", "dice_ce"]
"""What the masks of a decoder are trained with."""
Selection = Literal["published", "iou"]
"""Which mask of a grid of points is kept."""
Variant = Literal["desam", "no_iou_head", "no_fusion", "pdmm_only"]
