"""Tables of a page as HTML: scores, domains, where its numbers come from; and source code that a page shows."""

import datetime
import html
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from desam_lite.study.report.sentences import join_distinct, list_departures, say_minutes
from desam_lite.study.report.style import UNITS
from desam_lite.utils.provenance import code_version, library_versions

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec
    from desam_lite.study.run import Run

_SCALED = ("mean", "low", "high", "seed_sd", "case_sd")  # columns in the unit of the metric
_HEADINGS = {
    "label": "method",
    "in_domain": "domain",
    "seed_sd": "SD seeds",
    "case_sd": "SD cases",
    "p": "p (these models)",
    "p_holm": "p (these models, Holm)",
}
# Cells whose text the book may break into lines, sentences and names of several words; numbers stay whole.
_BROKEN = {"long": re.compile(r"<td>([^<]{31,})</td>"), "name": re.compile(r"<td>([A-Za-z][^<]{15,29})</td>")}


class Table:
    """A frame of finished texts, as the page shows it; pandas' Styler needs five times the bytes, and a page has a limit.

    The kind is the class of the HTML table besides ``dataframe``, which the book's theme draws for light and dark. A folded
    table opens at its caption: a page shows no more than four at once.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        caption: str = "",
        *,
        kind: str = "results",
        headings: bool = True,
        folded: bool = False,
    ):
        self.frame = frame.rename_axis(columns=None)  # a name over the columns would be one more column
        self.caption = caption
        self.kind = kind
        self.headings = headings
        self.folded = folded

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            body = self.frame.to_html(index=False, border=0, classes=[self.kind], header=self.headings)
        for name, pattern in _BROKEN.items():
            body = pattern.sub(rf'<td class="{name}">\1</td>', body)
        caption = html.escape(self.caption)
        if self.folded:
            return f"<details class='folded'><summary>{caption}</summary>{body}</details>"
        return body.replace(">", f"><caption>{caption}</caption>", 1) if caption else body

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string(index=False, header=self.headings)}".lstrip()


class Code:
    """The source of functions or classes of this package, as a page shows it: what is taught is what runs."""

    def __init__(self, *parts: Any):
        self.text = "\n".join(textwrap.dedent(inspect.getsource(part)) for part in parts)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}```"

    def __repr__(self) -> str:
        return self.text


def score_table(
    frame: pd.DataFrame, *, metric: str = "dice", caption: str = "", folded: bool = False
) -> Table:
    """Format a frame of `desam_lite.evaluation.statistics` for the page: Dice in percent, distances in mm, no row numbers."""
    _, factor = UNITS[metric]
    formats: dict[str, Callable[[Any], str]] = dict.fromkeys(_SCALED, lambda value: f"{value * factor:.1f}")
    formats |= {"in_domain": lambda inside: "in" if inside else "out", "won": lambda share: f"{share:.0%}"}
    formats |= {"p": format_p, "p_holm": format_p}
    texts = {
        _HEADINGS.get(name, name): ["" if pd.isna(v) else formats.get(name, str)(v) for v in column]
        for name, column in ((str(key), values) for key, values in frame.items())
    }
    return Table(pd.DataFrame(texts), caption, folded=folded)


def format_p(value: float) -> str:
    """Return a p value as tables show it."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def domain_table(task: "Task") -> Table:
    """Return what the manifest tells of each domain, and how many cases there are."""
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


def settings_table(specs: "Sequence[RunSpec]") -> Table:
    """Return the settings in which DeSAM departs from the public code on a page."""
    frame = pd.DataFrame(list_departures(specs), columns=["setting", "here", "public code"])
    caption = "Settings of DeSAM that differ from the public code"
    return Table(frame, caption if len(frame) else "DeSAM has the settings of the public code", folded=True)


def provenance_table(
    profile: str, task: "Task | None" = None, runs: "Sequence[Run]" = (), *, weights: str = ""
) -> Table:
    """Return where the numbers of a page come from: its runs, by their ``run.json``, or, without runs, the code that makes it."""
    rows = {"profile": profile}
    if task is not None:
        rows["task"] = f"{task.manifest.title} ({task.manifest.licence})"
        rows["to be cited"] = task.manifest.citation or "none"
        rows |= {"manifest": task.manifest.content_hash(), "data": task.data_hash}
    records: list[dict[str, Any]] = [run.info for run in runs if run.finished]
    if runs:
        rows["runs"] = f"{len(records)} of {len(runs)} finished"
        rows["computing"] = say_minutes(runs)
        for title, kept in (("runs kept with the repository", True), ("runs computed here", False)):
            rows[title] = _say_origin([run.info for run in runs if run.finished and run.is_kept == kept])
        weights = join_distinct(map(_weights_of, records))
    else:
        records = [{"code": code_version(), "libraries": library_versions()}]
    rows["code"] = join_distinct(_code_of(record["code"]) for record in records)
    rows |= {"encoder weights": weights} if weights else {}
    rows["libraries"] = join_distinct(
        ", ".join(f"{name} {version}" for name, version in record["libraries"].items()) for record in records
    )
    rows["page made on"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    caption = "Runs, data, code and machine"
    return Table(pd.DataFrame(list(rows.items())), caption, kind="provenance", headings=False, folded=True)


def _say_origin(records: Sequence[Mapping[str, Any]]) -> str:
    """Return how many runs, when, where and by which code."""
    if not records:
        return "none"
    days = sorted(record["started"][:10] for record in records)
    begun = " to ".join(dict.fromkeys((days[0], days[-1])))
    devices, codes = (
        join_distinct(texts)
        for texts in zip(*((r["device"], _code_of(r["code"])) for r in records), strict=True)
    )
    return f"{len(records)}, begun on {begun} on {devices} by {codes}"


def _code_of(code: Mapping[str, Any]) -> str:
    changes = ", with uncommitted changes" if code.get("dirty") else ""
    return f"desam-lite {code['version']}, {(code.get('commit') or 'no commit')[:10]}{changes}"


def _weights_of(record: Mapping[str, Any]) -> str:
    digest = record["identity"].get("weights")
    return f"{record['files']['weights']} ({digest})" if digest else ""
