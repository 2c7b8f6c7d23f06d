"""What a run of each method of the study costs on one thread, and so how many core hours the kept study takes.

    python benchmarks/study_cost.py                  # some minutes of one core, in the workspace of tuning.py
    python benchmarks/study_cost.py --epochs 80      # hours for another length of training; --quick: a minute

Two epochs over a few slices and one scored case are timed for each method, in seconds of the processor. How many epochs it takes
to the plateau is read from `tuning-cpu.json` where it is recorded there; else it is the given number.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, Options, read_options, write_result
from tuning import ROOT, SOURCE, open_source, plan, sources_of_choices

from desam_lite.data.datasets import list_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.scoring import score_domains
from desam_lite.methods import METHODS
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.profiles import Profile, get_profile
from desam_lite.study.run import ExecutionOptions, find_run, open_store, split_domain, training_data
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train_epoch, validate
from desam_lite.training.method import Method

DOMAINS = 6
NOTE = (
    "seconds of the processor per slice on one thread: a pass of training, of validation, and a prediction with its scores. "
    "minutes: of a run of the study; hours: of all its sources and seeds. assumed: epochs are given, not recorded by tuning.py."
)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--workspace", type=Path, default=ROOT / "results" / "tuning")
    chosen, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    options = read_options(__doc__ or "")
    if options.quick:
        common = {**get_profile("smoke").common, "unet_size": 32}
        smoke = get_profile("smoke").model_copy(update={"cases": 3, "common": common})
        with tempfile.TemporaryDirectory() as folder:
            measure({"prior": 1, "unet": 1}, smoke, Path(folder), 1, options)
    else:
        chosen.workspace.mkdir(parents=True, exist_ok=True)
        study = get_profile("study")
        measure(sources_of_choices(study), study, chosen.workspace, chosen.epochs, options)


def measure(
    choices: Mapping[str, int], profile: Profile, workspace: Path, usual: int, options: Options
) -> None:
    """Time each choice, trained at so many sources, and write what a run and the whole study take."""
    task = open_source(profile, workspace)
    epochs = _recorded_epochs()
    rows: list[dict[str, Any]] = []
    for choice, sources in choices.items():
        spec = plan(choice, profile, workspace)
        seconds, slices = time_method(spec, task), count_slices(spec, task)
        length = epochs.get(choice, usual) if spec.epochs else 0
        passes = length * (slices["train"] * seconds["train"] + slices["val"] * seconds["val"])
        minutes = (passes + DOMAINS * slices["test"] * seconds["predict"]) / 60
        row = {"choice": choice, "label": spec.label, **{f"{k}_seconds": v for k, v in seconds.items()}}
        row |= {"epochs": length, "assumed": bool(length) and choice not in epochs, "minutes": minutes}
        rows.append(row | {"hours": minutes / 60 * sources * len(profile.seeds), "sources": sources})
        total = sum(each["hours"] for each in rows)
        write_result("study_cost", options, rows, note=NOTE, hours=round(total, 1), slices=slices)


def time_method(spec: RunSpec, task: Task) -> dict[str, float]:
    """Return processor seconds per slice of training, validating and predicting; 0 for what a method does not do."""
    run, split = find_run(spec, task, task_workspace(task)), split_domain(spec, task, SOURCE)
    options = ExecutionOptions(make_fabric("cpu", 1, spec.precision), "auto", progress=False)
    store = open_store(run, task, options)
    parts = {part: [c for c, p in split.items() if p == part] for part in ("train", "val", "test")}
    cases = [task.slices.load(SOURCE, case) for case in parts["train"]]
    predictor = METHODS[spec.method](spec, len(task.manifest.organs), cases)
    seconds = {"train": 0.0, "val": 0.0}
    if isinstance(predictor, Method):
        data = training_data(predictor, spec, task, parts["val"], store, options)
        assert spec.batch_size is not None and spec.learning_rate is not None
        settings = TrainSettings(batch_size=spec.batch_size, learning_rate=spec.learning_rate)
        optimizer = torch.optim.Adam(predictor.parameters(), lr=spec.learning_rate)
        module, optimizer = options.fabric.setup(predictor.module, optimizer)
        for epoch in range(2):  # the first warms up
            spent = _timed(
                lambda e=epoch: train_epoch(predictor, module, optimizer, data, settings, e, options.fabric)
            )
        seconds["train"] = spent / len(data)
        seconds["val"] = _timed(lambda: validate(predictor, module, data, settings, options.fabric)) / len(
            data
        )
    case = {SOURCE: parts["test"][:1]}
    with tempfile.TemporaryDirectory() as folder:
        spent = _timed(
            lambda: score_domains(predictor.label, task, case, store, Path(folder), progress=False)
        )
    return {**seconds, "predict": spent / len(task.slices.load(SOURCE, case[SOURCE][0]).images)}


def task_workspace(task: Task) -> Path:
    """Return the folder that a task's slices were prepared in."""
    return task.slices.folder.parent


def count_slices(spec: RunSpec, task: Task) -> dict[str, int]:
    """Return the slices of the source that are trained on, validated on, and tested (all of a case)."""
    split = split_domain(spec, task, SOURCE)
    rule = spec.train_slices or "published"
    counts = {
        part: len(list_slices(task.slices, SOURCE, [c for c, p in split.items() if p == part], rule))
        for part in ("train", "val")
    }
    tested = [c for c, p in split.items() if p == "test"]
    return {**counts, "test": int(np.sum([len(task.slices.load(SOURCE, c).images) for c in tested]))}


def _recorded_epochs() -> dict[str, int]:
    path = RESULTS / "tuning-cpu.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return {row["choice"]: row["epochs"] for row in rows if row["chosen"]}


def _timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
