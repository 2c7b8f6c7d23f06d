"""Does a repetition of runs agree with the runs it repeats? Averages, and the verdicts between methods, by equivalence.

A repetition has the settings, data and seeds of the kept runs, but another machine adds in another order, and training amplifies
this: most runs end a fraction of a point of Dice away, some as far as another seed would. So the unit is the run, and what is
compared is what pages claim: the average of a method in or out of domain. Its difference ``D`` is the mean over the repeated runs
of their paired differences (case by case). The average

- **differs** where ``D`` is beyond the margin of the decision rule *and* beyond what chance gives the largest of all that are
  compared (Bonferroni); or beyond the margin and nearly the same in every case, which training never is;
- **agrees** where the 90 % interval of ``D`` (two one-sided tests of 5 %) lies within the margin;
- is what one **cannot tell** otherwise: it moved no farther than by chance, but more runs would be needed to show that it stays.

The variance of paired differences is moderated (Smyth 2004): that of the method's own runs is averaged with what the repetition
differs by on the whole, in units of the seeds' scatter, which counts as `PRIOR_FREEDOM` more runs. A single run shows no scatter
of its own: it differs only where it is farther away than another seed. Chosen by simulation (``tests/repeated_study.py``).
"""

from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student_t

from desam_lite.evaluation.statistics import MARGINS, compare, scores

Outcome = Literal["agrees", "differs", "cannot tell"]

CLAIM = ["task", "label", "protocol", "in_domain"]
"""What names an average that is compared."""
EVERY = "every method"
"""Label of the average over all repeated methods of a task, in which a fault shows that they share."""
PRIOR_FREEDOM = 4
"""Degrees of freedom that the scatter of the whole repetition has beside those of a method's own runs."""

ALARM = 0.01
"""How often any average of an honest repetition may be said to differ."""

_TEST_LEVEL = 0.95
_EVEN = 4.0  # standard deviations of single cases: 19 of 20 cases are within half of the difference
_TO_SD = 1 / norm.ppf(
    0.75
)  # from the median of the absolute value of normal numbers to their standard deviation


