"""What the number format of the stored embeddings does to Dice: DeSAM-B trained on the same slices in each format.

    python benchmarks/embedding_dice.py       # a quarter of an hour on a CPU; --quick: seconds

The recipe of the `teach` profile on synthetic hospitals that are made for it, and on two real ones where they are at hand.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import yaml
from common import Options, read_options, write_result
from tqdm import tqdm

from desam_lite.embedding_files import Format
from desam_lite.manifest import find_manifest, load_manifest
from desam_lite.phantoms import make_task
from desam_lite.profiles import PROFILES
from desam_lite.runs import execute_run
from desam_lite.spec import make_spec

NOTE = (
    "DeSAM-B on sam_tiny with the weights named, the recipe of the teach profile, scored on every slice of volumes; source: "
    "its held-out cases; targets: all cases of the other domains. Differences are to float32, paired by seed and case; the "
    "interval is a 95 % bootstrap over cases of the mean over seeds. seed_spread: standard deviation over seeds of the mean "
    "Dice on the targets, with float32. Synthetic, or tiny and of another encoder: not comparable with the paper."
)
REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "prostate"
FORMATS = sorted(get_args(Format), key=lambda name: name != "float32")  # what is compared with comes first


class Place(NamedTuple):
    """A task that is trained on, and where its data lie."""

    manifest: Path
    root: Path
    source: str


def main() -> None:
    options = read_options(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        places = [_make(Path(folder), quick=options.quick)]
        if REAL.is_dir() and not options.quick:
            places.append(Place(find_manifest("promise12_small"), REAL, "UCL"))
        rows = [row for place in places for row in _compare(place, Path(folder) / "work", options)]
    write_result("embedding_dice", options, rows, note=NOTE)


def _make(folder: Path, *, quick: bool) -> Place:
    """Make synthetic hospitals: all six, or two where it shall be quick."""
    task = load_manifest("phantom_prostate")
    domains = dict(list(task.domains.items())[: 2 if quick else None])
    make_task(task.name, folder / "data", cases=3 if quick else 6, seed=0, domains=list(domains))
    manifest = folder / "manifest.yaml"
    fields = task.model_copy(update={"domains": domains}).model_dump(mode="json", exclude_none=True)
    manifest.write_text(yaml.safe_dump(fields))
    return Place(manifest, folder / "data", "A")


def _compare(place: Place, workspace: Path, options: Options) -> list[dict[str, Any]]:
    """Return a row per format."""
    formats, seeds = (FORMATS[:2], [0]) if options.quick else (FORMATS, [0, 1, 2])
    found = {fmt: [] for fmt in formats}
    for seed, fmt in tqdm([(seed, fmt) for seed in seeds for fmt in formats], place.source):
        found[fmt].append(_dice(place, fmt, seed, workspace, options))
    tables = {fmt: pd.concat(parts, axis=1, keys=seeds) for fmt, parts in found.items()}
    return [_row(place, fmt, table, tables["float32"]) for fmt, table in tables.items()]


def _dice(place: Place, fmt: str, seed: int, workspace: Path, options: Options) -> pd.Series:
    """Train and score once; return the Dice of each (target, case)."""
    recipe = PROFILES["smoke" if options.quick else "teach"].common
    chosen = {"method": "desam", "prompt_mode": "box", "embedding_format": fmt, "seed": seed}
    files = {"manifest": place.manifest, "data_root": place.root, "source": place.source}
    accelerator = "gpu" if options.device.type == "cuda" else "cpu"
    run = execute_run(
        make_spec(**{**recipe, **chosen, **files}), workspace, accelerator=accelerator, progress=False
    )
    scores = pd.read_csv(run.directory / "metrics.csv")
    whole = scores[scores["protocol"] == "whole_volume"]
    return whole.set_index(["target", "case"])["dice"]


def _row(place: Place, fmt: str, table: pd.DataFrame, exact: pd.DataFrame) -> dict[str, Any]:
    at_home = table.index.get_level_values("target") == place.source
    differences = (table - exact).loc[~at_home].mean(axis=1).to_numpy()
    drawn = np.random.default_rng(0).choice(differences, (2000, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {
        "task": load_manifest(place.manifest).name,
        "source": place.source,
        "fmt": fmt,
        "weights": "random",
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
