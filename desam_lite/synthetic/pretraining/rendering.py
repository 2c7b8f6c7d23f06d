"""Intensities for the label maps of `desam_lite.synthetic.pretraining.scenes`, and the objects that prompts are drawn for.

Contrast and polarity are drawn anew for every image, so that one map drawn twice is one scene under two contrasts.
"""

import torch
from torch.nn import functional

from desam_lite.synthetic.pretraining.scenes import (
    AIR,
    LABELS,
    Scenes,
    chance,
    interpolate_noise,
    region_borders,
    uniform,
)

MASK_STEP = 2
"""Pixels of the image that a pixel of SAM's masks spans, at patch 8."""
_SMALL_FIRST = -0.6  # a region of k times the area has k^0.4 times the chance, not k times
_LEAST_AREA = 1 / 800  # part of the image; smaller regions are no objects
_AIR_SHARE = 0.1  # the background is an object, but ten times more seldom than its area says
_WHOLE_SHAPES = 0.3


def draw_images(scenes: Scenes, generator: torch.Generator) -> torch.Tensor:
    """Draw each label map once.

    Args:
        scenes: Label maps ``(B, S, S)``.
        generator: Of `scenes.generator_at`.

    Returns:
        ``(B, S, S)`` float, whole numbers from 0 to 255, as of a slice that is ready for the model.
    """
    image = _paint(scenes.labels, generator)
    image = _soften(image, generator)
    image = _expose(image, generator)
    image = _window(_add_noise(image, generator), generator)
    return (image * 255).round()


def _look_up(table: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return ``(B, S, S)`` from a table ``(B, LABELS)``."""
    return table.gather(1, labels.flatten(1)).view(labels.shape)


def _paint(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Give every region a mean and a texture."""
    count, size = len(labels), labels.shape[-1]
    free = uniform(generator, count, LABELS, low=0.05)
    # In some images few tissues recur, so that regions of one intensity meet.
    tissues = uniform(generator, count, 5, low=0.05)
    kind = torch.randint(5, (count, LABELS), generator=generator, device=generator.device)
    recurring = tissues.gather(1, kind) + 0.06 * (free - 0.5)
    means = torch.where(chance(generator, 0.35, count, 1), recurring, free)
    means[:, AIR] = uniform(generator, count, high=0.06)
    image = _look_up(means, labels)
    lines = chance(generator, 0.15, count, 1, 1) * uniform(generator, count, 1, 1, low=-0.5, high=0.5)
    image = image + lines * region_borders(labels)
    for cells in (6, size // 8, size // 3):
        strength = uniform(generator, count, LABELS, high=0.12) * chance(generator, 0.6, count, 1)
        strength[:, AIR] = 0
        image = image + _look_up(strength, labels) * interpolate_noise(generator, count, 1, size, cells)[:, 0]
    return image.clamp(min=0)


def _soften(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur: neighbouring tissues share a pixel, and some scans are coarser than the slice."""
    count, size = len(image), image.shape[-1]
    blurred = functional.avg_pool2d(image[:, None], 3, 1, 1, count_include_pad=False)
    share = uniform(generator, count, 1, 1)
    soft = torch.lerp(image, blurred[:, 0], share)
    coarse = functional.interpolate(functional.avg_pool2d(blurred, 2), (size, size), mode="bilinear")[:, 0]
    return torch.where(chance(generator, 0.3, count, 1, 1), coarse, soft)


def _expose(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Multiply by a slow bias field and, in some images, the fall-off of a coil at one side or in the middle."""
    count, size = len(image), image.shape[-1]
    bias = interpolate_noise(generator, count, 1, size, 2)[:, 0] * uniform(generator, count, 1, 1, high=0.4)
    line = torch.linspace(-1, 1, size, device=image.device)
    at = uniform(generator, count, 2, 1, low=-1.3, high=1.3)
    far = ((line - at[:, 0]).square()[:, None] + (line - at[:, 1]).square()[..., None]).sqrt()
    fall = far / uniform(generator, count, 1, 1, low=0.5, high=2.5) * chance(generator, 0.3, count, 1, 1)
    return image * torch.exp(bias - fall)


def _add_noise(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add the noise of a magnitude image: of two channels, so that it is never negative."""
    level = uniform(generator, len(image), 1, 1).square() * 0.12 * image.amax((1, 2), keepdim=True)
    noise = torch.randn((2, *image.shape), generator=generator, device=image.device) * level
    return torch.hypot(image + noise[0], noise[1])


def _window(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bring to 0 to 1 by a window near the brightest parts, bend by gamma, and cut the field of view of some images."""
    count, size = len(image), image.shape[-1]
    top = functional.avg_pool2d(image[:, None], 4).amax((1, 2, 3))[:, None, None]
    low = uniform(generator, count, 1, 1, high=0.15) * chance(generator, 0.3, count, 1, 1) * top
    shown = ((image - low) / (top * uniform(generator, count, 1, 1, low=0.6, high=1.1) - low)).clamp(0, 1)
    shown = shown ** (2 ** uniform(generator, count, 1, 1, low=-1.0, high=1.0))
    line = torch.linspace(-1, 1, size, device=image.device)
    reach = 2 - chance(generator, 0.2, count, 2, 1) * uniform(generator, count, 2, 1, low=1.0, high=1.5)
    inside = (line.abs() < reach[:, 0])[:, None] & (line.abs() < reach[:, 1])[..., None]
    return shown * inside


def pick_objects(scenes: Scenes, number: int, step: int, generator: torch.Generator) -> torch.Tensor:
    """Pick connected regions, and some shapes with all that lies in them: of two drawn by chance the more compact.

    Small regions come nearly as often as large ones. What is left between others is often a sliver, which nobody would
    segment; slivers still come, but seldom.

    Args:
        scenes: Label maps of side S.
        number: M, objects per map; one may come twice.
        step: Every how many pixels the masks are sampled: s = S / step.
        generator: Of `scenes.generator_at`.

    Returns:
        ``(B, M, s, s)`` bool.
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
