"""Several organs: tables and figures of each, and whether one model for all of them is as good as one model each."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from desam_lite.evaluation import statistics as results
from desam_lite.evaluation.metrics import inside_border
from desam_lite.methods.run_spec import ONE_ORGAN
from desam_lite.study.report.style import UNITS, WIDTH, empty_figure, method_color, method_marker, styled

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task

_CELL = ["label", "source", "target", "in_domain"]


def organ_cells(
    metrics: pd.DataFrame, organs: Sequence[str], *, metric: str = "dice", protocol: str = "whole_volume"
) -> pd.DataFrame:
    """Average one metric for every organ, method, source and target.

    Args:
        metrics: Rows of `Run.metrics` of all runs; an organ that none has scored is left out.
        organs: In the order of the rows.
        metric: Of `results.METRICS`.
        protocol: "whole_volume" or "published".

    Returns:
        ``organ``, label, source, target, in_domain and what `results.summarise` gives.
    """
    tables = [
        results.summarise(
            results.scores(metrics, metric=metric, protocol=protocol, organ=organ), _CELL
        ).assign(organ=organ)
        for organ in organs
        if len(metrics) and organ in set(metrics["organ"])
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["organ", *_CELL, "mean"])


def organ_table(
    metrics: pd.DataFrame,
    organs: Sequence[str],
    *,
    measured: Sequence[str] = ("dice", "hd95", "assd"),
    protocol: str = "whole_volume",
) -> pd.DataFrame:
    """Return overlap and surface distances beside each other for every organ, method and direction.

    Returns:
        Texts: ``organ``, ``label``, ``from``, ``to``, and per metric its mean with the 95 % interval; then how many ``cases``.
    """
    keys = ["organ", *_CELL]
    merged = pd.DataFrame()
    for metric in measured:
        title, factor = UNITS[metric]
        cells = organ_cells(metrics, organs, metric=metric, protocol=protocol)
        said = [_with_interval(row, factor) for row in cells.to_dict("records")]
        own = cells[[*keys, "cases"]].assign(**{title: said})
        merged = own if merged.empty else merged.merge(own.drop(columns="cases"), on=keys, how="left")
    shown = merged.rename(columns={"source": "from", "target": "to"}).drop(columns="in_domain")
    return shown[[*(name for name in shown if name != "cases"), "cases"]]


def _with_interval(row: Mapping[Any, Any], factor: float) -> str:
    mean = f"{row['mean'] * factor:.1f}"
    if not np.isfinite(row["low"]):
        return mean
    return f"{mean} ({row['low'] * factor:.1f} to {row['high'] * factor:.1f})"


def organ_figure(cells: pd.DataFrame, *, metric: str = "dice") -> Figure:
    """Draw every organ and method, a panel per direction out of domain; an open mark is the score in domain at the same source.

    Args:
        cells: Of `organ_cells`.
        metric: Names the axis.
    """
    away = cells[~cells["in_domain"].astype(bool)] if len(cells) else cells
    if away.empty:
        return empty_figure()
    title, factor = UNITS[metric]
    ways = list(dict.fromkeys(zip(away["source"], away["target"], strict=True)))
    names, labels = (list(dict.fromkeys(cells[column])) for column in ("organ", "label"))
    with styled():
        figure = Figure((WIDTH, 1.5 + 0.75 * len(names)), layout="constrained")
        axes = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
        for ax, (source, target) in zip(axes, ways, strict=True):
            for number, label in enumerate(labels):
                height = (number - (len(labels) - 1) / 2) * 0.15
                own = cells[(cells["label"] == label) & (cells["source"] == source)]
                _marks(ax, own[own["target"] == source], names, height, label, factor, filled=False)
                _marks(ax, own[own["target"] == target], names, height, label, factor, filled=True)
            ax.set_title(f"{source} to {target}")
            ax.set_xlabel(title)
            ax.set_xlim(left=0, right=100 if metric == "dice" else None)
            ax.grid(axis="x")
        axes[0].set_yticks(range(len(names)), [textwrap.fill(name, 8) for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        figure.legend(handles=_handles(labels), loc="outside upper center", ncols=3, handlelength=1.5)
    return figure


def _marks(
    ax: Axes,
    cells: pd.DataFrame,
    names: Sequence[str],
    height: float,
    label: str,
    factor: float,
    *,
    filled: bool,
) -> None:
    color = method_color(label)
    for row in cells.to_dict("records"):
        y = names.index(row["organ"]) + height
        if filled:
            ax.plot([row["low"] * factor, row["high"] * factor], [y, y], color=color, lw=1.6)
        face = color if filled else "white"
        ax.plot(row["mean"] * factor, y, method_marker(label), color=color, mfc=face, ms=5, mew=1.2)


def _handles(labels: Sequence[str]) -> list[Line2D]:
    methods = [
        Line2D([], [], color=method_color(label), marker=method_marker(label), ls="none", ms=6, label=label)
        for label in labels
    ]
    inside = Line2D([], [], color="#444444", marker="o", mfc="white", ls="none", ms=6, label="in domain")
    return [*methods, inside]


def organ_figure_alt(cells: pd.DataFrame, *, metric: str = "dice") -> str:
    """Say what `organ_figure` shows: each mean out of domain."""
    away = cells[~cells["in_domain"].astype(bool)] if len(cells) else cells
    if away.empty:
        return "Empty figure: no finished run to show."
    title, factor = UNITS[metric]
    parts = []
    for (source, target, label), rows in away.groupby(["source", "target", "label"], sort=False):
        values = ", ".join(f"{row['organ']} {row['mean'] * factor:.0f}" for row in rows.to_dict("records"))
        parts.append(f"{source} to {target}, {label}: {values}")
    return f"Dot plot of the mean {title} of each organ out of domain: {'; '.join(parts)}."


def one_each(
    metrics: pd.DataFrame, organs: Sequence[str], *, metric: str = "dice", protocol: str = "whole_volume"
) -> pd.DataFrame:
    """Compare one model for all organs with a model for each, organ by organ and case by case.

    Args:
        metrics: Rows of `Run.metrics` of all runs.
        organs: In the order of the rows.
        metric: Of `results.METRICS`.
        protocol: "whole_volume" or "published".

    Returns:
        As `results.compare` gives it, a model for each organ minus one for all, with ``organ``; p corrected over all rows.
    """
    labels = [label for label in metrics["label"].unique() if str(label).endswith(f", {ONE_ORGAN}")]
    tables = []
    for label in labels:
        pair = (label, label.removesuffix(f", {ONE_ORGAN}"))
        for organ in organs:
            scores = results.scores(metrics, metric=metric, protocol=protocol, organ=organ)
            tables.append(results.compare(scores, [pair]).assign(organ=organ))
    if not tables:
        return pd.DataFrame(
            columns=["organ", "first", "second", "in_domain", "mean", "low", "high", "p_holm"]
        )
    table = pd.concat(tables, ignore_index=True)
    corrected = table.assign(p_holm=results.holm(table["p"].to_numpy(float)))
    return corrected[["organ", *(name for name in corrected if name != "organ")]]


def hidden_by_border(task: "Task") -> pd.DataFrame:
    """Return which share of each organ lies where the published protocol empties the prediction.

    Returns:
        A row per domain: ``domain`` and, per organ, the share of its reference voxels in the border over all cases.
    """
    rows: list[dict[str, object]] = []
    for domain in task.manifest.domains:
        hidden, whole = np.zeros(len(task.manifest.organs)), np.zeros(len(task.manifest.organs))
        for case in task.cases(domain):
            labels = task.slices.load(domain, case).labels
            outside = labels[:, ~inside_border(labels.shape[1:])]
            for number in range(len(whole)):
                hidden[number] += (outside == number + 1).sum()
                whole[number] += (labels == number + 1).sum()
        shares = hidden / np.maximum(whole, 1)
        names = [organ.name for organ in task.manifest.organs]
        rows.append({"domain": domain, **dict(zip(names, shares, strict=True))})
    return pd.DataFrame(rows)


def say_modalities(
    summary: pd.DataFrame, single: pd.DataFrame, *, metric: str = "dice", control: str = "Prior"
) -> str:
    """Answer in two sentences whether a model trained on one modality works on the other, and whether one model per organ helps.

    Args:
        summary: Of `results.summarise` by label, source and in_domain.
        single: Of `one_each`.
        metric: What they are summaries of.
        control: The method that is not trained, named last.
    """
    title, factor = UNITS[metric]
    upwards = results.METRICS[metric]
    rows = {(str(r["label"]), str(r["source"]), bool(r["in_domain"])): r for r in summary.to_dict("records")}
    ways = [(label, source) for label, source, inside in rows if not inside and (label, source, True) in rows]
    learnt = [way for way in ways if way[0] != control]
    if not learnt:
        return "There is no answer yet: no trained method has been scored on both modalities."
    lost = [
        rows[*way, False]["high"] < rows[*way, True]["mean"]
        if upwards
        else rows[*way, False]["low"] > rows[*way, True]["mean"]
        for way in learnt
    ]
    verdict = (
        "Not as well"
        if all(lost)
        else "Some lose on the way"
        if any(lost)
        else "No loss beyond chance was seen"
    )
    moves = [
        f"{label} {rows[label, source, True]['mean'] * factor:.0f} to {rows[label, source, False]['mean'] * factor:.0f}"
        f" from {source}"
        for label, source in learnt
    ]
    said = f"**{verdict}**: mean {title} goes, from the modality of the training to the other, {', '.join(moves)}"
    priors = [
        f"{rows[label, source, False]['mean'] * factor:.0f} from {source}"
        for label, source in ways
        if label == control
    ]
    said += f". The average mask has {', '.join(priors)}." if priors else "."
    return f"{said} {_say_single(single, factor, upwards)}".strip()


def _say_single(single: pd.DataFrame, factor: float, upwards: bool) -> str:
    away = single[~single["in_domain"].astype(bool)].dropna(subset="mean") if len(single) else single
    if away.empty:
        return ""
    sign = 1 if upwards else -1
    ends = sign * away[["low", "high"]].to_numpy(float)
    better, worse = (int(count) for count in ((ends > 0).all(axis=1).sum(), (ends < 0).all(axis=1).sum()))
    change = away["mean"].mean() * factor
    return (
        f"A model for each organ instead of one for all changes the mean out of domain by {change:+.1f}: better beyond chance on "
        f"{better} of {len(away)} organs, worse on {worse}."
    )
