"""What the shipped weights of sam_tiny are worth, beside a random encoder of the same shape and beside the pixels themselves.

    python benchmarks/sam_tiny.py                # held-out stream and phantoms; --quick: seconds
    python benchmarks/sam_tiny.py --real FOLDER  # and real scans: FOLDER/prostate, FOLDER/abdomen
    python benchmarks/sam_tiny.py --parts d --at phantom_prostate   # one part; what is recorded of the others is kept

(a) IoU and Dice of answers to a tight box, a point and clicks, (b) whether tokens of one region find one another under another
contrast, (c) a linear probe on tokens, trained at one site and tested at the others, (d) DeSAM and the coupled decoder trained at
one site. Nothing is chosen on a target.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import Options, read_options, recorded, write_result
from places import PLACES, ROOT, plan_at, quick_place
from torch.nn import functional

from desam_lite.data.manifest import list_manifests
from desam_lite.data.slices import CaseSlices
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation import statistics as results
from desam_lite.methods.appearance import draw_images
from desam_lite.model.build import build_desam
from desam_lite.model.names import RANDOM_WEIGHTS, SHIPPED_WEIGHTS
from desam_lite.model.resize import fit_square
from desam_lite.model.sam import get_backbone, preprocess
from desam_lite.model.weights import find_weights, weights_sha256
from desam_lite.study.parallel import execute_runs
from desam_lite.study.run import collect_metrics
from desam_lite.synthetic.phantoms.making import make_task
from desam_lite.synthetic.pretraining.probe import HELD_OUT_SEED, agreement, probe, score_prompts
from desam_lite.synthetic.pretraining.promptable_sam import PromptableSAM, fill_promptable
from desam_lite.synthetic.pretraining.prompts import MASK_STEP
from desam_lite.synthetic.pretraining.scenes import draw_scenes, generator_at

BACKBONE = "sam_tiny"
LEARNERS = ["desam_b", "desam_p", "sam_finetuned_b", "sam_finetuned_p"]
SEEDS = (0, 1, 2)
Row = dict[str, Any]
ABDOMEN = """name: abdomen_real
title: Real abdomen
organs:
  - {name: liver, label: 1, color: "#e69f00"}
  - {name: right kidney, label: 2, color: "#56b4e9"}
  - {name: left kidney, label: 3, color: "#009e73"}
  - {name: spleen, label: 4, color: "#cc79a7"}
image: "{domain}/{case}.nii.gz"
label: "{domain}/{case}_segmentation.nii.gz"
domains:
  MR: {title: MR, intensity: {percentiles: [0, 99.5]}}
  CT: {title: CT, intensity: {window: [-125, 275]}}
"""


class Size(NamedTuple):
    """How much is measured: held-out batches, cases per domain, slices per case and organ."""

    batches: int = 6
    cases: int = 4
    slices: int = 3


class Place(NamedTuple):
    """A task on disk: its manifest and its data."""

    manifest: Path
    data: Path


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--parts", default="abcd")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--at", choices=PLACES, action="append", help="where part d trains (default: all)")
    parser.add_argument("--weights", default=SHIPPED_WEIGHTS)
    own, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    options = read_options(__doc__ or "")
    size = Size(1, 2, 1) if options.quick else Size()
    with tempfile.TemporaryDirectory() as folder:
        workspace = own.workspace or Path(folder)
        places = list(_places(workspace, own.real, 1 if options.quick else 4))
        rows: list[Row] = []
        for weights in (own.weights, RANDOM_WEIGHTS):
            if "a" in own.parts:
                rows += _label(weights, answers(_promptable(weights), places, workspace, size))
            if "b" in own.parts:
                rows += _label(weights, contrasts(_encoder(weights), size))
            if "c" in own.parts:
                rows += _label(weights, linear(_encoder(weights), places, workspace, size))
        if "b" in own.parts:
            rows += _label("pixels", contrasts(_raw, size))
        if "c" in own.parts:
            rows += _label("pixels", linear(_raw, places, workspace, size))
        if "d" in own.parts:
            for weights in (own.weights, RANDOM_WEIGHTS):
                rows += _label(weights, trained(weights, own.at or list(PLACES), options))
        name = weights_sha256(find_weights(own.weights))
        kept = _measured_before(options, name, own.parts, own.at or list(PLACES))
        rows = sorted([*kept, *rows], key=lambda row: str(row["part"]))
        write_result("sam_tiny", options, rows, sizes=size._asdict(), weights_sha256=name)


def _measured_before(options: Options, name: str, parts: str, at: Sequence[str]) -> list[Row]:
    """Return the rows of other parts, and of part d at other places, that were measured earlier on the same weights."""
    known = recorded("sam_tiny", options)
    rows: list[Row] = known["rows"] if known.get("weights_sha256") == name else []
    return [row for row in rows if row["part"] not in parts or (row["part"] == "d" and row["data"] not in at)]


def _label(weights: str, rows: Sequence[Row]) -> list[Row]:
    for row in rows:
        print(weights, row, flush=True)
    return [{"weights": weights, **row} for row in rows]


def _places(workspace: Path, real: Path | None, cases: int) -> Iterator[Place]:
    manifests = list_manifests()
    make_task("phantom_prostate", workspace / "phantoms", cases=cases, seed=9, progress=False)
    yield Place(manifests["phantom_prostate"], workspace / "phantoms")
    if real is not None:
        yield Place(manifests["promise12_small"], real / "prostate")
        (workspace / "abdomen_real.yaml").write_text(ABDOMEN)
        yield Place(workspace / "abdomen_real.yaml", real / "abdomen")


def _promptable(weights: str) -> PromptableSAM:
    model = PromptableSAM(get_backbone(BACKBONE))
    if weights != RANDOM_WEIGHTS:
        fill_promptable(model, weights)
    return model.eval()


Encoder = Callable[[torch.Tensor], list[torch.Tensor]]


def _encoder(weights: str) -> Encoder:
    model = build_desam(BACKBONE, checkpoint=None if weights == RANDOM_WEIGHTS else weights)

    def encode(pixels: torch.Tensor) -> list[torch.Tensor]:
        found = model.encode(pixels)
        return [*found.levels, found.neck]

    return encode


def _raw(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Return the pixels of every patch as its features."""
    return [functional.pixel_unshuffle(pixels[:, :1], get_backbone(BACKBONE).patch)]


