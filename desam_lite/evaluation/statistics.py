"""From the scores of single cases to tables and verdicts: averages with intervals, paired differences, one decision rule.

Everything starts from the rows of ``metrics.csv`` (one per run, case, organ and protocol) and nothing else. What is averaged over
what is always stated: first organs within a case, then cases within a target, then seeds, then targets and sources by one of
`RULES`. A run that is missing leaves its cells empty (NaN); it never makes a table fail.

**The decision rule.** Every verdict comes from `decide`, every interval from `seed_aware_interval`: seeds and patients are
random, hospitals fixed. There are two sources of chance, which models the seeds gave and which patients were scanned. Their
variances are estimated apart and combined as Cochran and Cox combine two means of unequal variance, each with the t quantile of
its own degrees of freedom:

    half width ** 2 = max(t(seeds) ** 2 * max(V_seeds - V_both, 0) + t(patients) ** 2 * V_patients, t(seeds) ** 2 * V_seeds)

``V_seeds`` is the variance that seeds give the mean, ``V_patients`` that of patients; the interaction of a seed with a patient
is in both, so its part ``V_both`` is taken off once. With one seed nothing is known about others: the interval is NaN and the
verdict "cannot tell". Chosen by simulation (``benchmarks/decision_rule.py``): with 2 to 5 seeds it covers about 95 % or more.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student_t

from desam_lite.utils.errors import StudyError

Rule = Literal["sources", "targets", "cases"]
CaseRule = Literal["worst", "median", "best"]
Floats = npt.NDArray[np.float64]

RULES: dict[Rule, str] = {
    "sources": "mean over cases, then over targets of one source, then over sources: every training hospital counts the same",
    "targets": "mean over cases, then over sources of one target, then over targets: every tested hospital counts the same",
    "cases": "mean over all cases of all sources and targets: every scored case counts the same",
}
"""How cells of the source x target matrix become one number."""

METRICS = {"dice": True, "hd95": False, "hd": False, "assd": False}
"""The metrics a table can be made of, and whether more is better."""

MARGINS = {"dice": 0.02, "hd95": 1.0, "hd": 2.0, "assd": 0.5}
"""Differences that matter in practice: 2 points of Dice, and in mm what is below the in-plane resolution of most scans."""
LEVEL = 0.95
"""Coverage of every interval."""

_Small = Literal["better by less than the margin", "worse by less than the margin"]
Verdict = Literal["better", "worse", "equivalent", _Small, "cannot tell"]

COLUMNS = ["label", "source", "target", "in_domain", "seed", "case", "metric", "value"]
"""The columns of the frame that `scores` returns and every other function here takes."""

_ESTIMATES = ["mean", "low", "high", "seed_sd", "case_sd", "sources", "targets", "seeds", "cases"]
_DIFFERENCES = ["first", "second", "in_domain", "mean", "low", "high", "verdict", "seeds", "won", "cases"]


def scores(
    metrics: pd.DataFrame, *, metric: str = "dice", protocol: str = "whole_volume", organ: str | None = None
) -> pd.DataFrame:
    """Select one metric under one protocol, and average it over the organs of each case, or take one organ.

    The rows are those of one or more runs, as `Run.metrics` returns them, or none; a mean is over the organs for which the
    metric is a number.

    Returns:
        One row per label, source, target, seed and case, with `COLUMNS`.

    Raises:
        StudyError: The metric, protocol or organ is unknown, or two different runs would be mixed under one label.
    """
    if metric not in METRICS:
        raise StudyError(f"there is no metric '{metric}': choose from {', '.join(METRICS)}.")
    if metrics.empty:
        return pd.DataFrame(columns=COLUMNS)
    chosen = _rows_with(metrics, "protocol", protocol)
    chosen = chosen if organ is None else _rows_with(chosen, "organ", organ)
    keys = ["label", "source", "target", "in_domain", "seed", "case"]
    repeated = chosen[chosen.duplicated([*keys, "organ"])]
    if not repeated.empty:
        label, source, seed = repeated.iloc[0][["label", "source", "seed"]]
        raise StudyError(
            f"two different runs are called '{label}' (source {source}, seed {seed}): pass the metrics of one of them."
        )
    means = chosen.groupby(keys, sort=False)[metric].mean().reset_index(name="value")
    return means.assign(metric=metric)[COLUMNS]


def _rows_with(frame: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    values = list(frame[column].unique())
    if value not in values:
        raise StudyError(
            f"the results hold no {column} '{value}': choose from {', '.join(map(str, values))}."
        )
    return frame[frame[column] == value]


def summarise(
    scores: pd.DataFrame, by: Sequence[str] = ("label", "in_domain"), *, rule: Rule = "sources"
) -> pd.DataFrame:
    """Average the scores of each group that the columns ``by`` make, with spread and a 95 % interval (`seed_aware_interval`).

    Returns:
        One row per group, in order of appearance: ``mean``; ``low`` and ``high`` (NaN where a source has one seed or a target
        one case, for then nothing is known about others); ``seed_sd``, the standard deviation over seeds of the average of one
        seed (NaN with one seed); ``case_sd``, that over cases of the mean of a case over its sources and seeds; and how many
        ``sources``, ``targets``, ``seeds`` and ``cases`` there are.
    """
    _check_rule(rule)
    rows = []
    for names, group in scores.groupby(list(by), sort=False):
        rows.append({**dict(zip(by, names, strict=True)), **_estimate(group, rule)})
    return pd.DataFrame(rows, columns=[*by, *_ESTIMATES])


def score_matrix(
    scores: pd.DataFrame, label: str, sources: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """Return the mean of each cell of one method, over the cases of the target, then over seeds: NaN where there is no score."""
    own = scores[scores["label"] == label]
    if own.empty:
        return pd.DataFrame(np.nan, index=list(sources), columns=list(targets))
    cells = own.groupby(["source", "target", "seed"])["value"].mean().groupby(["source", "target"]).mean()
    return cells.unstack("target").reindex(index=list(sources), columns=list(targets)).astype(float)


def compare(
    scores: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    rule: Rule = "sources",
    margin: float | None = None,
) -> pd.DataFrame:
    """Compare pairs of methods case by case: the same source, seed and case scored by both.

    The mean and its interval are those of `summarise`, taken over the differences, first minus second, and the verdict is that of
    `decide`. There is no p value: the usual one takes the trained models as fixed, so other seeds are outside of it. The margin
    is the smallest difference that matters, in units of the metric; None for that of `MARGINS`, of Dice for other scores.

    Returns:
        One row per pair, in and out of domain: the labels ``first`` and ``second``, ``mean``, ``low``, ``high``, the ``verdict``
        on the first, the number of ``seeds``, the share of cases ``won`` by the first, and the number of ``cases``. Pairs
        without common cases give NaN and "cannot tell".
    """
    _check_rule(rule)
    rows = []
    for first, second in pairs:
        both = paired_differences(scores, first, second)
        for in_domain in (True, False):
            group = both[both["in_domain"] == in_domain]
            estimate = _estimate(group, rule)
            verdict = _verdict(Interval(*(estimate[name] for name in Interval._fields)), scores, margin)
            pair = {"first": first, "second": second, "in_domain": in_domain, "verdict": verdict}
            won = _per_case(group.dropna(subset="value")) > 0
            rows.append({**pair, **estimate, "won": float(won.mean()) if len(won) else np.nan})
    return pd.DataFrame(rows, columns=_DIFFERENCES)


def domain_losses(
    scores: pd.DataFrame,
    by: Sequence[str] = ("label",),
    *,
    rule: Rule = "sources",
    margin: float | None = None,
) -> pd.DataFrame:
    """Compare each group's average out of domain with its own in domain, by one rule: the same seeds, other patients.

    Returns:
        One row per group that has scores of both: ``mean`` out of domain minus in domain, ``low``, ``high``, and the ``verdict``
        on out of domain, by the margin of `compare`.
    """
    rows = []
    for names, group in scores.dropna(subset="value").groupby(list(by), sort=False):
        inside = group["in_domain"].astype(bool)
        if inside.all() or not inside.any():
            continue
        cube = cube_of(group)
        home = np.zeros(cube.values.shape[:2], bool)
        home[tuple(pd.factorize(group[name], sort=True)[0][inside] for name in ("source", "target"))] = True
        parts = [np.where(kept[:, :, None, None], cube.values, np.nan) for kept in (~home, home)]
        away, at_home = (_cell_weights(cube._replace(values=part), rule) for part in parts)
        interval = seed_aware_interval(cube, away - at_home)
        verdict = _verdict(interval, scores, margin)
        rows.append({**dict(zip(by, names, strict=True)), **interval._asdict(), "verdict": verdict})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "verdict"])


def _verdict(interval: "Interval", scores: pd.DataFrame, margin: float | None) -> Verdict:
    """Return the verdict on a difference of these scores; a margin of None is that of their metric (`MARGINS`)."""
    metric = str(scores["metric"].iloc[0]) if len(scores) else "dice"
    margin = MARGINS.get(metric, MARGINS["dice"]) if margin is None else margin
    return decide(interval.low, interval.high, margin, more_is_better=METRICS.get(metric, True))


def decide(low: float, high: float, margin: float, *, more_is_better: bool = True) -> Verdict:
    """Return the verdict on the first of two methods, from the interval of its difference to the second, NaN where there is none.

    The margin is the smallest difference that matters, above 0.

    >>> decide(0.01, 0.05, 0.02), decide(-0.01, 0.015, 0.02), decide(-0.01, 0.05, 0.02)
    ('better', 'equivalent', 'cannot tell')
    >>> decide(0.004, 0.015, 0.02), decide(0.01, 0.05, 0.02, more_is_better=False)
    ('better by less than the margin', 'worse')
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return "cannot tell"
    if not more_is_better:
        low, high = -high, -low
    small = -margin <= low and high <= margin
    if low > 0:
        return "better by less than the margin" if small else "better"
    if high < 0:
        return "worse by less than the margin" if small else "worse"
    return "equivalent" if small else "cannot tell"


