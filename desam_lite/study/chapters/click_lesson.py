"""The chapter on the small promptable model: its masks for boxes and clicks, and the record of its training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from desam_lite.data.slices import CaseSlices
from desam_lite.methods.appearance import draw_images
from desam_lite.methods.oracle_prompts import tight_box
from desam_lite.model.resize import fit_square
from desam_lite.model.sam import preprocess
from desam_lite.study.report.charts import draw_curves
from desam_lite.study.report.slice_examples import Example, largest_slice
from desam_lite.study.report.style import DescribedFigure
from desam_lite.study.report.tables import Table
from desam_lite.synthetic.pretraining.probe import HELD_OUT_SEED, click_by_click, iou, predict_box
from desam_lite.synthetic.pretraining.promptable_sam import INSIDE, PromptableSAM
from desam_lite.synthetic.pretraining.prompts import MASK_STEP, pick_objects
from desam_lite.synthetic.pretraining.scenes import draw_scenes, generator_at

MEASURES = {
    "box": "tight box",
    "best_of_three": "one click, best of three masks",
    "point": "one click",
    "clicks_3": "three clicks",
    "clicks_8": "eight clicks",
    "filled_box": "the filled box",
}
"""What `probe.probe` measures, in words."""
CAVEAT = (
    "**Not comparable with SAM.** `sam_tiny` is a small stand-in, trained on synthetic scenes only, "
    "so that this book runs without a download."
)
CURVE_COLORS = {
    "tight box": "#0072b2",
    "one click, best of three masks": "#009e73",
    "three clicks": "#cc79a7",
    "eight clicks": "#d55e00",
    "the filled box": "#767676",
}
LOSSES = {
    "first": "first masks",
    "second": "masks after clicks",
    "contrast": "features of contrasts",
    "dense": "borders",
}
"""The losses of the training, in words."""


def held_out_scenes(count: int, size: int, *, contrasts: int = 1) -> list[Example]:
    """Draw scenes that no training has seen, each with an object; every scene under so many contrasts, one after the other."""
    generator = generator_at(HELD_OUT_SEED, 0, torch.device("cpu"))
    scenes = draw_scenes(count, size, generator)
    masks = pick_objects(scenes, 1, MASK_STEP, generator)[:, 0].repeat_interleave(MASK_STEP, 1)
    masks = masks.repeat_interleave(MASK_STEP, 2).byte()
    images = [draw_images(scenes.labels, generator).round().clamp(0, 255).byte() for _ in range(contrasts)]
    return [
        Example(f"scene {i + 1}", "", images[k][i].numpy(), masks[i].numpy(), None, (1.0, 1.0))
        for i in range(count)
        for k in range(contrasts)
    ]


def organ_scene(title: str, case: CaseSlices, organ: int, size: int) -> Example:
    """Return the slice of a case with most of an organ (an id from 1) as a square of ``size`` pixels a side."""
    labels = case.labels == organ
    z = largest_slice(labels.astype(np.uint8))
    image, mask = (torch.from_numpy(v[z].astype(np.float32))[None, None] for v in (case.images, labels))
    image, mask = fit_square(image, size)[0, 0], fit_square(mask, size, nearest=True)[0, 0] > 0.5
    return Example(title, "", image.round().byte().numpy(), mask.byte().numpy(), None, (1.0, 1.0))


@torch.no_grad()
def predict_with_prompts(
    model: PromptableSAM, scene: Example, clicks: Sequence[int] = (1, 3, 8), seed: int = 0
) -> list[tuple[Example, float]]:
    """Predict the object with a tight box, then with clicks, each where the mask before was wrong; on the CPU.

    The masks after so many ``clicks`` are kept, with their IoU; ``seed`` names where the clicks fall.
    """
    side, image = scene.image.shape[-1], torch.from_numpy(scene.image).float()
    masks = torch.from_numpy(scene.reference[::MASK_STEP, ::MASK_STEP] > 0)[None, None]
    neck = model.encode_image(preprocess(image[None], side)).neck
    generator = generator_at(HELD_OUT_SEED, 1 + seed, torch.device("cpu"))
    box = tight_box(scene.reference > 0).astype(float)
    rounds = [(f"{scene.title}\ntight box", predict_box(model, neck, masks, MASK_STEP), box)]
    clicking = click_by_click(model, neck, masks, MASK_STEP, generator, max(clicks))
    for number, clicked in enumerate(clicking, 1):
        if number in clicks:
            kinds = clicked.kinds[0, 0]
            places, inside = clicked.points[0, 0][kinds >= 0], kinds[kinds >= 0] == INSIDE
            prompt = torch.cat([places, inside[:, None]], 1).double().numpy()
            rounds.append(("one click" if number == 1 else f"{number} clicks", clicked.chosen, prompt))
    answers = []
    for title, logits, prompt in rounds:
        score = float(iou(logits > 0, masks))
        mask = np.kron((logits > 0)[0, 0].numpy(), np.ones((MASK_STEP, MASK_STEP), np.uint8))
        note = f"IoU {score:.2f}"
        answers.append((scene._replace(title=title, note=note, prediction=mask, prompt=prompt), score))
    return answers


def learning_curve(card: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scores during the trainings that a card's weights went through, first to last, a row per probe.

    ``pictures`` counts the images from the very first one; ``decaying`` says whether the learning rate was falling by then.
    """
    rows: list[dict[str, Any]] = []
    before, side = 0, card["probe"]["side"]
    for training in reversed(list(_chain(card))):
        begins = training["recipe"]["steps"] - training["recipe"]["decay"]
        names = [name for name in MEASURES if f"{name}_{side}" in training["curve"][0]]
        rows += [
            {"pictures": before + row["pictures"], "decaying": row["step"] > begins}
            | {n: row[f"{n}_{side}"] for n in names}
            for row in training["curve"]
        ]
        before += training["pictures"]
    return pd.DataFrame(rows)


