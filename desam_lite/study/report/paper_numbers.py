"""Tables per source and per target, and the paper's numbers beside ours where they could be read.

The numbers are in ``paper_numbers.csv``, each with where it was read. Of its tables nothing else has been seen; those cells stay
empty.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from desam_lite.evaluation import statistics as results
from desam_lite.study.report.style import UNITS

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task
    from desam_lite.methods.run_spec import RunSpec

_NUMBERS = Path(__file__).with_name("paper_numbers.csv")


def read_paper_numbers() -> pd.DataFrame:
    """Return the paper's numbers: ``task``, ``row`` (its words), ``label`` (ours, or ""), ``metric``, ``value``, ``source``."""
    return pd.read_csv(_NUMBERS, keep_default_na=False)


def out_of_domain_by(
    scores: pd.DataFrame,
    column: Literal["source", "target"],
    *,
    rule: results.Rule = "sources",
    metric: str = "dice",
) -> pd.DataFrame:
    """Return the mean out of domain of every method for each source, or each target, and over all.

    Args:
        scores: Of `results.scores`.
        column: "source": where the model was trained; "target": where it was tested.
        rule: How the cells of one source (or target), and all of them, become one number.
        metric: What the scores are; Dice is shown in percent.

    Returns:
        Texts, a row per method: ``label``, one column per source or target, ``all``; "" where there is no score.
    """
    _, factor = UNITS[metric]
    away = scores[~scores["in_domain"].astype(bool)]
    each = results.summarise(away, ["label", column], rule=rule)
    whole = results.summarise(away, ["label"], rule=rule).set_index("label")["mean"]
    wide = each.pivot_table("mean", "label", column, sort=False).reindex(list(whole.index))
    wide = wide[sorted(wide.columns)].assign(all=whole) * factor
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
    """Return our averages out of domain with the paper's beside them.

    Args:
        task: What the runs are on.
        specs: The runs.
        summary: Of `results.summarise` by label and in_domain.
        metric: What it is a summary of.
        protocol: What it is scored by.

    Returns:
        Texts, a row per method of ours and one per number of the paper that has no method here: ``label``, ``ours``, ``paper``
        (empty where no number could be read), ``comparable`` ("no: ..." with the first reason, or "yes") and ``read in``.
    """
    title, factor = UNITS[metric]
    known = read_paper_numbers()
    known = known[
        (known["task"] == task.manifest.name.removeprefix("phantom_")) & (known["metric"] == metric)
    ]
    numbers = {str(row["label"]): row for row in known.to_dict("records") if row["label"]}
    rows: list[dict[str, Any]] = []
    for own in summary[~summary["in_domain"].astype(bool)].to_dict("records"):
        number = numbers.get(str(own["label"]))
        row = {"label": own["label"], f"ours, {title}": f"{own['mean'] * factor:.1f}"}
        rows.append(
            row | _of_paper(number, factor, why_not_comparable(task, specs, str(own["label"]), protocol))
        )
    for number in known[known["label"] == ""].to_dict("records"):
        rows.append({"label": f"{number['row']} (paper)"} | _of_paper(number, factor, ""))
    columns = ["label", f"ours, {title}", "paper", "comparable", "read in"]
    return pd.DataFrame(rows, columns=columns).fillna("")


def _of_paper(number: "dict[Any, Any] | None", factor: float, reason: str) -> dict[str, str]:
    if number is None:
        return {"paper": "", "comparable": "", "read in": ""}
    comparable = "" if not number["label"] else f"not comparable: {reason}" if reason else "yes"
    return {"paper": f"{number['value'] * factor:.2f}", "comparable": comparable, "read in": number["source"]}


def why_not_comparable(task: "Task", specs: "Sequence[RunSpec]", label: str, protocol: str) -> str:
    """Return the first reason why our average of a method may not be set beside the paper's; "" if there is none."""
    own = [spec for spec in specs if spec.label == label]
    domains = list(task.manifest.domains)
    missing = [domain for domain in domains if domain not in {spec.source for spec in own}]
    reasons = {
        "the scans are synthetic": task.manifest.synthetic,
        "the encoder is not SAM's ViT-H": any(spec.backbone not in (None, "vit_h") for spec in own),
        "another protocol": protocol != "published",
        f"trained at {len(domains) - len(missing)} of {len(domains)} hospitals": bool(missing),
        "another split": any(spec.split != "published_90_10" for spec in own),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
