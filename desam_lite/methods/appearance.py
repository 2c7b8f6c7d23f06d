"""Random appearances of slices: contrast, texture, blur, bias field, coil, noise and window, drawn anew for every image.

It is what `sam_tiny` is trained on (`desam_lite.synthetic.pretraining`). As an augmentation of training slices it is the control
that tells this training from all else: a U-Net that sees the same random contrasts. Nothing here knows an organ or a hospital.
"""

import numpy as np
import torch
from torch.nn import functional

AIR = 0
"""Id of the background of a label map, dark in every image."""
LABELS = 44
"""Ids a label map may have."""
_CLASSES = 7  # of intensities of a slice, the darkest being air: each becomes a region
_ROUNDS = 8  # of the clustering
_KNOTS = 5  # of a random intensity curve


def recolour(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Draw a training slice ``(1, S, S)`` as another scanner might show it: its structures, and the appearance of `draw_images`.

    Its intensities go through a random curve, which may invert, and then through the same blur, bias field, coil, noise and
    window; the result has the slice's own mean and standard deviation.
    """
    generator = _torch_generator(rng)
    low, high = image.aminmax()
    positions = (image[0] - low) / (high - low).clamp_min(1e-6) * (_KNOTS - 1)  # (S, S), 0 to the last knot
    knots = uniform(generator, _KNOTS, low=0.05)
    if bool(chance(generator, 0.5)):  # half of the curves do not turn back; half of these are inverted
        knots = knots.sort(descending=bool(chance(generator, 0.5))).values
    knots[0] = uniform(generator, high=0.06)
    below = positions.floor().long().clamp(max=_KNOTS - 2)
    curved = torch.lerp(knots[below], knots[below + 1], positions - below)
    return _standardise_as(_acquire(curved[None], generator), image)


def synthesise(image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Draw an image of a training slice's labels, as SynthSeg does (Billot et al., Medical Image Analysis 2023).

    Organs, masks ``(K, S, S)``, are regions, in half of the images of two parts, and so are classes of background, found by
    clustering the intensities of the slice ``(1, S, S)`` itself, whose mean and standard deviation the result has. Every region
    gets a random mean and texture (`draw_images`): what is left of the slice are borders.
    """
    generator = _torch_generator(rng)
    labels = torch.bucketize(image, _class_edges(image))  # (1, S, S): 0 is the darkest
    parts = 1 + int(chance(generator, 0.5))
    for k, mask in enumerate(masks > 0.5):
        if mask.any():
            bright = image[:, mask] > image[:, mask].mean()
            labels[:, mask] = _CLASSES + 2 * k + bright * (parts - 1)
    return _standardise_as(draw_images(labels, generator), image)


def _class_edges(image: torch.Tensor) -> torch.Tensor:
    """Return the ascending intensities between `_CLASSES` clusters of the values of an image, by Lloyd's iterations."""
    centres = torch.linspace(float(image.min()), float(image.max()), _CLASSES)
    values = image.flatten()
    for _ in range(_ROUNDS):
        nearest = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
        count = torch.bincount(nearest, minlength=_CLASSES)
        total = torch.zeros(_CLASSES).scatter_add_(0, nearest, values)
        centres = torch.where(count > 0, total / count.clamp_min(1), centres)
    return (centres[1:] + centres[:-1]) / 2


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _standardise_as(drawn: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Give an image mean and standard deviation of another."""
    return (drawn - drawn.mean()) / drawn.std().clamp_min(1e-6) * image.std() + image.mean()


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Return random numbers between two bounds."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def chance(generator: torch.Generator, share: float, *shape: int) -> torch.Tensor:
    """Return truths of which this share is true on average."""
    return uniform(generator, *shape) < share


def interpolate_noise(
    generator: torch.Generator, count: int, fields: int, size: int, cells: int
) -> torch.Tensor:
    """Return noise that varies over ``1 / cells`` of the image: ``(count, fields, size, size)``, variance about 1/2."""
    coarse = torch.randn(count, fields, cells + 1, cells + 1, generator=generator, device=generator.device)
    return functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)


def region_borders(labels: torch.Tensor) -> torch.Tensor:
    """Return where the pixel to the right or below is of another region: ``(B, S, S)`` bool."""
    across = functional.pad(labels[:, :, 1:] != labels[:, :, :-1], (0, 1))
    down = functional.pad(labels[:, 1:] != labels[:, :-1], (0, 0, 0, 1))
    return across | down


def draw_images(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw each label map ``(B, S, S)`` int64, ids below `LABELS`, once, in a contrast and polarity of its own.

    The images ``(B, S, S)`` are whole numbers from 0 to 255, as of a slice that is ready for the model, on the generator's
    device.
    """
    return (_acquire(_paint(labels, generator), generator) * 255).round()


def _acquire(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return intensities ``(B, S, S)``, not negative, as a scan shows them: blurred, shaded, noisy, cut, from 0 to 1."""
    image = _soften(image, generator)
    image = _expose(image, generator)
    return _window(_add_noise(image, generator), generator)


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
