"""Training `sam_tiny`: SAM's task on an endless synthetic stream, to be stopped, resumed and continued at will.

Step n draws batch n of the stream, so that a run that was interrupted goes on as if nothing had happened. The learning rate
rises, stays, and falls to nothing over the last steps: a run can be made longer while it stays, and what was shipped can be
trained on.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from desam_lite.model.sam import get_backbone, preprocess
from desam_lite.synthetic.pretraining.losses import (
    answer_loss,
    border_targets,
    contrast_loss,
    extent_targets,
    token_regions,
)
from desam_lite.synthetic.pretraining.probe import probe
from desam_lite.synthetic.pretraining.promptable_sam import Features, PromptableSAM, fill_promptable
from desam_lite.synthetic.pretraining.prompts import first_prompts, further_clicks
from desam_lite.synthetic.pretraining.recipe import Recipe
from desam_lite.synthetic.pretraining.rendering import STEP, draw_pictures, pick_objects
from desam_lite.synthetic.pretraining.scenes import FIRST_SHAPE, LABELS, chance, draw_scenes, generator_at
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, write_json

_MAY_CHANGE = ("steps", "decay")
_BORDERS, _EXTENTS = 16, 4  # what is read off each token: 4 x 4 parts of it, and the sides of its region


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32: a GPU, or a processor with instructions for it."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda"


class Pretraining:
    """A model under training, with all that must survive an interruption.

    Args:
        recipe: How.
        device: Where.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.device = recipe, device
        self.model = PromptableSAM(get_backbone(recipe.backbone), recipe.seed).to(device)
        spec = self.model.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            heads = [nn.Conv2d(c, _BORDERS + _EXTENTS, 1) for c in (*[spec.width] * 3, spec.neck)]
        self.heads = nn.ModuleList(heads).to(device)
        named = [*self.model.named_parameters(), *self.heads.named_parameters()]
        groups = [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        self.step = self.pictures = 0
        self.minutes = 0.0
        self.log: list[dict[str, float]] = []

    def advance(self) -> dict[str, float]:
        """Train one step; returns its losses and what it was."""
        recipe, start = self.recipe, time.process_time()
        generator = generator_at(recipe.seed, self.step, self.device)
        which = recipe.size(self.step, generator)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            losses = self._losses(recipe.scenes[which], recipe.sizes[which], generator)
        total = sum(losses.values())
        assert isinstance(total, torch.Tensor)
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
        if bool(norm.isfinite()):
            self.optimiser.step()
        self.step += 1
        self.pictures += 2 * recipe.scenes[which]
        self.minutes += (time.process_time() - start) / 60
        values = {name: float(value.detach()) for name, value in losses.items()}
        return {"size": float(recipe.sizes[which]), "norm": float(norm), **values}

    def _losses(self, count: int, size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        recipe = self.recipe
        scenes = draw_scenes(count, size, generator)
        pictures = torch.cat([draw_pictures(scenes, generator) for _ in range(2)])
        masks = pick_objects(scenes, recipe.objects, STEP, generator).masks.repeat(2, 1, 1, 1)
        seen = self.model.see(preprocess(pictures, size))
        losses = self._answers(seen.neck, masks, generator)
        if recipe.contrast:
            losses["contrast"] = recipe.contrast * self._contrast(seen, scenes.labels)
        if recipe.dense:
            losses["dense"] = recipe.dense * self._dense(seen, scenes.labels)
        return losses

    def _answers(
        self, neck: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Ask twice: with a point or box, then with clicks where the first answer was wrong."""
        boxed = chance(generator, 0.5, *masks.shape[:2])
        points, kinds = first_prompts(masks, boxed, STEP, generator)
        logits, judged = self.model.answer(neck, points, kinds)
        first, _ = answer_loss(logits, judged, masks, boxed)
        chosen = (
            judged.detach() + torch.tensor([9.0, 0, 0, 0], device=neck.device) * boxed[..., None]
        ).argmax(-1)
        answer = logits.detach().gather(2, chosen[..., None, None, None].expand(-1, -1, 1, *masks.shape[2:]))[
            :, :, 0
        ]
        number = int(torch.randint(1, 5, (), generator=generator, device=neck.device))
        clicks, sides = further_clicks(masks, answer > 0, number, STEP, generator)
        shown = answer if bool(chance(generator, 0.5)) else None
        logits, judged = self.model.answer(
            neck, torch.cat((points, clicks), 2), torch.cat((kinds, sides), 2), shown
        )
        second, _ = answer_loss(logits, judged, masks, torch.ones_like(boxed))
        return {"first": first, "second": second}

    def _contrast(self, seen: Features, labels: torch.Tensor) -> torch.Tensor:
        regions = token_regions(labels, self.model.spec.patch)
        total = torch.zeros((), device=labels.device)
        for maps in (*seen.levels, seen.neck):
            one, other = maps.float().chunk(2)
            total = total + contrast_loss(one, other, regions) / 4
        return total

    def _dense(self, seen: Features, labels: torch.Tensor) -> torch.Tensor:
        patch = self.model.spec.patch
        borders = border_targets(labels, patch).repeat(2, 1, 1, 1)
        reach, whole = extent_targets(labels, patch, FIRST_SHAPE, LABELS)
        reach, whole = reach.repeat(2, 1, 1, 1), whole.repeat(2, 1, 1)[:, None]
        total = torch.zeros((), device=labels.device)
        for head, maps in zip(self.heads, (*seen.levels, seen.neck), strict=True):
            read = head(maps).float()
            total = total + nn.functional.binary_cross_entropy_with_logits(
                read[:, :_BORDERS], borders, pos_weight=torch.tensor(3.0, device=read.device)
            )
            total = total + 4 * ((read[:, _BORDERS:] - reach).abs() * whole).sum() / (
                _EXTENTS * whole.sum()
            ).clamp(min=1)
        return total / 4

    def note(self, recent: dict[str, float]) -> None:
        """Probe the model and add a line to the log."""
        self.model.eval()
        row = {"step": self.step, "pictures": self.pictures, "minutes": self.minutes}
        for size in (self.recipe.sizes[0], self.recipe.sizes[-1]):
            row |= {f"{name}_{size}": value for name, value in probe(self.model, size).items()}
        self.model.train()
        self.log.append(row | {f"loss_{name}": value for name, value in recent.items()})
        print(json.dumps({k: round(v, 3) for k, v in self.log[-1].items()}), flush=True)

    def begin_with(self, path: Path | str) -> None:
        """Fill the model with weights under SAM's names, as those that ship; the heads that are left behind start anew.

        Raises:
            StudyError: A tensor is missing or has another shape.
        """
        fill_promptable(self.model, path)

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
            "pictures": self.pictures,
            "minutes": self.minutes,
            "recipe": json.dumps(asdict(self.recipe)),
            "log": json.dumps(self.log),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`; of its recipe, only how many steps there are may differ.

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
        self.step, self.pictures, self.minutes = state["step"], state["pictures"], state["minutes"]
        self.log = json.loads(state["log"])


def pretrain(
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    *,
    continue_from: Path | str | None = None,
    save_every: float = 2.0,
    probe_every: float = 5.0,
    progress: bool = True,
) -> Pretraining:
    """Train to the recipe's last step, from where a run in this folder was left.

    Args:
        recipe: How; a run that is resumed must have been begun with the same, but for its number of steps.
        folder: Of ``checkpoint.pt``, ``log.json`` and, at the end, ``sam_tiny.safetensors``.
        device: Where.
        continue_from: Weights to begin with, where the folder holds no checkpoint yet.
        save_every: Minutes of processor time between checkpoints.
        probe_every: Minutes of processor time between probes.
        progress: Whether to show a bar.

    Raises:
        StudyError: The folder holds a run of another recipe, or the weights do not fit.
    """
    run = Pretraining(recipe, device)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif continue_from is not None:
        run.begin_with(continue_from)
    saved = probed = run.minutes
    bar = tqdm(total=recipe.steps, initial=run.step, disable=not progress, mininterval=10)
    recent: dict[str, float] = {}
    while run.step < recipe.steps:
        values = run.advance()
        bar.update()
        recent = {k: 0.98 * recent.get(k, v) + 0.02 * v for k, v in values.items()}
        bar.set_postfix({k: f"{v:.3f}" for k, v in recent.items()}, refresh=False)
        last = run.step == recipe.steps
        if last or run.minutes - probed >= probe_every:
            probed = run.minutes
            run.note(recent)
        if last or run.minutes - saved >= save_every:
            saved = run.minutes
            run.save(checkpoint)
            write_json(folder / "log.json", {"recipe": asdict(recipe), "log": run.log})
    bar.close()
    return run
