"""Sentences and tables of a page, computed from its results: the answer, the caveats, what captions state, the provenance."""

import datetime
import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from desam_lite.evaluation.statistics import METRICS
from desam_lite.methods.run_spec import RANDOM_ENCODER
from desam_lite.model.names import RANDOM_WEIGHTS, SHIPPED_WEIGHTS
from desam_lite.study.report.style import UNITS, is_oracle

_MEASURED = ("mean", "low", "high", "seed_sd", "case_sd")
_HEADINGS = {
    "label": "method",
    "in_domain": "domain",
    "seed_sd": "SD seeds",
    "case_sd": "SD cases",
    "p_holm": "p (Holm)",
}

# Cells whose text the book may break into lines, sentences and names of several words; numbers stay whole.
_BROKEN = {"long": re.compile(r"<td>([^<]{31,})</td>"), "name": re.compile(r"<td>([A-Za-z][^<]{15,29})</td>")}

_PUBLISHED = (
    *("split", "train_slices", "epochs", "batch_size", "learning_rate", "clip", "iou_loss", "iou_weight"),
    *("points_per_side", "iou_threshold", "stability_threshold", "min_area"),
)

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec
    from desam_lite.study.run import Run


def say_transfer(summary: pd.DataFrame, *, metric: str = "dice", control: str = "Prior") -> str:
    """Answer in one sentence whether what was trained at one hospital works at the next.

    Args:
        summary: Of `results.summarise` by label and in_domain.
        metric: What it is a summary of.
        control: The method that is not trained, named last.

    Returns:
        A sentence in Markdown. A method counts as worse out of domain if its interval there excludes its mean in domain.
    """
    title, factor = UNITS[metric]
    rows = {(str(row["label"]), bool(row["in_domain"])): row for row in summary.to_dict("records")}
    both = [label for label, inside in rows if inside and (label, False) in rows]
    learners = [label for label in both if label != control and not is_oracle(label)]
    if not learners:
        return "There is no answer yet: no trained method has been scored both in and out of domain."
    lost = [_is_worse(rows[label, True]["mean"], rows[label, False], metric) for label in learners]
    verdict = (
        "Not as well" if all(lost) else "Some methods lose" if any(lost) else "No loss beyond chance was seen"
    )
    shown = {key: f"{row['mean'] * factor:.0f}" for key, row in rows.items()}
    moves = [f"from {shown[label, True]} to {shown[label, False]} for {label}" for label in learners]
    sentence = f"**{verdict}**: from the hospital of its training to the others, mean {title} goes {', '.join(moves)}"
    if (control, False) in rows:
        sentence += (
            f". The average mask, drawn without looking at the scan, has {shown[control, False]} there"
        )
    return f"{sentence}."


def say_parts(differences: pd.DataFrame, *, metric: str = "dice") -> str:
    """Answer in one sentence whether a whole is better than what is left when parts are taken away.

    Args:
        differences: Of `results.compare`, the whole first.
        metric: What they are differences of.

    Returns:
        A sentence in Markdown about what was seen out of domain. A difference counts if its interval excludes zero.
    """
    title, factor = UNITS[metric]
    sign = 1 if METRICS[metric] else -1
    away = differences[~differences["in_domain"].astype(bool)].dropna(subset="mean")
    if away.empty:
        return "There is no answer yet: no two decoders have been scored on the same cases out of domain."
    better = sign * away[["low", "high"]].to_numpy(float)
    helped, hurt = (better > 0).all(axis=1), (better < 0).all(axis=1)
    verdict = (
        "Every part that was taken away was missed"
        if helped.all()
        else "Some parts make a difference"
        if helped.any() or hurt.any()
        else "No part was seen to make a difference beyond chance"
    )
    each = [
        f"{row['first']} against {row['second']} {row['mean'] * factor:+.1f} ({_between(row, factor)})"
        for row in away.to_dict("records")
    ]
    return f"**{verdict}**: out of domain, the difference in {title} is {', '.join(each)}."


def _between(row: Mapping[Any, Any], factor: float) -> str:
    return f"{row['low'] * factor:+.1f} to {row['high'] * factor:+.1f}"


