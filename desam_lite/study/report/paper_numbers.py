"""Averages per source and per target, and the paper's numbers next to ours where they could be read.

The numbers are in ``paper_numbers.csv``, each with where it was read. Of its tables nothing else has been seen; those cells stay
empty.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from desam_lite.evaluation.statistics import Rule, summarise
from desam_lite.study.report.sentences import list_departures, out_of_domain
from desam_lite.study.report.style import UNITS

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec


def read_paper_numbers() -> pd.DataFrame:
    """Return the paper's numbers: ``task``, ``row`` (its words), ``label`` (ours, or ""), ``metric``, ``value``, ``source``."""
    return pd.read_csv(Path(__file__).with_name("paper_numbers.csv"), keep_default_na=False)


def out_of_domain_by(
    scores: pd.DataFrame,
    column: Literal["source", "target"],
    *,
    rule: Rule = "sources",
    metric: str = "dice",
) -> pd.DataFrame:
    """Return the mean out of domain of every ``label`` for each source, or each target, and over ``all``, as texts."""
    away = scores[~scores["in_domain"].astype(bool)]
    each = summarise(away, ["label", column], rule=rule)
    whole = summarise(away, ["label"], rule=rule).set_index("label")["mean"]
    wide = each.pivot_table("mean", "label", column, sort=False).reindex(list(whole.index))
    wide = wide[sorted(wide.columns)].assign(all=whole) * UNITS[metric].factor
    texts = wide.map(lambda value: "" if pd.isna(value) else f"{value:.1f}")
    return texts.rename_axis(columns=None).reset_index()


def compare_with_paper(
    task: "Task",
    specs: "Sequence[RunSpec]",
    summary: pd.DataFrame,
    *,
    metric: str = "dice",
    protocol: str = "published",
) -> pd.DataFrame:
    """Return our averages out of domain (by label and in_domain) and the paper's, as texts, and whether they are comparable.

    Numbers of the paper that have no method here get rows of their own; cells without a number are empty.
    """
    title, factor = UNITS[metric]
    numbers = read_paper_numbers()
    name = task.manifest.name.removeprefix("phantom_")
    numbers = numbers[(numbers["task"] == name) & (numbers["metric"] == metric)]
    read = [
        {
            "label": row["label"],
            "paper": f"{row['value'] * factor:.2f}",
            "read in": row["source"],
            "row": row["row"],
        }
        for row in numbers.to_dict("records")
    ]
    paper = {row["label"]: row for row in read if row["label"]}
    rows = []
    for row in out_of_domain(summary).to_dict("records"):
        label = str(row["label"])
        reason = why_not_comparable(task, specs, label, protocol)
        comparable = f"not comparable: {reason}" if reason else "yes"
        ours = {"label": label, f"ours, {title}": f"{row['mean'] * factor:.1f}"}
        rows.append({**ours, "comparable": comparable, **paper[label]} if label in paper else ours)
    rows += [row | {"label": f"{row['row']} (paper)"} for row in read if not row["label"]]
    columns = ["label", f"ours, {title}", "paper", "comparable", "read in"]
    return pd.DataFrame(rows, columns=columns, dtype=object).fillna("")


def why_not_comparable(task: "Task", specs: "Sequence[RunSpec]", label: str, protocol: str) -> str:
    """Return the first reason why our average of a method may not be set beside the paper's; "" if there is none.

    Every setting that changes DeSAM's masks must be the published one (`RunSpec`); what only rounds numbers need not be.
    """
    own = [spec for spec in specs if spec.label == label]
    domains = task.manifest.domains
    trained = {spec.source for spec in own} & set(domains)
    departures = list_departures(own)
    reasons = {
        "the scans are synthetic": task.manifest.synthetic,
        "the encoder is not SAM's ViT-H": any(spec.backbone not in (None, "vit_h") for spec in own),
        "another protocol": protocol != "published",
        f"trained at {len(trained)} of {len(domains)} hospitals": len(trained) < len(domains),
        "another split": any(spec.split != "published_90_10" for spec in own),
        f"other settings ({', '.join(f'{name} {value}' for name, value, _ in departures)})": bool(departures),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
