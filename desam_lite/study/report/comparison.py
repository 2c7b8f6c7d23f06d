"""Which method is best out of domain, at equal steps and at equal time, what each cost, and the sentences that tell it."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from desam_lite.evaluation.statistics import METRICS
from desam_lite.methods import METHODS
from desam_lite.study.report.paper_numbers import out_of_domain_by
from desam_lite.study.report.sentences import (
    count,
    format_interval,
    list_words,
    out_of_domain,
    say_pairs,
    say_range,
)
from desam_lite.study.report.style import UNITS, is_oracle
from desam_lite.study.report.tables import Table, score_table
from desam_lite.study.run import collect_history
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec
    from desam_lite.study.run import Run

MOST_TIMES = 5
"""However cheap a method is, equal time gives it at most this many times the epochs of equal steps."""


def _trained(runs: "Sequence[Run]") -> "list[Run]":
    return [run for run in runs if run.finished and run.spec.epochs is not None]


def seconds_per_epoch(runs: "Sequence[Run]") -> dict[str, float]:
    """Return the median seconds of an epoch by label, validation included: of the cores on a CPU, of the clock on a GPU."""
    history = collect_history(_trained(runs))
    groups = history.groupby("label")["busy_seconds"] if len(history) else ()
    return {str(label): float(seconds.median()) for label, seconds in groups}


def usual_budget(runs: "Sequence[Run]") -> float:
    """Return the minutes that half of the trained methods took: quicker ones get more epochs of them, slower ones fewer."""
    seconds: dict[str, list[float]] = {}
    for run in _trained(runs):
        seconds.setdefault(run.spec.label, []).append(run.history()["busy_seconds"].sum())
    return float(np.median([np.median(times) for times in seconds.values()])) / 60 if seconds else 0.0


def equal_time(
    runs: "Sequence[Run]", minutes: float, *, seeds: int | None = None, labels: Collection[str] = ()
) -> "list[RunSpec]":
    """Plan runs that give each trained method (of these labels, if any) the same minutes of training, with the lowest seeds.

    How many epochs these minutes are follows from what an epoch took in the runs given, which had equal steps, and stands in the
    specification: the planned runs are ordinary ones, with the published schedule over just this length.
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
    for spec in (run.spec for run in _trained(runs)):
        fitting = math.floor(60 * minutes / max(seconds[spec.label], 1e-6) + 1e-6)
        epochs = min(max(1, fitting), MOST_TIMES * (spec.epochs or 1))
        if spec.seed in chosen and (not labels or spec.label in labels):
            planned.append(spec.model_copy(update={"epochs": epochs, "patience": None}))
    return planned


def steps_vs_time(
    steps: pd.DataFrame, time: pd.DataFrame, *, runs: "Sequence[Run]", metric: str = "dice"
) -> Table:
    """Return averages by label and in_domain under equal steps and under equal time (of these runs), best time first."""
    title, factor = UNITS[metric]
    method = pd.Series(rank_labels(time, metric=metric), dtype=str)
    columns = {
        "method": method,
        "epochs in equal time": method.map({r.spec.label: str(r.spec.epochs) for r in runs}),
    }
    for name, summary in (("equal steps", steps), ("equal time", time)):
        rows = out_of_domain(summary).to_dict("records")
        columns[f"{title}, {name}"] = method.map({row["label"]: format_interval(row, factor) for row in rows})
    return Table(pd.DataFrame(columns).fillna(""))


def rank_labels(summary: pd.DataFrame, *, metric: str = "dice") -> list[str]:
    """Return all labels, the best mean out of domain first; oracles, which are no competitors, come last."""
    away = out_of_domain(summary)
    if away.empty:
        return []
    return sorted(away.sort_values("mean", ascending=not METRICS[metric])["label"], key=is_oracle)


def best_label(summary: pd.DataFrame, *, metric: str = "dice") -> str:
    """Return the label with the best mean out of domain that is no oracle; "" if nothing was scored there."""
    return next((label for label in rank_labels(summary, metric=metric) if not is_oracle(label)), "")


def margins_over_control(scores: pd.DataFrame, *, control: str = "Prior") -> pd.DataFrame:
    """Compare every method with a control, target by target out of domain, the farthest behind first.

    ``mean`` and ``control`` are means over sources, seeds and cases, ``ahead`` is their difference, positive where the method is
    better, whether more or less is better. Empty if the control has no score.
    """
    away = scores[~scores["in_domain"].astype(bool)]
    means = away.groupby(["label", "target"], sort=False)["value"].mean().reset_index(name="mean")
    of_control = means[means["label"] == control].set_index("target")["mean"]
    rows = means.assign(control=means["target"].map(of_control)).dropna()
    rows = rows[rows["label"] != control]
    sign = 1 if scores.empty or METRICS[str(scores["metric"].iloc[0])] else -1
    return rows.assign(ahead=sign * (rows["mean"] - rows["control"])).sort_values("ahead", ignore_index=True)


