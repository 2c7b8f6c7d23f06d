"""How a predicted volume is scored: one function for a mask, one for a case under a protocol.

Overlap is the Dice coefficient over the whole volume; distances are between the surfaces, in mm, computed by MONAI.
Which measure answers which question is discussed in Metrics Reloaded (Maier-Hein et al., Nature Methods 2024).
"""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from desam_lite.data.slices import SliceRule, select_slices
from desam_lite.utils.errors import StudyError

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]
Protocol = Literal["whole_volume", "published"]
PROTOCOLS: tuple[Protocol, ...] = ("whole_volume", "published")

PUBLISHED_SIZE = 256
"""Side of the square on which the public code scores a slice, in pixels."""
PUBLISHED_BORDER = 50
"""Width of the frame of that square in which the public code sets predictions to zero, in pixels."""


class Quirks(NamedTuple):
    """What a protocol does to a case before it is scored; by default nothing."""

    # which slices count: "all", those with the organ ("foreground"), or those but the last ("published")
    slices: SliceRule = "all"
    square: bool = False  # whether slices are brought to `PUBLISHED_SIZE` squared first
    # whether predictions in a frame of `PUBLISHED_BORDER` of that square's pixels are set to zero
    border: bool = False


QUIRKS: dict[Protocol, Quirks] = {
    "whole_volume": Quirks(),
    "published": Quirks(slices="published", square=True, border=True),
}
"""What the two protocols of every ``metrics.csv`` are."""


class Scored(NamedTuple):
    """One organ of one case as a protocol takes it: masks ``(Z, H, W)`` of the slices that count, spacing ``(z, y, x)`` in mm."""

    predicted: Mask
    true: Mask
    spacing: tuple[float, float, float]


class VolumeScore(NamedTuple):
    """The scores of one organ in one volume."""

    dice: float  # dice coefficient, 0 to 1
    hd95: float  # 95th percentile Hausdorff distance: the larger of the two directed 95th percentiles, mm
    hd: float  # hausdorff distance, mm
    assd: float  # average symmetric surface distance: mean over the points of both surfaces, mm


def score_volume(
    prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing: Sequence[float]
) -> VolumeScore:
    """Score one organ of one volume.

    The rule for empty masks: both empty is perfect agreement (Dice 1, distances 0); one empty is the worst there is
    (Dice 0, every distance the diagonal of the volume, so that an empty prediction gains nothing and an average stays finite).

    Args:
        prediction: Boolean mask, or zeros and ones, of any number of axes (normally ``(Z, H, W)``).
        reference: Mask of the same shape.
        spacing: Distance between voxel centres along each axis in mm, in the order of the axes.

    Returns:
        Dice and the three surface distances.

    Raises:
        StudyError: The shapes differ, a mask is not binary, or the spacing does not fit.

    >>> import numpy as np
    >>> cube = np.zeros((6, 6, 6), bool); cube[1:4, 1:4, 1:4] = True
    >>> score_volume(np.roll(cube, 1, axis=0), cube, (2.0, 1.0, 1.0))
    VolumeScore(dice=0.6666666666666666, hd95=2.0, hd=2.0, assd=0.7307692307692307)
    """
    predicted, true = _binary(prediction, "prediction"), _binary(reference, "reference")
    if predicted.shape != true.shape:
        raise StudyError(
            f"the prediction has shape {predicted.shape} and the reference {true.shape}: "
            "bring both to one grid before scoring."
        )
    steps = np.asarray(spacing, dtype=float)
    if steps.shape != (predicted.ndim,) or not np.all(np.isfinite(steps)) or np.any(steps <= 0):
        raise StudyError(
            f"spacing {tuple(spacing)} does not give one positive distance in mm for each of the "
            f"{predicted.ndim} axes: pass one number per axis."
        )
    sizes = int(predicted.sum()), int(true.sum())
    if 0 in sizes:
        agree = sizes == (0, 0)
        worst = 0.0 if agree else float(np.linalg.norm(steps * predicted.shape))
        return VolumeScore(float(agree), worst, worst, worst)
    dice = 2.0 * int((predicted & true).sum()) / sum(sizes)
    forward, backward = _surface_distances(predicted, true, steps)
    both = np.concatenate([forward, backward])
    hd95 = max(float(np.percentile(forward, 95)), float(np.percentile(backward, 95)))
    return VolumeScore(dice, hd95, float(both.max()), float(both.mean()))