def paired_differences(scores: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the difference ``first`` minus ``second`` for each source, target, seed and case both have scored."""
    keys = [name for name in COLUMNS if name not in ("label", "value")]
    mine, other = (scores[scores["label"] == label].drop(columns="label") for label in (first, second))
    both = mine.merge(other, on=keys, suffixes=("", "_other"))
    return both.assign(value=both["value"] - both["value_other"]).drop(columns="value_other")


def pick_case(scores: pd.DataFrame, rule: CaseRule) -> pd.Series:
    """Choose one scored case by rule, so that nobody chooses what is shown.

    Of equal ones it is the first by source, target, case and seed; the "median" is the lower of the two middle ones.
    """
    if rule not in get_args(CaseRule):
        raise StudyError(f"there is no case rule '{rule}': choose from {', '.join(get_args(CaseRule))}.")
    scored = scores.dropna(subset="value")
    if scored.empty:
        raise StudyError("there is no scored case to choose from: finish a run first.")
    order, best_last = ["value", "source", "target", "case", "seed"], METRICS[scored["metric"].iloc[0]]
    worst_first = scored.sort_values(order, ascending=[best_last] + [True] * 4)
    place = {"worst": 0, "median": (len(scored) - 1) // 2, "best": len(scored) - 1}[rule]
    return worst_first.iloc[place]


def most_different(scores: pd.DataFrame, first: str, second: str) -> pd.Series:
    """Choose the case on which two methods differ most, whichever of them is better there; of equal ones the first.

    Returns:
        Its source, target, seed and case, with the difference as ``value``.
    """
    both = paired_differences(scores, first, second).dropna(subset="value")
    if both.empty:
        raise StudyError(f"'{first}' and '{second}' have no scored case in common: finish their runs first.")
    ordered = both.sort_values(["source", "target", "case", "seed"], kind="stable")
    return ordered.iloc[int(ordered["value"].abs().to_numpy().argmax())]


class Cube(NamedTuple):
    """Scores as an array, NaN where there is none."""

    values: (
        Floats  # ``(S, T, R, C)``: sources, targets, seeds, cases of a target (each target numbers its own)
    )
    cases: npt.NDArray[
        np.int64
    ]  # ``(T,)``, how many cases each target has; numbers beyond are NaN for that target
    seeds: npt.NDArray[np.bool_]  # ``(S, R)``, whether a source has a run with that seed


def cube_of(scores: pd.DataFrame) -> Cube:
    """Return scores of one method, or of differences, as an array; there must be at least one."""
    source, target, seed = (pd.factorize(scores[name], sort=True)[0] for name in ("source", "target", "seed"))
    numbers = scores.groupby("target")["case"].transform(lambda names: pd.factorize(names, sort=True)[0])
    case = numbers.to_numpy(int)
    shape = [axis.max() + 1 for axis in (source, target, seed, case)]
    values = np.full(shape, np.nan)
    values[source, target, seed, case] = scores["value"].to_numpy(float)
    present = np.isfinite(values)
    counts = present.any(axis=(0, 2)).sum(axis=1)
    return Cube(values, counts, present.any(axis=(1, 3)))


def average(cube: Cube, case_weights: Floats, seed_weights: Floats) -> Floats:
    """Return the average by "sources" of each draw ``(B,)``, with weights of cases ``(B, T, C)`` and of seeds ``(B, S, R)``."""
    present = np.isfinite(cube.values)
    filled = np.where(present, cube.values, 0.0)
    total = np.einsum("strc,btc->bstr", filled, case_weights)
    weight = np.einsum("strc,btc->bstr", present.astype(float), case_weights)
    per_seed = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    cells = _weighted_mean(per_seed, seed_weights[:, :, None, :], axis=3)  # (B, S, T)
    return _weighted_mean(_weighted_mean(cells, 1.0, axis=2), 1.0, axis=1)


def _weighted_mean(values: Floats, weights: Floats | float, axis: int) -> Floats:
    """Return the mean along an axis over the entries that are numbers; NaN where there is none."""
    used = np.where(np.isfinite(values), weights, 0.0)
    weight = used.sum(axis=axis)
    total = (np.nan_to_num(values) * used).sum(axis=axis)
    return np.asarray(np.divide(total, weight, out=np.full_like(weight, np.nan), where=weight > 0))


class Interval(NamedTuple):
    """A mean and its 95 % interval; ``low`` and ``high`` are NaN where seeds or cases are too few for one."""

    mean: float
    low: float
    high: float


def seed_aware_interval(cube: Cube, rule: Rule | Floats) -> Interval:
    """Return the average by a rule and the interval in which it would lie with other seeds and other patients.

    The rule says how sources and targets, which are fixed, are averaged (`RULES`), or is their weights ``(S, T)`` of either sign.
    """
    weights = _cell_weights(cube, rule) if isinstance(rule, str) else rule
    by_run = _weighted_mean(cube.values, 1.0, axis=3)  # (S, T, R)
    by_case = _weighted_mean(cube.values, 1.0, axis=2)  # (S, T, C)
    mean = float(np.nansum(weights * _weighted_mean(by_run, 1.0, axis=2)))
    complete = (np.isfinite(by_run) | (weights == 0)[..., None]).all(axis=1)  # (S, R): runs scored everywhere
    runs = np.nansum(weights[..., None] * by_run, axis=1)  # (S, R)
    patients = np.nansum(weights[..., None] * by_case, axis=0)  # (T, C)
    used = [runs[s, there] for s, there in enumerate(complete & cube.seeds) if weights[s].any()]
    seen = [patients[t, :count] for t, count in enumerate(cube.cases) if weights[:, t].any()]
    of_seeds, of_patients = _pooled_variance(used), _pooled_variance(seen)
    if of_seeds is None or of_patients is None:
        return Interval(mean, np.nan, np.nan)
    of_both = sum(
        weights[s, t] ** 2 * _interaction_variance(cube.values[s, t][cube.seeds[s], : cube.cases[t]])
        for s, t in np.argwhere(weights)
    )
    freedoms = of_seeds[1], of_patients[1]
    t_seeds, t_patients = (float(student_t.ppf((1 + LEVEL) / 2, freedom)) for freedom in freedoms)
    both = t_seeds**2 * max(of_seeds[0] - of_both, 0.0) + t_patients**2 * of_patients[0]
    half = np.sqrt(max(both, t_seeds**2 * of_seeds[0]))
    return Interval(mean, mean - half, mean + half)


def _cell_weights(cube: Cube, rule: Rule) -> Floats:
    """Return the weight of each source x target cell in the average by a rule ``(S, T)``; they sum to 1."""
    present = np.isfinite(cube.values)
    counts = present.any(axis=2).sum(axis=2).astype(float)
    weights = counts
    if rule != "cases":
        cells = (counts > 0).astype(float)
        weights = cells / np.maximum(cells.sum(axis=1 if rule == "sources" else 0, keepdims=True), 1)
    return np.asarray(weights / weights.sum())


def _pooled_variance(groups: Sequence[Floats]) -> tuple[float, float] | None:
    """Return the variance of the sum of the groups' means, and its degrees of freedom by Satterthwaite.

    None where a group has one value, which says nothing about others.
    """
    if any(len(values) < 2 for values in groups):
        return None
    variances = np.array([values.var(ddof=1) / len(values) for values in groups])
    freedoms = np.array([len(values) - 1 for values in groups], float)
    total = float(variances.sum())
    shares = variances / total if total > 0 else freedoms / freedoms.sum()
    return total, float(1 / (shares**2 / freedoms).sum())


def _interaction_variance(values: Floats) -> float:
    """Return the variance that the interaction of seeds and cases ``(R, C)`` gives their mean; 0 where it cannot be seen."""
    present = np.isfinite(values)
    values = values[present.any(axis=1)][:, present.any(axis=0)]
    n_seeds, n_cases = values.shape
    freedom = int(np.isfinite(values).sum()) - n_seeds - n_cases + 1
    if freedom < 1:
        return 0.0
    of_seed, of_case = np.nanmean(values, axis=1, keepdims=True), np.nanmean(values, axis=0)
    residual = values - of_seed - of_case + np.nanmean(values)
    return float(np.nansum(residual**2) / freedom / np.isfinite(values).sum())


def _estimate(group: pd.DataFrame, rule: Rule) -> dict[str, float]:
    scored = group.dropna(subset="value")
    if scored.empty:
        return {**dict.fromkeys(_ESTIMATES[:5], np.nan), **dict.fromkeys(_ESTIMATES[5:], 0)}
    cube = cube_of(scored)
    per_case = _per_case(scored)
    seeds = [[n] for n in range(cube.values.shape[2])]
    singles = [Cube(cube.values[:, :, n], cube.cases, cube.seeds[:, n]) for n in seeds]
    per_seed = [seed_aware_interval(single, rule).mean for single in singles]
    spreads = {"seed_sd": _deviation(np.array(per_seed)), "case_sd": _deviation(per_case)}
    counts = {f"{name}s": scored[name].nunique() for name in ("source", "target", "seed")}
    return {**seed_aware_interval(cube, rule)._asdict(), **spreads, **counts, "cases": len(per_case)}


def _per_case(scores: pd.DataFrame) -> Floats:
    """Return one number per patient: the mean of a case over the sources and seeds that scored it."""
    return np.asarray(scores.groupby(["target", "case"])["value"].mean(), float)


def _deviation(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise StudyError(f"there is no averaging rule '{rule}': choose from {', '.join(RULES)}.")