def _is_worse(home: float, away: Mapping[Any, Any], metric: str) -> bool:
    return bool(away["high"] < home) if METRICS[metric] else bool(away["low"] > home)


def say_failures(runs: "Sequence[Run]") -> str:
    """Return one sentence about the runs: all finished, or which failed and why."""
    failed = [run for run in runs if not run.finished]
    if not failed:
        return f"All {len(runs)} runs are finished."
    named = "; ".join(
        f"{run.spec.label} from {run.spec.source}, seed {run.spec.seed}: {run.error}" for run in failed
    )
    return f"{len(failed)} of {len(runs)} runs failed and are missing below: {named}"


def say_minutes(runs: "Sequence[Run]") -> str:
    """Return how long the runs of a page took, and on what."""
    infos = [run.info for run in runs if run.finished]
    minutes = sum(sum(info["minutes"].values()) for info in infos)
    memory = max((info["peak_memory"]["process_mib"] for info in infos), default=0) / 1024
    devices = _each(info["device"] for info in infos)
    return f"The {len(infos)} runs took {minutes:.0f} minutes of computing ({devices}; at most {memory:.1f} GiB of memory each)."


def say_facts(task: "Task", specs: "Sequence[RunSpec]", profile: str, protocol: str) -> str:
    """Return what every caption states: task, profile, sources, cases, seeds, protocol."""
    sources, seeds = (
        list(dict.fromkeys(getattr(spec, name) for spec in specs)) for name in ("source", "seed")
    )
    cases = task.index.groupby("domain").size()
    each = f"{cases.min()}" if cases.min() == cases.max() else f"{cases.min()} to {cases.max()}"
    return (
        f"{task.manifest.title}; profile `{profile}`, {len(sources)} {'source' if len(sources) == 1 else 'sources'} "
        f"({', '.join(sources)}), {each} cases per hospital, {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}, "
        f"protocol `{protocol}`."
    )


def say_caveats(task: "Task", specs: "Sequence[RunSpec]") -> str:
    """Return what keeps the numbers of a page from being set beside the paper's."""
    reasons = []
    if task.manifest.synthetic:
        reasons.append("the scans are synthetic")
    encoders = {(spec.backbone, spec.weights) for spec in specs if spec.backbone}
    for backbone, weights in sorted(encoders, key=str):
        if weights == RANDOM_WEIGHTS:
            reasons.append(
                f"what is labelled *{RANDOM_ENCODER}* stands on a `{backbone}` with random weights, which has never learnt to see"
            )
        elif weights == SHIPPED_WEIGHTS:
            reasons.append(
                f"the encoder `{backbone}` is a small stand-in for SAM, trained by this study on synthetic images"
            )
        elif backbone == "sam_tiny":
            reasons.append("the encoder `sam_tiny` is a small stand-in for SAM")
    if reasons:
        return f"**Not comparable with the paper.** On this page {', and '.join(reasons)}."
    return "These numbers may be set beside the paper's only where data, protocol and averaging are the same."


def say_settings(specs: "Sequence[RunSpec]") -> str:
    """Return in which settings DeSAM departs from the public code, whose settings are the defaults of `RunSpec`."""
    from desam_lite.methods.run_spec import RunSpec

    chosen: dict[str, list[Any]] = {}
    for spec in specs:
        for name in _PUBLISHED if spec.method == "desam" else ():
            value = getattr(spec, name)
            if value is not None and value != RunSpec.model_fields[name].default:
                chosen.setdefault(name, []).append(value)
    if not chosen:
        return "DeSAM is trained and run with the settings of the public code."
    told = ", ".join(
        f"`{name}` {' or '.join(dict.fromkeys(map(str, values)))} instead of {RunSpec.model_fields[name].default}"
        for name, values in chosen.items()
    )
    return f"DeSAM departs from the settings of the public code in {told}."