def target_table(task: "Task", scores: pd.DataFrame, labels: Sequence[str], *, metric: str = "dice") -> Table:
    """Return the mean out of domain of every method at each target, under headings that name its coil or modality."""
    headings = {
        name: ", ".join(filter(None, [name, domain.coil or domain.modality]))
        for name, domain in task.manifest.domains.items()
    }
    means = out_of_domain_by(scores, "target", metric=metric).rename(columns=headings)
    rows = means.set_index("label").loc[list(labels)].reset_index()
    return score_table(rows, caption=f"{UNITS[metric].title} out of domain, by the target")


def group_by_coil(task: "Task") -> dict[str, str]:
    """Return for each domain whether its coil is endorectal, in words, those without one first; {} where no coil is."""
    inside = {name: domain.coil.startswith("endorectal") for name, domain in task.manifest.domains.items()}
    groups = {name: f"with{'' if own else 'out'} endorectal coil" for name, own in inside.items()}
    return dict(sorted(groups.items(), key=lambda item: inside[item[0]])) if any(inside.values()) else {}


def say_coils(matrix: pd.DataFrame, coils: Mapping[str, str], label: str, *, metric: str = "dice") -> str:
    """Say what a method trained at sites of one kind of coil scores at other sites of that kind, and at the rest."""
    title, factor = UNITS[metric]
    cells = matrix.T.melt(ignore_index=False, var_name="source").rename_axis("target").reset_index().dropna()
    cells = cells[cells["source"] != cells["target"]].assign(value=cells["value"] * factor)
    parts = []
    for kind, rows in cells.groupby(cells["source"].map(dict(coils)), sort=False):
        alike = rows["target"].map(dict(coils)) == kind
        if alike.any() and not alike.all():
            same, rest = (say_range(rows["value"][side]) for side in (alike, ~alike))
            sources = ", ".join(rows["source"].unique())
            told = f"trained {kind} ({sources}) it scores {same} at other sites {kind} and {rest} at the rest"
            parts.append(told)
    return f"{label}, {title}: {'; '.join(parts)}." if parts else ""


def cost_table(runs: "Sequence[Run]", summary: pd.DataFrame, *, metric: str = "dice") -> Table:
    """Return what each method's finished runs cost and how far they were trained, with its scores of a summary.

    "trained" tells how many trainings ended on the plateau of the source's validation, and the ceiling is the Dice that the
    resolution of the method's maps allows.
    """
    title, factor = UNITS[metric]
    scores = summary.set_index(["label", "in_domain"])["mean"] if len(summary) else pd.Series(dtype=float)
    rows = []
    for label in dict.fromkeys(run.spec.label for run in runs if run.finished):
        own = [run for run in runs if run.finished and run.spec.label == label]
        records = pd.json_normalize([{"trained_parameters": 0, **run.info} for run in own])
        memory = records["peak_memory.process_mib"].max() / 1024
        row = {
            "method": label,
            "trained parameters": f"{records['trained_parameters'].max():,}",
            "epochs": say_range(records["epochs"]) if "epochs" in records else "none",
            "trained": _say_stopped(records["stopped"]) if "stopped" in records else "",
            "ceiling": f"{records['ceiling'].mean() * 100:.1f}" if "ceiling" in records else "",
            "training (min)": f"{records['minutes.training'].mean():.1f}",
            "scoring (min)": f"{records['minutes.scoring'].mean():.1f}",
            "memory (GiB)": f"{memory:.1f}",
        }
        if own[0].spec.tool:  # nobody can say what its training took
            row |= dict.fromkeys(("trained parameters", "epochs", "training (min)", "memory (GiB)"), "")
        for name, inside in (("in", True), ("out of", False)):
            mean = scores.get((label, inside))
            row[f"{title} {name} domain"] = "" if mean is None or pd.isna(mean) else f"{mean * factor:.1f}"
        rows.append(row)
    return Table(pd.DataFrame(rows), "What each method costs, and how far it was trained", folded=True)


def _say_stopped(stopped: "pd.Series[str]") -> str:
    """Tell how many trainings ended by themselves; a published schedule cannot."""
    by_itself = f"{(stopped == 'plateau').sum()} of {len(stopped)} to the plateau"
    return "fixed length" if (stopped == "schedule").all() else by_itself