def _chain(card: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    while card:
        yield card
        card = card.get("began with") or {}


def _total(card: Mapping[str, Any], name: str) -> float:
    return float(sum(entry[name] for entry in _chain(card)))


def provenance_of_weights(card: Mapping[str, Any], *, profile: str, steps: int) -> Table:
    """Return where the shipped weights and the numbers of the page come from, as a table of two columns."""
    code = card["code"]
    minutes = f"{_total(card, 'minutes'):.0f} minutes of computing, last on {card['device']}"
    rows = {
        "profile": f"{profile}: {steps} steps of training on this page",
        "weights": f"{card['name']}, SHA-256 {card['sha256'][:16]}",
        "trained": f"{_total(card, 'pictures'):,.0f} images, {minutes}",
        "data": card["data"],
        "code": f"desam-lite {code['version']}, {(code.get('commit') or 'no commit known')[:10]}",
        "libraries": ", ".join(f"{k} {v}" for k, v in card["libraries"].items()),
        "licence": card["licence"],
    }
    frame = pd.DataFrame(list(rows.items()))
    return Table(frame, "Weights, data and code", kind="provenance", headings=False, folded=True)


def say_clicks(probes: Mapping[str, Mapping[str, float]], shipped: str, aims: Mapping[str, float]) -> str:
    """Say how good the shipped model's masks are by `probe.probe`, against the IoU that was aimed at for some `MEASURES`."""
    scores = probes[shipped]
    reached = [scores[measure] >= aim for measure, aim in aims.items()]
    verdict = (
        "It reaches its aims"
        if all(reached)
        else "It reaches some of its aims"
        if any(reached)
        else "It misses its aims"
    )
    each = ", ".join(f"{MEASURES[m]} {scores[m]:.2f} (aim {aim:.2f})" for m, aim in aims.items())
    others = ", ".join(f"{name} {p['box']:.2f}" for name, p in probes.items() if name != shipped)
    return (
        f"By training on an endless synthetic stream of images. **{verdict}**: on unseen images the {shipped} model has mean "
        f"IoU {each}, and {scores['clicks_8']:.2f} after eight clicks. With the {MEASURES['box']}, the other models have "
        f"{others}, and {MEASURES['filled_box']} has {scores['filled_box']:.2f}."
    )


def draw_curve(curve: pd.DataFrame, aims: Mapping[str, float]) -> DescribedFigure:
    """Draw how IoU on held-out images grew with the images trained on (`learning_curve`), and what was aimed at (dotted)."""
    names = {name: words for name, words in MEASURES.items() if name in curve and words in CURVE_COLORS}
    rows = curve.melt("pictures", list(names), "label", "IoU").replace({"label": names})
    axes = ("training images", "IoU, held-out images")
    levels = {MEASURES[name]: aim for name, aim in aims.items()}
    look: dict[str, Any] = {"colors": CURVE_COLORS, "aims": levels, "limit": (0, 1), "height": 2.6}
    return draw_curves(rows, "pictures", "IoU", axes=axes, **look)


def draw_losses(history: pd.DataFrame) -> DescribedFigure:
    """Draw the losses of a short training over its steps, and smoothed over a tenth of them."""
    named = history.set_index("step")[list(LOSSES)].rename(columns=LOSSES)
    kinds = {"every step": named, "smoothed": named.rolling(max(1, len(named) // 10), min_periods=1).mean()}
    rows = pd.concat(
        [
            own.melt(ignore_index=False, var_name="part", value_name="loss").assign(label=k)
            for k, own in kinds.items()
        ]
    ).reset_index()
    shades = {"every step": "#bbbbbb", "smoothed": "#0072b2"}
    return draw_curves(rows, "step", "loss", axes=("step", "loss"), panel="part", colors=shades, height=1.7)
