"""The simplest model there is, a band of grey levels, and how the grey levels of an organ differ between hospitals.

A lesson, not a method: what two numbers fitted at one hospital do at the next shows a domain shift with nothing else in the way.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from desam_lite.study.report.style import WIDTH, styled

Counts = npt.NDArray[np.int64]
GREY_LEVELS = 256
_SURROUNDINGS = "#8a8a8a"


class Histogram(NamedTuple):
    """Pixels per grey level ``(256,)`` of the organ and of what is around it, in the middle of the slices that hold the organ."""

    organ: Counts
    rest: Counts


class Band(NamedTuple):
    """A model of two numbers: a pixel is organ if ``low <= grey < high``."""

    low: int
    high: int


def fit_band(counts: Histogram) -> Band:
    """Return the band with the highest Dice; the first of equals.

    >>> organ, rest = np.zeros(256, int), np.ones(256, int)
    >>> organ[100:120] = 50
    >>> fit_band(Histogram(organ, rest))
    Band(low=100, high=120)
    """
    inside, area = (np.concatenate([[0], np.cumsum(c)]) for c in (counts.organ, counts.organ + counts.rest))
    overlap = inside[None, :] - inside[:, None]  # (low, high)
    predicted = area[None, :] - area[:, None]
    dice = np.where(predicted > 0, 2 * overlap / np.maximum(predicted + counts.organ.sum(), 1), 0.0)
    low, high = np.unravel_index(int(dice.argmax()), dice.shape)
    return Band(int(low), int(high))


def band_dice(counts: Histogram, band: Band) -> float:
    """Return the Dice of a band, over all pixels counted."""
    overlap = counts.organ[band.low : band.high].sum()
    predicted = overlap + counts.rest[band.low : band.high].sum()
    return float(2 * overlap / max(predicted + counts.organ.sum(), 1))


def median(counts: Counts) -> int:
    """Return the median grey level."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def draw_histograms(counts: Mapping[str, Histogram], organ: str, color: str) -> Figure:
    """Draw the grey levels of the organ and of what is around it, a row per domain, named by its title."""
    with styled():
        figure = Figure((WIDTH, 0.72 * len(counts) + 0.9), layout="constrained")
        axes = figure.subplots(len(counts), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (title, own) in zip(axes, counts.items(), strict=True):
            for values, shade, name in ((own.rest, _SURROUNDINGS, "around it"), (own.organ, color, organ)):
                smooth = np.convolve(values / max(values.sum(), 1), np.ones(5) / 5, "same")
                ax.fill_between(range(GREY_LEVELS), smooth, color=shade, alpha=0.35, lw=0)
                ax.plot(smooth, color=shade, lw=1.3, label=name)
            band = fit_band(own)
            ax.axvspan(band.low, band.high, ymax=0.06, color="#1a1a1a", lw=0, label="best band")
            ax.set(yticks=[], xlim=(0, GREY_LEVELS - 1), ylim=(0, None))
            ax.set_ylabel(title, rotation=0, ha="right", va="center")
        axes[-1].set_xlabel("grey level (0 to 255)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def draw_histograms_alt(counts: Mapping[str, Histogram], organ: str) -> str:
    """Say what `draw_histograms` shows."""
    medians = [
        f"{title}: median {median(own.organ)} in the {organ} and {median(own.rest)} around it"
        for title, own in counts.items()
    ]
    return f"Grey levels in the {organ} and around it, one row per domain. {'; '.join(medians)}."
