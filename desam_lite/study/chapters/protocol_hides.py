"""Finished runs scored again in other ways, from their stored predictions: one quirk of the published protocol at a time.

``metrics.csv`` holds the two ends, `whole_volume` and `published`. Here is the way from one to the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from desam_lite.evaluation import statistics as results
from desam_lite.evaluation.metrics import QUIRKS, Mask, Quirks, as_scored
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, digest, sha256_file
from desam_lite.utils.progress import track

if TYPE_CHECKING:
    from desam_lite.data.slices import CaseSlices
    from desam_lite.data.tasks import Task
    from desam_lite.study.run import Run

RESCORING_VERSION = 1
Pooling = Literal["patient", "slice"]

LADDER: dict[str, Quirks] = {
    "whole_volume": QUIRKS["whole_volume"],
    "organ_slices": Quirks(slices="foreground"),
    "last_dropped": Quirks(slices="published"),
    "on_square": Quirks(slices="published", square=True),
    "published": QUIRKS["published"],
}
"""From every slice as it is to the published protocol; each step adds one quirk."""

ALONE: dict[str, Quirks] = {"border_alone": Quirks(border=True)}
"""A quirk without those that come before it on the ladder."""

STEPS: dict[str, str] = {
    "whole_volume": "every slice, as it is",
    "organ_slices": "only slices with the organ",
    "last_dropped": "without the last of them",
    "on_square": "on a 256 x 256 square",
    "published": "predictions in the border set to zero",
    "border_alone": "every slice, predictions in the border set to zero",
}
"""What each protocol adds to the one before it, in words."""

POOLINGS: dict[Pooling, str] = {
    "patient": "one Dice per patient, its slices pooled",
    "slice": "one Dice per slice, averaged over the slices of a patient",
}
"""How the slices of a patient become one number; the public code pools."""


def rescore(
    runs: "Sequence[Run]", task: "Task", workspace: Path | str, *, progress: bool = True
) -> pd.DataFrame:
    """Score the stored predictions of finished runs under every protocol of `LADDER` and `ALONE`.

    What was scored before is read from ``workspace/rescored``, one file per run, named by the run, its scores and the protocols.

    Args:
        runs: Those that are not finished are left out.
        task: What they are on.
        workspace: Folder for results and caches.
        progress: Whether to show a bar (one step per run).

    Returns:
        One row per run, case, organ and protocol: the columns that say which run it is, ``target``, ``case``, ``organ``,
        ``protocol``, ``dice`` (the slices of the patient pooled) and ``slice_dice`` (the mean over its slices); NaN where a
        protocol leaves nothing to score.

    Raises:
        StudyError: A stored prediction is missing or damaged.
    """
    finished = [run for run in runs if run.finished]
    frames = []
    for run in track(finished, "scoring again", enabled=progress):
        path = Path(workspace) / "rescored" / f"{_key(run)}.csv"
        if not path.exists():
            rows = _rescored(run, task)
            with atomic_path(path) as temporary:
                rows.to_csv(temporary, index=False)
        names = {"target": str, "case": str, "organ": str}
        frames.append(run.identified(pd.read_csv(path, dtype=names)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _key(run: "Run") -> str:
    protocols = {name: quirks._asdict() for name, quirks in {**LADDER, **ALONE}.items()}
    return digest([run.name, sha256_file(run.directory / "metrics.csv"), protocols, RESCORING_VERSION])


def _rescored(run: "Run", task: "Task") -> pd.DataFrame:
    scored = run.metrics()[["target", "case", "organ"]].drop_duplicates()
    organs = list(dict.fromkeys(scored["organ"]))  # in the order of the ids
    rows: list[dict[str, object]] = []
    task = task.only(run.spec.organs)
    for target, case in scored[["target", "case"]].drop_duplicates().itertuples(index=False):
        slices, prediction = task.slices.load(target, case), run.prediction(target, case)
        for number, organ in enumerate(organs, start=1):
            place = {"target": target, "case": case, "organ": organ}
            rows += [{**place, **row} for row in _protocols(slices, prediction == number, number)]
    return pd.DataFrame(rows)


def _protocols(slices: "CaseSlices", predicted: Mask, organ: int) -> list[dict[str, object]]:
    true = slices.labels == organ
    rows: list[dict[str, object]] = []
    for name, quirks in {**LADDER, **ALONE}.items():
        seen = as_scored(predicted, true, slices.spacing, quirks)
        pooled, by_slice = dice_both_ways(seen.predicted, seen.true)
        rows.append({"protocol": name, "dice": pooled, "slice_dice": by_slice})
    return rows


def dice_both_ways(predicted: Mask, true: Mask) -> tuple[float, float]:
    """Return Dice of all slices ``(Z, H, W)`` pooled, and the mean of the Dice of each slice.

    Slices in which both masks are empty say nothing and are left out of the mean. Both empty throughout is perfect agreement, as
    in `metrics.score_volume`; no slice at all gives NaN.

    >>> import numpy as np
    >>> true = np.zeros((2, 4, 4), bool); true[0] = True; true[1, 0, 0] = True
    >>> predicted = true.copy(); predicted[1] = False
    >>> [round(score, 2) for score in dice_both_ways(predicted, true)]
    [0.97, 0.5]
    """
    if len(true) == 0:
        return float("nan"), float("nan")
    overlap = (predicted & true).sum(axis=(1, 2))
    sizes = predicted.sum(axis=(1, 2)) + true.sum(axis=(1, 2))
    filled = sizes > 0
    if not filled.any():
        return 1.0, 1.0
    return float(2 * overlap.sum() / sizes.sum()), float(np.mean(2 * overlap[filled] / sizes[filled]))


def pooled_by(rescored: pd.DataFrame, pooling: Pooling) -> pd.DataFrame:
    """Return the rows of `rescore` with ``dice`` as this pooling has it."""
    return rescored if pooling == "patient" else rescored.assign(dice=rescored["slice_dice"])


def ladder(rescored: pd.DataFrame, *, rule: results.Rule = "sources") -> pd.DataFrame:
    """Return the mean of every method at every step of `LADDER`, with its interval.

    Returns:
        One row per protocol, label and in_domain, as `results.summarise` gives them, with ``protocol``.
    """
    steps = []
    for name in LADDER:
        scores = results.scores(rescored, protocol=name)
        steps.append(results.summarise(scores, rule=rule).assign(protocol=name))
    return pd.concat(steps, ignore_index=True)


def quirk_effects(rescored: pd.DataFrame, *, rule: results.Rule = "sources") -> pd.DataFrame:
    """Return what each quirk does to each method out of domain, case by case: the protocol with it minus the one without.

    Returns:
        One row per label and protocol: ``mean``, ``low``, ``high`` of the change, and ``cases``.
    """
    names = list(LADDER)
    pairs = [*zip(names[1:], names[:-1], strict=True), ("border_alone", "whole_volume")]
    pairs.append(("published", "whole_volume"))
    rows = []
    for label, own in rescored.groupby("label", sort=False):
        renamed = [results.scores(own, protocol=name).assign(label=name) for name in (*names, *ALONE)]
        table = results.compare(pd.concat(renamed, ignore_index=True), pairs, rule=rule)
        rows.append(table[~table["in_domain"].astype(bool)].assign(label=label))
    wanted = ["label", "first", "second", "mean", "low", "high", "cases"]
    return pd.concat(rows, ignore_index=True)[wanted]


def every_way(rescored: pd.DataFrame) -> pd.DataFrame:
    """Return the mean out of domain of every method in every way of counting: protocol, pooling and averaging rule.

    Returns:
        ``label``, ``protocol``, ``pooling``, ``rule``, ``mean``.
    """
    outside = rescored[~rescored["in_domain"].astype(bool)]
    tables = []
    for protocol in LADDER:
        for pooling in POOLINGS:
            scores = results.scores(pooled_by(outside, pooling), protocol=protocol)
            for rule in results.RULES:
                means = results.summarise(scores, ["label"], rule=rule)[["label", "mean"]]
                tables.append(means.assign(protocol=protocol, pooling=pooling, rule=rule))
    return pd.concat(tables, ignore_index=True)


def orders(ways: pd.DataFrame) -> pd.DataFrame:
    """Return the orders of the methods that `every_way` gives, best first, and in how many ways of counting each is seen.

    Returns:
        ``order`` (labels joined by " > ") and ``ways``, the most frequent first.
    """
    ranked = ways.sort_values("mean", ascending=False, kind="stable")
    joined = ranked.groupby(["protocol", "pooling", "rule"], sort=False)["label"].agg(" > ".join)
    counted = joined.value_counts()
    return pd.DataFrame({"order": counted.index, "ways": counted.to_numpy()})


def say_protocol(effects: pd.DataFrame, ways: pd.DataFrame, *, control: str = "Prior") -> str:
    """Answer in one sentence what the published protocol hides.

    Args:
        effects: Of `quirk_effects`.
        ways: Of `every_way`.
        control: The method that is not trained, named apart.

    Returns:
        A sentence in Markdown.
    """
    whole = effects[(effects["first"] == "published") & (effects["second"] == "whole_volume")]
    learnt = whole[whole["label"] != control].dropna(subset="mean")
    if learnt.empty:
        return "There is no answer yet: no trained method has been scored out of domain."
    seen, moves = orders(ways), learnt.set_index("label")["mean"] * 100
    winners = ways.loc[ways.groupby(["protocol", "pooling", "rule"])["mean"].idxmax(), "label"].value_counts()
    apart = len(seen) > 1
    verdict = (
        "Enough to change the order of the methods" if apart else "Points, but not the order of the methods"
    )
    said = ", ".join(f"{label} {move:+.1f}" for label, move in moves.items())
    order = f"{len(seen)} orders of the methods" if apart else "one order of the methods"
    return (
        f"**{verdict}**: the same predictions, scored by the published protocol instead of on every slice, move by this many "
        f"points of Dice out of domain: {said}. {len(ways) // ways['label'].nunique()} ways of counting give {order}, and "
        f"{winners.index[0]} is first in {winners.iloc[0]} of them."
    )


def most_moved(rescored: pd.DataFrame) -> pd.Series:
    """Choose the case out of domain that the published protocol lifts most above its score on every slice.

    Args:
        rescored: Of `rescore`, of the methods to choose from.

    Returns:
        Its ``label``, ``source``, ``seed``, ``target``, ``case``, and its Dice under ``whole_volume`` and ``published``.

    Raises:
        StudyError: No case out of domain has been scored.
    """
    away = rescored[~rescored["in_domain"].astype(bool)] if len(rescored) else rescored
    if away.empty:
        raise StudyError("there is no scored case out of domain to choose from: finish a run first.")
    keys = ["label", "source", "seed", "target", "case"]
    means = away.groupby([*keys, "protocol"], sort=False)["dice"].mean().unstack("protocol").reset_index()
    return means.iloc[int((means["published"] - means["whole_volume"]).to_numpy().argmax())]
