"""What the ways of the public DeSAM code do to Dice, one at a time; and which mask loss the source's validation prefers.

    python benchmarks/public_code.py --threads 1     # an hour or two on one core, goes on where it was stopped; --quick: a minute

Everything is trained at the first synthetic hospital with the recipe of the profile `teach`, three seeds. The choice looks at
validation cases of that hospital alone: those of the split, and more that no training has. The differences are on the other
hospitals, by the rule of `desam_lite.evaluation.statistics`; each is the public code's way minus the recipe's.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from common import Options, read_options, write_result
from places import ROOT

from desam_lite.data.datasets import Batch
from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import select_slices, split_cases
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation import statistics
from desam_lite.evaluation.metrics import QUIRKS, Quirks, as_scored
from desam_lite.methods import Choice, register
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.methods.frozen_encoder import open_embeddings
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.methods.registry import DECODER
from desam_lite.methods.run_spec import RunSpec, make_spec
from desam_lite.study.profiles import METHOD_CHOICES, get_profile
from desam_lite.study.run import ExecutionOptions, Run, fit
from desam_lite.synthetic.phantoms import make_task
from desam_lite.training.devices import make_fabric
from desam_lite.utils.files import atomic_path, digest

TASK, SOURCE = "phantom_prostate", "A"
PUBLISHED = QUIRKS["published"]
PROTOCOLS: dict[str, Quirks] = {
    "published": PUBLISHED,
    "last slice kept": PUBLISHED._replace(slices="foreground"),
    "border kept": PUBLISHED._replace(border=False),
    "every slice": PUBLISHED._replace(slices="all"),
}
GRIDS: dict[str, dict[str, Any]] = {
    "published mask": {"selection": "published"},
    "filter": {"stability_threshold": 0.6},
}
"""Ways to choose among the masks of a grid, tried with the model of the recipe."""
TRAININGS: dict[str, dict[str, Any]] = {
    "other loss": {},
    "L1": {"iou_loss": "l1", "iou_weight": 1.0},
    "fresh points": {"method": "desam_fresh"},
    "90/10": {"split": "published_90_10"},
}
"""Ways to train; what the other loss is depends on the recipe's."""
PAIRS: dict[str, tuple[str, str]] = {
    "selection": ("published mask", "recipe"),
    "filter": ("filter", "recipe"),
    "last slice": ("recipe", "last slice kept"),
    "border": ("recipe", "border kept"),
    "organ slices": ("recipe", "every slice"),
    "iou loss": ("L1", "recipe"),
    "validation": ("fresh points", "recipe"),
    "split": ("90/10", "recipe"),
}
"""Name of a difference to the public code's way and what it is compared with; that of the loss is added."""
NOTE = (
    "rows: mean Dice over cases, then seeds. validation: cases of the source that nothing was trained or tested on, organ "
    "slices, published scoring. targets: the other hospitals. effects: the public code's way minus the other, on the targets, by "
    "seed and case; 95 % interval and verdict by the decision rule. choice: Dice alone minus Dice + cross-entropy on the "
    "validation cases, by the same rule. Only what was finished is here."
)


class Size(NamedTuple):
    """How much is done: cases of the source's study and more for validation, of each target; seeds, models, other settings."""

    cases: int = 8
    more: int = 4
    targets: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    models: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()


class FreshPoints(DeSAMMethod):
    """DeSAM whose validation draws new points in every epoch, as the public code does."""

    batches = 0

    def prepare(self, batch: Batch, generators: Sequence[np.random.Generator], *, augment: bool) -> Batch:
        """Add prompts; those of validation depend on how many batches were validated before."""
        if not augment:
            self.batches += 1
            generators = [np.random.default_rng([self.batches, int(g.integers(2**31))]) for g in generators]
        return super().prepare(batch, generators, augment=augment)


def main() -> None:
    options = read_options(__doc__ or "")
    register(
        "desam_fresh",
        FreshPoints,
        {"points": "DeSAM-P"},
        uses=(*DECODER, "variant"),
        predicts_iou=True,
        choices=[Choice("desam_fresh", "")],
    )
    if options.quick:
        tiny = Size(3, 1, 1, (0,), 3, (("epochs", 1), ("points_per_side", 2)))
        with tempfile.TemporaryDirectory() as folder:
            Study(tiny, Path(folder), options).run()
    else:
        Study(Size(), ROOT / "results", options).run()


