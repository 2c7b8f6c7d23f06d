"""How much a difference between two methods is worth: what would have been seen with fewer seeds, fewer cases, another test.

Everything starts from the scores that `results.scores` returns. The methods are compared out of domain, case by case, and a case
counts once however many sources and seeds have scored it.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import ttest_1samp, wilcoxon

from desam_lite.evaluation import statistics as results
from desam_lite.study.report.style import UNITS
from desam_lite.utils.errors import StudyError

Floats = npt.NDArray[np.float64]
TestName = Literal["wilcoxon", "permutation", "t"]

TESTS: dict[TestName, str] = {
    "wilcoxon": "Wilcoxon's signed-rank test",
    "permutation": "sign-flip permutation test",
    "t": "paired t test",
}
ALPHA = 0.05
"""Below this a p value is called significant here, as almost everywhere."""


def pairs_of(scores: pd.DataFrame, *, control: str = "Prior", most: int = 5) -> list[tuple[str, str]]:
    """Return every pair of methods but the control, the later of them first.

    Args:
        scores: Of `results.scores`.
        control: The method that is left out.
        most: With more methods than this, only the last of them is compared, with each other one.

    Raises:
        StudyError: There are no two.
    """
    learnt = [label for label in scores["label"].unique() if label != control]
    if len(learnt) < 2:
        raise StudyError(
            "a comparison needs two trained methods: name two in methods, and finish their runs."
        )
    if len(learnt) > most:
        return [(learnt[-1], label) for label in reversed(learnt[:-1])]
    return list(combinations(reversed(learnt), 2))


def differences_away(scores: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the differences of two methods out of domain, one row per source, target, seed and case both have scored.

    Raises:
        StudyError: There is none.
    """
    both = results.paired_differences(scores, first, second).dropna(subset="value")
    away = both[~both["in_domain"].astype(bool)]
    if away.empty:
        raise StudyError(
            f"'{first}' and '{second}' have no scored case in common out of domain: finish their runs first."
        )
    return away


def per_patient(differences: pd.DataFrame) -> Floats:
    """Return one number per patient: the mean of its differences over sources and seeds."""
    return differences.groupby(["target", "case"])["value"].mean().to_numpy(float)


def sign_flip_p(values: Floats, *, draws: int = 5000, seed: int = 0) -> float:
    """Return the two-sided p of the mean under random signs.

    If the methods were alike, each difference could as well be its opposite.

    Args:
        values: One difference per patient.
        draws: Random sign patterns; all of them are tried instead where there are no more than that.
        seed: Of the patterns.

    Returns:
        The share of patterns with a mean at least as far from zero; NaN without a value.

    >>> round(sign_flip_p(np.array([1.0, 2.0, 3.0])), 2)
    0.25
    """
    count = len(values)
    if not count:
        return float("nan")
    if 2**count <= draws:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        means = np.abs(((2 * bits - 1) * values).mean(axis=1))
        return float((means >= abs(values.mean()) - 1e-12).mean())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, count))
    far = (np.abs((signs * values).mean(axis=1)) >= abs(values.mean()) - 1e-12).sum()
    return float((far + 1) / (draws + 1))


def p_value(values: Floats, test: TestName) -> float:
    """Return the p value of one test on one difference per patient; NaN where it has none (no value, or all of them zero)."""
    if len(values) < 2 or not np.any(values):
        return float("nan")
    if test == "permutation":
        return sign_flip_p(values)
    found: Any = wilcoxon(values) if test == "wilcoxon" else ttest_1samp(values, 0.0)
    return float(found.pvalue)


