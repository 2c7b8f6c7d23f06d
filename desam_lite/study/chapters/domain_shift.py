"""How the grey levels of an organ differ between hospitals, and the simplest model there is: a band of grey levels.

A lesson, not a method: what two numbers fitted at one hospital do at the next shows a domain shift with nothing else in the way.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from desam_lite.study.report.style import WIDTH, styled

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task

Counts = npt.NDArray[np.int64]
LEVELS = 256


class Histogram(NamedTuple):
    """Pixels per grey level in the middle of the slices that hold the organ.

    Attributes:
        organ: ``(256,)``, of the organ.
        rest: ``(256,)``, of what is around it.
    """

    organ: Counts
    rest: Counts


class Band(NamedTuple):
    """A model of two numbers: a pixel is organ if ``low <= grey < high``."""

    low: int
    high: int


def histogram(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Histogram:
    """Count grey levels of organ 1 and of what is around it.

    Only slices with the organ count, and of them the middle half of each side: where one would look for it.

    Args:
        images: ``(Z, H, W)``.
        labels: ``(Z, H, W)`` organ ids.
    """
    height, width = labels.shape[1:]
    middle = (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
    held = (labels == 1).any(axis=(1, 2))
    grey, inside = images[held][:, *middle], (labels == 1)[held][:, *middle]
    organ, rest = (np.bincount(grey[mask], minlength=LEVELS) for mask in (inside, ~inside))
    return Histogram(organ.astype(np.int64), rest.astype(np.int64))


def histograms(task: "Task") -> dict[str, Histogram]:
    """Return the histogram of each domain, over all its cases."""
    found = {}
    for domain in task.manifest.domains:
        cases = [task.slices.load(domain, case) for case in task.cases(domain)]
        parts = [histogram(case.images, case.labels) for case in cases]
        found[domain] = Histogram(sum(p.organ for p in parts), sum(p.rest for p in parts))  # type: ignore[arg-type]
    return found


def fit_band(counts: Histogram) -> Band:
    """Return the band with the highest Dice; the first of equals.

    >>> organ, rest = np.zeros(256, int), np.ones(256, int)
    >>> organ[100:120] = 50
    >>> fit_band(Histogram(organ, rest))
    Band(low=100, high=120)
    """
    inside, area = (np.concatenate([[0], np.cumsum(c)]) for c in (counts.organ, counts.organ + counts.rest))
    hit = inside[None, :] - inside[:, None]  # (low, high)
    drawn = area[None, :] - area[:, None]
    dice = np.where(drawn > 0, 2 * hit / np.maximum(drawn + counts.organ.sum(), 1), 0.0)
    low, high = np.unravel_index(int(dice.argmax()), dice.shape)
    return Band(int(low), int(high))


def band_dice(counts: Histogram, band: Band) -> float:
    """Return the Dice of a band, over all pixels counted."""
    hit = counts.organ[band.low : band.high].sum()
    drawn = hit + counts.rest[band.low : band.high].sum()
    return float(2 * hit / max(drawn + counts.organ.sum(), 1))


def brighter(counts: Histogram) -> float:
    """Return the probability that a pixel of the organ is brighter than one around it; ties count half.

    >>> dark, bright = np.zeros(256, int), np.zeros(256, int)
    >>> dark[10], bright[200] = 1, 1
    >>> brighter(Histogram(bright, dark)), brighter(Histogram(dark, bright))
    (1.0, 0.0)
    """
    below = np.cumsum(counts.rest) - counts.rest
    wins = (counts.organ * (below + counts.rest / 2)).sum()
    return float(wins / max(counts.organ.sum() * counts.rest.sum(), 1))


def median(counts: Counts) -> int:
    """Return the median grey level."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def describe(counts: Mapping[str, Histogram]) -> pd.DataFrame:
    """Return one row per domain: median grey of organ and surroundings, how often the organ is brighter, the best band."""
    rows = [
        {
            "domain": domain,
            "organ": median(one.organ),
            "around it": median(one.rest),
            "organ brighter": f"{brighter(one):.0%}",
            "best band": "{} to {}".format(*fit_band(one)),
        }
        for domain, one in counts.items()
    ]
    return pd.DataFrame(rows)


def band_matrix(counts: Mapping[str, Histogram]) -> pd.DataFrame:
    """Return the Dice of the band fitted at each source (rows) at each target (columns)."""
    bands = {source: fit_band(one) for source, one in counts.items()}
    return pd.DataFrame(
        {
            target: {source: band_dice(one, band) for source, band in bands.items()}
            for target, one in counts.items()
        }
    )


def draw_histograms(counts: Mapping[str, Histogram], organ: str, color: str) -> Figure:
    """Draw the grey levels of the organ and of what is around it, one row per domain.

    Args:
        counts: Title of a domain to its histogram.
        organ: Its name.
        color: Its colour.
    """
    with styled():
        figure = Figure((WIDTH, 0.72 * len(counts) + 0.9), layout="constrained")
        axes = figure.subplots(len(counts), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (title, one) in zip(axes, counts.items(), strict=True):
            for values, shade, name in ((one.rest, "#8a8a8a", "around it"), (one.organ, color, organ)):
                smooth = np.convolve(values / max(values.sum(), 1), np.ones(5) / 5, "same")
                ax.fill_between(range(LEVELS), smooth, color=shade, alpha=0.35, lw=0)
                ax.plot(smooth, color=shade, lw=1.3, label=name)
            band = fit_band(one)
            ax.axvspan(band.low, band.high, ymax=0.06, color="#1a1a1a", lw=0, label="best band")
            ax.set(yticks=[], xlim=(0, LEVELS - 1), ylim=(0, None))
            ax.set_ylabel(title, rotation=0, ha="right", va="center")
        axes[-1].set_xlabel("grey level (0 to 255)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure


def draw_histograms_alt(counts: Mapping[str, Histogram], organ: str) -> str:
    """Say what `draw_histograms` shows."""
    said = [
        f"{title}: median {median(one.organ)} in the {organ} and {median(one.rest)} around it"
        for title, one in counts.items()
    ]
    return f"Grey levels in the {organ} and around it, one row per domain. {'; '.join(said)}."