class Study:
    """The trainings and scorings, in the order in which their answers are wanted, each written when it is done."""

    def __init__(self, size: Size, workspace: Path, options: Options):
        self.size, self.workspace, self.options = size, workspace, options
        root = workspace / "data" / f"public_code_{size.cases}_{size.more}_{size.targets}"
        manifest = ROOT / "data_manifests" / f"{TASK}.yaml"
        make_task(TASK, root, cases=size.cases + size.more, domains=[SOURCE])
        make_task(TASK, root, cases=size.targets, domains=["B", "C", "D", "E", "F"])
        self.root, self.manifest = root, manifest
        self.task = open_task(manifest, root, workspace)
        self.execution = ExecutionOptions(make_fabric("cpu", 1, "32-true"), "auto", progress=False)
        self.recipe_loss = get_profile("teach").common["mask_loss"]
        self.losses = {
            "recipe": self.recipe_loss,
            "other loss": {"dice": "dice_ce"}.get(self.recipe_loss, "dice"),
        }
        self.scores: list[pd.DataFrame] = []

    def run(self) -> None:
        """Do what is not done yet; the result is written after every model."""
        for name, method, seed in islice(self._wanted(), self.size.models):
            self.scores.append(self._scores(name, method, seed))
            self._write()

    def _wanted(self) -> Iterator[tuple[str, str, int]]:
        losses = ("recipe", "other loss")
        for methods, trainings in (
            (("desam_p",), losses),
            (("sam_finetuned_b", "desam_b"), losses),
            (("desam_p",), ("L1", "fresh points", "90/10")),
            (("pdmm_only",), losses),
        ):
            for seed in self.size.seeds:
                yield from ((training, method, seed) for method in methods for training in trainings)

    def _spec(self, training: str, method: str, seed: int) -> RunSpec:
        profile, choice = get_profile("teach"), METHOD_CHOICES[method]
        changed = {**TRAININGS.get(training, {}), "mask_loss": self.losses.get(training, self.recipe_loss)}
        settings = {**profile.settings(choice["method"]), **choice, **changed, **dict(self.size.settings)}
        return make_spec(manifest=self.manifest, data_root=self.root, source=SOURCE, seed=seed, **settings)

    def _scores(self, training: str, method: str, seed: int) -> pd.DataFrame:
        """Return Dice of one model: columns ``method``, ``variant``, ``domain``, ``case``, ``seed``, ``dice``."""
        spec = self._spec(training, method, seed)
        name = digest([spec.settings(), self.task.data_hash, "public_code", self.size.cases])
        path = self.workspace / "public_code" / f"{name}.csv"
        if path.exists():
            return pd.read_csv(path, dtype={"case": str})
        store = open_embeddings(spec, self.task.slices, self.workspace, self.execution.fabric.device)
        split = self._split(spec)
        run = Run(spec, TASK, self.workspace / "public_code" / name)
        run.directory.mkdir(parents=True, exist_ok=True)
        predictor = fit(run, self.task, split, store, self.execution)
        assert isinstance(predictor, PromptedMethod)
        rows = list(self._score(predictor, store, training, method, split))
        frame = pd.DataFrame(rows, columns=["variant", "domain", "case", "dice"]).assign(
            method=method, seed=seed
        )
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False)
        return frame

    def _split(self, spec: RunSpec) -> dict[str, str]:
        """Divide the first cases of the source as a study of them would; the others are validation only ("more")."""
        cases = self.task.cases(SOURCE)
        study = split_cases(cases[: self.size.cases], spec.split, spec.seed)
        return {**study, **dict.fromkeys(cases[self.size.cases :], "more")}

    def _score(
        self,
        predictor: PromptedMethod,
        store: EmbeddingStore,
        training: str,
        method: str,
        split: dict[str, str],
    ) -> Iterator[tuple[str, str, str, float]]:
        for case in (case for case, part in split.items() if part in ("val", "more")):
            masks = predict(predictor, self.task, store, SOURCE, case, "foreground")
            yield training, SOURCE, case, dice(self.task, SOURCE, case, masks, PUBLISHED)
        if method not in ("desam_p", "desam_b"):
            return
        recipe = training == "recipe" and method == "desam_p"
        for domain in (name for name in self.task.manifest.domains if name != SOURCE):
            for case in self.task.cases(domain):
                masks = predict(predictor, self.task, store, domain, case, "all" if recipe else "foreground")
                yield training, domain, case, dice(self.task, domain, case, masks, PUBLISHED)
                if not recipe:
                    continue
                for name, quirks in list(PROTOCOLS.items())[1:]:
                    yield name, domain, case, dice(self.task, domain, case, masks, quirks)
                grid = predictor.grid
                for name, settings in GRIDS.items():
                    predictor.grid = replace(grid, **settings)
                    masks = predict(predictor, self.task, store, domain, case, "foreground")
                    yield name, domain, case, dice(self.task, domain, case, masks, PUBLISHED)
                predictor.grid = grid

    def _write(self) -> None:
        table = pd.concat(self.scores, ignore_index=True)
        scores = pd.DataFrame(
            {
                "label": table["method"] + " " + table["variant"],
                "source": SOURCE,
                "target": table["domain"],
                "in_domain": table["domain"] == SOURCE,
                **{name: table[name] for name in ("seed", "case")},
                "metric": "dice",
                "value": table["dice"],
            }
        )
        means = statistics.summarise(scores)
        rows = [
            {
                "label": row["label"],
                "on": "validation" if row["in_domain"] else "targets",
                "seeds": row["seeds"],
                "cases": row["cases"],
                "dice": row["mean"],
            }
            for row in means.to_dict("records")
        ]
        pairs = {name: (f"desam_p {first}", f"desam_p {second}") for name, (first, second) in PAIRS.items()}
        alone, both = sorted(self.losses, key=lambda name: self.losses[name])  # of "dice" and "dice_ce"
        losses = {
            method: (f"{method} {alone}", f"{method} {both}") for method in dict.fromkeys(table["method"])
        }
        pairs["mask loss"] = losses["desam_p"]
        if "desam_b" in losses:
            pairs["mask loss, DeSAM-B"] = losses["desam_b"]
        write_result(
            "public_code",
            self.options,
            rows,
            effects=self._compare(scores, pairs, in_domain=False),
            choice=self._compare(scores, losses, in_domain=True),
            recipe={k: v for k, v in self._spec("recipe", "desam_p", 0).settings().items() if v is not None},
            size=self.size._asdict(),
            note=NOTE,
        )

    def _compare(
        self, scores: pd.DataFrame, pairs: dict[str, tuple[str, str]], *, in_domain: bool
    ) -> list[dict[str, Any]]:
        compared = statistics.compare(scores[scores["in_domain"] == in_domain], list(pairs.values()))
        compared = compared[compared["in_domain"] == in_domain]
        kept = ["mean", "low", "high", "verdict", "seeds", "cases"]
        return [
            {"name": name, **{key: row[key] for key in kept}}
            for name, row in zip(pairs, compared.to_dict("records"), strict=True)
            if row["cases"]
        ]


def predict(
    predictor: PromptedMethod, task: Task, store: EmbeddingStore, domain: str, case: str, rule: Any
) -> npt.NDArray[np.uint8]:
    """Return the labels ``(Z, H, W)`` predicted in the slices of a rule, 0 in the others."""
    slices = task.slices.load(domain, case)
    rows = select_slices(slices.labels, rule)
    labels = np.zeros_like(slices.labels)
    read = lambda part: store.load(domain, case, [rows[place] for place in part])  # noqa: E731
    for row, slice_prediction in zip(rows, predictor.predict(slices.images[rows], read), strict=True):
        labels[row] = slice_prediction.labels
    return labels


def dice(task: Task, domain: str, case: str, labels: npt.NDArray[np.uint8], quirks: Quirks) -> float:
    """Return the Dice of one organ of one case under a protocol; 1 where both masks are empty."""
    slices = task.slices.load(domain, case)
    scored = as_scored(labels == 1, slices.labels == 1, slices.spacing, quirks)
    size = int(scored.predicted.sum() + scored.true.sum())
    return 2 * int((scored.predicted & scored.true).sum()) / size if size else 1.0


if __name__ == "__main__":
    main()
