"""The parts of a built decoder: their output shapes and sizes, and whether a prompt reaches the mask."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from desam_lite.model.desam import DeSAM
from desam_lite.model.prompts import ImageEmbeddings, Prompts


class DecoderPart(NamedTuple):
    """A part of a decoder: the shape of what it gives for one slice and one prompt (no batch axis), and what it trains.

    Parts that the variant lacks have an empty shape. ``group`` is "frozen", "PRIM", "PDMM" or "out".
    """

    name: str
    group: str
    shape: tuple[int, ...]
    parameters: int


def decoder_parts(model: DeSAM) -> dict[str, DecoderPart]:
    """List the parts of a model's decoder, with shapes noted while it runs once; a model on "meta" computes nothing."""
    prim, pdmm = model.prim, model.pdmm
    modules: dict[str, tuple[str, str, nn.Module | None]] = {
        "transformer": ("two-way transformer", "PRIM", prim and prim.transformer),
        "iou_head": ("IoU head", "PRIM", prim and prim.iou_head),
        "fusion": ("fusion" if model.fusion else "residual block", "PDMM", pdmm.fusion),
        **{f"context{i}": (f"context x{2**i}", "PDMM", branch) for i, branch in enumerate(pdmm.context)},
        **{f"up{i}": ("up, join", "PDMM", step) for i, step in enumerate(pdmm.up)},
    }
    shapes: dict[str, tuple[int, ...]] = {}
    maps = _fill_maps(model, torch.zeros)
    with ExitStack() as hooks, torch.no_grad():
        for key, (_, _, module) in modules.items():
            if module is not None:
                hooks.enter_context(module.register_forward_hook(_note_shape(shapes, key)))
        out = model.decode(maps, Prompts.whole_image())
    ends = {
        "prompt": ("prompt", "frozen", (2, model.spec.neck) if prim else ()),
        "neck": ("neck", "frozen", maps.neck.shape[1:] if prim else ()),
        **{f"level{i}": (f"level {i}", "frozen", level.shape[1:]) for i, level in enumerate(maps.levels)},
        "iou": ("IoU", "out", () if out.iou is None else out.iou.shape[1:]),
        "mask": ("mask logits", "out", out.mask_logits.shape[1:]),
    }
    parts = {key: DecoderPart(name, group, tuple(shape), 0) for key, (name, group, shape) in ends.items()}
    for key, (name, group, module) in modules.items():
        parts[key] = DecoderPart(name, group, shapes.get(key, ()), count_trained(module))
    return parts


def _fill_maps(model: DeSAM, fill: Callable[..., torch.Tensor]) -> ImageEmbeddings:
    spec, device = model.spec, next(model.parameters()).device
    channels = (spec.width, spec.width, spec.width, spec.neck)
    maps = [fill(1, count, spec.grid, spec.grid).to(device) for count in channels]
    return ImageEmbeddings((maps[0], maps[1], maps[2]), maps[3])


def _note_shape(shapes: dict[str, tuple[int, ...]], key: str) -> Callable[[nn.Module, Any, Any], None]:
    def note(_module: nn.Module, _inputs: Any, out: Any) -> None:
        # Of SAM's transformer the second output is the image (h * w, C); PRIM hands it on as the mask embedding.
        shape = tuple((out[1] if isinstance(out, tuple) else out).shape[1:])
        side = round(shape[0] ** 0.5)
        shapes[key] = (shape[1], side, side) if len(shape) == 2 else shape

    return note


def count_trained(module: nn.Module | None) -> int:
    """Return how many numbers of a module are trained."""
    return 0 if module is None else sum(p.numel() for p in module.parameters() if p.requires_grad)


class Reach(NamedTuple):
    """Whether a change of the prompt changes the mask, and the predicted IoU."""

    mask: bool
    iou: bool


@torch.no_grad()
def prompt_reach(model: DeSAM, seed: int = 0) -> Reach:
    """Give a model two different points on maps of random numbers, and compare what it predicts."""
    rng = torch.Generator().manual_seed(seed)
    maps = _fill_maps(model, lambda *shape: torch.randn(*shape, generator=rng))
    points = torch.rand(2, 1, 2, generator=rng) * model.image_size
    out = model.decode(maps, Prompts.points(points, torch.ones(2, 1)))
    mask, iou = (tensor is not None and not torch.equal(tensor[0], tensor[1]) for tensor in out)
    return Reach(mask, iou)
