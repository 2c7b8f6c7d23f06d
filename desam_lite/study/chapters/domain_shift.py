"""A band of intensities as a model with two parameters, and how the intensities of an organ differ between hospitals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from desam_lite.evaluation.statistics import MARGINS, Verdict, decide
from desam_lite.study.report.sentences import VERDICTS
from desam_lite.study.report.style import WIDTH, DescribedFigure, describe, styled

Counts = npt.NDArray[np.int64]
GREY_LEVELS = 256
_SURROUNDINGS = "#8a8a8a"


class Histogram(NamedTuple):
    """Pixels per intensity ``(256,)`` of the organ and of what is around it, in the window of the slices with organ."""

    organ: Counts
    rest: Counts


class Band(NamedTuple):
    """A model with two parameters: a pixel is organ if ``low <= intensity < high``."""

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


def pool(histograms: Sequence[Histogram]) -> Histogram:
    """Return the counts of several patients as one histogram."""
    return Histogram(sum(h.organ for h in histograms), sum(h.rest for h in histograms))  # type: ignore[arg-type]


def score_bands(patients: Mapping[str, Sequence[Histogram]]) -> pd.DataFrame:
    """Score the band of each source on each patient of each target; at the source itself, fitted without that patient.

    Returns:
        One row per source, target and patient: ``dice`` of the band, ``filled`` of a mask that covers the whole window.
    """
    rows = []
    for source, own in patients.items():
        band = fit_band(pool(own))
        for target, others in patients.items():
            for number, patient in enumerate(others):
                rest = [*own[:number], *own[number + 1 :]]
                fitted = band if target != source else fit_band(pool(rest)) if rest else None
                dice = band_dice(patient, fitted) if fitted else np.nan
                place = {"source": source, "target": target, "patient": number}
                rows.append(place | {"dice": dice, "filled": band_dice(patient, Band(0, GREY_LEVELS))})
    return pd.DataFrame(rows)


def say_bands(scores: pd.DataFrame) -> str:
    """Say whether a band loses Dice at other hospitals, and whether it is better there than the filled window.

    The verdicts are those of the decision rule on one difference per patient. A band has no seed: patients alone are chance.
    """
    home = scores["source"] == scores["target"]
    own, away = (
        scores[rows].groupby(["target", "patient"])[["dice", "filled"]].mean() for rows in (home, ~home)
    )
    pairs = pd.DataFrame({"home": own["dice"], "away": away["dice"], "filled": away["filled"]}).dropna()
    if pairs.empty:
        return "There is no answer yet: a band needs two hospitals with two patients each."
    lost, gained = (
        _compare_patients(pairs[first] - pairs[second])
        for first, second in (("home", "away"), ("away", "filled"))
    )
    means = {name: f"{value * 100:.0f}" for name, value in pairs.mean().items()}
    verdict = (
        "Intensities do"
        if lost.startswith("better")
        else "Cannot tell from these patients"
        if lost == "cannot tell"
        else "Not the intensities, as far as a band shows"
    )
    return (
        f"**{verdict}**: a band of intensities scores mean Dice (%) {means['home']} on left-out patients of its own "
        f"hospital and {means['away']} at the others (n = {len(pairs)} patients). At other hospitals it is "
        f"{VERDICTS[gained].format('the filled window')}. That mask ignores intensity and scores {means['filled']}."
    )


def _compare_patients(differences: pd.Series) -> Verdict:
    if len(differences) < 2:
        return "cannot tell"
    interval = ttest_1samp(differences, 0.0).confidence_interval()
    return decide(float(interval.low), float(interval.high), MARGINS["dice"])


def median(counts: Counts) -> int:
    """Return the median intensity."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def draw_histograms(counts: Mapping[str, Histogram], organ: str, color: str) -> DescribedFigure:
    """Draw the histograms of the organ and of what is around it, a row per domain, named by its title."""
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
        axes[-1].set_xlabel("intensity (0 to 255)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    parts = {
        title: f"median {median(own.organ)} in the {organ} and {median(own.rest)} around it"
        for title, own in counts.items()
    }
    what = f"Histograms of intensity in the {organ} and around it, one row per domain"
    return DescribedFigure(figure, describe(what, parts))