def pair_cases(new: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of metrics of kept runs that were repeated, their Dice, now ``kept``, subtracted from the repetition's.

    A repeated run has in ``run`` the name of the kept one, whatever its own is.
    """
    keys = ["run", "protocol", "organ", "target", "case"]
    both = kept.merge(new[[*keys, "dice"]], on=keys, suffixes=("", "_new"))
    return both.assign(kept=both["dice"], dice=both.pop("dice_new") - both["dice"])


def run_averages(metrics: pd.DataFrame) -> pd.DataFrame:
    """Average Dice within each run: over the organs of a case, the cases of a target, and the targets in or out of domain.

    Returns:
        One row per run, protocol, and in or out of domain: `CLAIM`, ``source``, ``run``, ``value``.
    """
    keys = [*CLAIM, "source", "run"]
    cases = metrics.dropna(subset="dice").groupby([*keys, "target", "case"])["dice"].mean()
    return cases.groupby([*keys, "target"]).mean().groupby(keys).mean().rename("value").reset_index()


def seed_scatter(averages: pd.DataFrame) -> pd.DataFrame:
    """Return the standard deviation that seeds give the average of a run, of `run_averages`.

    Returns:
        Indexed by `CLAIM`: ``scatter`` (of a method with one seed that of the others of its task; NaN where all have one) and its
        degrees of ``freedom``.
    """
    groups = averages.groupby([*CLAIM, "source"])["value"].agg(["var", "size"])
    groups = groups.assign(freedom=groups["size"] - 1, squares=groups["var"] * (groups["size"] - 1))
    sums = groups.groupby(CLAIM)[["squares", "freedom"]].sum()
    scatter = (sums["squares"] / sums["freedom"].where(sums["freedom"] > 0)) ** 0.5
    usual = scatter.groupby(["task", "protocol", "in_domain"]).transform("median")
    return pd.DataFrame({"scatter": scatter.fillna(usual), "freedom": sums["freedom"]})


class AverageCheck(NamedTuple):
    """How an average of a repetition stands to that of the kept runs.

    Attributes:
        difference: Repeated minus kept.
        half: Half width of its 90 % interval; infinite where nothing tells how much runs scatter.
        chance: How far from 0 it may be by chance.
        runs: How many were repeated; of `EVERY`, how many methods.
        more: How many more may tell; 0 unless one cannot tell.
        even: Whether the difference is nearly the same in every case.
        outcome: Agrees, differs, or cannot tell.
    """

    difference: float
    half: float
    chance: float
    runs: int
    more: int
    even: bool
    outcome: Outcome


def check_averages(new: pd.DataFrame, kept: pd.DataFrame, margin: float = MARGINS["dice"]) -> pd.DataFrame:
    """Say of each average whether a repetition agrees.

    Args:
        new: Rows of metrics of the repeated runs, ``run`` the name of the kept one.
        kept: Rows of all kept runs; a label means the same settings, whatever source and seed.
        margin: Smallest difference of Dice that matters.

    Returns:
        One row per average, those of `EVERY` last: `CLAIM` and the fields of `AverageCheck`.
    """
    paired = pair_cases(new, kept)
    rows = run_averages(paired).merge(seed_scatter(run_averages(kept)).reset_index(), on=CLAIM)
    moving = rows[rows["scatter"] > 0]
    enough = moving["run"].nunique() >= PRIOR_FREEDOM
    common = moving.groupby(["task", "protocol", "in_domain"])["value"].transform("median") if enough else 0.0
    sizes = (moving["value"] - common).abs() / (np.sqrt(2) * moving["scatter"])
    noise = float(_TO_SD * sizes.median() if enough else sizes.max()) if len(sizes) else 0.0
    groups = dict(iter(rows.groupby(CLAIM)))
    cases = dict(iter(paired.groupby(["task", "label", "protocol"])))
    wholes = rows.groupby(["task", "protocol", "in_domain"])["label"].nunique()
    level = 1 - ALARM / (2 * (len(groups) + len(wholes)))
    checks = [(*claim, *_check_average(group, noise, margin, level)) for claim, group in groups.items()]
    frame = pd.DataFrame(checks, columns=[*CLAIM, *AverageCheck._fields])
    frame["even"] = [
        _is_even(cases[claim], margin) for claim in zip(*(frame[n] for n in CLAIM[:3]), strict=True)
    ]
    frame.loc[frame["even"], ["outcome", "more"]] = "differs", 0
    totals = [
        (task, EVERY, protocol, inside, *_check_all(group, margin, level))
        for (task, protocol, inside), group in frame.groupby(["task", "protocol", "in_domain"])
        if len(group) > 1
    ]
    return pd.concat([frame, pd.DataFrame(totals, columns=frame.columns)], ignore_index=True)


def _is_even(cases: pd.DataFrame, margin: float) -> bool:
    """Whether most cases differ by more than the margin and by nearly the same, which is no loss of all that a case had."""
    middles = cases[["dice", "kept"]].median()
    spread, usual = _TO_SD * (cases[["dice", "kept"]] - middles).abs().median()
    return bool(abs(middles["dice"]) > max(margin, _EVEN * spread) and _EVEN * spread < usual)


def _check_average(group: pd.DataFrame, noise: float, margin: float, level: float) -> AverageCheck:
    """AverageCheck one average; ``noise`` is what the whole repetition differs by, in units of what another seed would."""
    values = group["value"].to_numpy(float)
    scatter, freedom = float(group["scatter"].iloc[0]), int(group["freedom"].iloc[0])
    count, difference, another_seed = len(values), float(values.mean()), np.sqrt(2) * scatter
    squares, own = float(((values - difference) ** 2).sum()), count - 1
    if np.isfinite(scatter):
        squares, own = squares + PRIOR_FREEDOM * (noise * another_seed) ** 2, own + PRIOR_FREEDOM
    error = float(np.sqrt(squares / own / count)) if own else np.inf
    half, chance = (float(student_t.ppf(p, max(own, 1))) * error for p in (_TEST_LEVEL, level))
    if np.isfinite(scatter):
        chance = max(chance, float(norm.ppf(level)) * noise * another_seed / np.sqrt(count))
        if count == 1:
            chance = float(student_t.ppf(level, max(freedom, PRIOR_FREEDOM))) * another_seed * max(noise, 1.0)
    gaps = [(half, margin - abs(difference)), (chance, abs(difference) - margin)]
    needed = [(width / gap) ** 2 * count for width, gap in gaps if gap > 0 and np.isfinite(width)]
    more = max(1, int(np.ceil(min(needed, default=count + 1))) - count)
    return _decide_average(AverageCheck(difference, half, chance, count, more, False, "cannot tell"), margin)


def _check_all(checks: pd.DataFrame, margin: float, level: float) -> AverageCheck:
    """AverageCheck the average over all methods, which one of them alone does not make differ.

    Its interval is made of theirs; its chance too, or of what they differ by among one another where that is less.
    """
    count, differences = len(checks), checks["difference"]
    half, chance = (float(np.sqrt((checks[name] ** 2).sum())) / count for name in ("half", "chance"))
    among = float(student_t.ppf(level, count - 1) * differences.std() / np.sqrt(count))
    chance = min(chance, among) if abs(differences.median()) > margin else np.inf
    more = int(checks["more"].max())
    return _decide_average(
        AverageCheck(float(differences.mean()), half, chance, count, more, False, "cannot tell"), margin
    )


def _decide_average(check: AverageCheck, margin: float) -> AverageCheck:
    size = abs(check.difference)
    if size > max(margin, check.chance):
        return check._replace(outcome="differs", more=0)
    return check._replace(outcome="agrees", more=0) if size + check.half <= margin else check


def check_verdicts(new: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Say whether the verdict on two methods stays when repeated runs take the place of the kept ones.

    Args:
        new: As in `check_averages`.
        kept: As there.

    Returns:
        One row per task, protocol, in or out of domain, and pair of methods one of which was repeated: ``first`` and
        ``second``, the mean of their difference ``kept`` and ``repeated``, the verdicts ``before`` and ``after``, and whether
        it is ``reversed``.
    """
    tables = []
    for (task, protocol), own in kept.groupby(["task", "protocol"]):
        instead = new[(new["task"] == task) & (new["protocol"] == protocol)]
        mixed = pd.concat([own[~own["run"].isin(instead["run"])], instead])
        repeated = set(instead["label"])
        pairs = [pair for pair in combinations(own["label"].unique(), 2) if repeated & set(pair)]
        then, now = (compare(scores(frame, protocol=str(protocol)), pairs) for frame in (own, mixed))
        table = then[["first", "second", "in_domain"]].assign(task=str(task), protocol=str(protocol))
        table = table.assign(kept=then["mean"], repeated=now["mean"])
        tables.append(table.assign(before=then["verdict"], after=now["verdict"]))
    table = pd.concat(tables, ignore_index=True)
    first, second = (
        table[name].str.split().str[0].map({"better": 1, "worse": -1}).fillna(0)
        for name in ("before", "after")
    )
    return table.assign(reversed=first * second < 0)
