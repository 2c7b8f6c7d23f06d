"""Does a new run of the study agree with the kept one? Tidy tables of finished runs, and their comparison.

Two runs of the same study differ by the machine's arithmetic, which training amplifies until it acts like another seed. What is
compared is therefore the mean over the cells (source, target, seed) of a method, in domain and out of domain: what pages read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from desam_lite.evaluation.statistics import METRICS
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_json, write_text

if TYPE_CHECKING:
    from desam_lite.study.run import Run

TABLE_COLUMNS = ["task", "label", "source", "target", "seed", "organ", "protocol", "metric", "mean", "cases"]
"""The columns of a reference table, in order."""

KEYS = ["task", "label", "where", "organ", "protocol", "metric"]
"""What names a number that is compared; "where" is in domain or out of domain."""

TOLERANCE = {"dice": 0.1, "assd": 5.0, "hd95": 10.0, "hd": 12.0}
"""How far a number may be from the kept one; distances in mm.

About three times the standard deviation between two sound runs: the mean standard deviation between the seeds of such a number
in the kept results of the profile teach (0.023 of Dice, 1.0, 2.0 and 2.6 mm) times the square root of two.
"""

_DECIMALS = 4
_SHOWN = 10


def tidy(metrics: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of runs over cases, one row per number that is kept.

    Args:
        metrics: Of `study.run.collect_metrics`: rows of finished runs.

    Returns:
        `TABLE_COLUMNS`: the mean over the cases of one target of one run, rounded, and how many cases there were.

    Raises:
        StudyError: Two different runs would have the same name.
    """
    if metrics.empty:
        return pd.DataFrame(columns=TABLE_COLUMNS)
    names = TABLE_COLUMNS[: TABLE_COLUMNS.index("metric")]
    repeated = metrics.groupby(names)["run"].nunique()
    if (repeated > 1).any():
        raise StudyError(f"two different runs are called {repeated.idxmax()}: keep one of them.")
    measured = [name for name in METRICS if name in metrics]
    long = metrics.melt([*names, "case"], measured, "metric", "value").dropna(subset="value")
    means = long.groupby([*names, "metric"])["value"].agg(["mean", "count"]).reset_index()
    means = means.rename(columns={"count": "cases"}).round({"mean": _DECIMALS})
    return means[TABLE_COLUMNS].sort_values(TABLE_COLUMNS[:8], ignore_index=True)


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
    write_text(path, tidy(collect_metrics(runs)).to_csv(index=False))
    infos = [run.info for run in runs]
    minutes = sum(sum(info["minutes"].values()) for info in infos)
    origin: dict[str, Any] = {"profile": profile, "runs": len(runs), "minutes": round(minutes, 1)}
    for name in ("code", "device", "libraries"):
        values = [info[name] for info in infos]
        origin[name] = [value for number, value in enumerate(values) if value not in values[:number]]
    write_json(path.with_suffix(".json"), origin)
    return path


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
    texts: dict[str, Any] = dict.fromkeys([name for name in TABLE_COLUMNS[:8] if name != "seed"], str)
    frame = pd.read_csv(path, dtype=texts)
    if list(frame.columns) != TABLE_COLUMNS:
        raise StudyError(f"{path} is no table of results: its columns must be {', '.join(TABLE_COLUMNS)}.")
    return frame


def compare_with_reference(new: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Hold each mean of the reference against the same mean of a new study.

    Args:
        new: Of `tidy`.
        reference: Of `read_reference`.

    Returns:
        One row per number of the reference: `KEYS`, the means ``expected`` and ``computed``, and the ``verdict``: "agrees",
        "differs" (by more than `TOLERANCE`), or "missing" (a cell of it is not in the new study).
    """
    cell = TABLE_COLUMNS[: TABLE_COLUMNS.index("mean")]
    both = reference.merge(new, "left", cell, suffixes=("_expected", "_computed"))
    where = np.where(both["source"] == both["target"], "in domain", "out of domain")
    means = both.assign(where=where).groupby(KEYS)[["mean_expected", "mean_computed"]]
    compared = means.agg(_mean_of_all).reset_index()
    compared = compared.rename(columns={"mean_expected": "expected", "mean_computed": "computed"})
    apart = (compared["computed"] - compared["expected"]).abs()
    verdicts = np.where(apart > compared["metric"].map(TOLERANCE), "differs", "agrees")
    return compared.assign(apart=apart, verdict=np.where(apart.isna(), "missing", verdicts))


def _mean_of_all(values: pd.Series) -> float:
    """Return the mean, or NaN where one is missing."""
    return float(values.mean(skipna=False))


def say_verdict(compared: pd.DataFrame) -> tuple[bool, str]:
    """Return whether a study agrees with the reference, and lines for people that say so metric by metric.

    Args:
        compared: Of `compare_with_reference`.
    """
    lines = []
    for (task, metric), rows in compared.groupby(["task", "metric"]):
        counts = ", ".join(f"{count} {name}" for name, count in rows["verdict"].value_counts().items())
        apart = f"apart {rows['apart'].median():.4f} in the median and {rows['apart'].max():.4f} at most"
        lines.append(f"{task} {metric}: {counts}; {apart}, with a tolerance of {TOLERANCE[str(metric)]}")
    wrong = compared[compared["verdict"] != "agrees"]
    wrong = wrong.assign(ratio=wrong["apart"] / wrong["metric"].map(TOLERANCE)).sort_values(
        "ratio", ascending=False
    )
    for row in wrong.head(_SHOWN).to_dict("records"):
        name = (
            f"{row['task']} {row['label']} {row['where']}, {row['organ']}, {row['protocol']}, {row['metric']}"
        )
        numbers = f"{row['expected']:.4f} expected, {row['computed']:.4f} computed"
        lines.append(f"  {row['verdict']}: {name}: {numbers}")
    if len(wrong) > _SHOWN:
        lines.append(f"  ... and {len(wrong) - _SHOWN} more")
    agrees = not compared.empty and wrong.empty
    lines.append(f"The results {'agree' if agrees else 'do NOT agree'} with the reference.")
    return agrees, "\n".join(lines)
