"""Every method and both controls over three seeds, in and out of domain, on synthetic and on real prostates.

    python benchmarks/methods.py                            # hours on two cores, goes on where it was stopped
    python benchmarks/methods.py --task phantom_prostate    # what is recorded of promise12_small (real scans) is kept
    python benchmarks/methods.py --seeds 1                  # the first seed only; --quick: a minute

Not a benchmark of speed, though it records what each method took. The result is written after every seed of every task, with what
is finished by then. The runs on synthetic data are those of the book, and are not repeated if the book has made them.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import Options, read_options, recorded, write_result
from places import PLACES, ROOT, Place, plan_at, quick_place

from desam_lite.evaluation import statistics as results
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.parallel import execute_runs
from desam_lite.study.run import Run, collect_metrics

AGAINST = ("DeSAM-B", "DeSAM-P")
NOTE = (
    "dice: mean over organs and over the cases of the target, then over seeds; published protocol. low, high: 95 % interval over "
    "seeds and cases. differences: first minus second, out of domain, case by case; verdict: of the decision rule. "
    "minutes: of the clock, mean per run, other runs going on beside it. Settings of the "
    "profile teach; the real scans have two to three times the slices and are passed over half as often."
)
SEEDS = (0, 1, 2)
PARTS = ("rows", "averages", "differences", "costs", "settings")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--task", choices=PLACES, action="append")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    chosen, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    options = read_options(__doc__ or "")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            _record(quick_place(Path(folder)), SEEDS[:1], Path(folder), options)
    else:
        places = {task: PLACES[task] for task in chosen.task or PLACES}
        _record(places, SEEDS[: chosen.seeds], ROOT / "results", options)


def _record(places: dict[str, Place], seeds: Sequence[int], workspace: Path, options: Options) -> None:
    known = recorded("methods", options)
    kept = {key: [row for row in known.get(key, []) if row["task"] not in places] for key in PARTS}
    tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, place in places.items():
        specs: list[RunSpec] = []
        for seed in seeds:  # seed by seed: what is stopped is whole up to then
            specs += plan_at(name, place, workspace, [seed])
            tables[name] = _tables(name, execute_runs(specs, workspace, jobs=1 if options.quick else None))
            joined = {key: kept[key] + [row for t in tables.values() for row in t[key]] for key in PARTS}
            write_result("methods", options, joined.pop("rows"), **joined, note=NOTE)


def _tables(task: str, runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return cells, averages, paired differences, costs and what was run, of one task."""
    scores = results.scores(collect_metrics(runs), protocol="published")
    outside = scores[~scores["in_domain"].astype(bool)]
    labels = list(dict.fromkeys(scores["label"]))
    pairs = [(label, other) for other in AGAINST for label in labels if other in labels and label != other]
    compared = results.compare(outside, pairs).dropna(subset="mean")
    failed = [
        f"{run.spec.label} from {run.spec.source}, seed {run.spec.seed}: {run.error}"
        for run in runs
        if not run.finished
    ]
    cells = results.summarise(scores, ["label", "source", "target"])
    means = results.summarise(scores, ["label", "in_domain"])
    known = {
        "task": task,
        "seeds": sorted({run.spec.seed for run in runs}),
        "runs": len(runs),
        "failed": failed,
    }
    return {
        "rows": [_told(task, row, "label", "source", "target", "seeds") for _, row in cells.iterrows()],
        "averages": [
            _told(task, row, "label", "in_domain", "sources", "seeds") for _, row in means.iterrows()
        ],
        "differences": [
            _told(task, row, "first", "second", "verdict", "won", "cases") for _, row in compared.iterrows()
        ],
        "costs": [
            _cost(task, label, [r for r in runs if r.finished and r.spec.label == label]) for label in labels
        ],
        "settings": [known],
    }


def _told(task: str, row: pd.Series, *names: str) -> dict[str, Any]:
    numbers = {"dice": float(row["mean"]), "low": float(row["low"]), "high": float(row["high"])}
    return {"task": task} | {name: row[name] for name in names} | numbers


def _cost(task: str, label: str, runs: Sequence[Run]) -> dict[str, Any]:
    infos = [run.info for run in runs]
    minutes = {
        f"{part}_minutes": sum(info["minutes"][part] for info in infos) / len(infos)
        for part in ("training", "scoring")
    }
    memory = max(info["peak_memory"]["process_mib"] for info in infos)
    trained = max(info["trained_parameters"] for info in infos)
    epochs = runs[0].spec.epochs or 0
    return {
        "task": task,
        "label": label,
        "epochs": epochs,
        "parameters": trained,
        **minutes,
        "peak_mib": memory,
    }


if __name__ == "__main__":
    main()
