"""Training `sam_tiny`: SAM's task on an endless synthetic stream, to be stopped, resumed and continued at will.

Step n draws batch n of the stream, so that a run that was interrupted goes on as if nothing had happened. The learning rate
rises, stays, and falls to 0 at the end: a run can be made longer while it stays, and what was shipped can be trained on.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from desam_lite.methods.appearance import LABELS, chance, draw_images
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import get_backbone, preprocess
from desam_lite.model.weights import find_weights
from desam_lite.synthetic.pretraining.losses import (
    border_targets,
    contrast_loss,
    extent_targets,
    prediction_loss,
    token_regions,
)
from desam_lite.synthetic.pretraining.probe import probe
from desam_lite.synthetic.pretraining.promptable_sam import PromptableSAM, fill_promptable
from desam_lite.synthetic.pretraining.prompts import MASK_STEP, first_prompts, further_clicks, pick_objects
from desam_lite.synthetic.pretraining.recipe import Recipe
from desam_lite.synthetic.pretraining.scenes import FIRST_SHAPE, draw_scenes, generator_at
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, sha256_file, write_json
from desam_lite.utils.provenance import code_version, device_name, library_versions

_MAY_CHANGE = ("steps", "minutes", "decay")
_BORDERS, _EXTENTS = 16, 4  # what is read off each token: 4 x 4 parts of it, and the sides of its region
_BORDER_WEIGHT, _EXTENT_WEIGHT = 3.0, 4.0  # borders are rare, extents (parts of the image) are small
_ABOVE_ANY_IOU = 9.0  # after a box the first mask goes on, after a point the one of highest predicted IoU
_MOST_CLICKS = 4  # at once in the second round; SAM's training gives up to eight one by one
_SMOOTHING = 0.98  # of the losses that the bar and the log show
_DATA = (
    "An endless stream of synthetic scenes (desam_lite/synthetic/pretraining): random regions, random intensities. "
    "No scan, no phantom of this study and no organ."
)
_LIMITS = (
    "A stand-in for SAM that is small enough to come with a book: not SAM, not for clinical use, and not comparable with "
    "numbers of SAM's own encoders. It has seen synthetic scenes only, mostly smaller than the 256 pixels it works at."
)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32: a GPU, or a processor with instructions for it."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda"


class Pretraining:
    """A model under training, by a recipe on a device, with all that must survive an interruption."""

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.device = recipe, device
        self.model = PromptableSAM(get_backbone(recipe.backbone), recipe.seed).to(device)
        spec = self.model.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            heads = [nn.Conv2d(c, _BORDERS + _EXTENTS, 1) for c in (*[spec.width] * 3, spec.neck)]
        self.heads = nn.ModuleList(heads).to(device)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
        self.step = self.images = 0
        self.minutes = 0.0
        self.log: list[dict[str, float]] = []

    @property
    def progress(self) -> float:
        """Which part of the recipe's steps or minutes is done; 1 at the end."""
        return self.recipe.progress(self.step, self.minutes)

    def advance(self) -> dict[str, float]:
        """Train one step; returns its losses, the side of its images and the norm of its gradient."""
        # What the processor gave to a run of low priority, not what passed meanwhile.
        clock = time.process_time if self.device.type == "cpu" else time.monotonic
        recipe, start = self.recipe, clock()
        generator = generator_at(recipe.seed, self.step, self.device)
        which = recipe.size(self.progress, generator)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.step, self.progress)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            losses = self._losses(recipe.scenes[which], recipe.sizes[which], generator)
        self.optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
        if bool(norm.isfinite()):
            self.optimiser.step()
        self.step += 1
        self.images += 2 * recipe.scenes[which]
        self.minutes += (clock() - start) / 60
        values = {name: float(value.detach()) for name, value in losses.items()}
        return {"size": float(recipe.sizes[which]), "norm": float(norm), **values}

    def _losses(self, count: int, size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        recipe = self.recipe
        scenes = draw_scenes(count, size, generator)
        images = torch.cat([draw_images(scenes.labels, generator) for _ in range(2)])
        masks = pick_objects(scenes, recipe.objects, MASK_STEP, generator).repeat(2, 1, 1, 1)
        embeddings = self.model.encode_image(preprocess(images, size))
        losses = self._prediction_losses(embeddings.neck, masks, generator)
        if recipe.contrast:
            losses["contrast"] = recipe.contrast * self._contrast(embeddings, scenes.labels)
        if recipe.dense:
            losses["dense"] = recipe.dense * self._dense(embeddings, scenes.labels)
        return losses

    def _prediction_losses(
        self, neck: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Predict twice: from a point or box, then from clicks where the first mask was wrong."""
        boxed = chance(generator, 0.5, *masks.shape[:2])
        points, kinds = first_prompts(masks, boxed, MASK_STEP, generator)
        logits, predicted_iou = self.model.predict_masks(neck, points, kinds)
        first = prediction_loss(logits, predicted_iou, masks, boxed)
        first_mask = torch.tensor([_ABOVE_ANY_IOU, 0, 0, 0], device=neck.device) * boxed[..., None]
        best = (predicted_iou.detach() + first_mask).argmax(-1)[..., None, None, None]
        earlier = logits.detach().take_along_dim(best, 2)[:, :, 0]  # (B, M, s, s)
        count = int(torch.randint(1, _MOST_CLICKS + 1, (), generator=generator, device=neck.device))
        clicks, sides = further_clicks(masks, earlier > 0, count, MASK_STEP, generator)
        shown = earlier if bool(chance(generator, 0.5)) else None
        logits, predicted_iou = self.model.predict_masks(
            neck, torch.cat((points, clicks), 2), torch.cat((kinds, sides), 2), shown
        )
        second = prediction_loss(logits, predicted_iou, masks, torch.ones_like(boxed))
        return {"first": first, "second": second}

    def _contrast(self, embeddings: ImageEmbeddings, labels: torch.Tensor) -> torch.Tensor:
        regions = token_regions(labels, self.model.spec.patch)
        maps = (*embeddings.levels, embeddings.neck)
        pairs = [features.float().chunk(2) for features in maps]
        losses = [contrast_loss(first, second, regions) for first, second in pairs]
        return torch.stack(losses).mean()

    def _dense(self, embeddings: ImageEmbeddings, labels: torch.Tensor) -> torch.Tensor:
        patch = self.model.spec.patch
        borders = border_targets(labels, patch).repeat(2, 1, 1, 1)
        reach, whole = extent_targets(labels, patch, FIRST_SHAPE, LABELS)
        reach, whole = reach.repeat(2, 1, 1, 1), whole.repeat(2, 1, 1)[:, None]
        rarity = torch.tensor(_BORDER_WEIGHT, device=labels.device)
        losses = []
        for head, features in zip(self.heads, (*embeddings.levels, embeddings.neck), strict=True):
            read = head(features).float()
            border = nn.functional.binary_cross_entropy_with_logits(
                read[:, :_BORDERS], borders, pos_weight=rarity
            )
            extent = ((read[:, _BORDERS:] - reach).abs() * whole).sum() / (_EXTENTS * whole.sum()).clamp(
                min=1
            )
            losses.append(border + _EXTENT_WEIGHT * extent)
        return torch.stack(losses).mean()

    def note(self, recent: dict[str, float]) -> None:
        """Probe the model and add a line to the log; its keys are those of the shipped weights' card."""
        self.model.eval()
        row = {"step": self.step, "pictures": self.images, "minutes": self.minutes}
        for size in (self.recipe.sizes[0], self.recipe.sizes[-1]):
            row |= {f"{name}_{size}": value for name, value in probe(self.model, size).items()}
        self.model.train()
        self.log.append(row | {f"loss_{name}": value for name, value in recent.items()})
        print(json.dumps({k: round(v, 3) for k, v in self.log[-1].items()}), flush=True)

    def export(self, path: Path) -> None:
        """Write the weights under SAM's names, in half precision."""
        tensors = {n: t.detach().cpu().half().contiguous() for n, t in self.model.state_dict().items()}
        with atomic_path(path) as partial:
            save_file(tensors, partial)

    def save(self, path: Path) -> None:
        """Write everything that `load` needs, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "pictures": self.images,
            "minutes": self.minutes,
            "recipe": json.dumps(asdict(self.recipe)),
            "log": json.dumps(self.log),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`; of its recipe, only the length and the decay may differ.

        Raises:
            StudyError: It is no such file, or of another recipe.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            begun = json.loads(state["recipe"])
        except Exception as error:  # a damaged file makes the reader raise almost anything
            raise StudyError(
                f"'{path}' is no checkpoint of a pretraining: delete it to begin anew, or restore it."
            ) from error
        own = json.loads(json.dumps(asdict(self.recipe)))
        odd = [name for name in own if name not in _MAY_CHANGE and begun.get(name) != own[name]]
        if odd:
            raise StudyError(
                f"the run in '{path.parent}' was begun with {odd[0]} = {begun.get(odd[0])}, not {own[odd[0]]}: "
                "give it the same, or use another folder."
            )
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.images, self.minutes = state["step"], state["pictures"], state["minutes"]
        self.log = json.loads(state["log"])


def run_pretraining(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    *,
    continue_from: Path | str | None = None,
    save_every: float = 2.0,
    probe_every: float = 5.0,
    progress: bool = True,
) -> Pretraining:
    """Train to the end of the recipe, from where a run in this folder was left; its recipe must be the same, but for its length.

    The folder holds ``checkpoint.pt``, written after so many minutes of computing, and ``log.json``, with a probe after so many.
    Where it holds no checkpoint yet, training begins with the weights ``continue_from``; the heads of the dense loss begin anew.

    Raises:
        StudyError: The folder holds a run of another recipe, or the weights do not fit.
    """
    run = Pretraining(recipe, device)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif continue_from is not None:
        fill_promptable(run.model, continue_from)
    saved = probed = run.minutes
    total = None if recipe.minutes else recipe.steps
    bar = tqdm(total=total, initial=run.step, disable=not progress, mininterval=10)
    recent: dict[str, float] = {}
    while run.progress < 1:
        values = run.advance()
        bar.update()
        recent = {k: _SMOOTHING * recent.get(k, v) + (1 - _SMOOTHING) * v for k, v in values.items()}
        bar.set_postfix({k: f"{v:.3f}" for k, v in recent.items()}, refresh=False)
        last = run.progress >= 1
        if last or run.minutes - probed >= probe_every:
            probed = run.minutes
            run.note(recent)
        if last or run.minutes - saved >= save_every:
            saved = run.minutes
            run.save(checkpoint)
            write_json(folder / "log.json", {"recipe": asdict(recipe), "log": run.log})
    bar.close()
    return run


def write_weights(run: Pretraining, path: Path, history: Path | str | None = None) -> dict[str, Any]:
    """Write the weights under SAM's names, in half precision, and their card beside them (``.json``), which is returned.

    Afterwards the model holds what was written, rounded. The card of the weights that the run began with, ``history``, is kept
    in it.
    """
    run.export(path)
    fill_promptable(run.model, path)
    side = run.model.spec.image_size
    begun = find_weights(history).with_suffix(".json") if history else None
    card = {
        "name": path.stem,
        "sha256": sha256_file(path),
        "sizes": asdict(run.model.spec),
        "parameters": {
            name: sum(p.numel() for p in part.parameters()) for name, part in run.model.named_children()
        },
        "data": _DATA,
        "recipe": asdict(run.recipe),
        "steps": run.step,
        "pictures": run.images,
        "minutes": round(run.minutes, 1),
        "device": device_name(run.device),
        "libraries": library_versions(),
        "code": code_version(),
        "probe": {"side": side, "held out": probe(run.model.eval(), side, batches=8)},
        "curve": run.log,
        "limits": _LIMITS,
        "licence": "MIT",
        "began with": json.loads(begun.read_text(encoding="utf-8")) if begun and begun.exists() else None,
    }
    write_json(path.with_suffix(".json"), card)
    return card
