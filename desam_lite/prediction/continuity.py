"""A clean-up of a whole mask: each organ is one part that is continuous from slice to slice."""

import numpy as np
import numpy.typing as npt

from desam_lite.methods.unet_box import largest_parts


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
    filled = labels.copy()
    gaps = (labels[1:-1] == 0) & (labels[:-2] == labels[2:])  # of the organ on both sides, or of none
    filled[1:-1][gaps] = labels[:-2][gaps]
    return largest_parts(filled)
