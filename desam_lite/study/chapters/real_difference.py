"""How much a difference between two methods is worth: with fewer seeds, fewer cases, or another test.

Everything starts from the scores that `statistics.scores` returns. Methods are compared out of domain, case by case, and a case
counts once however many sources and seeds have scored it.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import permutation_test, ttest_1samp, wilcoxon

from desam_lite.evaluation import statistics
from desam_lite.evaluation.statistics import Floats
from desam_lite.study.report.sentences import count
from desam_lite.study.report.style import UNITS, WIDTH, add_legend, styled
from desam_lite.utils.errors import StudyError

TestName = Literal["wilcoxon", "permutation", "t"]
TESTS: tuple[TestName, ...] = ("wilcoxon", "permutation", "t")
SIGNIFICANT = 0.05
"""Below this a p value is called significant here, as almost everywhere."""

_SIGN_PATTERNS = 19_999  # drawn for the permutation test; with 14 patients or fewer, all patterns are tried
_SAME, _OTHER = "#0072b2", "#d55e00"


def pairs_of(scores: pd.DataFrame, *, control: str = "Prior", most: int = 5) -> list[tuple[str, str]]:
    """Return every pair of methods but the control, the later first; of more than ``most``, the last against each other one."""
    trained = [label for label in scores["label"].unique() if label != control]
    if len(trained) < 2:
        raise StudyError(
            "a comparison needs two trained methods: name two in methods, and finish their runs."
        )
    if len(trained) > most:
        return [(trained[-1], label) for label in reversed(trained[:-1])]
    return list(combinations(reversed(trained), 2))


def differences_away(scores: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the differences of two methods out of domain, one row per source, target, seed and case that both have scored."""
    both = statistics.paired_differences(scores, first, second).dropna(subset="value")
    away = both[~both["in_domain"].astype(bool)]
    if away.empty:
        raise StudyError(
            f"'{first}' and '{second}' have no scored case in common out of domain: finish their runs first."
        )
    return away


def per_patient(differences: pd.DataFrame) -> Floats:
    """Return one number per patient: the mean of its differences over sources and seeds."""
    return differences.groupby(["target", "case"])["value"].mean().to_numpy(float)


def p_value(values: Floats, test: TestName) -> float:
    """Return the two-sided p value of one difference per patient; NaN where there is none (one value, or all of them zero).

    >>> round(p_value(np.array([1.0, 2.0, 3.0]), "permutation"), 2)
    0.25
    """
    if len(values) < 2 or not np.any(values):
        return float("nan")
    if test == "permutation":  # were the methods alike, each difference could as well be its opposite
        flips: Any = {"permutation_type": "samples", "n_resamples": _SIGN_PATTERNS, "rng": 0}
        return float(permutation_test((values,), np.mean, vectorized=True, **flips).pvalue)
    result: Any = wilcoxon(values) if test == "wilcoxon" else ttest_1samp(values, 0.0)
    return float(result.pvalue)


