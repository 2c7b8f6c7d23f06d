"""Seconds and peak memory of one synthetic volume, against painting every structure over the whole grid.

    python benchmarks/phantoms.py            # a minute or two; --quick: seconds

Numpy does the work, on one core: run it with OMP_NUM_THREADS=1. Files are not part of it.
"""

import statistics

import numpy as np
from common import Options, read_options, write_result
from tqdm import tqdm

from desam_lite.synthetic.phantoms import Case, Site, make_case
from desam_lite.synthetic.phantoms.cases import MATRIX
from desam_lite.synthetic.phantoms.making import TASKS
from desam_lite.synthetic.phantoms.painting import Canvas

# A site without and one with a balloon; both modalities.
DOMAINS = {"phantom_prostate": ("A", "B"), "phantom_abdomen": ("CT", "MR")}
BASELINE = (
    "seconds: median of three patients. seconds_full_grid: one of them with every structure evaluated at every voxel "
    "instead of within the box it can reach; ratio: of that patient; different: share of its voxels whose label changes."
)


def main() -> None:
    options = read_options(__doc__ or "")
    sites = [(task, domain, TASKS[task][domain]) for task, domains in DOMAINS.items() for domain in domains]
    if options.quick:
        sites = sites[1:3]
    rows = [_row(task, domain, site, options) for task, domain, site in tqdm(sites, "synthetic sites")]
    write_result("phantoms", options, rows, notes={"baseline": BASELINE})


def _row(task: str, domain: str, site: Site, options: Options) -> dict:
    seeds, matrix = ((0,), 16) if options.quick else ((1, 2, 0), MATRIX)
    kept: dict[str, Case] = {}
    peak = options.cost(lambda: _case(site, 0, matrix), repeats=0).peak_mb
    seconds = [options.seconds(lambda s=seed: kept.update(boxes=_case(site, s, matrix))) for seed in seeds]
    baseline = options.seconds(lambda: kept.update(grid=_whole(site, 0, matrix)))
    return {
        "task": task,
        "domain": domain,
        "slices": len(kept["boxes"].label),
        "seconds": statistics.median(seconds),
        "slowest": max(seconds),
        "seconds_full_grid": baseline,
        "ratio": baseline / seconds[-1],
        "peak_mb": peak,
        "different": float((kept["boxes"].label != kept["grid"].label).mean()),
    }


def _case(site: Site, seed: int, matrix: int) -> Case:
    return make_case(site, np.random.default_rng(seed), matrix=matrix)


def _whole(site: Site, seed: int, matrix: int) -> Case:
    Canvas.boxed = False
    try:
        return _case(site, seed, matrix)
    finally:
        Canvas.boxed = True


if __name__ == "__main__":
    main()