def significance(scores: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return the p values of every test for each pair of methods out of domain, each corrected by Holm over the pairs.

    Returns:
        ``first``, ``second``, ``cases``, ``mean``, and for each of `TESTS` its p and its corrected p.
    """
    rows = []
    for first, second in pairs:
        values = per_patient(differences_away(scores, first, second))
        row = {"first": first, "second": second, "cases": len(values), "mean": values.mean()}
        rows.append(row | {name: p_value(values, name) for name in TESTS})
    table = pd.DataFrame(rows, columns=["first", "second", "cases", "mean", *TESTS])
    for name in TESTS:
        table[f"{name}_holm"] = results.holm(table[name].to_numpy(float))
    return table


def counted_as_independent(differences: pd.DataFrame) -> pd.DataFrame:
    """Return what Wilcoxon's test says when patients, patients x seeds, or all scored rows are taken for independent.

    Returns:
        ``counted`` (what a number stands for), ``n``, ``p``. Only the first is right: rows of one patient resemble each other.
    """
    units = {
        "one number per patient": ["target", "case"],
        "one per patient and seed": ["target", "case", "seed"],
        "one per patient, seed and source": ["target", "case", "seed", "source"],
    }
    rows = []
    for name, keys in units.items():
        values = differences.groupby(keys)["value"].mean().to_numpy(float)
        rows.append({"counted": name, "n": len(values), "p": p_value(values, "wilcoxon")})
    return pd.DataFrame(rows)


def small_studies(
    differences: pd.DataFrame, *, seeds: int, cases: int, draws: int = 1000, seed: int = 0
) -> Floats:
    """Return the mean differences that studies with fewer seeds and cases would have reported.

    Each study draws, without replacement, ``seeds`` of the seeds of each source and ``cases`` of the cases of each target,
    and averages by the rule ``sources`` of `results.RULES`.

    Args:
        differences: Of `differences_away`.
        seeds: Per source; all of a source with fewer.
        cases: Per target; all of a target with fewer.
        draws: Studies.
        seed: Of the draw.

    Returns:
        ``(draws,)`` mean differences, first minus second.
    """
    rng = np.random.default_rng(seed)
    cube = results.cube_of(differences)
    case_weights = np.stack(
        [_chosen(rng, draws, count, cases, cube.values.shape[3]) for count in cube.cases], 1
    )
    seed_weights = np.zeros((draws, *cube.seeds.shape))
    for source, there in enumerate(cube.seeds):
        seed_weights[:, source, there] = _chosen(rng, draws, int(there.sum()), seeds, int(there.sum()))
    return results.average(cube, "sources", case_weights, seed_weights)


def _chosen(rng: np.random.Generator, draws: int, count: int, wanted: int, width: int) -> Floats:
    """Return ``(draws, width)``: 1 for ``wanted`` of the first ``count`` places, drawn at random; 0 elsewhere."""
    ranks = rng.random((draws, count)).argsort(axis=1).argsort(axis=1)
    chosen = np.zeros((draws, width))
    chosen[:, :count] = ranks < wanted
    return chosen


def flips(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, seeds: int = 1, draws: int = 1000
) -> pd.DataFrame:
    """Return how often a study of few seeds would have named another winner than all seeds and cases do.

    Returns:
        ``first``, ``second``, ``mean`` with all seeds and cases, and the share of studies with the other sign when the
        cases are all there (``same_cases``) and when half of them are (``half_cases``).
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


def widths(differences: pd.DataFrame, *, draws: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return how wide the 95 % interval of a difference is with 1, 2, ... seeds and 1, 2, 4, ... cases per target.

    It is the range in which 95 % of such studies fall: seeds and cases are drawn with replacement, as in the bootstrap of
    `results.summarise`, so that the largest study has a width as well.

    Returns:
        ``seeds``, ``cases`` (per target), ``width``: from the 2.5th to the 97.5th percentile.
    """
    cube = results.cube_of(differences)
    rng = np.random.default_rng(seed)
    sizes = sorted({2**n for n in range(8) if 2**n < cube.cases.max()} | {int(cube.cases.max())})
    rows = []
    for n_seeds in range(1, int(cube.seeds.sum(axis=1).max()) + 1):
        for n_cases in sizes:
            weights = _resampled(rng, draws, cube, n_seeds, n_cases)
            low, high = np.nanpercentile(results.average(cube, "sources", *weights), [2.5, 97.5])
            rows.append({"seeds": n_seeds, "cases": n_cases, "width": float(high - low)})
    return pd.DataFrame(rows)


def _resampled(
    rng: np.random.Generator, draws: int, cube: results.Cube, seeds: int, cases: int
) -> tuple[Floats, Floats]:
    case_weights = np.zeros((draws, *cube.values.shape[1::2]))
    for target, count in enumerate(cube.cases):
        case_weights[:, target, :count] = rng.multinomial(cases, np.full(count, 1 / count), draws)
    seed_weights = np.zeros((draws, *cube.seeds.shape))
    for source, there in enumerate(cube.seeds):
        count = int(there.sum())
        seed_weights[:, source, there] = rng.multinomial(seeds, np.full(count, 1 / count), draws)
    return case_weights, seed_weights


def power(values: Floats, sizes: Sequence[int], *, draws: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return how often a study of n patients would call a difference significant: one that is there, and one that is not.

    Args:
        values: One difference per patient; studies draw theirs from these, with replacement. For no difference, each drawn value
            gets a random sign.
        sizes: Numbers of patients.
        draws: Studies per size.
        seed: Of the draw.

    Returns:
        ``patients``, ``power`` (of a difference as seen), ``false_alarms`` (of none), by Wilcoxon's test at `ALPHA`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        drawn = rng.choice(values, (draws, size)) + rng.normal(0, 1e-9, (draws, size))  # no ties, no zeros
        signed = drawn * rng.choice([-1.0, 1.0], drawn.shape)
        found = [float((wilcoxon(sample, axis=1).pvalue < ALPHA).mean()) for sample in (drawn, signed)]
        rows.append({"patients": size, "power": found[0], "false_alarms": found[1]})
    return pd.DataFrame(rows, columns=["patients", "power", "false_alarms"])


def ballot(
    differences: pd.DataFrame, names: tuple[str, str], *, cases: int = 4, studies: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Return small studies for a class to vote on: one seed and a few patients each, the methods called X and Y.

    Args:
        differences: Of `differences_away`.
        names: The methods, first and second; which of them is X is drawn.
        cases: Patients per study.
        studies: How many.
        seed: Of the draw.

    Returns:
        ``study``, ``trained on``, ``seed``, ``patients``, ``X - Y`` (mean), ``X better on``; `unmask` tells who X is.
    """
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
    """Answer in one sentence which differences are more than chance, and what one seed would have said.

    Args:
        table: Of `significance`.
        flipped: Of `flips` with one seed, for the same pairs.
        metric: What they are differences of.
    """
    _, factor = UNITS[metric]
    if table.empty:
        return "There is no answer yet: no two methods have been scored on the same cases out of domain."
    sure = table[table["wilcoxon_holm"] < ALPHA]
    verdict = (
        "Every difference is more than chance"
        if len(sure) == len(table)
        else "Some differences are more than chance"
        if len(sure)
        else "No difference was seen to be more than chance"
    )
    worst = flipped.iloc[int(flipped["half_cases"].to_numpy().argmax())]
    pair = f"{worst['first']} against {worst['second']} ({worst['mean'] * factor:+.1f})"
    return (
        f"**{verdict}**: of {len(table)} comparisons out of domain, {len(sure)} have a corrected p below {ALPHA:.2f}. "
        f"The least certain winner is that of {pair}: with one seed and half of the patients, "
        f"{worst['half_cases']:.0%} of the studies would have named the other."
    )