def answers(model: PromptableSAM, places: Sequence[Place], workspace: Path, size: Size) -> list[Row]:
    """(a) How well prompts are answered: IoU on the held-out stream, Dice on each organ of each domain."""
    side = get_backbone(BACKBONE).image_size
    held_out = probe(model, side, batches=size.batches)
    rows: list[Row] = [
        {"part": "a", "data": "held-out stream", "measure": f"IoU {k}", "value": v}
        for k, v in held_out.items()
        if k != "contrast"
    ]
    for place in places:
        task = open_task(place.manifest, place.data, workspace, progress=False)
        for domain in task.manifest.domains:
            for number, organ in enumerate(task.manifest.organs, 1):
                found = _answers_on(model, _cases(task, domain, size.cases), number, size.slices)
                rows += [
                    {
                        "part": "a",
                        "data": f"{task.manifest.name} {domain} {organ.name}",
                        "measure": f"Dice {k}",
                        "value": v,
                    }
                    for k, v in found.items()
                ]
    return rows


def _cases(task: Task, domain: str, most: int) -> list[CaseSlices]:
    return [task.slices.load(domain, case) for case in task.cases(domain)[:most]]


@torch.no_grad()
def _answers_on(
    model: PromptableSAM, cases: Sequence[CaseSlices], organ: int, slices: int
) -> dict[str, float]:
    side, found = get_backbone(BACKBONE).image_size, {}
    for number, case in enumerate(cases):
        chosen = _slices_of(case, organ, slices)
        if not len(chosen):
            continue
        pixels = preprocess(torch.from_numpy(case.images[chosen]), side)
        wanted = torch.from_numpy(case.labels[chosen] == organ)[:, None].float()
        masks = fit_square(wanted, side // MASK_STEP, nearest=True) > 0.5
        generator = generator_at(HELD_OUT_SEED, number, torch.device("cpu"))
        parts = score_prompts(model, model.encode_image(pixels).neck, masks, MASK_STEP, generator)
        for name, iou in parts.items():
            found.setdefault(name, []).append(2 * iou.flatten() / (1 + iou.flatten()))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def _slices_of(case: CaseSlices, organ: int, most: int) -> np.ndarray[Any, Any]:
    """Return slices spread over those that hold at least a quarter of the organ's largest area."""
    areas = (case.labels == organ).sum((1, 2))
    there = np.flatnonzero(areas > max(50, areas.max() / 4))
    return there[np.linspace(0, len(there) - 1, min(most, len(there))).astype(int)] if len(there) else there


@torch.no_grad()
def contrasts(encode: Encoder, size: Size) -> list[Row]:
    """(b) Share of tokens whose most similar one, elsewhere under another contrast, is of the same region."""
    spec = get_backbone(BACKBONE)
    scores: dict[int, list[torch.Tensor]] = {}
    for number in range(size.batches):
        generator = generator_at(HELD_OUT_SEED, 1000 + number, torch.device("cpu"))
        scenes = draw_scenes(4, spec.image_size, generator)
        one, other = (
            encode(preprocess(draw_images(scenes.labels, generator), spec.image_size)) for _ in range(2)
        )
        for level, (a, b) in enumerate(zip(one, other, strict=True)):
            scores.setdefault(level, []).append(agreement(a, b, scenes.labels, spec.patch))
    names = ("level 1", "level 2", "level 3", "neck") if len(scores) == 4 else ("pixels",)
    return [
        {
            "part": "b",
            "data": "held-out stream",
            "measure": f"agreement {names[k]}",
            "value": float(torch.cat(v).mean()),
        }
        for k, v in scores.items()
    ]


def linear(encode: Encoder, places: Sequence[Place], workspace: Path, size: Size) -> list[Row]:
    """(c) Dice on tokens of a linear probe trained on half the cases of a site, at the other half and at the other sites."""
    rows = []
    for place in places:
        task = open_task(place.manifest, place.data, workspace, progress=False)
        if len(task.manifest.organs) > 1:
            continue
        tokens = {
            domain: [_tokens(encode, case, size.slices) for case in _cases(task, domain, size.cases)]
            for domain in task.manifest.domains
        }
        inside, outside = [], []
        for source, cases in tokens.items():
            half = max(1, len(cases) // 2)
            fitted = _fit(cases[:half])
            inside += [_dice(fitted, case) for case in cases[half:]]
            outside += [_dice(fitted, case) for d, others in tokens.items() if d != source for case in others]
        for where, values in (("in domain", inside), ("out of domain", outside)):
            if values:
                rows.append(
                    {
                        "part": "c",
                        "data": task.manifest.name,
                        "measure": f"Dice {where}",
                        "value": float(np.mean(values)),
                    }
                )
    return rows


@torch.no_grad()
def _tokens(encode: Encoder, case: CaseSlices, slices: int) -> tuple[torch.Tensor, torch.Tensor]:
    spec = get_backbone(BACKBONE)
    chosen = _slices_of(case, 1, slices)
    maps = torch.cat(encode(preprocess(torch.from_numpy(case.images[chosen]), spec.image_size)), dim=1)
    wanted = fit_square(torch.from_numpy(case.labels[chosen] == 1)[:, None].float(), spec.grid) > 0.5
    return maps.permute(0, 2, 3, 1).flatten(0, 2), wanted.flatten()


def _fit(cases: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """Return mean, scale, ridge weights and the threshold that is best on the cases themselves."""
    x = torch.cat([tokens for tokens, _ in cases]).double()
    y = torch.cat([wanted for _, wanted in cases])
    mean, scale = x.mean(0), x.std(0) + 1e-6
    z = torch.cat([(x - mean) / scale, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    ridge = 1e-2 * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
    weights = torch.linalg.solve(z.T @ z + ridge, z.T @ y.double())
    scores = z @ weights
    tried = torch.quantile(scores, torch.linspace(0.5, 0.999, 60, dtype=z.dtype))
    best = max(tried.tolist(), key=lambda t: _overlap(scores > t, y))
    return mean, scale, weights, torch.tensor(best)


def _dice(fitted: tuple[torch.Tensor, ...], case: tuple[torch.Tensor, torch.Tensor]) -> float:
    mean, scale, weights, threshold = fitted
    z = (case[0].double() - mean) / scale
    return _overlap(z @ weights[:-1] + weights[-1] > threshold, case[1])


def _overlap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()).clamp(min=1))


def trained(weights: str, at: Sequence[str], options: Options) -> list[Row]:
    """(d) Dice of DeSAM and of the coupled decoder trained on a frozen encoder, there and at the other hospitals, per seed.

    The runs are those of `methods.py`, done once for both.
    """
    methods = ["desam_b_random", "desam_p_random"] if weights == RANDOM_WEIGHTS else LEARNERS
    on = {} if weights in (RANDOM_WEIGHTS, SHIPPED_WEIGHTS) else {"weights": weights}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) if options.quick else ROOT / "results"
        places = quick_place(workspace) if options.quick else {name: PLACES[name] for name in at}
        for name, place in places.items():
            specs = plan_at(name, place, workspace, SEEDS[: 1 if options.quick else None], methods, **on)
            runs = execute_runs(specs, workspace, jobs=1 if options.quick else None)
            scores = results.scores(collect_metrics(runs), protocol="published")
            scores["label"] = scores["label"].str.removesuffix(", random encoder")
            means = results.summarise(scores, ["label", "in_domain", "seed"])
            rows += [
                {
                    "part": "d",
                    "data": name,
                    "measure": f"{row['label']} Dice {'in' if row['in_domain'] else 'out of'} domain, seed {row['seed']}",
                    "value": float(row["mean"]),
                }
                for _, row in means.iterrows()
            ]
    return rows


if __name__ == "__main__":
    main()
