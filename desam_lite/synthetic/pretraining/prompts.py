"""The prompts that a promptable model is trained with: a point or a noisy box, then clicks where its mask was wrong.

As SAM was trained (Kirillov et al., ICCV 2023, appendix A), but with the further clicks at once instead of one by one. Masks are
``(B, M, s, s)`` bool, of M objects on B images; ``step`` is how many pixels of the image a pixel of the mask spans.
"""

import torch

from desam_lite.methods.appearance import uniform
from desam_lite.synthetic.pretraining.promptable_sam import BOTTOM_RIGHT, INSIDE, NO_POINT, OUTSIDE, TOP_LEFT

_BOX_NOISE = 0.1  # SAM's training: standard deviation of 10 % of the side of the box
_EVERYWHERE = (
    1e-4  # weight of a right pixel of the object against a wrong one, so that some pixel can always be drawn
)


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