def departure_table(specs: "Sequence[RunSpec]") -> Table:
    """Return what the methods of these runs state of themselves: paper, source of the defaults, departures from the original."""
    rows = []
    for name in dict.fromkeys(spec.method for spec in specs):
        kind = METHODS[name].load()
        departures = ". ".join(sentence[:1].upper() + sentence[1:] for sentence in kind.differs)
        row = {"method": ", ".join(dict.fromkeys(spec.label for spec in specs if spec.method == name))}
        row |= {"paper": kind.paper or "this study", "defaults from": kind.defaults_from}
        rows.append(row | {"what differs": f"{departures}." if departures else ""})
    return Table(pd.DataFrame(rows), "What each method does otherwise than its paper or code", folded=True)


def say_behind(margins: pd.DataFrame, *, control: str = "Prior") -> str:
    """Name the methods that are behind a control, and at which targets, from `margins_over_control`."""
    if margins.empty:
        return f"No method has been compared with {control} out of domain yet."
    parts = []
    for label, rows in margins.groupby("label", sort=False):
        behind = sorted(rows[rows["ahead"] < 0]["target"])
        where = "every target" if len(behind) == len(rows) > 1 else list_words(behind)
        parts += [f"{label} at {where}"] if behind else []
    if not parts:
        return f"No method is behind {control} at any target."
    return f"Behind {control} in the mean at a target: {'; '.join(parts)}."


def say_best(summary: pd.DataFrame, differences: pd.DataFrame, *, metric: str = "dice") -> str:
    """Answer which method is best out of domain, and which may be as good, from `statistics.compare`: the best minus each."""
    title, factor = UNITS[metric]
    best = best_label(summary, metric=metric)
    if not best:
        return "There is no answer yet: no method has been scored out of domain."
    away = out_of_domain(summary)
    reached = format_interval(away[away["label"] == best].iloc[0].to_dict(), factor)
    rows = out_of_domain(differences[differences["first"] == best])
    rows = rows[[not is_oracle(label) for label in rows["second"]]]
    if rows.empty:
        return f"**{best} is the only one**: mean {title} {reached} out of domain; no other method has scores on the same cases."
    told = {
        "cannot tell": "It is not distinguishable from",
        "equivalent": "It is equivalent to",
        "worse": "On the cases that both have scored it is worse than",
    }
    groups = {kind: list(rows["second"][rows["verdict"].str.startswith(kind)]) for kind in told}
    others = " ".join(f"{words} {list_words(groups[kind])}." for kind, words in told.items() if groups[kind])
    ahead = f"It is better than {'each of ' * (len(rows) > 1)}the {count(len(rows), 'other method')}."
    others = others or ahead
    return f"**{best} has the best mean**: {title} {reached} out of domain. {others}"


def list_scores(summary: pd.DataFrame, labels: "Sequence[str]", *, metric: str = "dice") -> str:
    """Return a list with an entry for each label: its mean out of domain with the interval, and its mean in domain."""
    title, factor = UNITS[metric]
    lines = []
    for label in labels:
        own = summary[summary["label"] == label].dropna(subset="mean")
        inside = own["in_domain"].astype(bool)
        if inside.nunique() == 2:
            home, away = (own[side].iloc[0].to_dict() for side in (inside, ~inside))
            between = (
                "" if pd.isna(away["low"]) else f" ({format_interval(away, factor, '.0f').partition('(')[2]}"
            )
            lines.append(
                f"- **{away['mean'] * factor:.0f}** {label}: {title} at other hospitals{between}; "
                f"{home['mean'] * factor:.0f} at the source"
            )
    return "\n".join(lines) or "No method has been scored both in and out of domain yet."


def say_budget(minutes: float, runs: "Sequence[Run]") -> str:
    """Tell what equal time was, and how many epochs it gave the methods of these runs."""
    epochs = {run.spec.label: run.spec.epochs or 0 for run in runs}
    if not epochs:
        return "Equal time cannot be planned: no trained method has finished with equal steps."
    few, many = min(epochs, key=epochs.__getitem__), max(epochs, key=epochs.__getitem__)
    between = f"{count(epochs[few], 'epoch')} for {few} and {epochs[many]} for {many}, the least and the most"
    gave = between if epochs[few] < epochs[many] else f"{count(epochs[few], 'epoch')} for each method"
    return (
        f"Each training has {minutes:.2f} minutes of one core. That is {gave}. A method gets at least 1 epoch and at most "
        f"{MOST_TIMES} times those of equal steps."
    )


def say_gains(differences: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say what a method gains over others out of domain: of `statistics.compare`, the method first."""
    title, factor = UNITS[metric]
    rows = out_of_domain(differences).to_dict("records")
    if not rows:
        return "Its gain is not known yet: no case has been scored by it and by another method."
    return f"Out of domain, in {title}: {say_pairs(rows, factor)}."
