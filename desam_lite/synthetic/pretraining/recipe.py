"""How `sam_tiny` is trained: every choice that changes its weights, and how rate and size of the images go over the training."""

from dataclasses import dataclass

import torch

LATER_SHARES = ((0.35, 0.55, 0.1), (0.1, 0.5, 0.4), (0.0, 0.3, 0.7))
"""How often each side comes where weights are trained on: what small images teach is there already."""


@dataclass(frozen=True)
class Recipe:
    """Every choice that changes the weights."""

    backbone: str = "sam_tiny"  # what is trained
    steps: int = 20_000  # optimiser steps altogether
    # minutes of computing altogether, instead of the steps; rate and sizes then follow the time, not the step
    minutes: float | None = None
    warmup: int = 100  # steps over which the learning rate rises
    decay: int = 4_000  # last steps, over which it falls to 0; with ``minutes``, the same part of the time
    learning_rate: float = 1e-3  # AdamW's in between
    weight_decay: float = 0.05  # AdamW's
    clip: float = 1.0  # largest norm of the gradient
    objects: int = 6  # prompts per image
    sizes: tuple[int, ...] = (64, 128, 256)  # sides of the images, in pixels, small to large
    scenes: tuple[int, ...] = (4, 2, 1)  # scenes per step at each side; each is drawn under two contrasts
    # for the beginning, the middle and the end: how often each side comes
    shares: tuple[tuple[float, ...], ...] = ((0.85, 0.15, 0.0), (0.35, 0.55, 0.1), (0.0, 0.5, 0.5))
    contrast: float = 0.15  # weight of the losses on features under two contrasts
    dense: float = 0.25  # weight of the losses of borders and extents read off the tokens
    seed: int = 1  # names initial weights and stream

    def progress(self, step: int, minutes: float) -> float:
        """Return which part of the training lies behind a step and so many minutes; 1 at the end."""
        return minutes / self.minutes if self.minutes else step / self.steps

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (1 - progress) * self.steps / max(1, self.decay))
        return self.learning_rate * rise * max(0.0, fall)

    def size(self, progress: float, generator: torch.Generator) -> int:
        """Return which of the sizes a step has: small ones first, large ones towards the end."""
        half = min(int(2 * progress), 1)
        part = min(2 * progress - half, 1.0)
        mixed = [
            (1 - part) * b + part * a for b, a in zip(self.shares[half], self.shares[half + 1], strict=True)
        ]
        weights = torch.tensor(mixed, device=generator.device)
        return int(torch.multinomial(weights, 1, generator=generator))
