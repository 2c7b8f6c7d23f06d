"""What the lesson on the small promptable model needs: a short training, answers to look at, and what its record says."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from desam_lite.data.slices import CaseSlices
from desam_lite.model.resize import fit_square
from desam_lite.model.sam import preprocess
from desam_lite.study.report.slice_examples import largest_slice
from desam_lite.study.report.tables import Table
from desam_lite.synthetic.pretraining.loop import Pretraining
from desam_lite.synthetic.pretraining.probe import HELD_OUT_SEED, click_by_click, iou, predict_box
from desam_lite.synthetic.pretraining.promptable_sam import INSIDE, PromptableSAM
from desam_lite.synthetic.pretraining.recipe import Recipe
from desam_lite.synthetic.pretraining.rendering import MASK_STEP, draw_images, pick_objects
from desam_lite.synthetic.pretraining.scenes import draw_scenes, generator_at
from desam_lite.utils.progress import track

MEASURES = {
    "box": "tight box",
    "best_of_three": "one click, best of three masks",
    "point": "one click",
    "clicks_3": "three clicks",
    "clicks_8": "eight clicks",
    "filled_box": "the filled box itself",
}
"""What `probe.probe` measures, in words."""
CAVEAT = (
    "**Not comparable with SAM.** `sam_tiny` is a stand-in of a few million weights that has seen synthetic scenes only. "
    "It is there so that the lessons of this book run everywhere."
)


def train_a_little(
    steps: int, seed: int = 0, *, size: int = 64, progress: bool = True
) -> tuple[Pretraining, pd.DataFrame]:
    """Train a fresh `sam_tiny` on small pictures.

    Args:
        steps: Optimiser steps; each sees four scenes under two contrasts.
        seed: Names initial weights and stream.
        size: Side of the pictures, in pixels.
        progress: Whether to show a bar.

    Returns:
        The run, and its losses, one row per step.
    """
    always = ((1.0,), (1.0,), (1.0,))
    recipe = Recipe(
        steps=steps, warmup=20, decay=max(1, steps // 4), sizes=(size,), scenes=(4,), shares=always, seed=seed
    )
    run = Pretraining(recipe, torch.device("cpu"))
    rows = [
        {"step": step, **run.advance()} for step in track(range(1, steps + 1), "training", enabled=progress)
    ]
    return run, pd.DataFrame(rows)


class Scene(NamedTuple):
    """A picture and an object on it.

    Attributes:
        title: What it is.
        picture: ``(S, S)`` float, 0 to 255.
        mask: ``(S / 2, S / 2)`` bool, the object.
    """

    title: str
    picture: torch.Tensor
    mask: torch.Tensor


def held_out_scenes(count: int, size: int, *, contrasts: int = 1) -> list[Scene]:
    """Draw scenes that no training has seen, each with one object; every scene under so many contrasts, one after the other."""
    generator = generator_at(HELD_OUT_SEED, 0, torch.device("cpu"))
    scenes = draw_scenes(count, size, generator)
    masks = pick_objects(scenes, 1, MASK_STEP, generator).masks[:, 0]
    drawn = [draw_images(scenes, generator) for _ in range(contrasts)]
    return [
        Scene(f"synthetic scene {i + 1}", drawn[k][i], masks[i])
        for i in range(count)
        for k in range(contrasts)
    ]


def organ_scene(title: str, case: CaseSlices, organ: int, size: int) -> Scene:
    """Return the slice of a case that holds most of an organ as a scene.

    Args:
        title: What it is.
        case: Slices of a scan.
        organ: Its id, from 1.
        size: Side of the picture, in pixels.
    """
    wanted = case.labels == organ
    z = largest_slice(wanted.astype(np.uint8))
    grey, mask = (torch.from_numpy(v[z].astype(np.float32))[None, None] for v in (case.images, wanted))
    return Scene(
        title, fit_square(grey, size)[0, 0], fit_square(mask, size // MASK_STEP, nearest=True)[0, 0] > 0.5
    )


class Answer(NamedTuple):
    """What a model draws when it is asked.

    Attributes:
        prompt: In words.
        mask: ``(S / 2, S / 2)`` bool.
        iou: Of the mask with the object.
        clicks: ``(N, 2)`` float, x and y in pixels of the picture; none for a box.
        inside: ``(N,)`` bool, whether a click says "here" or "not here".
    """

    prompt: str
    mask: npt.NDArray[np.bool_]
    iou: float
    clicks: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]


@torch.no_grad()
def ask(model: PromptableSAM, scene: Scene, clicks: Sequence[int] = (1, 3, 8), seed: int = 0) -> list[Answer]:
    """Ask for the object with a tight box, then with clicks, each where the answer before was wrong.

    Args:
        model: On the CPU.
        scene: What is shown, and the object meant.
        clicks: After how many clicks the answer is kept.
        seed: Names where the clicks fall.
    """
    side, masks = scene.picture.shape[-1], scene.mask[None, None]
    neck = model.encode_image(preprocess(scene.picture[None], side)).neck
    generator = generator_at(HELD_OUT_SEED, 1 + seed, torch.device("cpu"))
    nothing = np.empty((0, 2)), np.empty(0, bool)
    found = [_answer("tight box", predict_box(model, neck, masks, MASK_STEP), masks, *nothing)]
    for number, asked in enumerate(click_by_click(model, neck, masks, MASK_STEP, generator, max(clicks)), 1):
        if number in clicks:
            real = asked.kinds[0, 0] >= 0
            where, kinds = asked.points[0, 0][real].double().numpy(), asked.kinds[0, 0][real].numpy()
            title = "one click" if number == 1 else f"{number} clicks"
            found.append(_answer(title, asked.chosen, masks, where, kinds == INSIDE))
    return found


def _answer(
    prompt: str, logits: torch.Tensor, masks: torch.Tensor, clicks: npt.NDArray[Any], inside: npt.NDArray[Any]
) -> Answer:
    return Answer(prompt, (logits > 0)[0, 0].numpy(), float(iou(logits > 0, masks)), clicks, inside)


def curve(card: dict[str, Any]) -> pd.DataFrame:
    """Return how good the weights of a card became as they were trained: a row per probe, pictures counted from the very first.

    Args:
        card: Of `shipped_card`, or of another ``desam-lite pretrain``.
    """
    before = _pictures(card) - int(card["pictures"])
    side = card["probe"]["side"]
    names = [name for name in MEASURES if f"{name}_{side}" in card["curve"][0]]
    rows = [
        {"pictures": before + row["pictures"], **{n: row[f"{n}_{side}"] for n in names}}
        for row in card["curve"]
    ]
    return pd.DataFrame(rows)


def forecast(seen: pd.DataFrame, measure: str, pictures: float) -> float:
    """Return what a straight line over the logarithm of the pictures, fitted to the later half of a curve, gives there.

    Args:
        seen: Of `curve`.
        measure: Of `MEASURES`.
        pictures: How many are seen.
    """
    late = seen.iloc[len(seen) // 2 :]
    if len(late) < 2:
        return float("nan")
    slope, height = np.polyfit(np.log10(late["pictures"]), late[measure], 1)
    return float(height + slope * math.log10(pictures))


def compare(probes: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Return what models reach on the held-out stream, side by side: a row per kind of prompt.

    Args:
        probes: Name of a model to what `probe.probe` gave.
    """
    rows = [
        {"prompt": said, **{name: found[measure] for name, found in probes.items()}}
        for measure, said in MEASURES.items()
    ]
    return pd.DataFrame(rows)


