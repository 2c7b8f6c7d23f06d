"""Which method travels best, under equal steps and under equal time, and the sentences that say so."""

import math
from collections.abc import Collection, Sequence
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd

from desam_lite.evaluation.statistics import METRICS
from desam_lite.methods import METHODS
from desam_lite.study.report.paper_numbers import out_of_domain_by
from desam_lite.study.report.style import UNITS, is_oracle
from desam_lite.study.report.tables import Table, score_table
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec
    from desam_lite.study.run import Run

MOST_TIMES = 5
"""However cheap a method is, equal time gives it at most this many times the epochs of equal steps."""


def seconds_per_epoch(runs: "Sequence[Run]") -> dict[str, float]:
    """Return how long one pass over the training slices took each trained method, by label.

    On a CPU these are seconds of its cores, which depend little on what else the machine was doing; on a GPU those of the clock.

    Args:
        runs: Finished ones count; what was measured is read from their ``history.csv`` and stays what it is.

    Returns:
        The median over epochs and runs, validation included.
    """
    measured: dict[str, list[float]] = {}
    for run in _trained(runs):
        history = run.history()
        measured.setdefault(run.spec.label, []).extend(history["busy_seconds"])
    return {label: median(seconds) for label, seconds in measured.items()}


def usual_budget(runs: "Sequence[Run]") -> float:
    """Return the minutes that the quickest of the trained methods needs for its steps, so that it need not be trained again."""
    seconds = seconds_per_epoch(runs)
    return min((seconds[run.spec.label] * (run.spec.epochs or 0) for run in _trained(runs)), default=0.0) / 60


def _trained(runs: "Sequence[Run]") -> "list[Run]":
    return [run for run in runs if run.finished and run.spec.epochs is not None]


def equal_time(
    runs: "Sequence[Run]", minutes: float, *, seeds: int | None = None, labels: Collection[str] = ()
) -> "list[RunSpec]":
    """Plan runs that give each method the same minutes of training instead of the same number of steps.

    How many epochs these minutes are is computed from what an epoch took in the runs given, on the machine that did them, and is
    written into the specification. So the planned runs are ordinary ones: named by their epochs, resumable, with a schedule of
    the learning rate that fits their length, and the same numbers on any machine that is asked for the same epochs.

    Args:
        runs: With equal steps. What is not trained (and what is not finished) is left out.
        minutes: Of training, for each run.
        seeds: How many of the seeds are run, the lowest first; None for all.
        labels: Of the methods that are; empty for all.

    Returns:
        One specification per finished run of a trained method and chosen seed, in their order; of at least one epoch, and at
        most `MOST_TIMES` as many as before.

    Raises:
        StudyError: The minutes are not positive.
    """
    if not _trained(runs):
        return []
    if not minutes > 0:
        raise StudyError(
            f"{minutes} minutes of training are no budget: give a positive number, or none for the usual."
        )
    seconds = seconds_per_epoch(runs)
    chosen = sorted({run.spec.seed for run in runs})[:seeds]
    planned = []
    for run in _trained(runs):
        usual = run.spec.epochs or 1
        fitting = math.floor(60 * minutes / max(seconds[run.spec.label], 1e-6) + 1e-6)
        if run.spec.seed in chosen and (not labels or run.spec.label in labels):
            planned.append(run.spec.model_copy(update={"epochs": min(max(1, fitting), MOST_TIMES * usual)}))
    return planned


def steps_vs_time(
    steps: pd.DataFrame, time: pd.DataFrame, *, runs: "Sequence[Run]", metric: str = "dice"
) -> Table:
    """Return the averages out of domain under equal steps and under equal time side by side.

    Args:
        steps: Of `results.summarise` by label and in_domain, of the runs with equal steps.
        time: The same, of those with equal time.
        runs: Those with equal time, which tell the epochs it gave.
        metric: What it is a summary of.

    Returns:
        One row per method that was trained with equal time, the best under equal time first.
    """
    title, factor = UNITS[metric]
    epochs = {run.spec.label: str(run.spec.epochs) for run in runs}
    away = {name: _away(frame) for name, frame in (("equal steps", steps), ("equal time", time))}
    order = away["equal time"].sort_values("mean", ascending=not METRICS[metric])
    rows = []
    for label in order.index:
        row = {"method": label, "epochs in equal time": epochs.get(label, "")}
        for name, frame in away.items():
            row[f"{title}, {name}"] = _mean_and_interval(frame, label, factor) if label in frame.index else ""
        rows.append(row)
    return Table(pd.DataFrame(rows))


