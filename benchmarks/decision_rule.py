"""The decision rule on simulated studies whose truth is stated: coverage, false alarms, power, against the bootstrap before it.

    python benchmarks/decision_rule.py            # three minutes; --quick: seconds

Ten patients at each of five sites, one source; Dice in points. ``seed_sd``, ``patient_sd`` and ``rest_sd`` are the standard
deviations of a paired difference over seeds, over patients, and of what is left.
"""

from typing import Any

import numpy as np
from common import Options, read_options, write_result

from desam_lite.evaluation.statistics import Cube, decide, seed_aware_interval
from desam_lite.study.chapters.real_difference import Spreads, simulate_study

SPREADS = [(3, 8, 5), (0, 8, 5), (6, 4, 5), (3, 3, 3), (1, 3, 5), (1.5, 8, 5)]
EFFECT = 6.0
MARGIN = 0.02
NOTE = (
    f"Standard deviations and half widths in points of Dice; power: how often a difference of {EFFECT:g} points is told from 0; "
    "the bootstrap, of seeds and of patients, on a tenth of the studies."
)


def simulate(rng: np.random.Generator, seeds: int, spreads: tuple[float, ...], effect: float = 0.0) -> Cube:
    in_dice = Spreads(*(spread / 100 for spread in spreads))
    return simulate_study(rng, in_dice, seeds=seeds, patients=10, effect=effect / 100)


def bootstrap_covers(rng: np.random.Generator, cube: Cube, draws: int = 400) -> bool:
    """Tell whether a percentile bootstrap over seeds and patients, the interval of earlier editions, holds 0."""
    values = cube.values[0]
    seeds, cases = values.shape[1:]
    means = [
        values[:, rng.integers(seeds, size=seeds)][..., rng.integers(cases, size=cases)].mean()
        for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return bool(low <= 0 <= high)


def measure(options: Options) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    studies = 40 if options.quick else 3000
    for seeds in (2, 3, 5):
        for spreads in SPREADS[:2] if options.quick else SPREADS:
            rng = np.random.default_rng(seeds)
            null = [simulate(rng, seeds, spreads) for _ in range(studies)]
            intervals = [seed_aware_interval(cube, "sources") for cube in null]
            verdicts = [decide(i.low, i.high, MARGIN) for i in intervals]
            shifted = [
                seed_aware_interval(simulate(rng, seeds, spreads, EFFECT), "sources") for _ in range(studies)
            ]
            spread = dict(zip(("seed_sd", "patient_sd", "rest_sd"), spreads, strict=True))
            rows.append(
                {
                    "seeds": seeds,
                    **spread,
                    "coverage": float(np.mean([i.low <= 0 <= i.high for i in intervals])),
                    "false_alarms": float(np.mean([v in ("better", "worse") for v in verdicts])),
                    "half_width": float(np.median([100 * (i.high - i.low) / 2 for i in intervals])),
                    "power": float(np.mean([i.low > 0 for i in shifted])),
                    "coverage_bootstrap": float(
                        np.mean([bootstrap_covers(rng, cube) for cube in null[: max(1, studies // 10)]])
                    ),
                }
            )
            write_result("decision_rule", options, rows, note=NOTE, studies=studies)
    return rows


if __name__ == "__main__":
    measure(read_options(__doc__ or ""))
