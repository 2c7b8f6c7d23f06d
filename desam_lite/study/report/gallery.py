"""Cases chosen by rule, methods x cases as images, and the failures of every domain.

The gallery is plain HTML with the images inside, so that it opens and shuts without a script, in Jupyter, in the book and from a
file: a notebook's output is rendered as plain Markdown, where sphinx-design's directives are not known.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from desam_lite.evaluation.statistics import METRICS
from desam_lite.study.report.sentences import count
from desam_lite.study.report.slice_examples import (
    Example,
    case_example,
    largest_slice,
    predicted_labels,
    slice_example,
)
from desam_lite.study.report.slice_figures import draw_slices
from desam_lite.study.report.style import NO_RUNS, UNITS, DescribedFigure
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.study.run import Run

_KEYS = ["source", "target", "seed", "case"]
_PAGE_DPI = 200  # twice the pixels of its place on the page
_PAGE_IMAGES = 28  # if there are more in a gallery, they are drawn smaller: a page must stay under its limit

CASE_RULES = {
    "median": "the case with the median score, averaged over the methods",
    "worst": "the case with the worst score, averaged over the methods",
    "disagreement": "the case on which the methods differ most: the best of them minus the worst",
}
"""How the cases of the comparison are chosen."""


def _metric(scores: pd.DataFrame) -> str:
    return str(scores["metric"].iloc[0])


def _scored_by_all(scores: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Return scores out of domain, a row per source, target, seed and case that all methods have, a column per method."""
    away = scores[~scores["in_domain"].astype(bool) & scores["label"].isin(list(labels))]
    return away.pivot_table("value", _KEYS, "label").reindex(columns=list(labels)).dropna()