def say_clicks(probes: dict[str, dict[str, float]], shipped: str, aims: dict[str, float]) -> str:
    """Answer in one sentence how well the shipped model answers, against what it was meant to reach.

    Args:
        probes: Of `compare`.
        shipped: The name of the model in question.
        aims: Measure to the IoU that was aimed at.
    """
    found = probes[shipped]
    reached = [measure for measure, aim in aims.items() if found[measure] >= aim]
    verdict = (
        "As well as was aimed at"
        if len(reached) == len(aims)
        else "In part"
        if reached
        else "Not yet well enough"
    )
    each = ", ".join(f"{MEASURES[m]} {found[m]:.2f} (aim {aim:.2f})" for m, aim in aims.items())
    others = "; ".join(
        f"{name} has {p['box']:.2f} with the box" for name, p in probes.items() if name != shipped
    )
    return (
        "By being asked for one region after the other in pictures without end. "
        f"**{verdict}**: on pictures it never saw, the model that comes with this book has mean IoU {each}, and "
        f"{found['clicks_8']:.2f} after eight clicks. {others}."
    )


def provenance(card: dict[str, Any], *, profile: str, steps: int) -> Table:
    """Return where the shipped weights and the numbers of the page come from, as a table of two columns."""
    code = card["code"]
    rows = {
        "profile": f"{profile}: {steps} steps of training on this page",
        "weights": f"{card['name']}, SHA-256 {card['sha256'][:16]}",
        "trained": f"{_pictures(card):,} pictures, {_minutes(card):.0f} minutes of computing, last on {card['device']}",
        "data": card["data"],
        "code": f"desam-lite {code['version']}, {(code.get('commit') or 'no commit known')[:10]}",
        "libraries": ", ".join(f"{k} {v}" for k, v in card["libraries"].items()),
        "licence": card["licence"],
    }
    return Table(pd.DataFrame(list(rows.items())), kind="provenance", headings=False)


def _all(card: dict[str, Any]) -> Iterable[dict[str, Any]]:
    while card:
        yield card
        card = card.get("began with") or {}


def _pictures(card: dict[str, Any]) -> int:
    return sum(int(one["pictures"]) for one in _all(card))


def _minutes(card: dict[str, Any]) -> float:
    return sum(float(one["minutes"]) for one in _all(card))
