"""Sentences of a page, computed from its results: the answer, the caveats, what captions state; and what they are built of."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from desam_lite.methods.registry import DECODER
from desam_lite.methods.run_spec import RANDOM_ENCODER, RunSpec
from desam_lite.model.names import RANDOM_WEIGHTS, SHIPPED_WEIGHTS
from desam_lite.study.report.style import UNITS, is_oracle

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.study.run import Run

_CHOSEN = {"backbone", "weights", "prompt_mode", "embedding_format", "precision"}
"""Settings that a method's name or a page's caveat states, or that only round numbers."""


def count(number: float, noun: str) -> str:
    """Return a number with its noun, as in "1 seed" and "3 seeds"."""
    return f"{number:.0f} {noun}" if f"{number:.0f}" == "1" else f"{number:.0f} {noun}s"


def list_words(words: Sequence[str]) -> str:
    """Return words as a list in a sentence, as in "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def join_distinct(values: Iterable[object]) -> str:
    """Return all different values that are not empty, as one text; "none" without any."""
    return "; ".join(dict.fromkeys(str(value) for value in values if value)) or "none"


def say_range(values: Any) -> str:
    """Return the least and the largest of some numbers that are finite, as in "3 to 5" or "3"; "nothing" without any."""
    scored = np.asarray(values, float)[np.isfinite(np.asarray(values, float))]
    ends = (scored.min(), scored.max()) if len(scored) else ()
    return " to ".join(dict.fromkeys(f"{end:.0f}" for end in ends)) or "nothing"


def format_interval(row: Mapping[Any, Any], factor: float = 100.0, spec: str = ".1f") -> str:
    """Return ``mean`` with ``low`` and ``high``, where these are numbers, as in "65.8 (64.0 to 67.0)"."""
    ends = () if pd.isna(row["low"]) else ("low", "high")
    mean, *interval = (f"{float(row[name]) * factor:{spec}}" for name in ("mean", *ends))
    return f"{mean} ({' to '.join(interval)})" if interval else mean


