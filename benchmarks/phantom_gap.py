"""Dice of a U-Net from every synthetic hospital to every other, without and with augmentation, beside the prior.

    python benchmarks/phantom_gap.py          # half an hour on two cores, goes on where it was stopped; --quick: a minute

Not a benchmark of speed: it shows that the gap between the synthetic hospitals is as wide as between real ones, and that it
lies in how they look rather than in where the organ is.
"""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from common import Options, read_options, write_result

from desam_lite import results
from desam_lite.notebook import all_metrics
from desam_lite.parallel import execute_runs
from desam_lite.phantoms import make_task
from desam_lite.profiles import get_profile, plan_domain_splits

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("prior", "unet", "unet_aug")
PROTOCOL = "published"
CASES, EPOCHS, SEEDS = 16, 60, (0, 1, 2)
NOTE = (
    "dice: mean over the cases of the target, then over seeds, protocol published. Settings of the profile teach but for cases "
    "and epochs, which are such that the U-Net learns its own hospital. low, high: 95 % interval over seeds and cases."
)


def main() -> None:
    options = read_options(__doc__ or "")
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            _record(
                Path(folder), "smoke", {"cases": 2, "epochs": 1, "seeds": (0,), "sources": ["A"]}, options
            )
    else:
        _record(ROOT / "results", "teach", {"cases": CASES, "epochs": EPOCHS, "seeds": SEEDS}, options)


def _record(workspace: Path, profile: str, amount: dict[str, Any], options: Options) -> None:
    data = workspace / "phantom_gap_data"
    make_task("phantom_prostate", data, cases=amount.pop("cases"))
    manifest = ROOT / "data_manifests" / "phantom_prostate.yaml"
    specs = plan_domain_splits(get_profile(profile), manifest, data, methods=METHODS, **amount)
    runs = execute_runs(specs, workspace, jobs=1 if options.quick else None)
    scores = results.scores(all_metrics(runs), protocol=PROTOCOL)
    cells = results.summarise(scores, ["label", "source", "target"])
    averages = results.summarise(scores, ["label", "in_domain"])
    minutes = sum(sum(run.info["minutes"].values()) for run in runs)
    rows = [_told(row, "label", "source", "target") for _, row in cells.iterrows()]
    said = [_told(row, "label", "in_domain") for _, row in averages.iterrows()]
    settings = {"epochs": specs[-1].epochs, "cases": len(scores["case"].unique()), "runs": len(runs)}
    write_result(
        "phantom_gap", options, rows, averages=said, settings=settings, minutes=round(minutes, 1), note=NOTE
    )


def _told(row: pd.Series, *names: str) -> dict[str, Any]:
    numbers = {"dice": float(row["mean"]), "low": float(row["low"]), "high": float(row["high"])}
    return {name: row[name] for name in names} | numbers


if __name__ == "__main__":
    main()
