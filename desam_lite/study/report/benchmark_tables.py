"""What `benchmarks/` recorded, as tables for its README and for the book."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.study.report.sentences import count, format_interval, list_words
from desam_lite.study.report.style import is_oracle
from desam_lite.study.report.tables import Table


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
    """Return all methods of ``methods-DEVICE.json`` on a task as texts in percent, the best out of domain first."""
    columns = ["method", "in domain", "out of domain", f"minus {against}", "verdict"]
    # A record without verdicts is older than the decision rule: its intervals are another rule's.
    older = not all("verdict" in row for row in record["differences"])
    hidden = dict.fromkeys(("low", "high"), float("nan")) if older else {}
    averages, differences = (
        [{"mean": row["dice"], **row, **hidden} for row in record[part] if row["task"] == task]
        for part in ("averages", "differences")
    )
    home = {row["label"]: format_interval(row) for row in averages if row["in_domain"]}
    pairs = {row["first"]: row for row in differences if row["second"] == against}
    rows = []
    for away in sorted((row for row in averages if not row["in_domain"]), key=lambda row: -row["mean"]):
        label, pair = away["label"], pairs.get(away["label"])
        compared = [format_interval(pair, spec="+.1f"), pair.get("verdict", "")] if pair else ["", ""]
        rows.append([label, home.get(label, ""), format_interval(away), *compared])
    return pd.DataFrame(rows, columns=columns)


def say_methods(record: Mapping[str, Any], task: str) -> str:
    """Tell what the numbers of `method_rows` are of."""
    settings = next(row for row in record["settings"] if row["task"] == task)
    sources = " or ".join(dict.fromkeys(row["source"] for row in record["rows"] if row["task"] == task))
    return (
        f"Trained at {sources}: Dice (%) by the published protocol, {count(len(settings['seeds']), 'seed')}, "
        f"{count(settings['runs'], 'run')} of which {len(settings['failed'])} failed; 95 % interval over seeds and cases, "
        "empty in a record older than the decision rule; differences out of domain, case by case"
    )


def method_table(task: str, folder: Path | str, *, against: str = "DeSAM-B") -> Table:
    """Return `method_rows` of the first record in a folder that holds the task; an empty table if none does."""
    for path in sorted(Path(folder).glob("methods-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        frame = method_rows(record, task, against)
        if len(frame):
            return Table(frame, f"{say_methods(record, task)} ({record['device']})")
    return Table(pd.DataFrame(), f"Nothing is recorded of {task} in {folder}.")


def slices_rows(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return what ``all_slices-DEVICE.json`` has out of domain as texts in percent, one row for each way of a method."""
    means = {
        (r["label"], r["protocol"]): r | {"mean": r["dice"]} for r in record["rows"] if not r["in_domain"]
    }
    whole = [r for r in record["differences"] if r["protocol"] == "whole_volume" and not r["in_domain"]]
    pairs = {(row["first"], row["second"]): row for row in whole}
    rows = []
    for label in dict.fromkeys(label for label, _ in means):
        texts = [label, *(format_interval(means[label, name]) for name in ("published", "whole_volume"))]
        for other in (label.partition(", ")[0], "Prior"):
            pair = pairs.get((label, other))
            texts.append(f"{format_interval(pair, spec='+.1f')}: {pair['verdict']}" if pair else "")
        rows.append(texts)
    columns = ["model", "published", "whole volume", "minus the method itself", "minus the prior"]
    return pd.DataFrame(rows, columns=columns)


def say_slices(record: Mapping[str, Any]) -> str:
    """Tell what the numbers of `slices_rows` are of."""
    settings, away = record["settings"], [row for row in record["rows"] if not row["in_domain"]]
    each = settings["slices"]
    return (
        f"Trained at {' or '.join(settings['sources'])} of {settings['task']}, Dice (%) out of domain by both protocols: "
        f"{count(len(settings['seeds']), 'seed')}, {count(max(row['cases'] for row in away), 'case')}, "
        f"{count(len(settings['failed']), 'failed run')}; 95 % interval over seeds and cases; differences on the whole volume, "
        f"case by case. The published rule takes {each['published']} of the {each['all']} slices of the sources "
        f"({record['device']})"
    )


def tuning_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what was tried for each method, one row a method: validation loss at each rate, and the rate of the lowest."""
    texts = []
    for label, own in rows.groupby("label", sort=False):
        own = own.sort_values("learning_rate")
        tried = [f"{row.loss:.3f} at {row.learning_rate:g}" for row in own.itertuples()]
        best = own["loss"].to_numpy().argmin()
        chosen = own.iloc[best]
        end = ", an end of those tried" if best in (0, len(own) - 1) and len(own) > 2 else ""
        texts.append(
            {
                "method": label,
                "lowest validation loss": ", ".join(tried),
                "chosen rate": f"{chosen['learning_rate']:g}{end}" if len(own) > 2 else "not all tried yet",
                "epochs": f"{chosen['epochs']} (to the {chosen['stopped']})",
            }
        )
    return pd.DataFrame(texts)


def tuning_table(folder: Path | str) -> Table:
    """Return `tuning_rows` of what is recorded in a folder."""
    records = read_benchmarks(folder, "tuning")
    if records.empty:
        return Table(records, f"Nothing is recorded of learning rates in {folder}.", folded=True)
    caption = "Learning rates tried for each method, by the validation loss of source A alone, seed 0"
    return Table(tuning_rows(records), f"{caption} ({', '.join(records['device'].unique())})", folded=True)


def say_controls(
    frame: pd.DataFrame, controls: tuple[str, ...] = ("Prior", "DeSAM-B, random encoder")
) -> str:
    """Say which methods of `method_rows` have a lower mean out of domain than each control; oracles do not count."""
    means = {str(row["method"]): float(row["out of domain"].split()[0]) for row in frame.to_dict("records")}
    rivals = [name for name in means if not is_oracle(name) and name not in controls]
    parts = []
    for control in (name for name in controls if name in means):
        below = list_words([name for name in rivals if means[name] < means[control]])
        parts.append(f"below {control} ({means[control]:.1f}): {below or 'no method'}")
    if not parts:
        return "The record has no control to compare with."
    older = (
        ""
        if frame["verdict"].any()
        else " There are no verdicts: the record is older than the decision rule."
    )
    return f"Mean Dice (%) out of domain {'; '.join(parts)}.{older}"


def format_table(folder: Path | str) -> Table:
    """Return what the number format of stored embeddings does to Dice, of all ``embedding_dice-DEVICE.json`` in a folder."""
    records = read_benchmarks(folder, "embedding_dice")
    if records.empty:
        return Table(records, f"Nothing is recorded of the formats in {folder}.")
    rows = []
    for row in records.to_dict("records"):
        parts = {"mean": "difference_targets", "low": "difference_low", "high": "difference_high"}
        difference = format_interval({part: row[name] for part, name in parts.items()}, spec="+.1f")
        facts = {"task": row["task"], "source": row["source"], "format": row["fmt"]}
        facts["out of domain"] = f"{100 * row['dice_targets']:.1f}"
        facts["minus float32"] = "" if row["fmt"] == "float32" else difference
        rows.append(facts | {"between seeds": f"{100 * row['seed_spread']:.1f}"})
    devices = ", ".join(records["device"].unique())
    caption = "DeSAM-B trained and scored (Dice, %, every slice) on embeddings of each format; the last column: standard"
    return Table(pd.DataFrame(rows), f"{caption} deviation over seeds, float32 ({devices})", folded=True)
