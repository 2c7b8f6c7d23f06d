"""The decision rule on simulated studies whose truth is stated: coverage, false alarms, power, against the bootstrap before it.

    python benchmarks/decision_rule.py            # a minute; writes results/decision_rule.json

Ten patients at each of five sites, one source; Dice in points. ``seed_sd``, ``patient_sd`` and ``rest_sd`` are the standard
deviations of a paired difference over seeds, over patients, and of what is left.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from desam_lite.evaluation.statistics import Cube, decide, seed_aware_interval

SPREADS = [(3, 8, 5), (0, 8, 5), (6, 4, 5), (3, 3, 3), (1, 3, 5), (1.5, 8, 5)]
EFFECT = 6.0
MARGIN = 0.02


def simulate(rng: np.random.Generator, seeds: int, spreads: tuple[float, ...], effect: float = 0.0) -> Cube:
    of_seed, of_patient, rest = (spread / 100 for spread in spreads)
    values = effect / 100 + rng.normal(0, rest, (1, 5, seeds, 10))
    values += rng.normal(0, of_seed, (1, 1, seeds, 1)) + rng.normal(0, of_patient, (1, 5, 1, 10))
    return Cube(values, np.full(5, 10), np.ones((1, seeds), bool))


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


def measure(studies: int) -> list[dict[str, float]]:
    rows = []
    for seeds in (2, 3, 5):
        for spreads in SPREADS:
            rng = np.random.default_rng(seeds)
            null = [simulate(rng, seeds, spreads) for _ in range(studies)]
            intervals = [seed_aware_interval(cube, "sources") for cube in null]
            verdicts = [decide(i.low, i.high, MARGIN) for i in intervals]
            shifted = [
                seed_aware_interval(simulate(rng, seeds, spreads, EFFECT), "sources") for _ in range(studies)
            ]
            some = null[: max(1, studies // 10)]
            rows.append(
                {
                    "seeds": seeds,
                    **dict(zip(("seed_sd", "patient_sd", "rest_sd"), spreads, strict=True)),
                    "coverage": float(np.mean([i.low <= 0 <= i.high for i in intervals])),
                    "false_alarms": float(np.mean([v in ("better", "worse") for v in verdicts])),
                    "half_width": float(np.median([100 * (i.high - i.low) / 2 for i in intervals])),
                    f"power_of_{EFFECT:g}_points": float(np.mean([i.low > 0 for i in shifted])),
                    "bootstrap_coverage": float(np.mean([bootstrap_covers(rng, cube) for cube in some])),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=3000, help="simulated studies per row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decision_rule.json")
    options = parser.parse_args()
    record = {"studies": options.studies, "margin": MARGIN, "rows": measure(options.studies)}
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
