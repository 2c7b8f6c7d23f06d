"""From a slice of any size to the model's square and back, the way SAM does it.

The longest side is scaled to the side of the square, the rest is padded with zeros at the bottom and on the right; a result
is scaled up to the square, freed of the padding, and scaled back (Kirillov et al., ICCV 2023, and its public code).
"""

from typing import Any

import torch
from torch.nn import functional


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return height and width after the longest side has been scaled to ``side``, in pixels.

    >>> scaled_size((200, 400), 1024)
    (512, 1024)
    """
    scale = side / max(size)
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def fit_square(maps: torch.Tensor, side: int, *, nearest: bool = False) -> torch.Tensor:
    """Bring maps of any size onto a square.

    Args:
        maps: ``(B, C, H, W)`` float.
        side: Side of the square, in pixels.
        nearest: Nearest neighbour, for labels; else bilinear with antialiasing.

    Returns:
        ``(B, C, side, side)``, zero where padded.
    """
    size = scaled_size((maps.shape[-2], maps.shape[-1]), side)
    smooth: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
    if (maps.shape[-2], maps.shape[-1]) != size:
        maps = functional.interpolate(maps, size, **({"mode": "nearest-exact"} if nearest else smooth))
    return functional.pad(maps, (0, side - size[1], 0, side - size[0]))


def unfit_square(logits: torch.Tensor, original: tuple[int, int], side: int | None = None) -> torch.Tensor:
    """Bring maps on a square back to the size of the slice.

    Args:
        logits: ``(B, K, s, s)`` float.
        original: Height and width of the slice, in pixels.
        side: Side of the model's square where it is not ``s`` (SAM's mask maps are a quarter of it).

    Returns:
        ``(B, K, *original)``.
    """
    side = side or logits.shape[-1]
    if logits.shape[-1] != side:
        logits = functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    height, width = scaled_size(original, side)
    cut = logits[..., :height, :width]
    if (height, width) == tuple(original):
        return cut
    return functional.interpolate(cut, original, mode="bilinear", align_corners=False)