def out_of_domain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a summary, or of differences, that are out of domain and hold a number."""
    return frame[~frame["in_domain"].astype(bool)].dropna(subset="mean") if len(frame) else frame


VERDICTS: dict[str, str] = {
    "better": "better than {}",
    "worse": "worse than {}",
    "equivalent": "equivalent to {}",
    "better by less than the margin": "better than {} by less than the margin",
    "worse by less than the margin": "worse than {} by less than the margin",
    "cannot tell": "not distinguishable from {}",
}
"""The verdicts of `statistics.decide` in a sentence, with a place for the second method."""


def say_pairs(rows: Iterable[Mapping[Any, Any]], factor: float = 100.0) -> str:
    """Say each difference of `statistics.compare` with its verdict, as in "A is better than B: +5.0 (+1.0 to +9.0)"."""
    return "; ".join(
        f"{row['first']} is {VERDICTS[row['verdict']].format(row['second'])}: {format_interval(row, factor, '+.1f')}"
        for row in rows
    )


def say_transfer(
    summary: pd.DataFrame, losses: pd.DataFrame, *, metric: str = "dice", control: str = "Prior"
) -> str:
    """Answer whether what was trained at one hospital works at the next, of a summary by label (and source) and in_domain."""
    title, factor = UNITS[metric]
    home: dict[str, float] = {}
    away: dict[str, dict[str, float]] = {}
    for row in summary.dropna(subset="mean").to_dict("records"):
        name = f"{row['label']} from {row['source']}" if "source" in row else str(row["label"])
        if row["in_domain"]:
            home[name] = row["mean"] * factor
        else:
            away.setdefault(str(row["label"]), {})[name] = row["mean"] * factor
    learners = [label for label in away if label != control and not is_oracle(label)]
    both = {name: mean for label in learners for name, mean in away[label].items() if name in home}
    if not both:
        return "There is no answer yet: no trained method has been scored both in and out of domain."
    verdict = say_losses(losses[losses["label"].isin(learners)]["verdict"])
    moves = "; ".join(f"{name} {home[name]:.0f} and {mean:.0f}" for name, mean in both.items())
    sentence = f"**{verdict}**. Mean {title} in domain and out of domain: {moves}."
    if control in away:
        means = list_words(
            [f"{mean:.0f}{name.removeprefix(control)}" for name, mean in away[control].items()]
        )
        sentence += f" {control}, an average mask that ignores the scan, scores {means} out of domain."
    return sentence


def sum_up(
    verdicts: Iterable[str],
    *,
    better: str,
    worse: str,
    equivalent: str,
    unsure: str,
    all_better: str = "",
    all_worse: str = "",
    both: str = "",
) -> str:
    """Return the words for several verdicts of the rule: ``better``, then ``worse``, then ``unsure`` where any verdict is so."""
    kinds = {verdict.partition(" ")[0] for verdict in verdicts}
    cases = (
        (kinds == {"better"}, all_better),
        (kinds == {"worse"}, all_worse),
        (kinds >= {"better", "worse"}, both),
        ("better" in kinds, better),
        ("worse" in kinds, worse),
        ("cannot" in kinds or not kinds, unsure),
        (True, equivalent),
    )
    return next(words for holds, words in cases if holds and words)


def say_losses(verdicts: Iterable[str]) -> str:
    """Sum up the verdicts on scores out of domain against those in domain."""
    some, none = "Some methods score lower there", "No loss was shown"
    words = {"both": some, "better": none, "worse": some, "all_worse": "Not as well"}
    return sum_up(verdicts, equivalent=none, unsure="Cannot tell", **words)


def say_ablation(differences: pd.DataFrame, *, metric: str = "dice") -> str:
    """Answer whether a whole is better out of domain than with parts removed, of `statistics.compare`, the whole first."""
    title, factor = UNITS[metric]
    rows = out_of_domain(differences).to_dict("records")
    if not rows:
        return "There is no answer yet: no two decoders have been scored on the same cases out of domain."
    verdict = sum_up(
        [row["verdict"] for row in rows],
        all_better="The full decoder is better than every reduced one",
        both="Some parts help and some hurt",
        better="Some parts help",
        worse="The full decoder is worse than a reduced one",
        equivalent="No part makes a difference",
        unsure="Cannot tell which part helps",
    )
    return f"**{verdict}**. Out of domain, in {title}: {say_pairs(rows, factor)}."


def say_unfinished(runs: "Sequence[Run]") -> str:
    """Return one sentence about the runs: all finished, or which failed and why."""
    failed = [run for run in runs if not run.finished]
    if not failed:
        return "The run is finished." if len(runs) == 1 else f"All {len(runs)} runs are finished."
    reasons = "; ".join(
        f"{run.spec.label} from {run.spec.source}, seed {run.spec.seed}: {run.error}" for run in failed
    )
    return f"{len(failed)} of {count(len(runs), 'run')} failed and are missing below: {reasons}"


def say_minutes(runs: "Sequence[Run]") -> str:
    """Return how long the runs of a page took, and on what."""
    records = [run.info for run in runs if run.finished]
    if not records:
        return "No run is finished."
    minutes = count(sum(sum(record["minutes"].values()) for record in records), "minute")
    memory = max(record["peak_memory"]["process_mib"] for record in records) / 1024
    devices = join_distinct(record["device"] for record in records)
    return f"The {count(len(records), 'run')} took {minutes} of computing ({devices}; at most {memory:.1f} GiB of memory each)."


def say_seconds(began: float) -> str:
    """Return how long a page without training took, from ``time.perf_counter()`` at its start."""
    return f"Nothing is trained on this page; it took {count(time.perf_counter() - began, 'second')} to run."


def say_facts(task: "Task", specs: "Sequence[RunSpec]", profile: str, protocol: str) -> str:
    """Return what every caption states: task, profile, sources, cases, seeds, protocol."""
    sources = list(dict.fromkeys(spec.source for spec in specs))
    cases = task.index.groupby("domain").size()
    most = count(cases.max(), "case")
    return (
        f"{task.manifest.title}; profile `{profile}`, {count(len(sources), 'source')} ({', '.join(sources)}), "
        f"{most if cases.min() == cases.max() else f'{cases.min()} to {most}'} per hospital, "
        f"{count(len({spec.seed for spec in specs}), 'seed')}, protocol `{protocol}`."
    )


def say_caveats(
    task: "Task", specs: "Sequence[RunSpec]" = (), *, backbone: str = "", weights: str = ""
) -> str:
    """Return why the numbers of a page (of runs, or of one encoder without runs) may not be compared with the paper's."""
    reasons = ["The scans are synthetic."] if task.manifest.synthetic else []
    encoders = {(spec.backbone, spec.weights) for spec in specs} | {(backbone, weights)}
    for name, origin in sorted((pair for pair in encoders if pair[0]), key=str):
        stand_in = f"The encoder `{name}` is a small stand-in for SAM"
        reasons += {
            RANDOM_WEIGHTS: [f"*{RANDOM_ENCODER}* marks an untrained `{name}`."],
            SHIPPED_WEIGHTS: [f"{stand_in}, trained by this study on synthetic images."],
        }.get(origin or "", [f"{stand_in}."] if name == "sam_tiny" else [])
    if reasons:
        return f"**Not comparable with the paper.** {' '.join(reasons)}"
    return "These numbers may be compared with the paper's only where data, settings, protocol and averaging are the same."


def list_departures(specs: "Sequence[RunSpec]") -> list[tuple[str, str, str]]:
    """Return where runs of DeSAM depart from the public code (the defaults of `RunSpec`): name, value here, value there."""
    desam = [spec for spec in specs if spec.method == "desam"]
    changes = []
    for name in ("split", *(name for name in DECODER if name not in _CHOSEN)):
        default = RunSpec.model_fields[name].default
        values = dict.fromkeys(
            str(getattr(spec, name)) for spec in desam if getattr(spec, name) not in (None, default)
        )
        if values:
            changes.append((name, " or ".join(values), str(default)))
    return changes
