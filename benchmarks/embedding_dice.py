"""What the number format of the stored embeddings does to Dice: DeSAM-B trained on the same slices in each format.

    python benchmarks/embedding_dice.py       # 45 minutes on two cores, goes on where it was stopped; --quick: minutes

The recipe of the `teach` profile on synthetic hospitals, and on two real ones where they are at hand. The format that the book
uses is that of its own runs.
"""

import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from common import Options, read_options, write_result
from places import PLACES, ROOT, Place, plan_at, quick_place

from desam_lite.data.embedding_files import Format
from desam_lite.study.parallel import execute_runs
from desam_lite.study.run import collect_metrics

NOTE = (
    "DeSAM-B on sam_tiny with its shipped weights, the recipe of the teach profile, scored on every slice of volumes; source: "
    "its held-out cases; targets: all cases of the other domains. Differences are to float32, paired by seed and case; the "
    "interval is a 95 % bootstrap over cases of the mean over seeds. seed_spread: standard deviation over seeds of the mean "
    "Dice on the targets, with float32. A small encoder and few steps: not comparable with the paper."
)
FORMATS = sorted(get_args(Format), key=lambda name: name != "float32")  # what is compared with comes first
SEEDS = (0, 1, 2)


def main() -> None:
    options = read_options(__doc__ or "")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            _record(quick_place(Path(folder)), FORMATS[:2], SEEDS[:1], Path(folder), options)
    else:
        places = {
            name: place
            for name, place in PLACES.items()
            if not place.data_root or Path(place.data_root).is_dir()
        }
        _record(places, FORMATS, SEEDS, ROOT / "results", options)


def _record(
    places: dict[str, Place], formats: list[Format], seeds: tuple[int, ...], workspace: Path, options: Options
) -> None:
    rows: list[dict[str, Any]] = []
    for name, place in places.items():
        source = place._replace(sources=place.sources[:1])
        found = {fmt: _dice(name, source, fmt, seeds, workspace, options) for fmt in formats}
        rows += [_row(name, fmt, table, found["float32"]) for fmt, table in found.items()]
        write_result("embedding_dice", options, rows, note=NOTE)


def _dice(
    name: str, place: Place, fmt: Format, seeds: tuple[int, ...], workspace: Path, options: Options
) -> pd.DataFrame:
    """Train and score once per seed; return the Dice of each (source, target, case), a column per seed."""
    specs = plan_at(name, place, workspace, seeds, ["desam_b"], embedding_format=fmt)
    scores = collect_metrics(execute_runs(specs, workspace, jobs=1 if options.quick else None))
    whole = scores[scores["protocol"] == "whole_volume"]
    return whole.pivot_table("dice", ["source", "target", "case"], "seed")


def _row(name: str, fmt: str, table: pd.DataFrame, exact: pd.DataFrame) -> dict[str, Any]:
    source = table.index.get_level_values("source")
    at_home = table.index.get_level_values("target") == source
    differences = (table - exact).loc[~at_home].mean(axis=1).to_numpy()
    drawn = np.random.default_rng(0).choice(differences, (2000, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {
        "task": name,
        "source": source[0],
        "fmt": fmt,
        "seeds": table.shape[1],
        "source_cases": int(at_home.sum()),
        "target_cases": int((~at_home).sum()),
        "dice_source": float(np.nanmean(table.loc[at_home].to_numpy())),
        "dice_targets": float(np.nanmean(table.loc[~at_home].to_numpy())),
        "difference_targets": float(differences.mean()),
        "difference_low": low,
        "difference_high": high,
        "seed_spread": float(exact.loc[~at_home].mean().std(ddof=0)),
    }


if __name__ == "__main__":
    main()