def rank_labels(summary: pd.DataFrame, *, metric: str = "dice") -> list[str]:
    """Return all labels, the best mean out of domain first; oracles, which are no competitors, come last."""
    away = _away(summary).sort_values("mean", ascending=not METRICS[metric])
    return sorted(away.index, key=is_oracle)


def sort_by_label(summary: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a summary in the order of labels."""
    places = summary["label"].map({label: place for place, label in enumerate(labels)})
    return summary.assign(place=places).sort_values("place", kind="stable").drop(columns="place")


def best_label(summary: pd.DataFrame, *, metric: str = "dice") -> str:
    """Return the label with the best mean out of domain that is no oracle; "" if nothing was scored there."""
    return next((label for label in rank_labels(summary, metric=metric) if not is_oracle(label)), "")


def margins_over_control(scores: pd.DataFrame, *, control: str = "Prior") -> pd.DataFrame:
    """Set every method beside a control, target by target.

    Args:
        scores: Of `results.scores`; what is in domain does not count.
        control: Label of the control.

    Returns:
        A row per method and target out of domain, the farthest behind the control first: ``label``, ``target``, ``mean`` and
        ``control`` (the mean over sources, seeds and cases of each) and ``ahead``, their difference, positive where the method is
        better, whether more or less is better. Empty if the control has no score.
    """
    away = scores[~scores["in_domain"].astype(bool)]
    means = (
        away.groupby(["label", "target"], sort=False)["value"].mean().dropna().rename("mean").reset_index()
    )
    known = means[means["label"] == control].set_index("target")["mean"]
    rows = means[(means["label"] != control) & means["target"].isin(known.index)]
    rows = rows.assign(control=rows["target"].map(known))
    sign = 1 if scores.empty or METRICS[str(scores["metric"].iloc[0])] else -1
    return rows.assign(ahead=sign * (rows["mean"] - rows["control"])).sort_values("ahead", ignore_index=True)


def target_table(task: "Task", scores: pd.DataFrame, labels: Sequence[str], *, metric: str = "dice") -> Table:
    """Return the mean out of domain of every method at each target, under headings that tell the target's coil or modality.

    Args:
        task: Whose manifest tells them.
        scores: Of `results.scores`.
        labels: The methods, in the order of the rows.
        metric: What the scores are.
    """
    facts = {
        name: ", ".join(filter(None, [name, domain.coil or domain.modality]))
        for name, domain in task.manifest.domains.items()
    }
    rows = sort_by_label(out_of_domain_by(scores, "target", metric=metric), labels).rename(columns=facts)
    return score_table(rows, caption=f"{UNITS[metric][0]} out of domain, by the target")


def say_behind(beside: pd.DataFrame, *, control: str = "Prior") -> str:
    """Name the methods that are behind a control, and at which targets.

    Args:
        beside: Of `margins_over_control`.
        control: What it was set beside.
    """
    if beside.empty:
        return f"No method stands beside {control} out of domain yet."
    behind = beside[beside["ahead"] < 0]
    if behind.empty:
        return f"No method is behind {control} at any target."
    parts = []
    for label, rows in behind.groupby("label", sort=False):
        everywhere = len(rows) == (beside["label"] == label).sum() > 1
        parts.append(f"{label} at {'every target' if everywhere else _listed(sorted(rows['target']))}")
    return f"Behind {control}, by the mean of a target: {'; '.join(parts)}."


def say_best(summary: pd.DataFrame, differences: pd.DataFrame, *, metric: str = "dice") -> str:
    """Answer in one sentence which method travels best, and which others may travel as well.

    Args:
        summary: Of `results.summarise` by label and in_domain.
        differences: Of `results.compare`, out of domain, the best minus each other.
        metric: What they are of.

    Returns:
        A sentence in Markdown. Two methods are told apart if the interval of their difference excludes zero.
    """
    title, factor = UNITS[metric]
    best = best_label(summary, metric=metric)
    if not best:
        return "There is no answer yet: no method has been scored out of domain."
    rows = differences[(differences["first"] == best) & ~differences["in_domain"].astype(bool)].dropna(
        subset="mean"
    )
    rows = rows[[not is_oracle(label) for label in rows["second"]]]
    apart = (rows["low"] > 0) | (rows["high"] < 0)
    close = list(rows[~apart]["second"])
    reached = _mean_and_interval(_away(summary), best, factor)
    others = (
        f"; of {len(rows)} others, {_listed(close)} cannot be told apart from it"
        if close
        else ", and each of the others is behind it beyond chance"
    )
    return f"**{best}**, here: its mean {title} out of domain is {reached}{others}."


def say_budget(minutes: float, runs: "Sequence[Run]") -> str:
    """Say what equal time was, and how many epochs it gave the methods."""
    epochs = {run.spec.label: run.spec.epochs for run in runs}
    if not epochs:
        return "No trained method has finished with equal steps, so there is nothing to plan equal time from."
    few, many = min(epochs, key=lambda k: epochs[k] or 0), max(epochs, key=lambda k: epochs[k] or 0)
    return (
        f"Each training got {minutes:.2f} minutes of a core, which gave between {epochs[few]} ({few}) and {epochs[many]} "
        f"({many}) epochs; at least one, and at most {MOST_TIMES} times those of equal steps."
    )


def say_gains(differences: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say in one sentence what a method gains over others out of domain.

    Args:
        differences: Of `results.compare`, the method first.
        metric: What they are differences of.
    """
    title, factor = UNITS[metric]
    away = differences[~differences["in_domain"].astype(bool)].dropna(subset="mean")
    start = "**Write a class, register it, and it stands in every table.**"
    if away.empty:
        return f"{start} What it gains is not known yet: no case has been scored by it and by another."
    sign = 1 if METRICS[metric] else -1
    parts = []
    for row in away.to_dict("records"):
        edges = sorted((sign * row["low"], sign * row["high"]))
        verdict = (
            "better than" if edges[0] > 0 else "worse than" if edges[1] < 0 else "not to be told apart from"
        )
        interval = f"{row['low'] * factor:+.1f} to {row['high'] * factor:+.1f}"
        parts.append(f"{verdict} {row['second']} ({row['mean'] * factor:+.1f}, {interval})")
    first = away["first"].iloc[0]
    return f"{start} The one of this page, {first}, is out of domain {_listed(parts)} in {title}."


def _away(summary: pd.DataFrame) -> pd.DataFrame:
    if summary.empty:
        return pd.DataFrame(columns=["mean", "low", "high"])
    rows = summary[~summary["in_domain"].astype(bool)]
    return rows.set_index("label").dropna(subset="mean")


def _mean_and_interval(away: pd.DataFrame, label: str, factor: float) -> str:
    mean, low, high = (float(value) * factor for value in away.loc[[label], ["mean", "low", "high"]].iloc[0])
    return f"{mean:.1f}" if math.isnan(low) else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def cost_table(runs: "Sequence[Run]", summary: pd.DataFrame, *, metric: str = "dice") -> Table:
    """Return trained parameters, epochs, minutes and peak memory per run of each method beside its scores.

    Args:
        runs: Those that are not finished are left out.
        summary: Of `results.summarise` by label and in_domain.
        metric: What it is a summary of.

    Returns:
        One row per method, in the order of the runs: minutes are means over its runs, memory is the largest of the process.
    """
    title, factor = UNITS[metric]
    scores = {(str(row["label"]), bool(row["in_domain"])): row["mean"] for row in summary.to_dict("records")}
    finished = [run for run in runs if run.finished]
    rows = []
    for label in dict.fromkeys(run.spec.label for run in finished):
        own = [run for run in finished if run.spec.label == label]
        infos = [run.info for run in own]
        minutes = [info["minutes"] for info in infos]
        row = {"method": label, "trained parameters": f"{max(_parameters(info) for info in infos):,}"}
        row["epochs"] = str(own[0].spec.epochs or "none")
        for part in ("training", "scoring"):
            row[f"{part} (min)"] = f"{sum(m[part] for m in minutes) / len(minutes):.1f}"
        row["memory (GiB)"] = f"{max(info['peak_memory']['process_mib'] for info in infos) / 1024:.1f}"
        for name, inside in (("in", True), ("out of", False)):
            value = scores.get((label, inside))
            row[f"{title} {name} domain"] = "" if value is None or pd.isna(value) else f"{value * factor:.1f}"
        rows.append(row)
    return Table(pd.DataFrame(rows))


def _parameters(info: dict[str, int]) -> int:
    return info.get("trained_parameters", 0)


def departure_table(specs: "Sequence[RunSpec]") -> Table:
    """Return what the methods of these runs say of themselves: paper, source of the defaults, differences from the original."""
    labels: dict[str, list[str]] = {}
    for spec in specs:
        known = labels.setdefault(spec.method, [])
        known += [spec.label] if spec.label not in known else []
    rows = []
    for name, shown in labels.items():
        kind = METHODS[name].load()
        differs = ". ".join(sentence[:1].upper() + sentence[1:] for sentence in kind.differs)
        rows.append(
            {
                "method": ", ".join(shown),
                "paper": kind.paper or "this study",
                "defaults from": kind.defaults_from,
                "what differs": f"{differs}." if differs else "",
            }
        )
    return Table(pd.DataFrame(rows))
