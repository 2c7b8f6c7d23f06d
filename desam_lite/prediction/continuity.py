"""A clean-up of a whole mask: each organ is one part that is continuous from slice to slice."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def keep_largest_part(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Fill gaps of one slice in each organ, then keep its largest part.

    Made for organs of one piece: of a pair of kidneys with one name, one would be left. Spacing plays no part: all voxels of a
    scan have the same volume, and touch by their faces at any slice distance.

    Args:
        labels: ``(Z, H, W)``, organ ids, 0 background.

    Returns:
        ``(Z, H, W)``: a gap is filled where both slices beside it have the organ and itself has no other; voxels of an organ that
        are not joined by their faces to its largest part are background.

    >>> keep_largest_part(np.array([1, 0, 1, 0, 0, 1], np.uint8).reshape(6, 1, 1)).ravel().tolist()
    [1, 1, 1, 0, 0, 0]
    """
    cleaned = np.zeros_like(labels)
    for organ in np.unique(labels[labels > 0]):
        own = labels == organ
        own[1:-1] |= own[:-2] & own[2:] & (labels[1:-1] == 0)
        parts, _ = ndimage.label(own)
        cleaned[(parts == np.bincount(parts[own]).argmax()) & (cleaned == 0)] = organ
    return cleaned
