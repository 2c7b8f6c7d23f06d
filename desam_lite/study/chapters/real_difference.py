"""How certain a difference between two methods is: with fewer seeds, fewer cases, or a test that ignores the seeds.

Everything starts from the scores that `statistics.scores` returns. Methods are compared out of domain, case by case, and a case
counts once however many sources and seeds have scored it.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from desam_lite.evaluation import statistics
from desam_lite.evaluation.statistics import Cube, Floats
from desam_lite.study.report.charts import draw_curves, draw_rows
from desam_lite.study.report.sentences import count, say_pairs
from desam_lite.study.report.style import UNITS, DescribedFigure
from desam_lite.study.report.tables import Table
from desam_lite.study.report.widgets import Widget
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


class Spreads(NamedTuple):
    """Standard deviations of the difference of two methods: over seeds, over patients of a target, and of what is left."""

    seed: float
    patient: float
    rest: float


ASSUMED = Spreads(0.03, 0.08, 0.05)
"""Spreads of Dice that are taken where the runs have a single seed (of the first row of ``benchmarks/decision_rule.py``)."""


def estimate_spreads(differences: pd.DataFrame) -> Spreads | None:
    """Estimate the spreads by the mean squares of a two-way analysis of variance in each source, averaged over sources.

    Only patients whom every seed of the source has scored enter. None where a source has a single seed, or all targets a single
    patient: then they cannot be told apart.
    """
    squares = []
    for _, own in differences.groupby("source"):
        grid = own.pivot_table(index="seed", columns=["target", "case"], values="value").dropna(axis=1)
        seeds, patients = grid.shape
        free = patients - grid.columns.get_level_values("target").nunique()
        if seeds < 2 or free < 1:
            return None
        of_patient, of_seed = grid.mean(), grid.mean(axis=1)
        residual = grid.sub(of_patient).sub(of_seed - of_patient.mean(), axis=0)
        rest = float((residual**2).to_numpy().sum()) / ((seeds - 1) * (patients - 1))
        off_site = of_patient - of_patient.groupby(level="target").transform("mean")
        between = float((off_site**2).sum()) * seeds / free
        squares.append((of_seed.var(ddof=1) - rest / patients, (between - rest) / seeds, rest))
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
    """Return the differences ``(1, sites, seeds, patients)`` of a study whose true difference is ``effect``.

    There is one source; each of its seeds shifts all patients alike. ``patients`` are those of each site.
    """
    values = effect + rng.normal(0, spreads.rest, (1, sites, seeds, patients))
    values += rng.normal(0, spreads.seed, (1, 1, seeds, 1))
    values += rng.normal(0, spreads.patient, (1, sites, 1, patients))
    return Cube(values, np.full(sites, patients), np.ones((1, seeds), bool))


def ballot(
    differences: pd.DataFrame, names: tuple[str, str], *, cases: int = 4, studies: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Return small studies for a class to vote on: one seed and a few patients each; the two methods are X and Y (`unmask`)."""
    drawn = _draw_ballots(differences, names, cases, studies, seed)
    rows = []
    for number, (arm, values) in enumerate(drawn, start=1):
        row = {"study": number, "trained on": arm["source"], "seed": arm["seed"], "patients": len(values)}
        rows.append(row | {"mean": values.mean(), "X better on": int((values > 0).sum())})
    return pd.DataFrame(rows)


def _draw_ballots(
    differences: pd.DataFrame, names: tuple[str, str], cases: int, studies: int, seed: int
) -> list[tuple[pd.Series, Floats]]:
    """Return source and seed of each study, and its differences X minus Y, one per patient."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if unmask(names, seed=seed)["X"] == names[0] else -1.0
    arms = differences[["source", "seed"]].drop_duplicates().sample(frac=1, random_state=rng)
    drawn = []
    for number in range(studies):
        arm = arms.iloc[number % len(arms)]
        own = differences[(differences["source"] == arm["source"]) & (differences["seed"] == arm["seed"])]
        drawn.append((arm, sign * rng.permutation(own["value"].to_numpy(float))[:cases]))
    return drawn


def vote(
    scores: pd.DataFrame, table: pd.DataFrame, *, metric: str = "dice", cases: int = 4, studies: int = 3
) -> Widget:
    """Return small studies to vote on, one at a time, of all pairs that ``table`` has the verdicts of; a vote for it is right."""
    title, factor = UNITS[metric]
    ballots: list[dict[str, Any]] = []
    rows = []
    for number, row in enumerate(table.to_dict("records")):
        names, word = (row["first"], row["second"]), row["verdict"].partition(" ")[0]
        masks = unmask(names, seed=number)
        winner = {"better": row["first"], "worse": row["second"]}.get(word, "")
        told = f"{say_pairs([row], factor)}."
        for arm, values in _draw_ballots(differences_away(scores, *names), names, cases, studies, number):
            shown = [round(float(value), 1) for value in values * factor]
            place = {"source": str(arm["source"]), "seed": int(arm["seed"])}
            right = next((letter for letter, name in masks.items() if name == winner), "none")
            ballots.append({**masks, **place, "values": shown, "right": right, "told": told})
            mean = f"{np.mean(values) * factor:+.1f}"
            rows.append((masks["X"], masks["Y"], *map(str, place.values()), mean, told))
    order = np.random.default_rng(0).permutation(len(ballots))
    columns = ["X", "Y", "trained on", "seed", "X minus Y", "verdict of all runs"]
    frame = pd.DataFrame([rows[place] for place in order], columns=columns)
    caption = f"Small studies of {cases} patients each, {title}, and the verdict of all runs"
    data = {"title": title, "studies": [ballots[place] for place in order]}
    return Widget("vote", "Vote on small studies", data, Table(frame, caption))


def unmask(names: tuple[str, str], *, seed: int = 0) -> Mapping[str, str]:
    """Return which method `ballot` calls X and which Y."""
    order = names if np.random.default_rng([seed, 1]).integers(2) else names[::-1]
    return dict(zip("XY", order, strict=True))


def say_difference(table: pd.DataFrame, flipped: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say how many comparisons are decided, and which winner one seed would have missed most often."""
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
    """Draw what many small studies would have reported, a row per comparison, with the mean of all seeds and cases."""
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
    """Draw how often a p value (``p``) and the rule call a difference, by its true size: a panel per number of seeds."""
    rows = rates.melt(["seeds", "effect"], list(RATES), "label", "share").replace({"label": RATES})
    rows = rows.assign(share=rows["share"] * 100, panel=[count(seeds, "seed") for seeds in rows["seeds"]])
    axes = (f"true difference, {UNITS[metric].title}", "studies that report it (%)")
    colors = dict(zip(RATES.values(), ("#d55e00", "#0072b2"), strict=True))
    look: dict[str, Any] = {"panel": "panel", "colors": colors, "limit": (0, 102), "height": 2.5}
    return draw_curves(rows, "effect", "share", axes=axes, aims={"nominal": SIGNIFICANT * 100}, **look)
