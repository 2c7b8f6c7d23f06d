"""Figures that answer when touched: what a reader can ask is computed by the notebook and packed into its page.

The page needs no kernel and no network; its script and style are ``widgets.js`` and ``widgets.css`` in ``book/static``. Without a
script the table stays, which holds the same numbers. A notebook that is run by hand gets the same script.
"""

import base64
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import Mask
from desam_lite.methods.oracle_prompts import innermost, tight_box
from desam_lite.model.predictor import point_grid, predict_slice, single_points
from desam_lite.model.resize import scaled_size
from desam_lite.study.plans import project_root
from desam_lite.study.report.case_viewer import encode_images, outlines
from desam_lite.study.report.notebook import is_interactive
from desam_lite.study.report.prompt_maps import (
    PromptableModel,
    place_prompts,
    predict_masks,
    slice_embeddings,
)
from desam_lite.study.report.slice_figures import display_white
from desam_lite.study.report.tables import Table
from desam_lite.utils.errors import StudyError

MOST_WIDGET_BYTES = 300_000
_STATIC = "book/static"
_IMAGE_BYTES = 40_000  # of a slice that a page has once
_CASE_BYTES = 170_000  # of all slices of a case
_TABLE_CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the table
MASK_SIDE = 64
"""Pixels along the longer side of packed masks."""
_COARSER = (48, 32)  # the same where many masks would be more than a page may hold


