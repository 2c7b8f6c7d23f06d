"""Seconds and peak memory of one synthetic volume, against painting every structure over the whole grid.

    python benchmarks/phantoms.py            # a minute or two; --quick: seconds

Numpy does the work, on one core: run it with OMP_NUM_THREADS=1. Files are not part of it.
"""

import statistics

import numpy as np
from common import Options, read_options, write_result
from tqdm import tqdm

from desam_lite.phantoms import Case, Site, make_case
from desam_lite.phantoms.cases import MATRIX
from desam_lite.phantoms.making import TASKS
from desam_lite.phantoms.painting import Canvas

BASELINE = (
    "seconds_full_grid: the same volumes with every structure evaluated at every voxel instead of within the box it can reach, "
    "which is how such phantoms are usually painted. different: share of the voxels whose label then differs."
)


def main() -> None:
    options = read_options(__doc__ or "")
    sites = [(task, domain, site) for task, sites in TASKS.items() for domain, site in sites.items()]
    if options.quick:
        sites = sites[:1] + sites[-1:]
    rows = [_row(task, domain, site, options) for task, domain, site in tqdm(sites, "synthetic sites")]
    write_result("phantoms", options, rows, notes={"baseline": BASELINE})


def _row(task: str, domain: str, site: Site, options: Options) -> dict:
    seeds, matrix = ((0,), 16) if options.quick else ((0, 1, 2), MATRIX)
    kept: dict[str, Case] = {}
    cost = options.cost(lambda: kept.update(boxes=_case(site, 0, matrix)), repeats=0)
    full = [options.seconds(lambda s=seed: kept.update(grid=_whole(site, s, matrix))) for seed in seeds[::-1]]
    seconds = statistics.median(options.seconds(lambda s=seed: _case(site, s, matrix)) for seed in seeds)
    baseline = statistics.median(full)
    return {
        "task": task,
        "domain": domain,
        "slices": len(kept["boxes"].label),
        "seconds": seconds,
        "seconds_full_grid": baseline,
        "ratio": baseline / seconds,
        "peak_mb": cost.peak_mb,
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
