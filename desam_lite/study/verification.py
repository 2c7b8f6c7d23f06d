"""Does a new run agree with the kept one? Tidy tables of finished runs, and their comparison number by number.

Two runs of the same study differ by the machine's arithmetic, which training amplifies until it acts like another seed. So
the scatter between the seeds of the reference says how far apart two sound runs may be; only the risk of a false alarm is chosen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from desam_lite.evaluation.statistics import METRICS
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_json, write_text

if TYPE_CHECKING:
    from desam_lite.study.run import Run

COLUMNS = ["task", "label", "source", "target", "seed", "organ", "protocol", "metric", "mean", "cases"]
"""The columns of a reference table, in order."""

KEYS = ["level", "task", "label", "source", "target", "organ", "protocol", "metric"]
"""What names a number that is compared."""

FALSE_ALARM = 0.01
"""Chance that a sound run is called different anywhere in one task, metric and level."""

_DIGITS = 4
_SHOWN = 10
_TEXTS: dict[str, Any] = dict.fromkeys(
    [name for name in COLUMNS if name not in ("seed", "mean", "cases")], str
)
_POOLED = {
    "average": ["task", "source", "organ", "protocol", "metric"],
    "cell": ["task", "label", "organ", "protocol", "metric"],
}


def tidy(metrics: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of runs over cases, one row per number that is kept.

    Args:
        metrics: Of `study.run.collect_metrics`: rows of finished runs.

    Returns:
        `COLUMNS`: the mean over the cases of one target of one run, rounded, and how many cases there were.

    Raises:
        StudyError: Two different runs would have the same name.
    """
    if metrics.empty:
        return pd.DataFrame(columns=COLUMNS)
    measured = [name for name in METRICS if name in metrics]
    names = [*(key for key in KEYS if key not in ("level", "metric")), "seed"]
    repeated = metrics.groupby(names)["run"].nunique()
    if (repeated > 1).any():
        raise StudyError(f"two different runs are called {repeated.idxmax()}: keep one of them.")
    long = metrics.melt([*names, "case"], measured, "metric", "value").dropna(subset="value")
    found = long.groupby([*names, "metric"])["value"].agg(["mean", "count"]).reset_index()
    found = found.rename(columns={"count": "cases"})
    return found.assign(mean=found["mean"].round(_DIGITS))[COLUMNS].sort_values(
        COLUMNS[:8], ignore_index=True
    )


def reference_path(folder: Path | str, profile: str) -> Path:
    """Return where the table of a profile is kept."""
    return Path(folder) / f"{profile}.csv"


def write_reference(runs: "Sequence[Run]", folder: Path | str, profile: str) -> Path:
    """Keep the results of a study: a table, and beside it what made them.

    Raises:
        StudyError: A run is not finished, or there is none.
    """
    from desam_lite.study.run import collect_metrics

    missing = [run for run in runs if not run.finished]
    if missing or not runs:
        named = "; ".join(f"{r.spec.label} from {r.spec.source}, seed {r.spec.seed}" for r in missing[:5])
        raise StudyError(
            f"{len(missing)} of {len(runs)} runs are not finished ({named}): run 'make book PROFILE={profile}' first."
        )
    path = reference_path(folder, profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, tidy(collect_metrics(runs)).to_csv(index=False))
    write_json(path.with_suffix(".json"), _made_by(runs, profile))
    return path


def _made_by(runs: "Sequence[Run]", profile: str) -> dict[str, Any]:
    infos = [run.info for run in runs]
    facts = {name: _distinct(info[name] for info in infos) for name in ("code", "device", "libraries")}
    minutes = sum(sum(info["minutes"].values()) for info in infos)
    return {"profile": profile, "runs": len(runs), "minutes": round(minutes, 1), **facts}


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def read_reference(folder: Path | str, profile: str) -> pd.DataFrame:
    """Read a kept table.

    Raises:
        StudyError: There is none, or it is not such a table.
    """
    path = reference_path(folder, profile)
    if not path.exists():
        raise StudyError(
            f"there is no reference {path}: name its folder, or keep this study's results with --write."
        )
    frame = pd.read_csv(path, dtype=_TEXTS)
    if list(frame.columns) != COLUMNS:
        raise StudyError(f"{path} is no table of results: its columns must be {', '.join(COLUMNS)}.")
    return frame


