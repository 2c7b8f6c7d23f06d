"""What a promptable model is asked: objects of the scenes, a point or a noisy box for each, then clicks where its mask was wrong.

As SAM was trained (Kirillov et al., ICCV 2023, appendix A), but with the further clicks at once instead of one by one. Masks are
``(B, M, s, s)`` bool, of M objects on B images; ``step`` is how many pixels of the image a pixel of the mask spans.
"""

import torch
from torch.nn import functional

from desam_lite.methods.appearance import AIR, LABELS, chance, uniform
from desam_lite.synthetic.pretraining.promptable_sam import BOTTOM_RIGHT, INSIDE, NO_POINT, OUTSIDE, TOP_LEFT
from desam_lite.synthetic.pretraining.scenes import Scenes

MASK_STEP = 2
"""Pixels of the image that a pixel of SAM's masks spans, at patch 8."""
_SMALL_FIRST = -0.6  # a region of k times the area has k^0.4 times the chance, not k times
_LEAST_AREA = 1 / 800  # part of the image; smaller regions are no objects
_AIR_SHARE = 0.1  # the background is an object, but ten times more seldom than its area says
_WHOLE_SHAPES = 0.3
_BOX_NOISE = 0.1  # SAM's training: standard deviation of 10 % of the side of the box
_EVERYWHERE = (
    1e-4  # weight of a right pixel of the object against a wrong one: some pixel can always be drawn
)


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

    In each round all of a line's run of inside pixels is reached if any pixel of it was.
    """
    # Each run of a line has a number of its own, at most the length of the line.
    lines = [(inside, (~inside).cumsum(-1)) for inside in (within, within.mT)]
    reached, nowhere = seeds & within, seeds.shape[-1] + 1
    for _ in range(rounds):
        for inside, run in lines:
            marked = torch.zeros(*seeds.shape[:-1], nowhere + 1, dtype=torch.bool, device=seeds.device)
            marked.scatter_(-1, torch.where(reached, run, nowhere), True)
            reached = (marked.gather(-1, run) & inside).mT
    return reached


def pick_pixels(weights: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Draw pixels of each mask by weights ``(B, M, s, s)``: ``(B, M, number)`` int64, positions in the flattened mask."""
    flat = weights.flatten(2).flatten(0, 1) + 1e-9
    pixels = torch.multinomial(flat, number, replacement=True, generator=generator)
    return pixels.view(*weights.shape[:2], number)


def to_points(pixels: torch.Tensor, side: int, step: int) -> torch.Tensor:
    """Return x and y in the image of the middle of pixels of a mask of this side: ``(..., 2)`` float."""
    return torch.stack((pixels % side, pixels // side), dim=-1) * float(step) + (step - 1) / 2


def boxes_around(masks: torch.Tensor, step: int) -> torch.Tensor:
    """Return the tight boxes ``(B, M, 4)``: left, top, right, bottom in pixels of the image; an empty mask's is nothing."""
    side = masks.shape[-1]
    place = torch.arange(side, device=masks.device)
    ends = []
    for line in (masks.any(2), masks.any(3)):  # columns, rows that hold any of it
        first = torch.where(line, place, side).amin(-1)
        last = torch.where(line, place, -1).amax(-1)
        ends.append((first, last + 1))
    return step * torch.stack((ends[0][0], ends[1][0], ends[0][1], ends[1][1]), -1).float()


def shake_boxes(
    boxes: torch.Tensor, side: int, generator: torch.Generator, most: float = _BOX_NOISE
) -> torch.Tensor:
    """Move each edge of boxes ``(B, M, 4)`` by up to a share of the box, within the image of this side."""
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    moved = boxes + uniform(generator, *boxes.shape, low=-most, high=most) * size
    return moved.clamp(0, side)


def first_prompts(
    masks: torch.Tensor, boxed: torch.Tensor, step: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two tokens per object: the corners of a noisy box where ``boxed`` ``(B, M)``, else a point inside and none.

    Points are ``(B, M, 2, 2)`` and kinds ``(B, M, 2)``, of `PromptableSAM.predict_masks`.
    """
    side = masks.shape[-1]
    inside = to_points(pick_pixels(masks.float(), 1, generator), side, step)
    corners = shake_boxes(boxes_around(masks, step), side * step, generator).view(*masks.shape[:2], 2, 2)
    point = torch.cat((inside, torch.zeros_like(inside)), dim=2)
    kinds = torch.where(
        boxed[..., None],
        torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=masks.device),
        torch.tensor([INSIDE, NO_POINT], device=masks.device),
    )
    return torch.where(boxed[..., None, None], corners, point), kinds


def further_clicks(
    masks: torch.Tensor, predicted: torch.Tensor, number: int, step: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clicks where a predicted mask ``(B, M, s, s)`` is wrong: inside where it misses the object, else outside.

    Points are ``(B, M, number, 2)`` and kinds ``(B, M, number)``. Where nothing is wrong, the clicks lie anywhere in the object.
    """
    pixels = pick_pixels((masks ^ predicted) + _EVERYWHERE * masks, number, generator)
    kinds = torch.where(masks.flatten(2).gather(2, pixels), INSIDE, OUTSIDE)
    return to_points(pixels, masks.shape[-1], step), kinds