def _binary(mask: npt.ArrayLike, name: str) -> Mask:
    array = np.asarray(mask)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise StudyError(f"the {name} holds values other than 0 and 1: score one organ at a time, as a mask.")
    return array.astype(bool)


def _surface_distances(predicted: Mask, true: Mask, spacing: Distances) -> tuple[Distances, Distances]:
    """Return the distances from each surface voxel of the one mask to the surface of the other, both ways, in mm."""
    from monai.metrics.utils import get_edge_surface_distance  # seconds to import: only what scores pays

    # Surfaces lie inside the box of both masks, and the distance transform of a small box is cheap.
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(predicted | true))
    # A margin of one voxel, so that an organ cut off by the volume's edge has a surface there too.
    padded = [torch.from_numpy(np.pad(mask[box], 1)) for mask in (predicted, true)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it passes itself
        _, distances, _ = get_edge_surface_distance(
            padded[0], padded[1], spacing=list(spacing), symmetric=True, warn_empty=False
        )
    forward, backward = (np.asarray(d, dtype=float) for d in distances)
    return forward, backward


def score_case(
    prediction: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    spacing: Sequence[float],
    organ: int,
    protocol: Protocol,
) -> VolumeScore:
    """Score one organ of one case, ids ``(Z, H, W)`` with spacing ``(z, y, x)`` in mm, under a protocol.

    ``whole_volume`` scores every slice as it is. ``published`` repeats what the public code of DeSAM does: only slices
    that contain the organ, without the last of them (an exclusive range), on a 256 x 256 square per slice, with
    predictions in a 50-pixel border set to zero; where that leaves no slice of this case, the scores are NaN.
    """
    scored = as_scored(prediction == organ, labels == organ, spacing, QUIRKS[protocol])
    if len(scored.true) == 0:
        return VolumeScore(np.nan, np.nan, np.nan, np.nan)
    return score_volume(*scored)


def as_scored(predicted: Mask, true: Mask, spacing: Sequence[float], quirks: Quirks) -> Scored:
    """Apply what a protocol does to masks ``(Z, H, W)`` with spacing ``(z, y, x)`` in mm; there may be no slice left."""
    z, y, x = spacing
    if quirks.slices != "all":
        rows = select_slices(true.astype(np.uint8), quirks.slices)
        predicted, true = predicted[rows], true[rows]
    if quirks.square and len(true):
        height, width = true.shape[1:]
        y, x = y * height / PUBLISHED_SIZE, x * width / PUBLISHED_SIZE
        predicted, true = _nearest_square(predicted), _nearest_square(true)
    if quirks.border:
        predicted = predicted & inside_border(true.shape[1:])
    return Scored(predicted, true, (z, y, x))


def inside_border(shape: Sequence[int]) -> Mask:
    """Return which pixels ``(H, W)`` of a slice have their centre inside the published border, whatever the slice's size.

    >>> int(inside_border((256, 256)).sum()) == (256 - 2 * 50) ** 2
    True
    """
    last = PUBLISHED_SIZE - PUBLISHED_BORDER
    centres = [(np.arange(side) + 0.5) * PUBLISHED_SIZE / side for side in shape]
    rows, columns = ((axis > PUBLISHED_BORDER) & (axis < last) for axis in centres)
    return np.asarray(rows[:, None] & columns[None, :])


def _nearest_square(mask: Mask) -> Mask:
    """Resample ``(Z, H, W)`` to ``(Z, 256, 256)`` by nearest neighbour, pixel centres aligned."""
    tensor = torch.from_numpy(mask[:, None].astype(np.uint8))
    sized = torch.nn.functional.interpolate(tensor, (PUBLISHED_SIZE, PUBLISHED_SIZE), mode="nearest-exact")
    return sized[:, 0].numpy().astype(bool)
