"""The objects in the label maps of `desam_lite.synthetic.pretraining.scenes` that prompts are drawn for."""

import torch
from torch.nn import functional

from desam_lite.methods.appearance import AIR, LABELS, chance
from desam_lite.synthetic.pretraining.scenes import Scenes

MASK_STEP = 2
"""Pixels of the image that a pixel of SAM's masks spans, at patch 8."""
_SMALL_FIRST = -0.6  # a region of k times the area has k^0.4 times the chance, not k times
_LEAST_AREA = 1 / 800  # part of the image; smaller regions are no objects
_AIR_SHARE = 0.1  # the background is an object, but ten times more seldom than its area says
_WHOLE_SHAPES = 0.3


def pick_objects(scenes: Scenes, number: int, step: int, generator: torch.Generator) -> torch.Tensor:
    """Pick M connected regions, and some shapes with all that lies in them: of two drawn by chance the more compact.

    Small regions come nearly as often as large ones. What is left between others is often a sliver, which nobody would
    segment; slivers still come, but seldom. An object may come twice. Masks are sampled every ``step`` pixels: ``(B, M, s, s)``
    bool.
    """
    first = torch.randint(step, (2,), generator=generator, device=generator.device).tolist()
    labels = scenes.labels[:, first[0] :: step, first[1] :: step]
    count, size = len(labels), labels.shape[-1]
    areas = torch.zeros(count, LABELS, device=labels.device)
    areas.scatter_add_(1, labels.flatten(1), torch.ones_like(labels.flatten(1), dtype=areas.dtype))
    weights = areas.clamp(min=1) ** _SMALL_FIRST * (areas > size * size * _LEAST_AREA)
    weights[:, AIR] *= _AIR_SHARE
    at = torch.multinomial(
        weights.gather(1, labels.flatten(1)) + 1e-9, 2 * number, replacement=True, generator=generator
    )
    region = labels.flatten(1).gather(1, at)[..., None, None]
    seeds = torch.zeros(count, 2 * number, size * size, dtype=torch.bool, device=labels.device)
    seeds.scatter_(2, at[..., None], True)
    seeds = seeds.view(count, 2 * number, size, size)
    masks = flood(seeds, labels[:, None] == region)
    masks = _whole_shapes(scenes.shapes[:, :, first[0] :: step, first[1] :: step], masks, seeds, generator)
    better = compactness(masks).view(count, number, 2).argmax(-1)[..., None, None, None]
    return masks.view(count, number, 2, size, size).take_along_dim(better, 2)[:, :, 0]


def compactness(masks: torch.Tensor) -> torch.Tensor:
    """Return area over squared perimeter of masks ``(B, M, s, s)`` bool: ``(B, M)``, 1/16 for a square, small for a sliver."""
    framed = functional.pad(masks, (1, 1, 1, 1))
    across = (framed[..., 1:] != framed[..., :-1]).sum((-2, -1))
    down = (framed[..., 1:, :] != framed[..., :-1, :]).sum((-2, -1))
    return masks.sum((-2, -1)) / (across + down).clamp(min=1).square()


def _whole_shapes(
    shapes: torch.Tensor, masks: torch.Tensor, seeds: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Take some objects with what was painted over them: the lowest shape at the seed instead of the highest."""
    hit = (shapes[:, None] & seeds[:, :, None]).flatten(3).any(-1)  # (B, M, SHAPES)
    lowest = hit.float().argmax(-1)
    whole = shapes.gather(1, lowest[..., None, None].expand(-1, -1, *shapes.shape[2:]))
    taken = hit.any(-1) & chance(generator, _WHOLE_SHAPES, *lowest.shape)
    return torch.where(taken[..., None, None], whole, masks)


def flood(seeds: torch.Tensor, within: torch.Tensor, rounds: int = 4) -> torch.Tensor:
    """Return what can be reached from the seeds inside a mask, along rows and columns: ``(..., s, s)`` bool.

    In each round a pixel is reached if, looking along its line, a reached one comes before any pixel outside.
    """
    reached = seeds & within
    place = torch.arange(seeds.shape[-1], device=seeds.device, dtype=torch.int16)
    for _ in range(rounds):
        for turned in (False, True):
            lines, inside = (reached.mT, within.mT) if turned else (reached, within)
            for back in (False, True):
                line, room = (lines.flip(-1), inside.flip(-1)) if back else (lines, inside)
                last = torch.where(line, place, -1).cummax(-1).values
                wall = torch.where(room, -1, place).cummax(-1).values
                swept = line | ((last > wall) & (last >= 0))
                lines = swept.flip(-1) if back else swept
            reached = lines.mT if turned else lines
    return reached
