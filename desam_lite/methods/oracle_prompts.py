"""Prompts made from labels: of the reference, as a person who knows the organ would place them, or of another network.

Numbers got with those of the reference are no results of an automatic method, and every table and figure says so.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from desam_lite.model.prompts import Prompts


def oracle_prompts(
    labels: npt.NDArray[np.uint8], n_organs: int, side: int, mode: str, margin: float = 0.0
) -> list[Prompts | None]:
    """Make one prompt for each of K organs of a slice of ids ``(H, W)``, None for one that is not in it.

    The mode is "point_oracle", the innermost point, or "box_oracle", the tight box, which may reach beyond by a margin, where
    the model's square does; that and the side of the square are in its pixels.
    """
    scale = side / max(labels.shape)
    return [_prompt(labels == organ, scale, mode, side, margin) for organ in range(1, n_organs + 1)]


def _prompt(mask: npt.NDArray[np.bool_], scale: float, mode: str, side: int, margin: float) -> Prompts | None:
    if not mask.any():
        return None
    if mode == "box_oracle":
        box = tight_box(mask) * scale + np.array([-margin, -margin, margin, margin])
        return Prompts.box(torch.from_numpy(box.clip(0, side))[None])
    xy = (innermost(mask) + 0.5) * scale
    return Prompts.points(torch.from_numpy(xy)[None, None], torch.ones(1, 1))


def tight_box(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return left, top, right, bottom of a mask ``(H, W)`` that is not empty, at the outer edges of its pixels.

    >>> tight_box(np.pad(np.ones((2, 3), bool), ((1, 0), (4, 0)))).tolist()
    [4.0, 1.0, 7.0, 3.0]
    """
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)


def innermost(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return ``(x, y)`` of the pixel of a mask ``(H, W)`` farthest from what is not of it; the first of equals."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return np.array([x, y])
