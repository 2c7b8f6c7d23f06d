"""What a prompt does to a mask: good and poor prompts of one slice, and Dice over the position of the prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from desam_lite.data.tasks import Task
from desam_lite.evaluation import statistics
from desam_lite.evaluation.metrics import Mask
from desam_lite.methods.oracle_prompts import innermost, tight_box
from desam_lite.study.report import style
from desam_lite.study.report.charts import draw_rows, in_unit
from desam_lite.study.report.prompt_maps import (
    PromptableModel,
    PromptKind,
    as_scores,
    pool_targets,
    predict_masks,
    slice_embeddings,
)
from desam_lite.study.report.sentences import count, format_interval, out_of_domain, say_pairs, sum_up
from desam_lite.study.report.slice_examples import Example
from desam_lite.study.report.slice_figures import draw_contour, draw_slice, place_in_mm

_KINDS = {"points": "point", "box": "box"}
_BOX_NOTE = "boxes have the size of the reference (oracle); positions do not use it"


def good_and_poor(reference: Mask, kind: PromptKind) -> dict[str, npt.NDArray[np.float64]]:
    """Return a good and a poor prompt for an organ ``(H, W)``, in pixels of the slice.

    Good is the innermost point, or the tight box. Poor is the same moved by the size of the organ to the side with most room for
    it (right, left, down or up): a slip that no longer means the organ but is still near it.
    """
    box = tight_box(reference)
    good = innermost(reference) + 0.5 if kind == "points" else box
    size, limits = box[2:] - box[:2], np.array(reference.shape[::-1])
    room = np.concatenate([limits - box[2:], box[:2]])  # right, down, left, up
    side = int((room / np.tile(size, 2)).argmax())
    step = np.zeros(2)
    step[side % 2] = (1 if side < 2 else -1) * min(size[side % 2], room[side])
    poor = good + np.resize(step, good.shape)
    return {"good": np.asarray(good, np.float64), "poor": np.asarray(poor, np.float64)}


def predict_good_and_poor(
    models: Sequence[PromptableModel], task: Task, workspace: Path | str, domain: str, case: str, row: int
) -> list[Example]:
    """Predict the largest organ of a slice by each model with its own kind of prompt, good and poor."""
    slices = task.slices.load(domain, case)
    labels = slices.labels[row]
    number = int(np.bincount(labels[labels > 0]).argmax())
    reference = labels == number
    examples = []
    for kind in get_args(PromptKind):
        for quality, prompt in good_and_poor(reference, kind).items():
            for model in (model for model in models if model.kind == kind):
                (maps,) = slice_embeddings(model, task, workspace, domain, case, [row])
                size = (labels.shape[0], labels.shape[1])
                mask = predict_masks(model, maps, prompt[None], size, number - 1)[0][0]
                dice = 2 * float((mask & reference).sum()) / float(mask.sum() + reference.sum())
                title = model.run.spec.label.replace(" (oracle)", "\n(oracle)")
                note = f"{quality} {_KINDS[kind]}: Dice (%) {dice * 100:.0f}"
                true, drawn = ((each * number).astype(np.uint8) for each in (reference, mask))
                place = prompt if kind == "box" else np.append(prompt, 1.0)[None]
                shown = Example(title, note, slices.images[row], true, drawn, slices.spacing[1:], place)
                examples.append(shown)
    return examples


_FROZEN, _PRIM, _PDMM, _RESULT = "#d9e6f2", "#fde3c8", "#d5eee3", "#ffffff"
_BOXES = {  # text -> left, bottom, width, height, colour; in percent of one drawing
    "SAM, coupled": {
        "image encoder\n(frozen)": (3, 56, 32, 10, _FROZEN),
        "prompt encoder\n(frozen)": (58, 56, 32, 10, _FROZEN),
        "two-way transformer": (27, 40, 40, 9, _PRIM),
        "mask head": (36, 28, 22, 8, _PRIM),
    },
    "DeSAM, decoupled": {
        "image encoder\n(frozen)": (3, 56, 32, 10, _FROZEN),
        "prompt encoder\n(frozen)": (58, 56, 32, 10, _FROZEN),
        "PRIM": (56, 41, 36, 8, _PRIM),
        "PDMM": (8, 28, 28, 8, _PDMM),
        "predicted IoU": (61, 28, 26, 7, _RESULT),
    },
}
_INPUTS = [((18, 69), (18, 66), ""), ((74, 69), (74, 66), "")]
_ARROWS = {  # from, to, and what goes along
    "SAM, coupled": [
        *_INPUTS,
        ((20, 56), (34, 49), "image"),
        ((72, 56), (60, 49), "prompt"),
        ((47, 40), (47, 36), ""),
        ((47, 28), (47, 23.5), ""),
    ],
    "DeSAM, decoupled": [
        *_INPUTS,
        ((74, 56), (74, 49), "prompt"),
        ((35, 59), (58, 49), "image"),
        ((16, 56), (16, 36), "3 levels"),
        ((58, 41), (36, 33), "mask\nembedding"),
        ((74, 41), (74, 35), ""),
        ((22, 28), (22, 24.5), ""),
    ],
}
_WIRING = (
    "Two diagrams. In SAM the image and the prompt meet in a two-way transformer, from which the mask comes. In DeSAM they "
    "meet in PRIM, which predicts the IoU; the mask comes from PDMM, which reads three levels of the encoder and PRIM's mask "
    "embedding"
)


def draw_overview(
    coupled: Sequence[Example], decoupled: Sequence[Example], color: str
) -> style.DescribedFigure:
    """Draw SAM's decoder and DeSAM's beside each other, with what each makes of a good and of a poor point on one slice.

    Each is given by its two examples of `predict_good_and_poor`; ``color`` is the organ's.
    """
    if not coupled or not decoupled:
        return style.empty_figure()
    with style.styled():
        figure = Figure((style.WIDTH, 4.3))
        for side, (title, masks) in enumerate(zip(_BOXES, (coupled, decoupled), strict=True)):
            ax = figure.add_axes((0.5 * side, 0, 0.5, 1), xlim=(0, 100), ylim=(0, 100))
            ax.set_axis_off()
            ax.text(47, 96, title, ha="center", weight="bold", size=10.5)
            _draw_wiring(ax, title)
            poor, blank = masks[-1], np.zeros_like(masks[-1].reference)
            given = poor._replace(title="slice", prediction=None, reference=blank, prompt=None)
            point = given._replace(title="prompt", image=poor.image // 3, prompt=poor.prompt)
            drawn = [e._replace(title=e.note.replace("Dice (%)", "Dice"), prompt=None) for e in masks]
            corners = ((4, 69), (60, 69), (8, 0.5), (52, 0.5))
            for (x, y), thumbnail in zip(corners, (given, point, *drawn), strict=True):
                small = ax.inset_axes((x, y, 28, 20), transform=ax.transData)
                draw_slice(small, thumbnail._replace(title="", note=""), [color], windows=False)
                small.set_rasterized(True)  # an outline of many corners would weigh more than the rest
                ax.text(x + 14, y + 21, thumbnail.title, ha="center", size=7)
    notes = {
        " ".join(f"{e.title}, {kind}".split()): dice
        for e in (*coupled, *decoupled)
        for kind, dice in [e.note.split(": ")]
    }
    return style.DescribedFigure(figure, style.describe(_WIRING, notes), vectors=True)


def _draw_wiring(ax: Axes, title: str) -> None:
    for text, (x, y, width, height, color) in _BOXES[title].items():
        ax.add_patch(Rectangle((x, y), width, height, fc=color, ec="#555555", lw=0.9))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=7.5, linespacing=1.05)
    for start, end, text in _ARROWS[title]:
        line = {"arrowstyle": "-|>", "color": "#555555", "lw": 1, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", end, start, arrowprops=line)
        x, y = np.mean([start, end], axis=0)
        ax.text(
            x, y, text, size=6.5, ha="center", va="center", bbox={"fc": "white", "ec": "none", "pad": 0.6}
        )


def draw_maps(maps: pd.DataFrame, example: Example) -> style.DescribedFigure:
    """Draw one slice's Dice over the place of the prompt, a panel per model, a row per kind; the reference is a white line."""
    if maps.empty:
        return style.empty_figure()
    by_kind = {
        str(kind): list(dict.fromkeys(rows["label"])) for kind, rows in maps.groupby("kind", sort=False)
    }
    columns = max(map(len, by_kind.values()))
    with style.styled():
        figure = Figure(
            (style.WIDTH, len(by_kind) * (style.WIDTH / columns + 0.5) + 0.75), layout="constrained"
        )
        axes = figure.subplots(len(by_kind), columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for panels, (kind, labels) in zip(axes, by_kind.items(), strict=True):
            for ax, label in zip(panels, labels, strict=False):
                image = _draw_map(ax, maps[(maps["kind"] == kind) & (maps["label"] == label)], example)
                title = label.replace(" tight box (oracle)", "\ntight box (oracle)")
                title = title.replace(" point (oracle)", "\npoint (oracle)")
                ax.set_title(title, color=style.method_color(label), fontweight="bold", fontsize=9)
            side = {"rotation": 90, "va": "center", "ha": "right", "transform": panels[0].transAxes}
            panels[0].text(-0.06, 0.5, f"prompt: {_KINDS[kind]}", **side)
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.55, aspect=32, pad=0.02)
        bar.set_label(f"Dice (%) of the mask that a prompt there gives\n{_BOX_NOTE}")
        bar.outline.set_visible(False)
    parts: dict[str, str] = {}
    for (mode, label), rows in maps.groupby(["kind", "label"], sort=False):
        means = rows.groupby(rows["inside"].astype(bool))["dice"].mean() * 100
        inside, outside = (means.get(where, float("nan")) for where in (True, False))
        name = f"{label}, prompted with a {_KINDS[str(mode)]}"
        parts[name] = f"mean {inside:.0f} inside, {outside:.0f} outside the organ"
    return style.DescribedFigure(
        figure, style.describe("Maps of Dice (%) over the position of the prompt in one slice", parts)
    )


