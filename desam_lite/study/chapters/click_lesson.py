"""The chapter on the small promptable model: its masks for boxes and clicks, and the record of its training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from desam_lite.data.slices import CaseSlices
from desam_lite.evaluation.metrics import Mask
from desam_lite.methods.appearance import draw_images
from desam_lite.model.resize import fit_square
from desam_lite.model.sam import preprocess
from desam_lite.study.report.slice_examples import largest_slice
from desam_lite.study.report.slice_figures import draw_contour
from desam_lite.study.report.style import WIDTH, styled
from desam_lite.study.report.tables import Table
from desam_lite.synthetic.pretraining.probe import HELD_OUT_SEED, click_by_click, iou, predict_box
from desam_lite.synthetic.pretraining.promptable_sam import INSIDE, PromptableSAM
from desam_lite.synthetic.pretraining.rendering import MASK_STEP, pick_objects
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
_DPI_OF_SCENES = 110
_OBJECT, _PREDICTED = "white", "#e69f00"
_INSIDE, _OUTSIDE = "#56b4e9", "#d55e00"
_CURVES = {
    "box": ("#0072b2", "o"),
    "best_of_three": ("#009e73", "s"),
    "clicks_3": ("#cc79a7", "^"),
    "clicks_8": ("#d55e00", "D"),
}
_LOSS_TITLES = {
    "first": "first\nmasks",
    "second": "masks\nafter clicks",
    "contrast": "features\nof two contrasts",
    "dense": "borders",
}


class Scene(NamedTuple):
    """An image ``(S, S)`` float, 0 to 255, and an object in it: a mask ``(S / 2, S / 2)`` bool."""

    title: str
    image: torch.Tensor
    mask: torch.Tensor


def held_out_scenes(count: int, size: int, *, contrasts: int = 1) -> list[Scene]:
    """Draw scenes that no training has seen, each with an object; every scene under so many contrasts, one after the other."""
    generator = generator_at(HELD_OUT_SEED, 0, torch.device("cpu"))
    scenes = draw_scenes(count, size, generator)
    masks = pick_objects(scenes, 1, MASK_STEP, generator)[:, 0]
    images = [draw_images(scenes.labels, generator) for _ in range(contrasts)]
    return [
        Scene(f"synthetic scene {i + 1}", images[k][i], masks[i])
        for i in range(count)
        for k in range(contrasts)
    ]


def organ_scene(title: str, case: CaseSlices, organ: int, size: int) -> Scene:
    """Return the slice of a case with most of an organ (an id from 1) as a scene of ``size`` pixels a side."""
    labels = case.labels == organ
    z = largest_slice(labels.astype(np.uint8))
    image, mask = (torch.from_numpy(v[z].astype(np.float32))[None, None] for v in (case.images, labels))
    small = fit_square(mask, size // MASK_STEP, nearest=True)[0, 0] > 0.5
    return Scene(title, fit_square(image, size)[0, 0], small)


class PromptedMask(NamedTuple):
    """A mask ``(S / 2, S / 2)`` bool with its IoU, and its prompt: in words, and as clicks.

    Clicks are ``(N, 2)`` float, x and y in pixels of the image (none for a box); ``inside`` ``(N,)`` bool says which of them
    lie in the object.
    """

    prompt: str
    mask: Mask
    iou: float
    clicks: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]


@torch.no_grad()
def predict_with_prompts(
    model: PromptableSAM, scene: Scene, clicks: Sequence[int] = (1, 3, 8), seed: int = 0
) -> list[PromptedMask]:
    """Predict the object with a tight box, then with clicks, each where the mask before was wrong; on the CPU.

    The masks after so many ``clicks`` are kept; ``seed`` names where the clicks fall.
    """
    side, masks = scene.image.shape[-1], scene.mask[None, None]
    neck = model.encode_image(preprocess(scene.image[None], side)).neck
    generator = generator_at(HELD_OUT_SEED, 1 + seed, torch.device("cpu"))
    rounds = [("tight box", predict_box(model, neck, masks, MASK_STEP), np.empty((0, 2)), np.empty(0, bool))]
    for number, clicked in enumerate(
        click_by_click(model, neck, masks, MASK_STEP, generator, max(clicks)), 1
    ):
        if number in clicks:
            kinds = clicked.kinds[0, 0]
            places = clicked.points[0, 0][kinds >= 0].double().numpy()
            title = "one click" if number == 1 else f"{number} clicks"
            rounds.append((title, clicked.chosen, places, kinds[kinds >= 0].numpy() == INSIDE))
    return [
        PromptedMask(title, (logits > 0)[0, 0].numpy(), float(iou(logits > 0, masks)), places, inside)
        for title, logits, places, inside in rounds
    ]


def learning_curve(card: Mapping[str, Any]) -> pd.DataFrame:
    """Return the scores during the training of a card's weights, a row per probe.

    ``pictures`` counts the images from the very first one; ``decaying`` says whether the learning rate was falling by then.
    """
    before = _total(card, "pictures") - int(card["pictures"])
    side, begins = card["probe"]["side"], card["recipe"]["steps"] - card["recipe"]["decay"]
    names = [name for name in MEASURES if f"{name}_{side}" in card["curve"][0]]
    rows = [
        {"pictures": before + row["pictures"], "decaying": row["step"] > begins}
        | {n: row[f"{n}_{side}"] for n in names}
        for row in card["curve"]
    ]
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
    return Table(pd.DataFrame(list(rows.items())), kind="provenance", headings=False)


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


def draw_scene_grid(scenes: Sequence[Scene], contrasts: int) -> Figure:
    """Draw `held_out_scenes`, a column each, their contrasts below one another, the object outlined."""
    columns = len(scenes) // contrasts
    with styled():
        size = (WIDTH, contrasts * WIDTH / columns + 0.3)
        figure = Figure(size, dpi=_DPI_OF_SCENES, layout="constrained")
        axes = figure.subplots(contrasts, columns, squeeze=False)
        for number, scene in enumerate(scenes):
            ax = axes[number % contrasts, number // contrasts]
            _draw_scene(ax, scene, {(_PREDICTED, "solid"): scene.mask.numpy()})
            if number % contrasts == 0:
                ax.set_title(scene.title.replace("synthetic ", ""), pad=3)
    return figure


def draw_scene_grid_alt(scenes: Sequence[Scene], contrasts: int) -> str:
    """Say what `draw_scene_grid` shows."""
    areas = [f"{100 * float(scene.mask.float().mean()):.0f}" for scene in scenes[::contrasts]]
    return (
        f"{len(areas)} synthetic scenes of random regions, each under {contrasts} unrelated contrasts, with one outlined object "
        f"that covers {', '.join(areas)} % of the image."
    )


def draw_predictions(rows: Sequence[tuple[Scene, Sequence[PromptedMask]]]) -> Figure:
    """Draw the mask of each prompt: a scene per row, a prompt per column."""
    columns = len(rows[0][1])
    with styled():
        size = (WIDTH, len(rows) * (WIDTH / columns + 0.38) + 0.1)
        figure = Figure(size, dpi=_DPI_OF_SCENES, layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for panels, (scene, predictions) in zip(axes, rows, strict=True):
            for ax, predicted in zip(panels, predictions, strict=True):
                outlines = {(_PREDICTED, "solid"): predicted.mask, (_OBJECT, "dashed"): scene.mask.numpy()}
                _draw_scene(ax, scene, outlines)
                for (x, y), inside in zip(predicted.clicks, predicted.inside, strict=True):
                    look = {"ms": 6, "mfc": _INSIDE if inside else _OUTSIDE, "mec": "white", "mew": 0.7}
                    ax.plot(x, y, "P" if inside else "X", **look)
                ax.set_title(predicted.prompt, pad=3)
                ax.set_xlabel(f"IoU {predicted.iou:.2f}", fontsize=8.5, color="#444444")
            panels[0].set_ylabel(scene.title, fontsize=8.5)
    return figure


def draw_predictions_alt(rows: Sequence[tuple[Scene, Sequence[PromptedMask]]]) -> str:
    """Say what `draw_predictions` shows."""
    parts = [f"{scene.title}: {', '.join(f'{p.prompt} {p.iou:.2f}' for p in masks)}" for scene, masks in rows]
    return f"Images with the object (dashed white), the mask (solid) and the clicks; IoU per prompt. {'; '.join(parts)}."


def _draw_scene(ax: Axes, scene: Scene, outlines: Mapping[tuple[str, str], Mask]) -> None:
    side = scene.image.shape[-1]
    where: dict[str, Any] = {"extent": (0, side, side, 0), "origin": "upper"}
    ax.imshow(scene.image.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest", **where)
    ax.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    ax.spines[:].set_visible(False)
    for (color, line), mask in outlines.items():
        draw_contour(ax, mask, {"color": color, "ls": line}, where)


def draw_curve(curve: pd.DataFrame, aims: Mapping[str, float]) -> Figure:
    """Draw how IoU on held-out images grew with the images trained on (`learning_curve`), and what was aimed at (dotted)."""
    with styled():
        figure = Figure((WIDTH, 3.0), layout="constrained")
        ax = figure.subplots()
        for name, (color, marker) in _CURVES.items():
            if name in curve:
                look: dict[str, Any] = {"marker": marker, "ms": 4, "lw": 1.5, "color": color}
                ax.plot(curve["pictures"], curve[name], label=MEASURES[name], **look)
        for name, aim in aims.items():
            ax.axhline(aim, color=_CURVES[name][0], ls=":", lw=1.2)
        if "filled_box" in curve:
            level = curve["filled_box"].mean()
            ax.axhline(level, color="#767676", lw=1, ls="--", label=MEASURES["filled_box"])
        ax.set(xlabel="training images", ylabel="IoU, held-out images", ylim=(0, 1))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.grid(axis="y")
        figure.legend(loc="outside upper center", ncols=2, fontsize=8.5)
    return figure


def draw_curve_alt(curve: pd.DataFrame, aims: Mapping[str, float]) -> str:
    """Say what `draw_curve` shows."""
    first, last = curve.iloc[0], curve.iloc[-1]
    parts = [f"{MEASURES[n]} from {first[n]:.2f} to {last[n]:.2f}" for n in _CURVES if n in curve]
    dotted = ", ".join(f"{MEASURES[name]} {aim:.2f}" for name, aim in aims.items())
    return (
        f"Curves of mean IoU between {first['pictures']:,.0f} and {last['pictures']:,.0f} images: {', '.join(parts)}. "
        f"Dotted: aims, {dotted}."
    )


def draw_losses(history: pd.DataFrame) -> Figure:
    """Draw the losses of a short training over its steps, smoothed over a tenth of them."""
    with styled():
        figure = Figure((WIDTH, 2.2), layout="constrained")
        axes = figure.subplots(1, len(_LOSS_TITLES))
        for ax, (name, title) in zip(axes, _LOSS_TITLES.items(), strict=True):
            smooth = history[name].rolling(max(1, len(history) // 10), min_periods=1).mean()
            ax.plot(history["step"], history[name], color="#bbbbbb", lw=0.6)
            ax.plot(history["step"], smooth, color="#0072b2", lw=1.6)
            ax.set_title(title, fontsize=8.5)
            ax.set_xlabel("step", fontsize=8.5)
            ax.tick_params(labelsize=8)
    return figure


def draw_losses_alt(history: pd.DataFrame) -> str:
    """Say what `draw_losses` shows."""
    tenth = max(1, len(history) // 10)
    ends = [
        f"{name} from {history[name][:tenth].mean():.2f} to {history[name][-tenth:].mean():.2f}"
        for name in _LOSS_TITLES
    ]
    return f"Four losses over {len(history)} steps, means of the first and last tenth: {', '.join(ends)}."
