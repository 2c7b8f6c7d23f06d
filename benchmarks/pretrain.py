"""Images per second of pretraining `sam_tiny`, then a pretraining for as long as there is time.

    python benchmarks/pretrain.py --seconds 120 --folder out                        # trains the shipped weights on
    python benchmarks/pretrain.py --seconds 120 --folder out --checkpoint out/checkpoint.pt   # goes on from there
    python benchmarks/pretrain.py --seconds 120 --folder out --recipe '{"scenes": [256, 128, 32]}'   # changes a choice

The folder receives the weights (float16) with their card, and the checkpoint in parts of a size that can be sent:
`cat checkpoint.pt.* > checkpoint.pt` joins them. --quick: seconds.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import Options, read_options, shares_by_operation, write_result

from desam_lite.synthetic.pretraining.loop import Pretraining, write_weights
from desam_lite.synthetic.pretraining.promptable_sam import fill_promptable
from desam_lite.synthetic.pretraining.recipe import LATER_SHARES, Recipe

NOTE = (
    "One row for each side of the images: images per second of whole training steps (stream, forward, backward, optimiser) with "
    "that many scenes a step, two images each. run: the pretraining that followed. profile: share of the time of a step at "
    "the largest side by operation."
)
GPU_SCENES = (
    256,
    192,
    64,
)  # per step at each side of `Recipe.sizes`: a GPU waits for the host where a step is small
DECAY_PERCENT = 40  # of the time, over which the learning rate falls
REPORT_EVERY = 10  # seconds
PART = 15 << 20  # bytes of a part of the checkpoint
WARM_STEPS, TIMED_STEPS = 2, 3


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--continue-from", default="shipped")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--recipe", type=json.loads, default={})
    own, sys.argv[1:] = parser.parse_known_args()
    options = read_options(__doc__ or "")
    end = time.monotonic() + own.seconds
    recipe = _choose_recipe(own, options)
    rows: list[dict[str, Any]] = []
    for which in range(len(recipe.sizes)):
        recipe, row = _rate(recipe, which, options)
        rows.append(row)
        write_result("pretrain", options, rows, note=NOTE)
    profile = shares_by_operation(lambda: _at_side(recipe, len(recipe.sizes) - 1, options).advance(), options)
    run, summary = _train(recipe, own, end, options)
    own.folder.mkdir(parents=True, exist_ok=True)
    _keep_checkpoint(run, own.folder)
    more = {"run": summary, "profile": profile, "note": NOTE}
    write_result("pretrain", options, rows, **more)
    weights = own.folder / f"{recipe.backbone}.safetensors"
    if options.quick:
        run.export(weights)  # the card's probe would take longer than all else
    else:
        write_result("pretrain", options, rows, **more, card=write_weights(run, weights, _begins_with(own)))


def _choose_recipe(own: argparse.Namespace, options: Options) -> Recipe:
    """Return the recipe of the command line; its length is chosen later."""
    recipe = Recipe(seed=3) if _begins_with(own) is None else Recipe(seed=3, shares=LATER_SHARES)
    if options.quick:
        recipe = replace(
            recipe, sizes=(32, 64), scenes=(2, 1), objects=2, shares=((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
        )
    elif options.on_gpu:
        recipe = replace(recipe, scenes=GPU_SCENES)
    changes = {name: tuple(v) if isinstance(v, list) else v for name, v in own.recipe.items()}
    return replace(recipe, **changes)


def _begins_with(own: argparse.Namespace) -> str | None:
    return None if own.continue_from == "nothing" else own.continue_from


def _at_side(recipe: Recipe, which: int, options: Options) -> Pretraining:
    """Return a pretraining whose steps all have one of the sides."""
    single = replace(
        recipe,
        sizes=recipe.sizes[which : which + 1],
        scenes=recipe.scenes[which : which + 1],
        shares=((1.0,),) * 3,
    )
    return Pretraining(single, options.device)


def _rate(recipe: Recipe, which: int, options: Options) -> tuple[Recipe, dict[str, Any]]:
    """Measure the steps of one side; returns the recipe, with fewer scenes where those asked for do not fit, and the row."""
    run = _at_side(recipe, which, options)
    try:
        cost = options.cost(lambda: [run.advance() for _ in range(WARM_STEPS)], repeats=0)
    except torch.OutOfMemoryError:
        cost = None
    if cost is None:  # outside of the handler, which would keep the tensors of the failed step
        fewer = tuple(count // 2 if place == which else count for place, count in enumerate(recipe.scenes))
        return _rate(replace(recipe, scenes=fewer), which, options)
    seconds = options.seconds(lambda: [run.advance() for _ in range(TIMED_STEPS)]) / TIMED_STEPS
    images = 2 * recipe.scenes[which]
    return recipe, {
        "backbone": recipe.backbone,
        "side": recipe.sizes[which],
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "peak_mb": cost.peak_mb,
    }


def _train(
    recipe: Recipe, own: argparse.Namespace, end: float, options: Options
) -> tuple[Pretraining, dict[str, Any]]:
    """Train until the time is over; the learning rate falls to nothing by then."""
    run = Pretraining(recipe, options.device)
    if own.checkpoint is not None:
        run.load(own.checkpoint)
    elif _begins_with(own) is not None:
        fill_promptable(run.model, own.continue_from)
    steps, images, minutes = run.step, run.images, run.minutes
    start = time.monotonic()
    run.recipe = replace(recipe, minutes=minutes + max(end - start, 1) / 60, steps=100, decay=DECAY_PERCENT)
    values, shown = dict[str, float](), start
    while run.progress < 1 and (time.monotonic() < end or not values):
        values = run.advance()
        if time.monotonic() - shown > REPORT_EVERY:
            shown = time.monotonic()
            print(f"step {run.step}, {run.progress:.0%}: {values}", flush=True)
    seconds = time.monotonic() - start
    summary = {
        "steps_before": steps,
        "minutes_before": minutes,
        "steps": run.step - steps,
        "images": run.images - images,
        "seconds": seconds,
        "images_per_second": (run.images - images) / seconds,
        "last": values,
    }
    print(json.dumps(summary), flush=True)
    return run, summary


def _keep_checkpoint(run: Pretraining, folder: Path) -> None:
    """Write what a later call goes on from, in parts."""
    for leftover in folder.glob("checkpoint.pt*"):
        leftover.unlink()
    whole = folder / "checkpoint.pt"
    run.save(whole)
    content = whole.read_bytes()
    whole.unlink()
    for number, start in enumerate(range(0, len(content), PART)):
        (folder / f"checkpoint.pt.{number}").write_bytes(content[start : start + PART])


if __name__ == "__main__":
    main()
