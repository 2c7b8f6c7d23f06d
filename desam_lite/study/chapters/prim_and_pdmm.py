"""What a built decoder is: its parts, their sizes, what flows between them, and how far a prompt reaches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from desam_lite.model.desam import DeSAM
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.study.report.style import WIDTH, styled

_COLORS = {"frozen": "#d9e6f2", "PRIM": "#fde3c8", "PDMM": "#d5eee3", "out": "#ffffff"}
_BOX = (1.72, 0.74)  # width and height, in the units of the places below
_SPAN = ((-0.95, 8.95), (-0.55, 4.55))


class Part(NamedTuple):
    """One box of the diagram.

    Attributes:
        name: What stands in it.
        group: "frozen", "PRIM", "PDMM" or "out".
        shape: Of what it gives for one slice and one prompt, without the batch axis; empty where the model lacks it.
        parameters: How many it trains.
    """

    name: str
    group: str
    shape: tuple[int, ...]
    parameters: int


_PLACES = {
    "prompt": (0, 4), "neck": (0, 3), "level2": (0, 2), "level1": (0, 1), "level0": (0, 0),
    "transformer": (2.2, 3.5), "context0": (2.2, 2), "context1": (2.2, 1), "context2": (2.2, 0),
    "iou_head": (4.4, 4), "fusion": (4.4, 2), "up0": (6, 1), "up1": (7.2, 0),
    "iou": (8, 4), "mask": (8, 1),
}  # fmt: skip
_FLOW = (
    ("prompt", "transformer"), ("neck", "transformer"), ("transformer", "iou_head"), ("iou_head", "iou"),
    ("transformer", "fusion"), ("level2", "context0"), ("level1", "context1"), ("level0", "context2"),
    ("context0", "fusion"), ("fusion", "up0"), ("context1", "up0"), ("up0", "up1"), ("context2", "up1"), ("up1", "mask"),
)  # fmt: skip


def decoder_parts(model: DeSAM) -> dict[str, Part]:
    """List the parts of a model's decoder with the shapes that flow through them, found by running it once.

    Args:
        model: On any device; on "meta" nothing is computed.

    Returns:
        Key to part. Parts that the variant lacks have an empty shape.
    """
    spec, device = model.spec, next(model.parameters()).device
    grid = (spec.grid, spec.grid)
    levels = tuple(torch.zeros(1, spec.width, *grid, device=device) for _ in range(3))
    neck = torch.zeros(1, spec.neck, *grid, device=device)
    modules = _modules(model)
    with torch.no_grad(), _shapes(modules) as shapes:
        out = model.decode(ImageEmbeddings((levels[0], levels[1], levels[2]), neck), Prompts.whole_image())
    drawn = tuple(out.mask_logits.shape[1:])
    judged = () if out.iou is None else tuple(out.iou.shape[1:])
    fixed = {
        "prompt": Part("prompt", "frozen", (2, spec.neck) if model.prim else (), 0),
        "neck": Part("neck", "frozen", (spec.neck, *grid) if model.prim else (), 0),
        **{f"level{i}": Part(f"level {i}", "frozen", (spec.width, *grid), 0) for i in range(3)},
        "iou": Part("IoU", "out", judged, 0),
        "mask": Part("mask logits", "out", drawn, 0),
    }
    return fixed | {
        key: Part(name, group, shapes.get(key, ()), _count(module))
        for key, (name, group, module) in modules.items()
    }


def trained(model: DeSAM) -> int:
    """Return how many numbers are trained."""
    return sum(p.numel() for p in model.trainable_parameters())


class Reach(NamedTuple):
    """What a change of the prompt changes.

    Attributes:
        mask: Whether the mask moves.
        judgement: Whether the predicted IoU does.
    """

    mask: bool
    judgement: bool


@torch.no_grad()
def prompt_reach(model: DeSAM, seed: int = 0) -> Reach:
    """Put two different points to a model, on maps of random numbers, and see what they change.

    Args:
        model: With numbers; not on "meta".
        seed: Of the maps and the points.
    """
    spec, device, rng = model.spec, next(model.parameters()).device, torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(1, channels, spec.grid, spec.grid, generator=rng).to(device)
        for channels in (spec.width, spec.width, spec.width, spec.neck)
    ]
    seen = ImageEmbeddings((maps[0], maps[1], maps[2]), maps[3])
    points = torch.rand(2, 1, 2, generator=rng) * model.image_size
    out = model.decode(seen, Prompts.points(points, torch.ones(2, 1)))
    differ = [t is not None and not torch.equal(t[0], t[1]) for t in out]
    return Reach(*differ)


def decoder_diagrams(models: Mapping[str, DeSAM]) -> Figure:
    """Draw the decoders of several models, one below the other; parts that a model lacks are left as a dotted outline.

    Args:
        models: Title to model.

    Returns:
        The figure.
    """
    with styled():
        figure = Figure((WIDTH, 2.75 * len(models)), layout="constrained")
        axes = figure.subplots(len(models), 1, squeeze=False)[:, 0]
        for ax, (title, model) in zip(axes, models.items(), strict=True):
            parts = decoder_parts(model)
            ax.set_title(f"{title}: {_amount(trained(model))} trained parameters", loc="left")
            _draw(ax, parts, fusion=model.fusion)
    return figure


def decoder_diagrams_alt(models: Mapping[str, DeSAM]) -> str:
    """Say what `decoder_diagrams` shows: the parts each model has and those it lacks."""
    said = []
    for title, model in models.items():
        parts = decoder_parts(model)
        has, lacks = ([p.name for p in parts.values() if bool(p.shape) is here] for here in (True, False))
        without = f"; it lacks {', '.join(lacks)}" if lacks else ""
        joined = "" if model.fusion else " The mask embedding does not reach the mask."
        said.append(f"{title} has {', '.join(has)}{without}.{joined}")
    return f"Diagrams of {len(models)} decoders. {' '.join(said)}"


def _modules(model: DeSAM) -> dict[str, tuple[str, str, nn.Module | None]]:
    prim, pdmm = model.prim, model.pdmm
    return {
        "transformer": ("two-way transformer", "PRIM", prim and prim.transformer),
        "iou_head": ("IoU head", "PRIM", prim and prim.iou_head),
        "fusion": ("fusion" if model.fusion else "residual block", "PDMM", pdmm.fusion),
        **{f"context{i}": (f"context x{2**i}", "PDMM", branch) for i, branch in enumerate(pdmm.context)},
        **{f"up{i}": ("up, join", "PDMM", step) for i, step in enumerate(pdmm.up)},
    }


@contextmanager
def _shapes(modules: Mapping[str, tuple[str, str, nn.Module | None]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Note the shape of what each module gives while the context lasts."""
    seen: dict[str, tuple[int, ...]] = {}

    def noting(key: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _given: Any, out: Any) -> None:
            # Of SAM's transformer the second output is the image; PRIM hands it on as the mask embedding.
            tensor = out[1] if isinstance(out, tuple) else out
            shape = tuple(tensor.shape[1:])
            seen[key] = (
                (shape[1], round(shape[0] ** 0.5), round(shape[0] ** 0.5)) if len(shape) == 2 else shape
            )

        return note

    hooks = [
        module.register_forward_hook(noting(key))
        for key, (_, _, module) in modules.items()
        if module is not None
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters() if p.requires_grad)


