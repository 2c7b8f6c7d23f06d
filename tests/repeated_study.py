"""A kept study and repetitions of it, simulated: scores whose scatter over seeds, and whose faults, are stated."""

from typing import NamedTuple

import numpy as np
import pandas as pd

SOURCES, SEEDS, TARGETS, CASES = 4, 3, 4, 8
SMALL = 0.08
"""Most repeated runs differ by this share of what another seed would: 0.002 to 0.003 of Dice in the median of single cases."""


class Simulated(NamedTuple):
    """A method: Dice ``(source, seed, target, case)``, the standard deviation over its seeds, and that of a case besides."""

    label: str
    dice: np.ndarray
    seed_sd: float
    case_sd: float


def simulate_methods(rng: np.random.Generator, scatters: list[float]) -> list[Simulated]:
    """One method per standard deviation over seeds; 0 is a method that is not trained."""
    shape = (SOURCES, SEEDS, TARGETS, CASES)
    patients = rng.normal(0, 0.1, (1, 1, TARGETS, CASES))
    methods = []
    for number, seed_sd in enumerate(scatters):
        case_sd = 0.04 if seed_sd else 0.0
        level = 0.3 + 0.05 * number + rng.normal(0, 0.05, (SOURCES, 1, TARGETS, 1))
        dice = level + patients + _by_chance(rng, seed_sd, case_sd, shape)
        methods.append(Simulated(f"method {number}", dice, seed_sd, case_sd))
    return methods


def _by_chance(
    rng: np.random.Generator, seed_sd: float, case_sd: float, shape: tuple[int, ...]
) -> np.ndarray:
    inside = np.arange(SOURCES)[:, None, None, None] == np.arange(TARGETS)[:, None]
    home, away = rng.normal(0, seed_sd, (2, *shape[:2], 1, 1))
    return np.where(inside, home, away) + rng.normal(0, case_sd, shape)


def repeat_methods(rng: np.random.Generator, methods: list[Simulated], as_seed: float) -> list[Simulated]:
    """An honest repetition: a share of the runs ends as far away as another seed, the others at `SMALL` of that."""
    repeated = []
    for method in methods:
        size = np.where(rng.random((SOURCES, SEEDS, 1, 1)) < as_seed, 1.0, SMALL)
        other = _by_chance(rng, method.seed_sd, method.case_sd, method.dice.shape)
        repeated.append(method._replace(dice=method.dice + np.sqrt(2) * size * other))
    return repeated


def to_metrics(methods: list[Simulated], runs: slice = slice(None)) -> pd.DataFrame:
    """The rows of metrics of the study, of some runs of each method; a repeated run has the name of the kept one."""
    frames = []
    for method in methods:
        axes = np.meshgrid(*map(np.arange, method.dice.shape), indexing="ij")
        names = ("source", "seed", "target", "case")
        frame = pd.DataFrame({name: axis.ravel() for name, axis in zip(names, axes, strict=True)})
        run = frame["source"] * SEEDS + frame["seed"]
        frame = frame.assign(
            label=method.label, run=method.label + " " + run.astype(str), dice=method.dice.ravel()
        )
        frames.append(frame[run.isin(range(SOURCES * SEEDS)[runs])])
    table = pd.concat(frames, ignore_index=True).assign(task="t", organ="gland", protocol="whole_volume")
    return table.assign(in_domain=table["source"] == table["target"])
