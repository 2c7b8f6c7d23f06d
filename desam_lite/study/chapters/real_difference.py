"""How certain a difference between two methods is: with fewer seeds, fewer cases, or a test that ignores the seeds.

Everything starts from the scores that `statistics.scores` returns. Methods are compared out of domain, case by case, and a case
counts once however many sources and seeds have scored it.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from scipy.stats import wilcoxon

from desam_lite.evaluation import statistics
from desam_lite.evaluation.statistics import Cube, Floats
from desam_lite.study.report.charts import draw_curves, draw_rows
from desam_lite.study.report.sentences import count
from desam_lite.study.report.style import UNITS, DescribedFigure
from desam_lite.utils.errors import StudyError

SIGNIFICANT = 0.05
"""Below this a p value is called significant here, as almost everywhere."""
RATES = {"p": "p below 0.05, models taken as fixed", "rule": "the decision rule"}
"""Two ways to call a difference, as the legend names them."""

_WINNERS = {"same winner": "#0072b2", "other winner": "#d55e00", "all seeds and cases": "#000000"}


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


def verdicts(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, margin: float | None = None
) -> pd.DataFrame:
    """Compare each pair out of domain by the decision rule, with the p values that decide nothing.

    Returns:
        Rows of `statistics.compare`, with ``p`` (Wilcoxon's signed-rank test on one number per patient, conditional on the
        trained models) and ``p_holm`` (corrected for the number of pairs).
    """
    table = statistics.compare(scores, pairs, margin=margin)
    table = table[~table["in_domain"].astype(bool)].drop(columns="in_domain").reset_index(drop=True)
    p = np.array([wilcoxon_p(per_patient(differences_away(scores, *pair))) for pair in pairs])
    return table.assign(p=p, p_holm=holm(p))


def wilcoxon_p(values: Floats) -> float:
    """Return Wilcoxon's two-sided p of one difference per patient; NaN where there is none (one value, or only zeros)."""
    return float(wilcoxon(values).pvalue) if len(values) > 1 and np.any(values) else float("nan")


def holm(p: Floats) -> Floats:
    """Return Holm's correction of p values ``(N,)``; NaN stay NaN and do not count.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03]))
    array([0.03, 0.06,  nan, 0.06])
    """
    corrected = np.full_like(p, np.nan)
    order = [int(place) for place in np.argsort(p) if np.isfinite(p[place])]
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[place]))
        corrected[place] = largest
    return corrected


class Spreads(NamedTuple):
    """Standard deviations of the difference of two methods, in units of the metric.

    Attributes:
        seed: Over seeds, the same for all patients of a source.
        patient: Over patients of a target, the same for all seeds.
        rest: Of what is left: a seed and a patient together.
    """

    seed: float
    patient: float
    rest: float


ASSUMED = Spreads(0.03, 0.08, 0.05)
"""Spreads of Dice that are taken where the runs have a single seed (of the first row of ``benchmarks/decision_rule.py``)."""


def estimate_spreads(differences: pd.DataFrame) -> Spreads | None:
    """Estimate the spreads by the mean squares of a two-way analysis of variance in each source, averaged over sources.

    Only patients whom every seed of the source has scored enter.

    Returns:
        None where a source has a single seed, or all targets a single patient: then they cannot be told apart.
    """
    squares = []
    for _, own in differences.groupby("source"):
        grid = own.pivot_table(index="seed", columns=["target", "case"], values="value").dropna(axis=1)
        seeds, patients = grid.shape
        sites = grid.columns.get_level_values("target")
        free = patients - sites.nunique()
        if seeds < 2 or free < 1:
            return None
        of_patient = grid.mean()
        residual = grid.sub(of_patient).sub(grid.mean(axis=1) - of_patient.mean(), axis=0)
        rest = float((residual**2).to_numpy().sum()) / ((seeds - 1) * (patients - 1))
        between = (
            float(((of_patient - of_patient.groupby(level="target").transform("mean")) ** 2).sum())
            * seeds
            / free
        )
        squares.append(((grid.mean(axis=1).var(ddof=1) - rest / patients), (between - rest) / seeds, rest))
    return Spreads(*(float(np.sqrt(max(value, 0.0))) for value in np.mean(squares, axis=0)))