def _amount(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count / 1e3:.0f} k"


def _draw(ax: Axes, parts: Mapping[str, Part], *, fusion: bool) -> None:
    ax.set(xlim=_SPAN[0], ylim=_SPAN[1])
    ax.set_axis_off()
    boxes = {key: _box(ax, _PLACES[key], part) for key, part in parts.items()}
    for start, end in _FLOW:
        joined = fusion or (start, end) != ("transformer", "fusion")
        if joined and parts[start].shape and parts[end].shape:
            _arrow(ax, boxes, start, end)


def _arrow(ax: Axes, boxes: Mapping[str, FancyBboxPatch], start: str, end: str) -> None:
    ends = {"patchA": boxes[start], "patchB": boxes[end], "shrinkA": 0, "shrinkB": 0}
    style = {"arrowstyle": "-|>", "mutation_scale": 7, "color": "#555555", "lw": 0.9, **ends}
    ax.annotate("", xy=_PLACES[end], xytext=_PLACES[start], arrowprops=style, zorder=1)


def _box(ax: Axes, place: tuple[float, float], part: Part) -> FancyBboxPatch:
    (x, y), (width, height) = place, _BOX
    here = bool(part.shape)
    outline = FancyBboxPatch(
        (x - width / 2 + 0.08, y - height / 2 + 0.08),
        width - 0.16,
        height - 0.16,
        boxstyle="round,pad=0.08",
        facecolor=_COLORS[part.group] if here else "white",
        edgecolor="#555555" if here else "#bbbbbb",
        linestyle="-" if here else ":",
        linewidth=0.9,
        zorder=2,
    )
    ax.add_patch(outline)
    facts = " x ".join(map(str, part.shape)) if here else "left out"
    if here and part.parameters:
        facts += f"\n{_amount(part.parameters)}"
    color = "#1a1a1a" if here else "#999999"
    text = f"{part.name}\n{facts}"
    ax.text(x, y, text, ha="center", va="center", fontsize=6.2, color=color, zorder=3, linespacing=1.15)
    return outline