def significance(scores: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return ``cases``, ``mean`` and the p of each of `TESTS` for each pair out of domain; ``<test>_holm``: corrected."""
    rows = []
    for first, second in pairs:
        values = per_patient(differences_away(scores, first, second))
        row = {"first": first, "second": second, "cases": len(values), "mean": values.mean()}
        rows.append(row | {name: p_value(values, name) for name in TESTS})
    table = pd.DataFrame(rows, columns=["first", "second", "cases", "mean", *TESTS])
    corrected = {f"{name}_holm": statistics.holm(table[name].to_numpy(float)) for name in TESTS}
    return table.assign(**corrected)


def small_studies(
    differences: pd.DataFrame, *, seeds: int, cases: int, draws: int = 1000, seed: int = 0
) -> Floats:
    """Return the mean differences ``(draws,)`` that studies with fewer seeds and cases would have reported.

    Each study draws, without replacement, ``seeds`` of the seeds of each source and ``cases`` of the cases of each target
    (all of them where there are fewer), and averages by the rule ``sources``.
    """
    rng = np.random.default_rng(seed)
    cube = statistics.cube_of(differences)
    width = cube.values.shape[3]
    case_weights = np.stack([_choose(rng, draws, count, cases, width) for count in cube.cases], 1)
    seed_weights = np.zeros((draws, *cube.seeds.shape))
    for source, present in enumerate(cube.seeds):
        count = int(present.sum())
        seed_weights[:, source, present] = _choose(rng, draws, count, seeds, count)
    return statistics.average(cube, "sources", case_weights, seed_weights)


def _choose(rng: np.random.Generator, draws: int, count: int, size: int, width: int) -> Floats:
    """Return ``(draws, width)``: 1 for ``size`` of the first ``count`` places, drawn at random; 0 elsewhere."""
    ranks = rng.random((draws, count)).argsort(axis=1).argsort(axis=1)
    chosen = np.zeros((draws, width))
    chosen[:, :count] = ranks < size
    return chosen


def flips(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, seeds: int = 1, draws: int = 1000
) -> pd.DataFrame:
    """Return how often a study of few seeds would have named another winner than all seeds and cases do.

    That is the share of studies with the other sign than the ``mean`` when the cases are all there (``same_cases``) and when
    half of them are (``half_cases``).
    """
    rows = []
    for first, second in pairs:
        away = differences_away(scores, first, second)
        most = int(away.groupby("target")["case"].nunique().max())
        mean = float(small_studies(away, seeds=1000, cases=most, draws=1)[0])
        row: dict[str, Any] = {"first": first, "second": second, "mean": mean}
        for name, cases in (("same_cases", most), ("half_cases", max(1, most // 2))):
            reported = small_studies(away, seeds=seeds, cases=cases, draws=draws)
            row[name] = float((np.sign(reported) != np.sign(mean)).mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=["first", "second", "mean", "same_cases", "half_cases"])


def ballot(
    differences: pd.DataFrame, names: tuple[str, str], *, cases: int = 4, studies: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Return small studies for a class to vote on: one seed and a few patients each; the two methods are X and Y (`unmask`)."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if unmask(names, seed=seed)["X"] == names[0] else -1.0
    arms = differences[["source", "seed"]].drop_duplicates().sample(frac=1, random_state=rng)
    rows = []
    for number in range(studies):
        arm = arms.iloc[number % len(arms)]
        own = differences[(differences["source"] == arm["source"]) & (differences["seed"] == arm["seed"])]
        values = sign * rng.permutation(own["value"].to_numpy(float))[:cases]
        row = {"study": number + 1, "trained on": arm["source"], "seed": arm["seed"], "patients": len(values)}
        rows.append(row | {"mean": values.mean(), "X better on": int((values > 0).sum())})
    return pd.DataFrame(rows)


def unmask(names: tuple[str, str], *, seed: int = 0) -> Mapping[str, str]:
    """Return which method `ballot` calls X and which Y."""
    order = names if np.random.default_rng([seed, 1]).integers(2) else names[::-1]
    return dict(zip("XY", order, strict=True))


def say_difference(table: pd.DataFrame, flipped: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say which differences are more than chance, and which winner one seed would have missed most often.

    ``table`` is of `significance`, ``flipped`` of `flips` with one seed, for the same pairs.
    """
    _, factor = UNITS[metric]
    if table.empty:
        return "There is no answer yet: no two methods have been scored on the same cases out of domain."
    sure = int((table["wilcoxon_holm"] < SIGNIFICANT).sum())
    verdict = (
        "Every difference is more than chance"
        if sure == len(table)
        else "Some differences are more than chance"
        if sure
        else "No difference was seen to be more than chance"
    )
    worst = flipped.iloc[int(flipped["half_cases"].to_numpy().argmax())]
    pair = f"{worst['first']} against {worst['second']} ({worst['mean'] * factor:+.1f})"
    return (
        f"**{verdict}**: of {len(table)} comparisons out of domain, {sure} have a corrected p below {SIGNIFICANT:.2f}. "
        f"The least certain winner is that of {pair}: with one seed and half of the patients, "
        f"{worst['half_cases']:.0%} of the studies would have named the other."
    )


def draw_widths(widths: pd.DataFrame, *, metric: str = "dice") -> Figure:
    """Draw how wide the interval of a difference is with more cases per target, a line per number of seeds."""
    title, factor = UNITS[metric]
    by_seeds = widths.pivot(index="cases", columns="seeds", values="width") * factor
    shades = mpl.colormaps["viridis"](np.linspace(0.75, 0.1, by_seeds.shape[1]))
    with styled():
        figure = Figure((WIDTH, 3.4), layout="constrained")
        ax = figure.subplots()
        for (seeds, line), color in zip(by_seeds.items(), shades, strict=True):
            ax.plot(line, "o-", color=color, lw=1.8, ms=5, label=count(int(str(seeds)), "seed"))
        ax.set_xscale("log", base=2)
        ax.set_xticks(by_seeds.index, [str(size) for size in by_seeds.index])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set(xlabel="cases per target", ylabel=f"width of the 95 % interval\n{title}")
        ax.grid(axis="y")
        figure.legend(loc="outside upper center", ncols=min(5, by_seeds.shape[1]))
    return figure


def draw_widths_alt(widths: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say what `draw_widths` shows: the widest and the narrowest interval."""
    title, factor = UNITS[metric]
    ends = [
        f"{row['width'] * factor:.1f} with {count(row['seeds'], 'seed')} and {count(row['cases'], 'case')} per target"
        for row in (widths.iloc[0], widths.iloc[-1])
    ]
    return f"Width of the 95 % interval of a difference in {title}: {' to '.join(ends)}."


def draw_studies(
    studies: Mapping[str, Floats], whole: Mapping[str, float], *, metric: str = "dice"
) -> Figure:
    """Draw what many small studies would have reported, a row per comparison, with the mean of all seeds and cases.

    Both have comparisons as keys: ``studies`` the mean differences of `small_studies`, ``whole`` that of everything.
    """
    title, factor = UNITS[metric]
    with styled():
        figure = Figure((WIDTH, 1.3 + 0.6 * len(studies)), layout="constrained")
        ax = figure.subplots()
        jitter = np.random.default_rng(0)
        for row, (name, reported) in enumerate(studies.items()):
            other = np.sign(reported) != np.sign(whole[name])
            heights = row + jitter.uniform(-0.28, 0.28, len(reported))
            for chosen, color in ((~other, _SAME), (other, _OTHER)):
                dots: dict[str, Any] = {"ms": 2.5, "color": color, "alpha": 0.5, "mew": 0}
                ax.plot(reported[chosen] * factor, heights[chosen], ".", **dots)
            ax.plot([whole[name] * factor] * 2, [row - 0.36, row + 0.36], color="black", lw=2)
            beyond = ax.get_yaxis_transform()
            ax.text(1.01, row, f"{other.mean():.0%}", transform=beyond, va="center", color=_OTHER)
        ax.axvline(0, color="#666666", lw=1)
        ax.set_yticks(range(len(studies)), list(studies))
        ax.set_ylim(len(studies) - 0.45, -0.55)
        ax.set_xlabel(f"difference in {title} that a small study reports")
        ax.tick_params(axis="y", length=0)
        winners = {"same winner": _SAME, "other winner": _OTHER}
        marks = [
            Line2D([], [], color=c, marker=".", ls="none", ms=8, label=name) for name, c in winners.items()
        ]
        add_legend(figure, [*marks, Line2D([], [], color="black", lw=2, label="all seeds and cases")])
    return figure


def draw_studies_alt(
    studies: Mapping[str, Floats], whole: Mapping[str, float], *, metric: str = "dice"
) -> str:
    """Say what `draw_studies` shows: for each comparison the whole, the range of small studies, and how many differ."""
    title, factor = UNITS[metric]
    parts = [
        f"{' '.join(name.split())} {whole[name] * factor:+.1f}, small studies {reported.min() * factor:+.1f} to "
        f"{reported.max() * factor:+.1f}, {(np.sign(reported) != np.sign(whole[name])).mean():.0%} with the other winner"
        for name, reported in studies.items()
    ]
    return f"Differences in {title} reported by small studies, a row per comparison: {'; '.join(parts)}."


def draw_power(powers: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how often studies call a difference significant (``power``), a line per comparison; dashed: ``false_alarms``."""
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.8, len(powers)))
    with styled():
        figure = Figure((WIDTH, 3.4 + 0.25 * len(powers)), layout="constrained")
        ax = figure.subplots()
        for (name, frame), color in zip(powers.items(), shades, strict=True):
            patients, power, alarms = (frame[column] for column in ("patients", "power", "false_alarms"))
            ax.plot(patients, power * 100, "o-", color=color, ms=5, lw=1.8, label=name)
            ax.plot(patients, alarms * 100, "o--", color=color, ms=3, lw=1, mfc="white")
        ax.axhline(SIGNIFICANT * 100, color="#666666", lw=1, ls=":")
        ax.set(ylim=(0, 102), xlabel="patients", ylabel="studies that call it significant (%)")
        ax.grid(axis="y")
        figure.legend(loc="outside upper left")
    return figure


def draw_power_alt(powers: Mapping[str, pd.DataFrame]) -> str:
    """Say what `draw_power` shows: power at the smallest and the largest size, and the false alarms."""
    parts = [
        f"{' '.join(name.split())} {frame['power'].iloc[0]:.0%} with {frame['patients'].iloc[0]:.0f} patients, "
        f"{frame['power'].iloc[-1]:.0%} with {frame['patients'].iloc[-1]:.0f}, "
        f"false alarms at most {frame['false_alarms'].max():.0%}"
        for name, frame in powers.items()
    ]
    return f"Share of studies that call a difference significant: {'; '.join(parts)}."