class Table:
    """A frame of finished texts, as the page shows it.

    pandas' own styled tables would do the same with five times the bytes, and a page has a limit.

    Args:
        frame: Texts, one column per heading.
        caption: Over the table.
        kind: Class of the HTML table besides ``dataframe``, which the book's theme draws for light and dark.
        headings: Whether to show the names of the columns.
    """

    def __init__(
        self, frame: pd.DataFrame, caption: str = "", *, kind: str = "results", headings: bool = True
    ):
        self.frame = frame.rename_axis(columns=None)  # a name over the columns would be one more column
        self.caption = caption
        self.kind = kind
        self.headings = headings

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            body = self.frame.to_html(index=False, border=0, classes=[self.kind], header=self.headings)
        for name, pattern in _BROKEN.items():
            body = pattern.sub(rf'<td class="{name}">\1</td>', body)
        said = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        start, _, rest = body.partition(">")
        return f"{start}>{said}{rest}"

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string(index=False, header=self.headings)}".lstrip()


def table(frame: pd.DataFrame, *, metric: str = "dice", caption: str = "") -> Table:
    """Format a frame of `desam_lite.evaluation.statistics` for the page: Dice in percent, distances in mm, no row numbers.

    Args:
        frame: Of `summarise` or `compare`.
        metric: What ``mean``, ``low``, ``high`` and the standard deviations are of.
        caption: Over the table.
    """
    _, factor = UNITS[metric]
    formats: dict[str, Callable[[Any], str]] = dict.fromkeys(_MEASURED, lambda value: f"{value * factor:.1f}")
    formats |= {"in_domain": lambda inside: "in" if inside else "out", "won": lambda share: f"{share:.0%}"}
    formats |= {"p": say_p, "p_holm": say_p}
    shown = pd.DataFrame(
        {
            _HEADINGS.get(name, name): ["" if pd.isna(v) else formats.get(name, str)(v) for v in column]
            for name, column in ((str(key), values) for key, values in frame.items())
        }
    )
    return Table(shown, caption)


def unit(metric: str) -> str:
    """Return what the values of a metric are called where they are shown."""
    return UNITS[metric][0]


def say_p(value: float) -> str:
    """Return a p value as tables show it."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def hospitals(task: "Task") -> Table:
    """Return what the manifest tells of each domain, and how many cases there are, as a table for the page."""
    rows = [
        {
            "domain": name,
            "hospital": domain.title,
            "scanner": domain.vendor,
            "field": " or ".join(f"{tesla:g} T" for tesla in domain.field_strength),
            "coil": domain.coil,
            "cases": int((task.index["domain"] == name).sum()),
        }
        for name, domain in task.manifest.domains.items()
    ]
    return Table(pd.DataFrame(rows))


def provenance(task: "Task", runs: "Sequence[Run]", *, profile: str) -> Table:
    """Return where the numbers of a page come from, as a table of two columns, read from the ``run.json`` of its runs.

    Args:
        task: What the runs are on.
        runs: Finished or not; those that are not count as missing.
        profile: The profile they were planned with.
    """
    infos = [run.info for run in runs if run.finished]
    rows = {
        "task": f"{task.manifest.title} ({task.manifest.licence})",
        "to be cited": task.manifest.citation or "none",
        "profile": profile,
        "runs": f"{len(infos)} of {len(runs)} finished",
        "computing": say_minutes(runs),
        "code": _each(_code(info["code"]) for info in infos),
        "manifest": task.manifest.content_hash(),
        "data": task.data_hash,
        "encoder weights": _each(_weights(info) for info in infos),
        "libraries": _each(", ".join(f"{k} {v}" for k, v in info["libraries"].items()) for info in infos),
        "runs begun on": _each(sorted({info["started"][:10] for info in infos})),
        "page made on": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    return Table(pd.DataFrame(list(rows.items())), kind="provenance", headings=False)


def _each(values: Any) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value)) or "none"


def _code(code: Mapping[str, Any]) -> str:
    commit = (code.get("commit") or "no commit known")[:10]
    return (
        f"desam-lite {code['version']}, {commit}{', with uncommitted changes' if code.get('dirty') else ''}"
    )


def _weights(info: Mapping[str, Any]) -> str:
    digest = info["identity"].get("weights")
    return f"{info['files']['weights']} ({digest})" if digest else ""