def _draw_map(ax: Axes, rows: pd.DataFrame, example: Example) -> AxesImage:
    side, where = int(rows["side"].iloc[0]), place_in_mm(example)
    values = rows["dice"].to_numpy(float).reshape(side, side) * 100
    image = ax.imshow(values, cmap="viridis", vmin=0, vmax=100, interpolation="nearest", **where)
    draw_contour(ax, example.reference > 0, {"color": "white", "ls": "solid"}, where)
    return image


def draw_spreads(summary: pd.DataFrame) -> style.DescribedFigure:
    """Draw how far apart the masks of many prompts are: a row per model, Dice from the 10th percentile to the best.

    ``summary`` has label, kind, low, typical, best: means over slices and cases.
    """
    rows = summary.rename(columns={"typical": "mean", "best": "high"})
    rows["prompt"] = [
        f"{label}\nprompt: {_KINDS[kind]}" for label, kind in summary[["label", "kind"]].to_numpy()
    ]
    axis = f"Dice (%): median, 10th percentile to best\n{_BOX_NOTE}"
    return draw_rows(in_unit(rows), axis=axis, row="prompt")


_WIDER = {
    "better": "larger for {first} than for {second}",
    "worse": "smaller for {first} than for {second}",
    "equivalent": "equivalent for {first} and {second}",
    "better by less than the margin": "larger, by less than the margin, for {first} than for {second}",
    "worse by less than the margin": "smaller, by less than the margin, for {first} than for {second}",
    "cannot tell": "not distinguishable for {first} and {second}",
}


