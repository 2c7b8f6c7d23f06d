"""Which learning rate of three each method of the study trains best with, by the validation loss of source A alone.

    python benchmarks/tuning.py                          # a day of one core; goes on where it was stopped
    python benchmarks/tuning.py --choice unet_aug        # one method; what is recorded of the others is kept
    python benchmarks/tuning.py --quick                  # a minute; its numbers say nothing

Every method gets the same effort: three rates, one seed, the training cases and the budget of the study. No target is read, and
no test case of the source is: the task that this script makes has no other domain. The result is written after every run.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from common import Options, read_options, recorded, write_result

from desam_lite.data.manifest import load_manifest
from desam_lite.data.tasks import Task, open_task
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.plans import EXPERIMENTS
from desam_lite.study.profiles import METHOD_CHOICES, Profile, get_profile, plan_domain_splits
from desam_lite.study.run import ExecutionOptions, find_run, fit, open_store, split_domain
from desam_lite.synthetic.phantoms.making import make_task
from desam_lite.training.devices import make_fabric

ROOT = Path(__file__).resolve().parents[1]
TASK, SOURCE = "phantom_prostate", "A"
RATES = (3e-4, 1e-3, 3e-3)
GENTLE_RATES = (3e-5, 1e-4, 3e-4)  # of what starts from a decoder that segments already
GENTLE = ("sam_finetuned",)
NOTE = "loss: lowest validation loss of source A, seed 0; stopped: what ended the training; chosen: the method's lowest loss"


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--choice", action="append", help="name of a method's choice; all of the profile by default"
    )
    parser.add_argument("--workspace", type=Path, default=ROOT / "results" / "tuning")
    chosen, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    options = read_options(__doc__ or "")
    if options.quick:
        small = {"cases": 3, "common": {**get_profile("smoke").common, "unet_size": 32}}
        profile = get_profile("smoke").model_copy(update=small)
        with tempfile.TemporaryDirectory() as folder:
            record(["unet"], profile, Path(folder), options)
    else:
        profile = get_profile("study")
        record(chosen.choice or trained_choices(profile), profile, chosen.workspace, options)


def trained_choices(profile: Profile) -> list[str]:
    """Return the choices of a profile that are trained, each training once: another prompt of predictions changes none."""
    specs = {name: plan(name, profile, Path()) for name in sources_of_choices(profile)}
    return [
        name
        for name, spec in specs.items()
        if spec.epochs is not None and "test_prompt" not in METHOD_CHOICES[name]
    ]


def sources_of_choices(profile: Profile) -> dict[str, int]:
    """Return every choice that the study compares, and at how many sources: at all of them, or at the profile's few."""
    count = len(load_manifest(TASK).domains)
    compared = dict.fromkeys(EXPERIMENTS["method_comparison"].methods, min(profile.few, count))
    return compared | dict.fromkeys(profile.methods, profile.sources or count)


def rates_of(choice: str) -> tuple[float, ...]:
    """Return the rates that are tried, the lowest first."""
    return GENTLE_RATES if METHOD_CHOICES[choice]["method"] in GENTLE else RATES


def plan(choice: str, profile: Profile, workspace: Path, **settings: Any) -> RunSpec:
    """Return the run of a choice on the task with the source alone."""
    chosen: dict[str, Any] = {"sources": [SOURCE], "methods": [choice], "seeds": [0]}
    manifest = workspace / "source.yaml" if (workspace / "source.yaml").exists() else TASK
    (spec,) = plan_domain_splits(profile, manifest, workspace / "data", **chosen, **settings)
    return spec


def open_source(profile: Profile, workspace: Path) -> Task:
    """Make the source's cases and a manifest that has no other domain, and open that task."""
    make_task(TASK, workspace / "data", cases=profile.cases, domains=[SOURCE])
    text = (ROOT / "data_manifests" / f"{TASK}.yaml").read_text(encoding="utf-8")
    manifest = yaml.safe_load(text)
    manifest["domains"] = {SOURCE: manifest["domains"][SOURCE]}
    (workspace / "source.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return open_task(workspace / "source.yaml", workspace / "data", workspace, progress=False)


def record(choices: list[str], profile: Profile, workspace: Path, options: Options) -> None:
    """Try the rates of each choice, the choices one after the other, and write what was seen."""
    workspace.mkdir(parents=True, exist_ok=True)
    task = open_source(profile, workspace)
    kept = [row for row in recorded("tuning", options).get("rows", []) if row["choice"] not in choices]
    rows: list[dict[str, Any]] = []
    for choice in choices:
        own: list[dict[str, Any]] = []
        for rate in rates_of(choice)[: 2 if options.quick else None]:
            own.append(try_rate(choice, rate, profile, task, workspace))
            best = min(row["loss"] for row in own)
            own = [{**row, "chosen": row["loss"] == best} for row in own]
            write_result("tuning", options, [*kept, *rows, *own], note=NOTE)
        rows += own


def try_rate(choice: str, rate: float, profile: Profile, task: Task, workspace: Path) -> dict[str, Any]:
    """Train a choice with a rate, or what is left of it, and return its row."""
    spec, started = plan(choice, profile, workspace, learning_rate=rate), time.perf_counter()
    run = find_run(spec, task, workspace)
    run.directory.mkdir(parents=True, exist_ok=True)
    options = ExecutionOptions(make_fabric("cpu", 1, spec.precision), "auto", progress=False)
    fit(run, task, split_domain(spec, task, SOURCE), open_store(run, task, options), options)
    history = run.history()
    print(f"{spec.label} at {rate}: {time.perf_counter() - started:.0f} s", flush=True)
    return {
        "choice": choice,
        "label": spec.label,
        "learning_rate": rate,
        "loss": float(history["val_loss"].min()),
        "epochs": len(history),
        "stopped": "plateau" if history["plateau"].iloc[-1] else "budget",
        "cpu_minutes": float(history["busy_seconds"].sum() / 60),
    }


if __name__ == "__main__":
    main()
