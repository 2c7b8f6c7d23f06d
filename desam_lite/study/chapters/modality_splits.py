"""Several organs: tables and figures of each, and whether one model for all of them is as good as one model each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from desam_lite.evaluation import statistics
from desam_lite.methods.run_spec import SINGLE_ORGAN
from desam_lite.study.report.charts import draw_rows, in_unit
from desam_lite.study.report.sentences import count, format_interval, out_of_domain, say_losses
from desam_lite.study.report.style import UNITS, DescribedFigure

_CELL = ["label", "source", "target", "in_domain"]


def organ_cells(
    metrics: pd.DataFrame, organs: Sequence[str], *, metric: str = "dice", protocol: str = "whole_volume"
) -> pd.DataFrame:
    """Average one metric for every organ, method, source and target: `statistics.summarise` with ``organ``."""
    tables = [pd.DataFrame(columns=["organ", *_CELL, "mean", "low", "high", "cases"])]
    for organ in organs:
        if organ in set(metrics["organ"]):
            scores = statistics.scores(metrics, metric=metric, protocol=protocol, organ=organ)
            tables.append(statistics.summarise(scores, _CELL).assign(organ=organ))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def organ_table(
    metrics: pd.DataFrame, organs: Sequence[str], *, protocol: str = "whole_volume"
) -> pd.DataFrame:
    """Return overlap and surface distances side by side for every organ, method and direction, with 95 % intervals, as texts."""
    keys = ["organ", "label", "source", "target"]
    columns = {}
    for metric in ("dice", "hd95", "assd"):
        title, factor = UNITS[metric]
        cells = organ_cells(metrics, organs, metric=metric, protocol=protocol).set_index(keys)
        columns[title] = pd.Series(
            [format_interval(row, factor) for row in cells.to_dict("records")], cells.index
        )
        columns.setdefault("cases", cells["cases"])
    table = pd.DataFrame(columns).reset_index().rename(columns={"source": "from", "target": "to"})
    return table[[*(name for name in table if name != "cases"), "cases"]]


def per_organ_models(
    metrics: pd.DataFrame, organs: Sequence[str], *, metric: str = "dice", protocol: str = "whole_volume"
) -> pd.DataFrame:
    """Compare a model for each organ with one for all (first minus second), organ by organ."""
    labels = [label for label in metrics["label"].unique() if str(label).endswith(f", {SINGLE_ORGAN}")]
    tables = []
    for label in labels:
        pair = (label, label.removesuffix(f", {SINGLE_ORGAN}"))
        for organ in organs:
            scores = statistics.scores(metrics, metric=metric, protocol=protocol, organ=organ)
            tables.append(statistics.compare(scores, [pair]).assign(organ=organ))
    if not tables:
        return pd.DataFrame(
            columns=["organ", "first", "second", "in_domain", "mean", "low", "high", "verdict"]
        )
    table = pd.concat(tables, ignore_index=True)
    return table[["organ", *(name for name in table if name != "organ")]]


def draw_organs(cells: pd.DataFrame, *, metric: str = "dice") -> DescribedFigure:
    """Draw `organ_cells`, a panel per direction: open, the score out of domain; filled, that in domain at the same source."""
    home = cells[cells["in_domain"].astype(bool)].assign(low=np.nan, high=np.nan)
    panels = [
        pd.concat([rows, home[home["source"] == source]]).assign(direction=f"{source} to {target}")
        for (source, target), rows in out_of_domain(cells).groupby(["source", "target"], sort=False)
    ]
    look: dict[str, Any] = {"row": "organ", "panel": "direction"}
    look["limit"] = (0, 100 if metric == "dice" else None)
    return draw_rows(in_unit(pd.concat(panels), metric), axis=UNITS[metric].title, **look)


def say_modalities(
    summary: pd.DataFrame,
    losses: pd.DataFrame,
    single: pd.DataFrame,
    *,
    metric: str = "dice",
    control: str = "Prior",
) -> str:
    """Say whether a model trained on one modality works on the other, and whether one model per organ helps."""
    title, factor = UNITS[metric]
    rows = {
        (str(r["label"]), str(r["source"]), bool(r["in_domain"])): r["mean"]
        for r in summary.to_dict("records")
    }
    both = {
        (label, source): f"{rows[label, source, True] * factor:.0f} and {away * factor:.0f} from {source}"
        for (label, source, inside), away in rows.items()
        if not inside and (label, source, True) in rows
    }
    trained = {key: text for key, text in both.items() if key[0] != control}
    if not trained:
        return "There is no answer yet: no trained method has been scored on both modalities."
    verdict = say_losses(losses[losses["label"].isin({label for label, _ in trained})]["verdict"])
    moves = "; ".join(f"{label} {text}" for (label, _), text in trained.items())
    priors = "; ".join(text for (label, _), text in both.items() if label == control)
    average = f" {control}: {priors}." if priors else ""
    return (
        f"**{verdict}**. Mean {title} on the modality of the training and on the other: {moves}.{average} "
        f"{_say_single(out_of_domain(single), metric)}"
    ).strip()


def _say_single(away: pd.DataFrame, metric: str) -> str:
    if away.empty:
        return ""
    words = list(away["verdict"])
    better, worse = (sum(word.startswith(start) for word in words) for start in ("better", "worse"))
    return (
        f"One model per organ instead of one for all changes the mean out of domain by "
        f"{away['mean'].mean() * UNITS[metric][1]:+.1f}: better on {better} of {count(len(away), 'organ')}, worse on {worse}, "
        f"equivalent on {words.count('equivalent')}, cannot tell on {words.count('cannot tell')}."
    )
