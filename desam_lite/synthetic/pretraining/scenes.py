"""An endless stream of synthetic label maps: what `sam_tiny` is trained on before it meets any organ.

Regions of many kinds are drawn at random: cells and patches of smooth noise, layers, warped ellipsoids and tubes that nest and
overlap, rings, bodies before an empty background. Nothing here knows anatomy, reads a file or shares code with the phantoms, so
that no training has shown the model what it is later tested on.
`desam_lite.methods.appearance` gives the maps intensities, anew for every image, so that one map drawn twice is one scene under
two contrasts.

Everything is drawn in batches on the device of the generator, and batch n of a seed is always the same (`generator_at`).
"""

from dataclasses import dataclass

import torch

from desam_lite.methods.appearance import AIR, LABELS, chance, interpolate_noise, uniform

SKIN, FIRST_BASE, FIRST_SHAPE = 1, 2, 32
SHAPES = LABELS - FIRST_SHAPE
"""Shapes that may be painted on one map."""
_CELLS = FIRST_SHAPE - FIRST_BASE
# Odd 64-bit constants whose products spread every bit: splitmix64's (Steele et al., OOPSLA 2014) and degski's hash.
_GOLDEN_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_DEGSKI = 0xD6E8FEB86659FD93
_FAR = 9.0  # beyond every coordinate (-1 to 1), radius and noise value of a map


@dataclass(frozen=True)
class Scenes:
    """Label maps of a batch."""

    labels: torch.Tensor  # ``(B, S, S)`` int64, what is visible at a pixel; ids below `LABELS`
    shapes: (
        torch.Tensor
    )  # ``(B, SHAPES, S, S)`` bool, each shape as it was before others were painted over it


def generator_at(seed: int, position: int, device: torch.device) -> torch.Generator:
    """Return the random stream of one batch: the same for the same seed and position (from 0), unrelated to its neighbours'.

    Its numbers are drawn on the device; a CPU's and a GPU's differ.
    """
    mixed = (seed * _GOLDEN_GAMMA + position * _MIX_1 + _MIX_2) % (1 << 64)
    mixed = ((mixed ^ (mixed >> 31)) * _DEGSKI) % (1 << 64)
    return torch.Generator(device).manual_seed(mixed >> 1)


def draw_scenes(count: int, size: int, generator: torch.Generator) -> Scenes:
    """Draw label maps, ``count`` of side ``size`` in pixels, on the device of the generator (`generator_at`)."""
    xy = _warped_grid(count, size, generator)
    base = _draw_base(xy, generator)
    shapes = _draw_shapes(_warped_grid(count, size, generator), generator)
    order = torch.arange(1, SHAPES + 1, device=generator.device)[None, :, None, None]
    top = (shapes * order).amax(1)
    labels = torch.where(top > 0, FIRST_SHAPE - 1 + top, base)
    return _crop_to_body(labels, shapes, _warped_grid(count, size, generator), generator)


