"""Several organs: tables and figures of each, and whether one model for all of them is as good as one model each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from desam_lite.evaluation import statistics
from desam_lite.methods.run_spec import SINGLE_ORGAN
from desam_lite.study.report.charts import draw_rows, in_unit
from desam_lite.study.report.sentences import count, format_interval, out_of_domain
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
    rows = in_unit(pd.concat(panels) if panels else cells[:0], metric)
    limit = (-2, 100 if metric == "dice" else None)
    return draw_rows(rows, axis=UNITS[metric].title, row="organ", panel="direction", limit=limit)


def say_single(single: pd.DataFrame, metric: str = "dice") -> str:
    """Say whether one model per organ is better out of domain than one for all, of `per_organ_models`; "" where none is."""
    away = out_of_domain(single)
    if away.empty:
        return ""
    words = list(away["verdict"])
    better, worse = (sum(word.startswith(start) for word in words) for start in ("better", "worse"))
    return (
        f"One model per organ instead of one for all changes the mean out of domain by "
        f"{away['mean'].mean() * UNITS[metric][1]:+.1f}: better on {better} of {count(len(away), 'organ')}, worse on {worse}, "
        f"equivalent on {words.count('equivalent')}, cannot tell on {words.count('cannot tell')}."
    )
