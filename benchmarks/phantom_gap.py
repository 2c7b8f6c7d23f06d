"""Dice of a U-Net from every synthetic hospital to every other, without and with augmentation, beside the prior.

    python benchmarks/phantom_gap.py                         # hours on two cores, goes on where it stopped; --quick: a minute
    python benchmarks/phantom_gap.py --task phantom_abdomen  # one task; what is recorded of the other is kept

Not a benchmark of speed: it shows that the gap between the synthetic hospitals is as wide as between real ones, and that it
lies in how they look rather than in where the organ is.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from common import Options, read_options, recorded, write_result

from desam_lite.data.manifest import load_manifest
from desam_lite.evaluation import statistics as results
from desam_lite.study.parallel import execute_runs
from desam_lite.study.profiles import get_profile, plan_domain_splits
from desam_lite.study.run import Run, collect_metrics
from desam_lite.synthetic.phantoms import make_task
from desam_lite.utils.provenance import code_version

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("prior", "unet")
AUGMENTED = ("unet_aug",)
NOTE = (
    "dice: mean over organs and over the cases of the target, then over seeds. Settings of the profile teach but for cases and "
    "epochs, which are such that the U-Net learns its own hospital. low, high: 95 % interval over seeds and cases. The abdomen "
    "is scored by whole volumes: the published protocol blanks a border in which its organs lie."
)


class Amount(NamedTuple):
    """How much is done of a task, and how it is scored; no sources are all of them, no augmented ones none."""

    cases: int
    epochs: int
    protocol: str
    seeds: tuple[int, ...] = (0, 1, 2)
    sources: tuple[str, ...] = ()
    augmented: tuple[str, ...] = ()


# A U-Net learns the 8 abdomens that it would be trained on of 12 by heart, and other patients of its hospital no better for it.
# Augmentation as strong as nnU-Net's makes a training four times as long: without and with an endorectal coil will do.
FULL = {
    "phantom_prostate": Amount(16, 60, "published", augmented=("A", "B")),
    "phantom_abdomen": Amount(32, 20, "whole_volume"),
}
QUICK = {"phantom_prostate": Amount(2, 1, "published", (0,), ("A",))}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--task", choices=FULL, action="append")
    chosen, sys.argv[1:] = parser.parse_known_args()
    options = read_options(__doc__ or "")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            _record(Path(folder), "smoke", QUICK, options)
    else:
        _record(ROOT / "results", "teach", {task: FULL[task] for task in chosen.task or FULL}, options)


def _record(workspace: Path, profile: str, tasks: dict[str, Amount], options: Options) -> None:
    rows, averages, settings = _kept(options, tasks)
    for task, amount in tasks.items():
        runs = _runs(task, amount, profile, workspace, jobs=1 if options.quick else None)
        scores = results.scores(collect_metrics(runs), protocol=amount.protocol)
        cells = results.summarise(scores, ["label", "source", "target"])
        rows += [_told(task, row, "label", "source", "target") for _, row in cells.iterrows()]
        means = results.summarise(scores, ["label", "in_domain"])
        averages += [_told(task, row, "label", "in_domain", "sources") for _, row in means.iterrows()]
        minutes = sum(sum(run.info["minutes"].values()) for run in runs)
        done = {"runs": len(runs), "minutes": round(minutes, 1), "commit": code_version()["commit"]}
        settings.append({"task": task, **amount._asdict(), **done})
        write_result("phantom_gap", options, rows, averages=averages, settings=settings, note=NOTE)


def _kept(options: Options, tasks: dict[str, Amount]) -> Iterator[list[dict[str, Any]]]:
    """Return the recorded rows, averages and settings of the tasks that are not done now."""
    known = recorded("phantom_gap", options)
    return (
        [row for row in known.get(key, []) if row["task"] not in tasks]
        for key in ("rows", "averages", "settings")
    )


def _runs(task: str, amount: Amount, profile: str, workspace: Path, jobs: int | None) -> list[Run]:
    data = workspace / f"phantom_gap_{task}"
    make_task(task, data, cases=amount.cases)
    manifest = ROOT / "data_manifests" / f"{task}.yaml"
    asked = {"seeds": amount.seeds, "epochs": amount.epochs}
    plan = partial(plan_domain_splits, get_profile(profile), manifest, data, **asked)
    specs = plan(methods=METHODS, sources=amount.sources or tuple(load_manifest(manifest).domains))
    if amount.augmented:
        specs += plan(methods=AUGMENTED, sources=amount.augmented)
    return execute_runs(specs, workspace, jobs=jobs)


def _told(task: str, row: pd.Series, *names: str) -> dict[str, Any]:
    numbers = {"dice": float(row["mean"]), "low": float(row["low"]), "high": float(row["high"])}
    return {"task": task} | {name: row[name] for name in names} | numbers


if __name__ == "__main__":
    main()