def _warped_grid(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return coordinates from -1 to 1, bent by as much as differs from map to map: ``(count, 2, size, size)``, x and y."""
    line = (torch.arange(size, device=generator.device) + 0.5) * (2 / size) - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    bent = grid.expand(count, -1, -1, -1)
    for cells, most in ((2, 0.2), (5, 0.1), (10, 0.04)):
        strength = uniform(generator, count, 1, 1, 1, high=most)
        bent = bent + strength * interpolate_noise(generator, count, 2, size, cells)
    return bent


def _draw_base(xy: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return what lies behind the shapes, of one kind per map: ``(B, S, S)`` int64."""
    kinds = torch.randint(len(_BASES), (len(xy),), generator=generator, device=generator.device)
    base = torch.empty((len(xy), *xy.shape[2:]), dtype=torch.int64, device=xy.device)
    for number, draw in enumerate(_BASES):
        rows = (kinds == number).nonzero().flatten()
        if len(rows):
            base[rows] = FIRST_BASE + draw(xy[rows], generator)
    return base


def _first_few(count: int, least: int, most: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``(count, most)`` bool, true in the first places of each row, as many as chance will have it."""
    number = torch.randint(least, most + 1, (count, 1), generator=generator, device=generator.device)
    return torch.arange(most, device=generator.device) < number


def _uniform_base(xy: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.zeros_like(xy[:, 0], dtype=torch.int64)


def _patches(xy: torch.Tensor, generator: torch.Generator, most: int = 8) -> torch.Tensor:
    """Where which of several noise fields is the largest."""
    cells = int(torch.randint(3, 9, (), generator=generator, device=generator.device))
    fields = interpolate_noise(generator, len(xy), most, xy.shape[-1], cells)
    used = _first_few(len(xy), 2, most, generator)
    return fields.masked_fill(~used[..., None, None], -_FAR).argmax(1)


def _cells(xy: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Which of several scattered seeds is nearest, in bent coordinates."""
    seeds = uniform(generator, len(xy), _CELLS, 2, low=-1.1, high=1.1)
    used = _first_few(len(xy), 4, _CELLS, generator)
    seeds = torch.where(used[..., None], seeds, _FAR)
    # |x - s|^2 without |x|^2, which is the same for all seeds
    far = seeds.square().sum(-1)[..., None] - 2 * seeds @ xy.flatten(2)
    return far.argmin(1).view_as(xy[:, 0])


def _layers(xy: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bands of unequal width along some direction."""
    angle = uniform(generator, len(xy), 1, 1, high=2 * torch.pi)
    along = xy[:, 0] * angle.cos() + xy[:, 1] * angle.sin()
    edges = uniform(generator, len(xy), 7, low=-1.2, high=1.2)
    return (along[:, None] > edges[..., None, None]).sum(1)


def _contours(xy: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bands between contours of a smooth field: blobs with holes."""
    field = interpolate_noise(generator, len(xy), 1, xy.shape[-1], 4)
    edges = uniform(generator, len(xy), 3, low=-1.0, high=1.0)
    return (field > edges[..., None, None]).sum(1)


_BASES = (_uniform_base, _uniform_base, _patches, _cells, _layers, _contours)


def _draw_shapes(xy: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return warped ellipsoids, rings and tubes: ``(B, SHAPES, S, S)`` bool; a map has as many as chance will have it."""
    count = len(xy)
    axes, centres = _draw_places(count, generator)
    tube = chance(generator, 0.25, count, SHAPES)
    lengths = torch.where(tube, uniform(generator, count, SHAPES, low=0.2, high=1.2), axes[..., 0])
    widths = torch.where(tube, uniform(generator, count, SHAPES, low=0.02, high=0.08), axes[..., 1])
    angle = uniform(generator, count, SHAPES, 1, 1, high=2 * torch.pi)
    cosine, sine = angle.cos(), angle.sin()
    x, y = (xy[:, None, i] - centres[..., i, None, None] for i in (0, 1))  # (B, SHAPES, S, S) each
    along, across = x * cosine + y * sine, y * cosine - x * sine
    bend = uniform(generator, count, SHAPES, 1, 1, low=-1.0) * tube[..., None, None]
    across = across + bend * along.square()
    u, v = (along / lengths[..., None, None]).square(), (across / widths[..., None, None]).square()
    boxy = uniform(generator, count, SHAPES, 1, 1, high=0.8)  # between an ellipse and a box
    inner = torch.lerp(u + v, torch.maximum(u, v), boxy)
    wobble = interpolate_noise(generator, count, 2, xy.shape[-1], 6).repeat(1, SHAPES // 2, 1, 1)
    inner = inner + uniform(generator, count, SHAPES, 1, 1, high=0.3) * wobble
    ring = chance(generator, 0.12, count, SHAPES) & ~tube
    hole = torch.where(ring, uniform(generator, count, SHAPES, low=0.2, high=0.7), -_FAR)
    used = _first_few(count, 2, SHAPES, generator)
    return (inner < 1) & (inner > hole[..., None, None]) & used[..., None, None]


def _draw_places(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return half axes and centres, ``(B, SHAPES, 2)`` each: free, or inside an earlier shape."""
    axes = 0.06 * 10 ** uniform(generator, count, SHAPES, 1) * uniform(generator, count, SHAPES, 2, low=0.6)
    centres = uniform(generator, count, SHAPES, 2, low=-0.85, high=0.85)
    nested = chance(generator, 0.4, count, SHAPES)
    part = uniform(generator, count, SHAPES, 2, low=0.2, high=0.6)
    offset = uniform(generator, count, SHAPES, 2, low=-0.5, high=0.5)
    rows = torch.arange(count, device=generator.device)
    for number in range(1, SHAPES):
        parent = torch.randint(number, (count,), generator=generator, device=generator.device)
        around, middle = axes[rows, parent], centres[rows, parent]
        inside = nested[:, number, None] & (around.amin(-1, keepdim=True) > 0.12)
        axes[:, number] = torch.where(inside, around * part[:, number], axes[:, number])
        centres[:, number] = torch.where(inside, middle + around * offset[:, number], centres[:, number])
    return axes, centres


def _crop_to_body(
    labels: torch.Tensor, shapes: torch.Tensor, xy: torch.Tensor, generator: torch.Generator
) -> Scenes:
    """Cut most maps to a body before empty background, some with a skin."""
    count = len(labels)
    half = uniform(generator, count, 2, 1, 1, low=0.6, high=1.1)
    squared = (xy / half).square()
    radius = torch.lerp(squared.sum(1), squared.amax(1), uniform(generator, count, 1, 1, high=0.8))
    body = (radius < 1) | ~chance(generator, 0.6, count, 1, 1)
    rim = uniform(generator, count, 1, 1, low=0.7, high=0.97)
    skin = (radius > rim) & (radius < 1) & chance(generator, 0.5, count, 1, 1)
    labels = torch.where(body, torch.where(skin, SKIN, labels), AIR)
    return Scenes(labels, shapes & (body & ~skin)[:, None])
