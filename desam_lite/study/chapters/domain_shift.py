"""How the intensities of an organ differ between hospitals, and what a band of intensities fitted at one scores at the next."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from desam_lite.evaluation.statistics import MARGINS, Verdict, decide
from desam_lite.study.report.sentences import VERDICTS, sum_up
from desam_lite.study.report.style import WIDTH, DescribedFigure, describe, styled

Counts = npt.NDArray[np.int64]
"""Pixels per intensity ``(256,)``."""
_SURROUNDINGS = "#8a8a8a"


def say_bands(scores: pd.DataFrame) -> str:
    """Say whether a band loses Dice at other hospitals, and whether it is better there than the filled window."""
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
    not_shown = "Not the intensities, as far as a band shows"
    unsure = "Cannot tell from these patients"
    verdict = sum_up([lost], better="Intensities do", worse=not_shown, equivalent=not_shown, unsure=unsure)
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


def draw_histograms(
    counts: Mapping[str, tuple[Counts, Counts]], bands: Mapping[str, tuple[int, int]], organ: str, color: str
) -> DescribedFigure:
    """Draw the histograms of the organ and of what is around it, and the best band (low, high), a row per domain by its title."""
    with styled():
        figure = Figure((WIDTH, 0.72 * len(counts) + 0.9), layout="constrained")
        axes = figure.subplots(len(counts), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (title, own) in zip(axes, counts.items(), strict=True):
            for values, shade, name in zip(own, (color, _SURROUNDINGS), (organ, "around it"), strict=True):
                smooth = np.convolve(values / max(values.sum(), 1), np.ones(5) / 5, "same")
                ax.fill_between(range(len(values)), smooth, color=shade, alpha=0.35, lw=0)
                ax.plot(smooth, color=shade, lw=1.3, label=name)
            ax.axvspan(*bands[title], ymax=0.06, color="#1a1a1a", lw=0, label="best band")
            ax.set(yticks=[], xlim=(0, len(values) - 1), ylim=(0, None))
            ax.set_ylabel(title, rotation=0, ha="right", va="center")
        axes[-1].set_xlabel("intensity (0 to 255)")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    parts = {
        title: f"median {median(inside)} in the {organ} and {median(around)} around it"
        for title, (inside, around) in counts.items()
    }
    what = f"Histograms of intensity in the {organ} and around it, one row per domain"
    return DescribedFigure(figure, describe(what, parts))