def compare_with_reference(new: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Hold each number of the reference against the same number of a new study, on two levels.

    A "cell" is the mean of a method trained at a source over the cases of a target and over seeds. An "average" is the mean
    over the cells of a method, in domain or out of domain: what the pages of the book read.

    The tolerance is ``t * scatter * sqrt(1/n + 1/m)`` with n and m seeds, plus the rounding of the table. The scatter between
    seeds is pooled: for a cell over all cells of its method, for an average over all methods of its task. t is Student's, for a
    chance of `FALSE_ALARM` that any number of one task, metric and level of a sound run lies outside (Bonferroni).

    Args:
        new: Of `tidy`.
        reference: Of `read_reference`.

    Returns:
        One row per number of the reference: `KEYS`, the means ``expected`` and ``found``, the ``tolerance``, and the
        ``verdict``: "agrees", "differs", "missing" (the new study has no such number), or "cannot tell" (they differ, and
        the reference has one seed, so that nothing says by how much they may).
    """
    levels = [_compare_level(_by_level(new, level), _by_level(reference, level), level) for level in _POOLED]
    return pd.concat(levels, ignore_index=True)


def _by_level(frame: pd.DataFrame, level: str) -> pd.DataFrame:
    """Return one row per seed and number of a level; an average has "in domain" or "out of domain" for its source."""
    if level == "cell":
        return frame.assign(level=level)
    where = np.where(frame["source"] == frame["target"], "in domain", "out of domain")
    averaged = frame.assign(level=level, source=where, target="")
    return averaged.groupby([*KEYS, "seed"])["mean"].mean().reset_index()


def _compare_level(new: pd.DataFrame, reference: pd.DataFrame, level: str) -> pd.DataFrame:
    kept, fresh = (
        frame.groupby(KEYS)["mean"].agg(["mean", "var", "count"]).reset_index() for frame in (reference, new)
    )
    both = kept.merge(fresh.drop(columns="var"), "left", KEYS, suffixes=("", "_new"))
    both = both.merge(_scatter(kept, _POOLED[level]), "left", _POOLED[level])
    compared = both.groupby(["task", "metric"])["mean"].transform("size")
    factor = student.ppf(1 - FALSE_ALARM / (2 * compared), both["freedom"].fillna(1))
    rounding = 1.01 * 10.0**-_DIGITS
    seeds = np.sqrt(1 / both["count"] + 1 / both["count_new"])
    both["tolerance"] = factor * both["scatter"] * seeds + rounding
    apart = (both["mean_new"] - both["mean"]).abs()
    both["verdict"] = np.select(
        [both["mean_new"].isna(), apart <= rounding, both["scatter"].isna(), apart <= both["tolerance"]],
        ["missing", "agrees", "cannot tell", "agrees"],
        "differs",
    )
    renamed = both.rename(columns={"mean": "expected", "mean_new": "found"})
    return renamed[[*KEYS, "expected", "found", "tolerance", "verdict"]]


def _scatter(kept: pd.DataFrame, pooled: list[str]) -> pd.DataFrame:
    """Return the standard deviation between seeds and its degrees of freedom; no row where nothing has two seeds."""
    several = kept[kept["count"] > 1]
    weighed = several.assign(freedom=several["count"] - 1, squares=several["var"] * (several["count"] - 1))
    sums = weighed.groupby(pooled)[["freedom", "squares"]].sum().reset_index()
    return sums.assign(scatter=np.sqrt(sums["squares"] / sums["freedom"])).drop(columns="squares")


def verdict(compared: pd.DataFrame) -> tuple[bool, str]:
    """Say metric by metric whether a study agrees with the reference.

    Args:
        compared: Of `compare_with_reference`.

    Returns:
        Whether every number agrees, and lines for people: one per task, metric and level, then the worst
        of those that do not agree.
    """
    groups = compared.groupby(["task", "metric", "level"])
    lines = [_line(" ".join(map(str, names)), rows) for names, rows in groups]
    ratio = (compared["found"] - compared["expected"]).abs() / compared["tolerance"]
    ranked = compared.assign(ratio=ratio).sort_values("ratio", ascending=False)
    wrong = ranked[ranked["verdict"] != "agrees"]
    lines += [_number_line(row) for row in wrong.head(_SHOWN).to_dict("records")]
    if len(wrong) > _SHOWN:
        lines.append(f"  ... and {len(wrong) - _SHOWN} more")
    agrees = not compared.empty and wrong.empty
    lines.append(f"The results {'agree' if agrees else 'do NOT agree'} with the reference.")
    return agrees, "\n".join(lines)


def _line(what: str, rows: pd.DataFrame) -> str:
    told = ", ".join(f"{count} {name}" for name, count in rows["verdict"].value_counts().items())
    apart = (rows["found"] - rows["expected"]).abs()
    return (
        f"{what}: {told}; apart {apart.median():.4f} in the median and {apart.max():.4f} at most, "
        f"with a median tolerance of {rows['tolerance'].median():.4f}"
    )


def _number_line(row: dict[Any, Any]) -> str:
    place = f"{row['source']} -> {row['target']}" if row["target"] else row["source"]
    named = f"{row['task']} {row['label']} {place}, {row['organ']}, {row['protocol']}, {row['metric']}"
    numbers = f"{row['expected']:.4f} expected, {row['found']:.4f} found, tolerance {row['tolerance']:.4f}"
    return f"  {row['verdict']}: {named}: {numbers}"