def simulate_study(
    rng: np.random.Generator,
    spreads: Spreads,
    *,
    seeds: int,
    patients: int,
    sites: int = 5,
    effect: float = 0.0,
) -> Cube:
    """Return the differences of one study whose truth is stated: ``effect`` is what endless seeds and patients would give.

    Args:
        rng: Random stream.
        spreads: Of the difference.
        seeds: Of the one source; each shifts all patients alike.
        patients: Of each site.
        sites: Tested hospitals.
        effect: True difference, in units of the metric.

    Returns:
        Values ``(1, sites, seeds, patients)``.
    """
    values = effect + rng.normal(0, spreads.rest, (1, sites, seeds, patients))
    values += rng.normal(0, spreads.seed, (1, 1, seeds, 1)) + rng.normal(
        0, spreads.patient, (1, sites, 1, patients)
    )
    return Cube(values, np.full(sites, patients), np.ones((1, seeds), bool))


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
    return statistics.average(cube, case_weights, seed_weights)


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
    """Say how many comparisons the rule decides, and which winner one seed would have missed most often.

    ``table`` is of `verdicts`, ``flipped`` of `flips` with one seed, for the same pairs.
    """
    _, factor = UNITS[metric]
    if table.empty:
        return "There is no answer yet: no two methods have been scored on the same cases out of domain."
    decided = int((table["verdict"] != "cannot tell").sum())
    if table["seeds"].min() < 2:
        told = "**One seed cannot tell**: the spread between seeds is unknown."
    else:
        told = (
            f"**{decided or 'None'} of {count(len(table), 'comparison')} out of domain {'are' if decided > 1 else 'is'} "
            "decided**, with seeds and patients as random and hospitals as fixed."
        )
    worst = flipped.iloc[int(flipped["half_cases"].to_numpy().argmax())]
    pair = f"{worst['first']} against {worst['second']} ({worst['mean'] * factor:+.1f})"
    return (
        f"{told} The least certain winner is that of {pair}: with one seed and half of the patients, the other method wins "
        f"in {worst['half_cases']:.0%} of the studies."
    )


def say_spreads(spreads: Spreads | None, names: tuple[str, str], *, metric: str = "dice") -> str:
    """Say which spreads the simulated studies have, and of which pair; None: those of `ASSUMED`."""
    _, factor = UNITS[metric]
    source = f"{names[0]} minus {names[1]}" if spreads else "assumed, because one seed gives no estimate"
    seed, patient, rest = (f"{value * factor:.1f}" for value in spreads or ASSUMED)
    return f"{source}: standard deviation {seed} over seeds, {patient} over patients, {rest} of the rest"


def say_alarms(none: pd.DataFrame) -> str:
    """Say how often a difference is called where there is none; rows of the rates with no effect."""
    parts = [
        f"{row['p']:.0%} and {row['rule']:.0%} with {count(int(row['seeds']), 'seed')}"
        for row in none.to_dict("records")
    ]
    return f"False alarms of the p value and of the rule: {', '.join(parts)}."


def draw_widths(widths: pd.DataFrame, *, metric: str = "dice") -> DescribedFigure:
    """Draw how wide the interval of a difference is with more patients per target, a line per number of seeds."""
    title, factor = UNITS[metric]
    rows = widths.assign(width=widths["width"] * factor, cases=widths["cases"].astype(str))
    rows["label"] = [count(seeds, "seed") for seeds in widths["seeds"]]
    shades = mpl.colormaps["viridis"](np.linspace(0.75, 0.1, rows["label"].nunique()))
    colors = {label: to_hex(shade) for label, shade in zip(rows["label"].unique(), shades, strict=True)}
    axes = ("patients per target", f"width of the 95 % interval\n{title}")
    return draw_curves(rows, "cases", "width", axes=axes, colors=colors, height=2.8)


def draw_studies(
    studies: Mapping[str, Floats], whole: Mapping[str, float], *, metric: str = "dice"
) -> DescribedFigure:
    """Draw what many small studies would have reported, a row per comparison, with the mean of all seeds and cases.

    Both have comparisons as keys: ``studies`` the mean differences of `small_studies`, ``whole`` that of everything.
    """
    title, factor = UNITS[metric]
    frames, means = [], []
    for name, reported in studies.items():
        other = np.sign(reported) != np.sign(whole[name])
        winners = np.where(other, "other winner", "same winner")
        frames.append(pd.DataFrame({"pair": name, "label": winners, "mean": reported * factor}))
        row = {"pair": name, "label": "all seeds and cases", "mean": whole[name] * factor}
        means.append(row | {"low": np.nan, "high": np.nan, "note": f"{other.mean():.0%}"})
    axis = f"difference in {title} that a small study reports\nright: share with the other winner"
    look: dict[str, Any] = {"row": "pair", "colors": _WINNERS, "limit": (None, None)}
    return draw_rows(pd.DataFrame(means), pd.concat(frames, ignore_index=True), axis=axis, **look)


def draw_rates(rates: pd.DataFrame, *, metric: str = "dice") -> DescribedFigure:
    """Draw how often a p value and the decision rule call a difference, by its true size: a panel per number of seeds.

    ``rates`` has ``seeds``, ``effect`` (in the unit of the axis), and the shares ``p`` and ``rule``.
    """
    rows = rates.melt(["seeds", "effect"], list(RATES), "label", "share").replace({"label": RATES})
    rows = rows.assign(share=rows["share"] * 100, panel=[count(seeds, "seed") for seeds in rows["seeds"]])
    axes = (f"true difference, {UNITS[metric].title}", "studies that report it (%)")
    colors = dict(zip(RATES.values(), ("#d55e00", "#0072b2"), strict=True))
    look: dict[str, Any] = {"panel": "panel", "colors": colors, "limit": (0, 102), "height": 2.5}
    return draw_curves(rows, "effect", "share", axes=axes, aims={"nominal": SIGNIFICANT * 100}, **look)