class Widget:
    """A figure that answers when touched.

    Args:
        kind: The function of ``widgets.js`` that makes it.
        title: What it is called, also by a screen reader.
        data: What that function reads, as JSON.
        table: What stays without a script.
    """

    def __init__(self, kind: str, title: str, data: Mapping[str, Any], table: Table):
        self.kind, self.title, self.data, self.table = kind, title, data, table

    def html(self) -> str:
        """Return the part of a page; `StudyError` if it is too large for one."""
        data = json.dumps(self.data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        text = (
            f'<section class="widget" data-widget="{self.kind}" aria-label="{html.escape(self.title, quote=True)}">'
            f'<script type="application/json">{data}</script><details open><summary>{html.escape(self.title)}: table</summary>'
            f"{self.table._repr_html_()}</details></section>"
        )
        if len(text) > MOST_WIDGET_BYTES:
            size, limit = (f"{size / 1e3:.0f} kB" for size in (len(text), MOST_WIDGET_BYTES))
            raise StudyError(f"'{self.title}' has {size}, over the limit of {limit}: show less in it.")
        return text

    def live_html(self) -> str:
        """Return it with its style and script, for a page that has neither."""
        static = project_root(Path.cwd()) / _STATIC
        style, script = (
            (static / name).read_text(encoding="utf-8") for name in ("widgets.css", "widgets.js")
        )
        return f"<style>{style}</style>{self.html()}<script>{script}</script>"

    def _repr_html_(self) -> str:
        return self.live_html() if is_interactive() else self.html()

    def __repr__(self) -> str:
        return f"{self.title}\n{self.table!r}"


def pack_masks(masks: Mask) -> str:
    """Return masks ``(N, H, W)`` as text: for each pixel a bit of every mask, compressed (zlib), in base64.

    Neighbouring prompts give a pixel the same bit more often than neighbouring pixels have the same in a mask.
    """
    bits = np.packbits(masks.reshape(len(masks), -1).T)
    return base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode()


def shrink_masks(masks: Mask, side: int) -> Mask:
    """Return masks ``(N, H, W)`` with at most ``side`` pixels along the longer side: the nearest pixel of each."""
    size = np.array(masks.shape[1:])
    small = np.ceil(size * min(1.0, side / size.max())).astype(int)
    rows, columns = ((np.arange(n) + 0.5) * full / n for n, full in zip(small, size, strict=True))
    return masks[:, rows.astype(int)][:, :, columns.astype(int)]


def describe_slices(
    images: npt.NDArray[np.uint8],
    references: Mask,
    spacing: tuple[float, float],
    most: int,
    *,
    windows: bool = True,
) -> dict[str, Any]:
    """Return slices ``(Z, H, W)`` and their references as a widget draws them: width and height in mm, outlines as SVG."""
    height, width = images.shape[1:]
    white = [display_white(image) if windows else 255.0 for image in images]
    seen = [np.minimum(image * (255 / high), 255) for image, high in zip(images, white, strict=True)]
    return {
        "size": [width * spacing[1], height * spacing[0]],
        "pixels": [width, height],
        "windows": [f"window 0 to {high:.0f} of 255" if high < 255 else "" for high in white],
        "images": encode_images(np.array(seen, np.uint8), most)[0],
        "references": ["".join(outlines(mask)) if mask.any() else "" for mask in references],
    }


def click_a_pixel(
    models: Sequence[PromptableModel],
    maps: pd.DataFrame,
    task: Task,
    workspace: Path | str,
    domain: str,
    case: str,
    row: int,
) -> Widget:
    """Return one slice with the mask of each prompt of its `prompt_maps`: a click is a point, a drag a box."""
    slices = task.slices.load(domain, case)
    number = int(np.bincount(slices.labels[row][slices.labels[row] > 0]).argmax())
    organ, reference = task.manifest.organs[number - 1], slices.labels[row] == number
    maps = maps[maps["organ"] == organ.name]
    grid = maps.drop_duplicates(["x", "y"])  # the same places for every model
    places, inside = grid[["x", "y"]].to_numpy(float), grid["inside"].to_numpy(bool)
    start = int(((places - innermost(reference) - 0.5) ** 2).sum(axis=1).argmin())
    panels: list[dict[str, Any]] = []
    masks, rows = [], []
    for model in models:
        own = maps[(maps["label"] == model.run.spec.label) & (maps["kind"] == model.kind)]
        (embedded,) = slice_embeddings(model, task, workspace, domain, case, [row])
        size = (reference.shape[0], reference.shape[1])
        prompts = place_prompts(places, reference, model.kind)
        masks.append(predict_masks(model, embedded, prompts, size, number - 1)[0])
        scores = None if own["score"].isna().any() else own["score"].round(2).tolist()
        dice = (own["dice"] * 100).round().astype(int).tolist()
        name = model.run.spec.label.removesuffix(" (oracle)")
        panels.append({"name": name, "kind": model.kind, "scores": scores, "dice": dice})
        medians = {
            f"median {where}": _median(dice, at) for where, at in (("inside", inside), ("outside", ~inside))
        }
        prompt = "point" if model.kind == "points" else "box"
        rows.append({"model": name, "prompt": prompt, "middle of the organ": dice[start], **medians})
    box = tight_box(reference)
    data = {
        **describe_slices(slices.images[[row]], reference[None], slices.spacing[1:], _IMAGE_BYTES),
        "organ": organ.name,
        "color": organ.color,
        "side": int(grid["side"].iloc[0]),
        "inside": inside.astype(int).tolist(),
        "box": [int(box[2] - box[0]), int(box[3] - box[1])],
        "start": start,
    }
    title = f"Click a pixel: {case} of {domain}, slice {row + 1}"
    table = Table(pd.DataFrame(rows).astype(str), f"Dice (%) by the position of the prompt, {organ.name}")
    for side in (MASK_SIDE, *_COARSER):
        small = [shrink_masks(each, side) for each in masks]
        packed = [panel | {"masks": pack_masks(each)} for panel, each in zip(panels, small, strict=True)]
        shape = {"maskPixels": list(small[0].shape[:0:-1]), "panels": packed}
        widget = Widget("pixel", title, {**data, **shape}, table)
        if sum(len(panel["masks"]) for panel in packed) < MOST_WIDGET_BYTES - 2 * _IMAGE_BYTES:
            break
    return widget


def _median(dice: Sequence[int], places: npt.NDArray[np.bool_]) -> str:
    return f"{np.median(np.array(dice)[places]):.0f}" if places.any() else ""


def move_the_threshold(
    models: Sequence[PromptableModel],
    task: Task,
    workspace: Path | str,
    domain: str,
    case: str,
    side: int,
) -> Widget:
    """Return all slices of a case with the scores of a grid of points: the best of those above the threshold gives the mask."""
    slices = task.slices.load(domain, case)
    number = int(np.bincount(slices.labels[slices.labels > 0]).argmax())
    organ, references = task.manifest.organs[number - 1], slices.labels == number
    each: list[dict[str, Any]] = []
    rows = []
    for model in models:
        panel, masks = _score_points(model, task, workspace, domain, case, side, references, number - 1)
        each.append(panel | {"masks": pack_masks(shrink_masks(masks, MASK_SIDE))})
        for cut in _TABLE_CUTS:
            dice, missed, alarms = case_at(cut, panel, references.sum(axis=(1, 2)))
            rows.append((panel["name"], f"{cut:g}", f"{dice:.0f}", str(missed), str(alarms)))
    columns = ["model", "threshold", "Dice (%)", "missed slices", "false alarms"]
    data = {
        **describe_slices(slices.images, references, slices.spacing[1:], _CASE_BYTES),
        "maskPixels": list(shrink_masks(masks, MASK_SIDE).shape[:0:-1]),
        "organ": organ.name,
        "color": organ.color,
        "side": side,
        "start": int(references.sum(axis=(1, 2)).argmax()),
        "threshold": models[0].run.spec.iou_threshold,
        "areas": references.sum(axis=(1, 2)).tolist(),
        "models": each,
    }
    caption = (
        f"{case} of {domain}, all {len(references)} slices: the case by the threshold of the predicted IoU"
    )
    table = Table(pd.DataFrame(rows, columns=columns), caption)
    return Widget("threshold", f"Move the threshold: {case} of {domain}", data, table)


def _score_points(
    model: PromptableModel,
    task: Task,
    workspace: Path | str,
    domain: str,
    case: str,
    side: int,
    references: Mask,
    organ: int,
) -> tuple[dict[str, Any], Mask]:
    """Return the scores of all points of all slices in thousandths, and the mask of each slice without any threshold."""
    method, (height, width) = model.predictor, references.shape[1:]
    grid = replace(method.grid, points_per_side=side, iou_threshold=float("-inf"), selection="iou")
    scaled = scaled_size((height, width), method.model.image_size)
    points = single_points(point_grid(side, scaled[1], scaled[0]))
    scores, best, masks = [], [], []
    for maps in slice_embeddings(model, task, workspace, domain, case, range(len(references))):
        every = method.model.score_prompts(maps, points)[:, organ].detach().cpu().numpy()
        scores.append((every * 1000).round().astype(int).tolist())
        prediction = predict_slice(method.model, maps, "points", (height, width), grid)
        best.append(round(1000 * float(prediction.iou[organ])))
        masks.append(prediction.mask[organ])
    drawn = np.stack(masks)
    counts = {"areas": drawn.sum(axis=(1, 2)), "overlaps": (drawn & references).sum(axis=(1, 2))}
    numbers = {name: values.tolist() for name, values in counts.items()}
    return {"name": model.run.spec.label, "scores": scores, "best": best, **numbers}, drawn


def case_at(
    threshold: float, panel: Mapping[str, Any], references: npt.NDArray[np.integer]
) -> tuple[float, int, int]:
    """Return what a threshold gives: Dice (%) of the case, slices with organ but no mask, and with a mask but no organ."""
    drawn = np.array(panel["best"]) > 1000 * threshold
    areas, overlaps = (np.where(drawn, panel[name], 0) for name in ("areas", "overlaps"))
    dice = 200 * overlaps.sum() / max(1, areas.sum() + references.sum())
    return (
        float(dice),
        int(((areas == 0) & (references > 0)).sum()),
        int(((areas > 0) & (references == 0)).sum()),
    )
