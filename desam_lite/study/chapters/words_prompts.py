"""Sentences that answer the questions about prompts and dials, computed from their tables."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from desam_lite.study.chapters.which_shift_hurts import EVERY


def say_points(enough: pd.DataFrame, seconds: pd.DataFrame, *, label: str) -> str:
    """Answer how many points are enough for a method.

    Args:
        enough: Of `grid_study.enough_points`.
        seconds: label, points, seconds per slice.
        label: Of whom the answer speaks.

    Returns:
        A sentence in Markdown. Enough is the smallest grid whose paired difference to the best has an interval with zero in it.
    """
    rows = enough[enough["label"] == label]
    if rows.empty:
        return "There is no answer yet: no method with points has been scored out of domain."
    least, best = _least(rows), rows[rows["points"] == rows["best"]].iloc[0]
    cost = seconds[seconds["label"] == label].set_index("points")["seconds"]
    n, most = int(least["points"]), int(rows["points"].max())
    return (
        f"**{n} {'point is' if n == 1 else 'points are'} enough** for {label} on these cases: out of domain mean Dice is "
        f"{least['value'] * 100:.0f} with {n}, and {best['value'] * 100:.0f} with the best grid tried ({best['points']:.0f}); a "
        f"difference like this may be chance. A slice takes {cost[n]:.2f} s with {n} and {cost[most]:.2f} s with {most}."
    )


def _least(rows: pd.DataFrame) -> Mapping[Any, Any]:
    good = rows[(rows["points"] == rows["best"]) | (rows["high"] >= 0)]
    return good.sort_values("points").iloc[0].to_dict()


def say_judgement(quality: pd.DataFrame) -> str:
    """Say how well the IoU heads rank prompts.

    Args:
        quality: label, auc, rank, chosen, typical, best: means over slices and cases.
    """
    parts = [
        f"{row['label']} prefers a point in the organ to one outside in {_percent(row['auc'])} of pairs, its score and the Dice "
        f"of the mask have a rank correlation of {_number(row['rank'])}, and the point it chooses gives Dice "
        f"{_percent(row['chosen'])} where "
        f"the median point gives {_percent(row['typical'])} and the best {_percent(row['best'])}"
        for row in quality.to_dict("records")
    ]
    return f"{'; '.join(parts)}." if parts else "No model judges its prompts."


def say_coupling(differences: pd.DataFrame) -> str:
    """Answer what a poor prompt does: is the spread of Dice over prompts larger in the coupled decoder?

    Args:
        differences: Of `results.compare` over spreads out of domain, the coupled one first.

    Returns:
        A sentence in Markdown; a difference counts if its interval excludes zero.
    """
    rows = differences[~differences["in_domain"].astype(bool)].dropna(subset="mean")
    if rows.empty:
        return "There is no answer yet: no coupled and decoupled model have been asked on the same cases."
    more, less = rows["low"] > 0, rows["high"] < 0
    verdict = (
        "A poor prompt spoils the mask of the coupled decoder more"
        if more.all()
        else "It depends on how the two were trained"
        if more.any()
        else "The coupled decoder was not seen to depend on its prompt more than the decoupled"
    )
    if less.any() and not more.any():
        verdict = "A poor prompt spoils the mask of the decoupled decoder more"
    parts = [
        f"{row['mean'] * 100:+.0f} ({row['low'] * 100:+.0f} to {row['high'] * 100:+.0f}) for {row['first']} "
        f"against {row['second']}"
        for row in rows.to_dict("records")
    ]
    return (
        f"**{verdict}**: the distance in Dice (%) between good and poor prompts (the best and the 10th percentile over a slice) "
        f"differs by {', and by '.join(parts)}."
    )


def say_dials(lost: pd.DataFrame, source: str, target: str, *, control: str = "Prior") -> str:
    """Answer which dial hurts most.

    Args:
        lost: `results.summarise` by label and dial of `dial_study.losses`.
        source: Hospital of all dials at 0.
        target: Hospital of all dials at 1.
        control: The method that is not trained.

    Returns:
        A sentence in Markdown: the dial with the largest mean loss over the trained methods.
    """
    learnt = lost[lost["label"] != control]
    single = learnt[learnt["dial"] != EVERY].groupby("dial", sort=False)["mean"].mean()
    if single.empty:
        return "There is no answer yet: no trained method has met a dial."
    worst = str(single.idxmin())
    rows = learnt[learnt["dial"] == worst]
    seen = bool((rows["high"] < 0).any())
    name = worst.replace("_", " ")
    verdict = (
        f"**The {name}**"
        if seen
        else f"**No single dial was seen to hurt beyond chance**; the {name} costs most"
    )
    each = ", ".join(f"{row['mean'] * 100:+.0f} for {row['label']}" for row in rows.to_dict("records"))
    together = learnt[learnt["dial"] == EVERY]
    said = ", ".join(f"{row['mean'] * 100:+.0f} for {row['label']}" for row in together.to_dict("records"))
    every = f"; with all dials turned it is {said}" if said else ""
    return f"{verdict}: turned from {source} to {target} on the same patients, Dice (%) changes by {each}{every}."


def _percent(value: float) -> str:
    return "no" if pd.isna(value) else f"{value * 100:.0f} %"


def _number(value: float) -> str:
    return "none that can be computed" if pd.isna(value) else f"{value:.2f}"