def say_coupling(differences: pd.DataFrame) -> str:
    """Say whether Dice spreads more over prompts in the coupled decoder, by the decision rule."""
    rows = out_of_domain(differences).to_dict("records")
    if not rows:
        return "There is no answer yet: no coupled and decoupled model have scores on the same cases."
    verdict = sum_up(
        [row["verdict"] for row in rows],
        all_better="A poor prompt lowers Dice more with the coupled decoder",
        better="It depends on how the two were trained",
        worse="A poor prompt lowers Dice more with the decoupled decoder",
        equivalent="Both decoders depend equally on their prompts",
        unsure="Cannot tell whether the coupled decoder depends more on its prompt",
    )
    parts = "; ".join(
        f"{_WIDER[row['verdict']].format(first=row['first'], second=row['second'])}, "
        f"{format_interval(row, spec='+.0f')} (n = {count(row['cases'], 'case')})"
        for row in rows
    )
    return f"**{verdict}**. The spread of Dice (%) over the prompts of a slice, best minus 10th percentile, is {parts}."


_SQUARE = {
    "SAM's, coupled": ("Tuned SAM-P", "Tuned SAM-B"),
    "DeSAM's, decoupled": ("DeSAM-P", "DeSAM-B"),
}


def square(means: pd.DataFrame) -> str:
    """Return the 2 x 2 of decoder and training prompt, in Markdown: typical Dice and its spread over the prompts of a slice."""
    by_label = means.set_index("label")[["typical", "spread"]] * 100
    lines = ["| Decoder | Trained with points | Trained with the whole image |", "|---|---|---|"]
    for decoder, labels in _SQUARE.items():
        texts = [
            "{}: Dice {:.0f} %, spread {:.0f}".format(label, *by_label.loc[label])
            if label in by_label.index
            else "not run"
            for label in labels
        ]
        lines.append(f"| {decoder} | {' | '.join(texts)} |")
    return "\n".join(lines)


def compare_by_place(maps: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Compare pairs of models by the mean Dice of prompts inside the organ and of those outside, out of domain."""
    tables = []
    for name, rows in maps.groupby(maps["inside"].astype(bool).map({True: "inside", False: "outside"})):
        scores = pool_targets(as_scores(rows, "dice"))
        tables.append(out_of_domain(statistics.compare(scores, pairs, rule="cases")).assign(prompts=name))
    return pd.concat(tables, ignore_index=True)


def say_by_place(table: pd.DataFrame) -> str:
    """Say which model of a pair has the higher Dice with prompts inside and outside the organ, from `compare_by_place`."""
    parts = [
        f"With prompts {name} the organ, {say_pairs(rows.to_dict('records'))}."
        for name, rows in table.groupby("prompts")
    ]
    return (
        f"Mean Dice (%) out of domain. {' '.join(parts)}"
        if parts
        else "No pair has scores on the same cases."
    )
