"""Models trained on slices with an organ and on all slices, on real prostates, with and without a clean-up of the whole mask.

    python benchmarks/all_slices.py              # hours on two cores, goes on where it was stopped
    python benchmarks/all_slices.py --seeds 2    # the first two seeds; --quick: a minute, on phantoms

The result is written after every seed, with what is finished by then. Runs that `methods.py` has made are not repeated.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from common import Options, read_options, write_result
from places import PLACES, ROOT, Place, plan_at, quick_place

from desam_lite.data.slices import select_slices
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation import statistics as results
from desam_lite.evaluation.metrics import Protocol, score_case
from desam_lite.prediction.scan import keep_largest_part
from desam_lite.study.parallel import execute_runs
from desam_lite.study.run import Run

TASK = "promise12_small"
METHODS = ("prior", "desam_b", "desam_p")
SEEDS = 3
RULES = {"published": "", "all": ", all slices"}
CLEANED = ", largest part"
CONTROL = "Prior"
_KEPT = ("source", "target", "in_domain", "seed", "case", "organ", "protocol", "dice")
NOTE = (
    "dice: mean over organs and cases, then targets, sources and seeds; low, high: 95 % interval over seeds and cases. "
    "differences: first minus second, case by case; verdict: of the decision rule. Training on all slices has the same epochs, "
    "so it takes more steps (slices: how many the cases of the sources have of each kind)."
)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    options = read_options(__doc__ or "")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            ((task, place),) = quick_place(Path(folder)).items()
            measure(task, place, range(1), Path(folder), options)
    else:
        measure(TASK, PLACES[TASK]._replace(methods=METHODS), range(chosen.seeds), ROOT / "results", options)


def measure(task: str, place: Place, seeds: Sequence[int], workspace: Path, options: Options) -> None:
    """Train and score seed by seed, and write what is finished after each."""
    frames: list[pd.DataFrame] = []
    failed: list[str] = []
    for number, seed in enumerate(seeds, start=1):
        specs = [s for rule in RULES for s in plan_at(task, place, workspace, [seed], train_slices=rule)]
        specs = list(dict.fromkeys(specs))  # the prior is not trained: it is the same run both times
        runs = execute_runs(specs, workspace, jobs=1 if options.quick else None)
        opened = open_task(specs[0].manifest, specs[0].data_root, workspace, progress=False)
        frames += [frame for run in runs if run.finished for frame in _both_ways(run, opened)]
        failed += [
            f"{run.spec.label} from {run.spec.source}, seed {seed}: {run.error}" for run in runs if run.error
        ]
        metrics = pd.concat(frames, ignore_index=True)
        sources = dict.fromkeys(spec.source for spec in specs)
        settings = {
            "task": task,
            "sources": list(sources),
            "seeds": list(seeds[:number]),
            "slices": {rule: _count_slices(opened, sources, rule) for rule in RULES},
            "epochs": max(spec.epochs or 0 for spec in specs),
            "failed": failed,
        }
        rows, differences = tables(metrics)
        write_result("all_slices", options, rows, differences=differences, settings=settings, note=NOTE)


def _both_ways(run: Run, task: Task) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the metrics of a run as they are, and of its masks after the clean-up, labelled by what was done."""
    label = run.spec.label + RULES[run.spec.train_slices or "published"]
    as_it_is = run.metrics().assign(label=label)[["label", *_KEPT]]
    masks = cache(lambda target, case: keep_largest_part(run.stored_prediction(target, case)))
    organs = [organ.name for organ in task.manifest.organs]
    dice = []
    for row in as_it_is.itertuples():
        case, organ = task.slices.load(row.target, row.case), organs.index(row.organ) + 1
        mask = masks(row.target, row.case)
        dice.append(score_case(mask, case.labels, case.spacing, organ, row.protocol).dice)
    return as_it_is, as_it_is.assign(label=label + CLEANED, dice=dice)


def _count_slices(task: Task, sources: Sequence[str], rule: str) -> int:
    cases = [task.slices.load(source, case) for source in sources for case in task.cases(source)]
    return sum(len(select_slices(case.labels, rule)) for case in cases)


def tables(metrics: pd.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return averages, and differences to the published way, to the mask before the clean-up and to the prior."""
    rows, differences = [], []
    for protocol in get_args(Protocol):
        scores = results.scores(metrics, protocol=protocol)
        for row in results.summarise(scores).to_dict("records"):
            numbers = {"dice": row["mean"], "low": row["low"], "high": row["high"]}
            names = ("label", "in_domain", "sources", "seeds", "cases")
            rows.append({"protocol": protocol} | {name: row[name] for name in names} | numbers)
        pairs = _pairs(list(dict.fromkeys(scores["label"])))
        columns = ["first", "second", "in_domain", "mean", "low", "high", "verdict", "seeds", "cases"]
        compared = results.compare(scores, pairs).dropna(subset="mean")[columns]
        differences += [{"protocol": protocol, **row} for row in compared.to_dict("records")]
    return rows, differences


def _pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is compared: each label with itself less one of the steps, or both, and with the prior."""
    pairs = []
    for label in labels:
        bare = label.removesuffix(CLEANED)
        others = (bare, label.replace(RULES["all"], ""), bare.removesuffix(RULES["all"]), CONTROL)
        pairs += [(label, other) for other in dict.fromkeys(others) if other in labels and other != label]
    return pairs


if __name__ == "__main__":
    main()
