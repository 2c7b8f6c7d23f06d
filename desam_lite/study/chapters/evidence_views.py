"""Figures of how sure a difference is: how intervals shrink, how small studies scatter, how often a test finds what is there."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from desam_lite.study.chapters.real_difference import ALPHA
from desam_lite.study.report.style import UNITS, WIDTH, legend, nothing, styled

Floats = npt.NDArray[np.float64]
_INK, _RARE = "#0072b2", "#d55e00"


def widths_figure(widths: pd.DataFrame, *, metric: str = "dice") -> Figure:
    """Draw how wide the interval of a difference is with more cases per target, a line per number of seeds.

    Args:
        widths: Of `evidence.widths`.
        metric: Names the axis.
    """
    if widths.empty:
        return nothing()
    title, factor = UNITS[metric]
    counts = sorted(widths["seeds"].unique())
    shades = mpl.colormaps["viridis"](np.linspace(0.75, 0.1, len(counts)))
    with styled():
        figure = Figure((WIDTH, 3.4), layout="constrained")
        ax = figure.subplots()
        for count, color in zip(counts, shades, strict=True):
            own = widths[widths["seeds"] == count]
            name = f"{count} {'seed' if count == 1 else 'seeds'}"
            ax.plot(own["cases"], own["width"] * factor, "o-", color=color, lw=1.8, ms=5, label=name)
        ax.set_xscale("log", base=2)
        sizes = sorted(widths["cases"].unique())
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_xlabel("cases per target")
        ax.set_ylabel(f"width of the 95 % interval\n{title}")
        ax.grid(axis="y")
        figure.legend(loc="outside upper center", ncols=min(5, len(counts)))
    return figure


def widths_alt(widths: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say what `widths_figure` shows: the widest and the narrowest interval."""
    if widths.empty:
        return "Empty figure: no finished run to show."
    title, factor = UNITS[metric]
    ends = [widths.iloc[0], widths.iloc[-1]]
    said = [
        f"{row['width'] * factor:.1f} with {row['seeds']:.0f} seed(s) and {row['cases']:.0f} case(s) per target"
        for row in ends
    ]
    return f"Width of the 95 % interval of a difference in {title}: {' to '.join(said)}."


def studies_figure(
    studies: Mapping[str, Floats], whole: Mapping[str, float], *, metric: str = "dice"
) -> Figure:
    """Draw what many small studies would have reported, a row per comparison, with what all seeds and cases say.

    Args:
        studies: Comparison -> mean differences of `evidence.small_studies`.
        whole: Comparison -> mean difference of everything.
        metric: Names the axis.
    """
    if not studies:
        return nothing()
    title, factor = UNITS[metric]
    with styled():
        figure = Figure((WIDTH, 1.3 + 0.6 * len(studies)), layout="constrained")
        ax = figure.subplots()
        jitter = np.random.default_rng(0)
        for row, (name, reported) in enumerate(studies.items()):
            other = np.sign(reported) != np.sign(whole[name])
            heights = row + jitter.uniform(-0.28, 0.28, len(reported))
            for chosen, color in ((~other, _INK), (other, _RARE)):
                ax.plot(
                    reported[chosen] * factor, heights[chosen], ".", ms=2.5, color=color, alpha=0.5, mew=0
                )
            ax.plot([whole[name] * factor] * 2, [row - 0.36, row + 0.36], color="black", lw=2)
            share = f"{other.mean():.0%}"
            ax.text(1.01, row, share, transform=ax.get_yaxis_transform(), va="center", color=_RARE)
        ax.axvline(0, color="#666666", lw=1)
        ax.set_yticks(range(len(studies)), list(studies))
        ax.set_ylim(len(studies) - 0.45, -0.55)
        ax.set_xlabel(f"difference in {title} that a small study reports")
        ax.tick_params(axis="y", length=0)
        marks = [("same winner", _INK, ".", "none"), ("other winner", _RARE, ".", "none")]
        handles = [Line2D([], [], color=c, marker=m, ls=ls, ms=8, label=name) for name, c, m, ls in marks]
        legend(figure, [*handles, Line2D([], [], color="black", lw=2, label="all seeds and cases")])
    return figure


def studies_alt(studies: Mapping[str, Floats], whole: Mapping[str, float], *, metric: str = "dice") -> str:
    """Say what `studies_figure` shows: for each comparison the whole, the range of small studies, and how many differ."""
    if not studies:
        return "Empty figure: no finished run to show."
    title, factor = UNITS[metric]
    parts = [
        f"{' '.join(name.split())} {whole[name] * factor:+.1f}, small studies {reported.min() * factor:+.1f} to "
        f"{reported.max() * factor:+.1f}, {(np.sign(reported) != np.sign(whole[name])).mean():.0%} with the other winner"
        for name, reported in studies.items()
    ]
    return f"Differences in {title} reported by small studies, a row per comparison: {'; '.join(parts)}."


def power_figure(powers: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how often studies of n patients call a difference significant, a line per comparison.

    Args:
        powers: Comparison -> frame of `evidence.power`.
    """
    if not powers:
        return nothing()
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.8, len(powers)))
    with styled():
        figure = Figure((WIDTH, 3.4 + 0.25 * len(powers)), layout="constrained")
        ax = figure.subplots()
        for (name, frame), color in zip(powers.items(), shades, strict=True):
            ax.plot(frame["patients"], frame["power"] * 100, "o-", color=color, ms=5, lw=1.8, label=name)
            ax.plot(
                frame["patients"], frame["false_alarms"] * 100, "o--", color=color, ms=3, lw=1, mfc="white"
            )
        ax.axhline(ALPHA * 100, color="#666666", lw=1, ls=":")
        ax.set_ylim(0, 102)
        ax.set_xlabel("patients")
        ax.set_ylabel("studies that call it significant (%)")
        ax.grid(axis="y")
        figure.legend(loc="outside upper left")
    return figure


def power_alt(powers: Mapping[str, pd.DataFrame]) -> str:
    """Say what `power_figure` shows: power at the smallest and the largest size, and the false alarms."""
    if not powers:
        return "Empty figure: no finished run to show."
    parts = []
    for name, frame in powers.items():
        first, last = frame.iloc[0], frame.iloc[-1]
        parts.append(
            f"{' '.join(name.split())} {first['power']:.0%} with {first['patients']:.0f} patients, {last['power']:.0%} with "
            f"{last['patients']:.0f}, false alarms at most {frame['false_alarms'].max():.0%}"
        )
    return f"Share of studies that call a difference significant: {'; '.join(parts)}."