def _median_and_worst(values: pd.Series, metric: str) -> pd.DataFrame:
    ordered = values.sort_values(ascending=METRICS[metric], kind="stable").rename("value")
    chosen = ordered.iloc[[(len(ordered) - 1) // 2, 0] if len(ordered) else []].reset_index()
    return chosen.assign(rule=["median", "worst"][: len(chosen)])[["rule", *_KEYS, "value"]]


def choose_cases(scores: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Choose a case out of domain by each of `CASE_RULES`, by the scores of these methods: ``rule``, where it is, ``value``."""
    wide = _scored_by_all(scores, labels)
    if wide.empty:
        raise StudyError("no case out of domain has been scored by every method: finish their runs first.")
    apart = (wide.max(axis=1) - wide.min(axis=1)).rename("value")
    widest = apart.iloc[[int(apart.to_numpy().argmax())]].reset_index().assign(rule="disagreement")
    return pd.concat([_median_and_worst(wide.mean(axis=1), _metric(scores)), widest], ignore_index=True)


def choose_cases_at(scores: pd.DataFrame, labels: Sequence[str], target: str) -> pd.DataFrame:
    """Choose the median and the worst case of the first method at a target, among those that the others have scored there too."""
    own = _scored_by_all(scores, labels)[labels[0]]
    return _median_and_worst(own[own.index.get_level_values("target") == target], _metric(scores))


def comparison_examples(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, chosen: pd.DataFrame, labels: Sequence[str]
) -> list[Example]:
    """Return the slices of a comparison in reading order: a row per method, a column per chosen case."""
    factor = UNITS[_metric(scores)].factor
    examples = []
    for label in labels:
        for _, place in chosen.iterrows():
            row = scores[(scores[_KEYS] == place[_KEYS]).all(axis=1) & (scores["label"] == label)].iloc[0]
            example = case_example(task, runs, row, str(place["rule"]))
            title = f"{label}: {row['value'] * factor:.0f}"
            title = f"{place['rule']}\n{title}" if label == labels[0] else title
            where = example.note.partition("\n")[2] if label == labels[-1] else ""
            examples.append(example._replace(title=title, note=where))
    return examples


def farthest_behind(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, margins: pd.DataFrame, others: Sequence[str]
) -> DescribedFigure:
    """Show the first of `comparison.margins_over_control`, with what other methods predict on the same scans below it."""
    organs = {organ.name: organ.color for organ in task.manifest.organs}
    examples: list[Example] = []
    for label, target in margins[["label", "target"]].head(1).to_numpy(str):
        labels = list(dict.fromkeys([label, *others]))
        examples = comparison_examples(task, runs, scores, choose_cases_at(scores, labels, target), labels)
    return draw_slices(examples, organs, columns=2)


STORY = ("U-Net", "SAM grid", "DeSAM-B")
"""The labels of the book's first figure: trained from scratch, SAM without training, and DeSAM."""


def story_examples(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, labels: Sequence[str] = STORY
) -> list[Example]:
    """Return a row at the source and a row at another hospital: the scan with its reference, then the mask of each method.

    Of the first source and seed, the case of a row has the median of the methods' mean scores.
    """
    factor, rows = UNITS[_metric(scores)].factor, scores[scores["label"].isin(list(labels))]
    rows = rows[(rows["source"] == rows["source"].min()) & (rows["seed"] == rows["seed"].min())]
    examples = []
    for inside in (True, False):
        here = rows[rows["in_domain"].astype(bool) == inside]
        wide = here.pivot_table("value", _KEYS, "label").reindex(columns=list(labels)).dropna()
        for place in _median_and_worst(wide.mean(axis=1), _metric(scores)).head(1).to_dict("records"):
            case = task.slices.load(place["target"], place["case"])
            z, where = largest_slice(case.labels), "source" if inside else "elsewhere"
            examples.append(slice_example(case, None, z, f"{where}: {place['target']}", place["case"]))
            own = here[(here["target"] == place["target"]) & (here["case"] == place["case"])].set_index(
                "label"
            )
            for label in labels:
                row = own.loc[label].copy()
                row["label"] = label
                note = f"{UNITS[_metric(scores)].title} {row['value'] * factor:.0f}"
                examples.append(slice_example(case, predicted_labels(task, runs, row), z, label, note))
    return examples


class DomainFailures(NamedTuple):
    """The worst cases at one target: its title, how bad they are in words, and the worst case of each method."""

    title: str
    summary: str
    examples: list[Example]


def collect_failures(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, labels: Sequence[str], *, worst: int = 1
) -> list[DomainFailures]:
    """Collect so many worst cases of each method at each target that was tested out of domain, in the order of the manifest."""
    title, factor = UNITS[_metric(scores)]
    away = scores[~scores["in_domain"].astype(bool)].dropna(subset="value")
    away = away.sort_values(["value", *_KEYS], ascending=[METRICS[_metric(scores)]] + [True] * 4)
    failures = []
    for name, domain in task.manifest.domains.items():
        here = away[away["target"] == name]
        rows = [row for label in labels for _, row in here[here["label"] == label].head(worst).iterrows()]
        if rows:
            values = [row["value"] * factor for row in rows]
            summary = f"worst of each method: {title} {min(values):.0f} to {max(values):.0f}"
            examples = [case_example(task, runs, row, "worst") for row in rows]
            failures.append(DomainFailures(f"{name}: {domain.title}", summary, examples))
    return failures


class Gallery:
    """Slices under headings that open when clicked: entries of `collect_failures`, organs as name -> colour in order of ids."""

    def __init__(self, entries: Sequence[DomainFailures], organs: Mapping[str, str], *, columns: int = 4):
        self.entries, self.organs, self.columns = list(entries), organs, columns

    def _repr_html_(self) -> str:
        return "\n".join(map(self._details, self.entries)) or f"<p>{NO_RUNS}</p>"

    def __repr__(self) -> str:
        lines = [f"{e.title} ({e.summary}): {self._draw(e).alt}" for e in self.entries]
        return "\n".join(lines) or NO_RUNS

    def _draw(self, entry: DomainFailures) -> DescribedFigure:
        return draw_slices(entry.examples, self.organs, columns=self.columns, crop=True)

    def _details(self, entry: DomainFailures) -> str:
        drawn = self._draw(entry)
        images = sum(len(entry.examples) for entry in self.entries)
        drawn.figure.set_dpi(_PAGE_DPI * min(1.0, (_PAGE_IMAGES / images) ** 0.5))
        data, width = base64.b64encode(drawn.encode_png()).decode(), round(drawn.figure.get_figwidth() * 100)
        heading = f"<strong>{html.escape(entry.title)}</strong> ({html.escape(entry.summary)})"
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(drawn.alt)}" width="{width}">'
        return f"<details class='folded'><summary>{heading}</summary>{image}</details>"


def say_comparison(scores: pd.DataFrame, labels: Sequence[str]) -> str:
    """Answer whether scores differ more between methods or between cases out of domain.

    Both are standard deviations, among models of one source and seed: over the methods on one case, and over the cases of one
    method, each as the root of the mean variance.
    """
    title, factor = UNITS[_metric(scores)]
    wide = _scored_by_all(scores, labels) * factor
    cases = wide.groupby(["source", "seed"]).var(ddof=1).stack().dropna()
    if cases.empty or len(labels) < 2:
        return "There is no answer yet: no two cases out of domain have been scored by two methods."
    method, case = (f"{value**0.5:.0f}" for value in (wide.var(axis=1, ddof=1).mean(), cases.mean()))
    more, less = ("Methods", "cases") if float(method) > float(case) else ("Cases", "methods")
    verdict = "Methods and cases differ equally" if method == case else f"{more} differ more than {less}"
    apart = wide.max(axis=1) - wide.min(axis=1)
    widest = wide.iloc[int(apart.to_numpy().argmax())]
    return (
        f"**{verdict}**. The standard deviation of {title} out of domain is {method} over the methods on one case and {case} "
        f"over the cases of one method ({count(len(labels), 'method')}, {count(len(wide), 'scored case')}). The largest "
        f"difference on one case is between {widest.idxmax()} ({widest.max():.0f}) and {widest.idxmin()} ({widest.min():.0f})."
    )
