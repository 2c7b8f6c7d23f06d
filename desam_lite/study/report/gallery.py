"""Methods x cases as pictures, the cases chosen by rule; and the failures of every domain, to be leafed through.

The gallery is plain HTML with the pictures inside: it opens and shuts without a script, in Jupyter, in the book and from a file.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from desam_lite.evaluation import statistics as results
from desam_lite.study.report import notebook, slice_examples, slice_figures
from desam_lite.study.report.style import UNITS
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from desam_lite.data.tasks import Task
    from desam_lite.study.report.slice_examples import Example
    from desam_lite.study.run import Run

_KEYS = ["source", "target", "seed", "case"]
_DPI = 80  # four pictures a row, of some 110 pixels each
_MANY = 28  # if there are more in a gallery, they are drawn smaller: a page must stay under 1 MB

CASE_RULES = {
    "median": "the case with the median score, averaged over the methods",
    "worst": "the case with the worst score, averaged over the methods",
    "disagreement": "the case on which the methods differ most: the best of them minus the worst",
}
"""How the cases of the comparison are chosen."""


def choose_cases(scores: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Choose one scored case by each rule of `CASE_RULES`, among those that every method has scored out of domain.

    Args:
        scores: Of `results.scores`.
        labels: The methods whose scores choose; a control that is not trained should not be among them.

    Returns:
        One row per rule: ``rule``, source, target, seed, case, and ``value``: the mean over the methods, or their distance.

    Raises:
        StudyError: No case out of domain has been scored by all of them.
    """
    wide = _by_case(scores, labels)
    if wide.empty:
        raise StudyError("no case out of domain has been scored by every method: finish their runs first.")
    mean, apart = wide.mean(axis=1), wide.max(axis=1) - wide.min(axis=1)
    upwards = results.METRICS[str(scores["metric"].iloc[0])]
    ordered = mean.sort_values(ascending=upwards, kind="stable")
    places = {"median": ordered.index[(len(ordered) - 1) // 2], "worst": ordered.index[0]}
    places["disagreement"] = apart.index[int(apart.to_numpy().argmax())]
    rows = [
        {
            "rule": rule,
            **dict(zip(_KEYS, place, strict=True)),
            "value": (apart if rule == "disagreement" else mean)[place],
        }
        for rule, place in places.items()
    ]
    return pd.DataFrame(rows)


def choose_cases_at(scores: pd.DataFrame, labels: Sequence[str], target: str) -> pd.DataFrame:
    """Choose the median and the worst case of one method at one target, among those that others have scored there too.

    Args:
        scores: Of `results.scores`; what is in domain does not count.
        labels: The method, then those it is to be shown with.
        target: Where.

    Returns:
        Two rows, as `choose_cases` returns them; none if no case was scored by all.
    """
    own = _by_case(scores, labels)[labels[0]]
    own = own[own.index.get_level_values("target") == target]
    upwards = results.METRICS[str(scores["metric"].iloc[0])]
    ordered = own.sort_values(ascending=upwards, kind="stable")
    places = {"median": (len(ordered) - 1) // 2, "worst": 0} if len(ordered) else {}
    rows = [
        {"rule": rule, **dict(zip(_KEYS, ordered.index[place], strict=True)), "value": ordered.iloc[place]}
        for rule, place in places.items()
    ]
    return pd.DataFrame(rows, columns=["rule", *_KEYS, "value"])


def comparison_examples(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, chosen: pd.DataFrame, labels: Sequence[str]
) -> "list[Example]":
    """Return the pictures of a comparison in reading order: a row per method, a column per chosen case.

    Args:
        task: Where the cases are.
        runs: Of all methods.
        scores: As `choose_cases` takes them.
        chosen: What it gave.
        labels: The methods, in the order of the rows.

    Returns:
        The slices with the most organ in them, each with the prediction of its row's method.
    """
    _, factor = UNITS[str(scores["metric"].iloc[0])]
    examples = []
    for label in labels:
        for _, place in chosen.iterrows():
            row = _row_of(scores, label, place)
            example = slice_examples.case_example(task, runs, row, str(place["rule"]))
            heading = f"{label}: {row['value'] * factor:.0f}"
            where = (
                f"{place['case']} of {place['target']},\ntrained on {place['source']}, seed {place['seed']}"
            )
            first = label == labels[0]
            title = f"{place['rule']}\n{heading}" if first else heading
            examples.append(example._replace(title=title, note=where if label == labels[-1] else ""))
    return examples


def _row_of(scores: pd.DataFrame, label: str, place: pd.Series) -> pd.Series:
    same = (scores[_KEYS] == place[_KEYS]).all(axis=1) & (scores["label"] == label)
    return scores[same].iloc[0]


def farthest_behind(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, against: pd.DataFrame, others: Sequence[str]
) -> notebook.DescribedFigure:
    """Return a figure of the method and target that are farthest behind a control, with what others draw on the same scans.

    Args:
        task: Where the cases are.
        runs: Of all methods.
        scores: As `choose_cases` takes them.
        against: Of `comparison.against_control`.
        others: Methods to be shown below it.
    """
    organs = {organ.name: organ.color for organ in task.manifest.organs}
    examples: list[Example] = []
    if len(against):
        label, target = str(against["label"].iloc[0]), str(against["target"].iloc[0])
        labels = list(dict.fromkeys([label, *others]))
        examples = comparison_examples(task, runs, scores, choose_cases_at(scores, labels, target), labels)
    return notebook.DescribedFigure(
        slice_figures.draw_slices(examples, organs, columns=2),
        slice_figures.draw_slices_alt(examples, organs),
    )


class DomainFailures(NamedTuple):
    """The worst cases of one target.

    Attributes:
        title: Of the target.
        summary: How bad they are, in words.
        examples: The worst case of each method.
    """

    title: str
    summary: str
    examples: "list[Example]"


def collect_failures(
    task: "Task", runs: "Sequence[Run]", scores: pd.DataFrame, labels: Sequence[str], *, worst: int = 1
) -> list[DomainFailures]:
    """Collect the worst cases of each method at each target, out of domain.

    Args:
        task: Where the cases are.
        runs: Of all methods.
        scores: Of `results.scores`.
        labels: The methods.
        worst: Cases per method and target, the worst first.

    Returns:
        One entry per target that was tested, in the order of the manifest.
    """
    title, factor = UNITS[str(scores["metric"].iloc[0])]
    upwards = results.METRICS[str(scores["metric"].iloc[0])]
    away = scores[~scores["in_domain"].astype(bool)].dropna(subset="value")
    found = []
    for name, domain in task.manifest.domains.items():
        here = away[away["target"] == name].sort_values(["value", *_KEYS], ascending=[upwards] + [True] * 4)
        rows = [row for label in labels for _, row in here[here["label"] == label].head(worst).iterrows()]
        if not rows:
            continue
        values = [row["value"] * factor for row in rows]
        summary = f"worst of each method: {title} {min(values):.0f} to {max(values):.0f}"
        examples = [slice_examples.case_example(task, runs, row, "worst") for row in rows]
        found.append(DomainFailures(f"{name}: {domain.title}", summary, examples))
    return found


class Gallery:
    """Pictures behind headings that open when clicked.

    Args:
        entries: Of `collect_failures`.
        organs: Name -> colour, in the order of the ids.
        columns: Pictures per row.
    """

    def __init__(self, entries: Sequence[DomainFailures], organs: Mapping[str, str], *, columns: int = 4):
        self.entries, self.organs, self.columns = list(entries), organs, columns

    def _repr_html_(self) -> str:
        return "\n".join(self._part(entry) for entry in self.entries) or "<p>no finished run to show</p>"

    def __repr__(self) -> str:
        said = [f"{entry.title} ({entry.summary}): {self._alt(entry)}" for entry in self.entries]
        return "\n".join(said) or "no finished run to show"

    def _part(self, entry: DomainFailures) -> str:
        figure = slice_figures.draw_slices(entry.examples, self.organs, columns=self.columns, crop=True)
        heading = f"<strong>{html.escape(entry.title)}</strong> ({html.escape(entry.summary)})"
        return f"<details class='gallery'><summary>{heading}</summary>{self._image(figure, self._alt(entry))}</details>"

    def _image(self, figure: "Figure", alt: str) -> str:
        total = sum(len(entry.examples) for entry in self.entries)
        figure.set_dpi(_DPI * min(1.0, (_MANY / total) ** 0.5))
        width = round(figure.get_figwidth() * 100)
        data = base64.b64encode(notebook.encode_png(figure)).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" width="{width}">'

    def _alt(self, entry: DomainFailures) -> str:
        return slice_figures.draw_slices_alt(entry.examples, self.organs)


def say_comparison(scores: pd.DataFrame, labels: Sequence[str]) -> str:
    """Answer in one sentence whether the method or the case makes more of a difference, out of domain.

    Args:
        scores: Of `results.scores`.
        labels: The methods that are compared.
    """
    title, factor = UNITS[str(scores["metric"].iloc[0])]
    wide = _by_case(scores, labels) * factor
    if wide.empty or len(labels) < 2:
        return "There is no answer yet: no case out of domain has been scored by two methods."
    apart = wide.max(axis=1) - wide.min(axis=1)
    low, high = np.percentile(wide.mean(axis=1), [10, 90])
    method, case = float(apart.median()), float(high - low)
    verdict = (
        "The method matters more than the case" if method > case else "The case matters more than the method"
    )
    widest = wide.iloc[int(apart.to_numpy().argmax())]
    return (
        f"**{verdict}**: on one and the same case out of domain the best and the worst method are {method:.0f} points of {title} "
        f"apart at the median, and four in five cases lie within {case:.0f}. Where they differ most, {widest.idxmax()} has "
        f"{widest.max():.0f} and {widest.idxmin()} {widest.min():.0f}."
    )


def _by_case(scores: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Return the scores out of domain, a row per source, target, seed and case that all methods have, a column per method."""
    away = scores[~scores["in_domain"].astype(bool) & scores["label"].isin(list(labels))]
    return away.pivot_table("value", _KEYS, "label").reindex(columns=list(labels)).dropna()


def failure_kinds(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return for each method the share of cases by predicted volume over true volume.

    Args:
        metrics: Rows of `Run.metrics` under one protocol, to be counted together; cases without the organ are left out.

    Returns:
        ``label``, then a column of texts in percent for each kind: empty, under half, half to twice, over twice.
    """
    held = metrics[metrics["reference_voxels"] > 0]
    ratio = held["predicted_voxels"] / held["reference_voxels"]
    kinds = pd.cut(
        ratio, [-1, 0, 0.5, 2, np.inf], labels=["empty", "under half", "half to twice", "over twice"]
    )
    shares = pd.crosstab(held["label"], kinds, normalize="index", dropna=False)
    shares = shares.reindex(list(dict.fromkeys(held["label"])))
    return shares.map("{:.0%}".format).rename_axis(columns=None).reset_index()
