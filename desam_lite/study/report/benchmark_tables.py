"""What `benchmarks/` recorded of Dice, as tables for its README and for the book."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.study.report.tables import Table, format_p


def read_benchmarks(folder: Path | str, name: str) -> pd.DataFrame:
    """Return the rows of one benchmark on every device it was recorded on, with ``device`` and ``commit``; empty without any."""
    frames = []
    for path in sorted(Path(folder).glob(f"{name}-*.json")):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not record.get("quick"):
            commit = str(record["code"].get("commit") or "")[:10]
            frames.append(pd.DataFrame(record["rows"]).assign(device=record["device"], commit=commit))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def method_rows(record: Mapping[str, Any], task: str, against: str = "DeSAM-B") -> pd.DataFrame:
    """Return all methods on a task, the best out of domain first.

    Args:
        record: Of ``methods-DEVICE.json``.
        task: Name of the manifest.
        against: The method that each is method_rows with.

    Returns:
        Texts: ``method``; ``in domain`` and ``out of domain``, the mean Dice in percent with its 95 % interval; ``minus
        AGAINST``, the paired difference out of domain with its own; ``p (Holm)``. Empty if the task is not on record.
    """
    rows = [row for row in record["averages"] if row["task"] == task]
    home, away = (
        {row["label"]: row for row in rows if row["in_domain"] == inside} for inside in (True, False)
    )
    pairs = {
        row["first"]: row for row in record["differences"] if row["task"] == task and row["second"] == against
    }
    told = [
        {
            "method": label,
            "in domain": _spread(home.get(label)),
            "out of domain": _spread(row),
            f"minus {against}": _spread(pairs.get(label), "+"),
            "p (Holm)": format_p(pairs[label]["p_holm"]) if label in pairs else "",
        }
        for label, row in sorted(away.items(), key=lambda item: -item[1]["dice"])
    ]
    return pd.DataFrame(
        told, columns=["method", "in domain", "out of domain", f"minus {against}", "p (Holm)"]
    )


def say_methods(record: Mapping[str, Any], task: str) -> str:
    """Say what the numbers of `method_rows` are of."""
    settings = next(row for row in record["settings"] if row["task"] == task)
    sources = " or ".join(dict.fromkeys(row["source"] for row in record["rows"] if row["task"] == task))
    failed = len(settings["failed"])
    return (
        f"Trained at {sources}: Dice (%) by the published protocol, {len(settings['seeds'])} seeds, {settings['runs']} runs of "
        f"which {failed} failed; 95 % interval over seeds and cases; differences out of domain, case by case; p: Wilcoxon's test "
        "with one number per patient, corrected for all pairs of the task"
    )


def method_table(task: str, folder: Path | str, *, against: str = "DeSAM-B") -> Table:
    """Return `method_rows` for the page, from the first record in a folder that knows the task; an empty table if none does."""
    for path in sorted(Path(folder).glob("methods-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found = method_rows(record, task, against)
        if len(found):
            return Table(found, f"{say_methods(record, task)} ({record['device']})")
    return Table(pd.DataFrame(), f"Nothing is recorded of {task} in {folder}.")


def format_table(folder: Path | str) -> Table:
    """Return what the number format of stored embeddings does to Dice, of all ``embedding_dice-DEVICE.json`` in a folder.

    Args:
        folder: With the records; the table is empty where it has none.

    Returns:
        A row per task and format: ``out of domain``, mean Dice in percent; ``minus float32``, the difference paired by seed and
        case with its 95 % interval; ``between seeds``, the standard deviation of the mean with float32.
    """
    known = read_benchmarks(folder, "embedding_dice")
    if known.empty:
        return Table(known, f"Nothing is recorded of the formats in {folder}.")
    rows = [
        {
            "task": row["task"],
            "source": row["source"],
            "format": row["fmt"],
            "out of domain": f"{100 * row['dice_targets']:.1f}",
            "minus float32": "" if row["fmt"] == "float32" else _spread(_difference(row), "+"),
            "between seeds": f"{100 * row['seed_spread']:.1f}",
        }
        for row in known.to_dict("records")
    ]
    said = "DeSAM-B trained and scored (Dice, %, every slice) on embeddings of each format; the last column: standard deviation"
    return Table(pd.DataFrame(rows), f"{said} over seeds, float32 ({', '.join(known['device'].unique())})")


def _difference(row: Mapping[Any, Any]) -> dict[str, float]:
    parts = {"dice": "targets", "low": "low", "high": "high"}
    return {part: row[f"difference_{name}"] for part, name in parts.items()}


def _spread(row: Mapping[str, Any] | None, sign: str = "") -> str:
    if row is None:
        return ""
    mean, low, high = (f"{100 * row[key]:{sign}.1f}" for key in ("dice", "low", "high"))
    return f"{mean} ({low} to {high})"
