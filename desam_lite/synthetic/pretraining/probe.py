"""How good a promptable model is on pictures of the stream that it never trained on."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from desam_lite.model.sam import preprocess
from desam_lite.synthetic.pretraining.losses import normalised, token_regions
from desam_lite.synthetic.pretraining.promptable_sam import BOTTOM_RIGHT, TOP_LEFT, PromptableSAM
from desam_lite.synthetic.pretraining.prompts import boxes_around, first_prompts, further_clicks
from desam_lite.synthetic.pretraining.rendering import STEP, draw_pictures, pick_objects
from desam_lite.synthetic.pretraining.scenes import draw_scenes, generator_at

HELD_OUT_SEED = 1 << 40
"""Seed of the stream that is never trained on."""


@torch.no_grad()
def probe(
    model: PromptableSAM, size: int, *, batches: int = 4, scenes: int = 4, objects: int = 8, clicks: int = 8
) -> dict[str, float]:
    """Measure mean IoU on held-out pictures with each kind of prompt, and how alike contrasts look.

    Args:
        model: On any device.
        size: Side of the pictures, in pixels.
        batches: Batches of the held-out stream.
        scenes: Scenes per batch.
        objects: Objects per scene.
        clicks: Last number of clicks; each is put where the answer to those before is wrong.

    Returns:
        IoU with a tight ``box``, one ``point`` (the mask that the model holds for the best), the ``best_of_three``, and 3 and
        more clicks; that of the ``filled_box`` itself; ``contrast``: share of tokens whose most similar token of the
        scene under another contrast is of the same region (see `agreement`).
    """
    device = next(model.parameters()).device
    found: dict[str, list[torch.Tensor]] = {}
    for number in range(batches):
        generator = generator_at(HELD_OUT_SEED, number, device)
        drawn = draw_scenes(scenes, size, generator)
        masks = pick_objects(drawn, objects, STEP, generator).masks
        one, other = (model.see(preprocess(draw_pictures(drawn, generator), size)) for _ in range(2))
        parts = answer_all(model, one.neck, masks, STEP, generator, clicks)
        parts["contrast"] = agreement(one.neck, other.neck, drawn.labels, model.spec.patch)
        for name, value in parts.items():
            found.setdefault(name, []).append(value.flatten())
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@torch.no_grad()
def answer_all(
    model: PromptableSAM,
    neck: torch.Tensor,
    masks: torch.Tensor,
    step: int,
    generator: torch.Generator,
    clicks: int = 8,
) -> dict[str, torch.Tensor]:
    """Ask for every object with a box, a point and further clicks; returns the IoU ``(B, M)`` of each kind of answer."""
    found = {
        "box": iou(answer_box(model, neck, masks, step) > 0, masks),
        "filled_box": iou(_filled(masks), masks),
    }
    for number, asked in enumerate(click_by_click(model, neck, masks, step, generator, clicks), start=1):
        reached = iou(asked.answer > 0, masks)
        if number == 1:
            found |= {
                "point": reached,
                "best_of_three": iou(asked.logits[:, :, 1:] > 0, masks[:, :, None]).amax(-1),
            }
        elif number in (3, clicks):
            found[f"clicks_{number}"] = reached
    return found


class Asked(NamedTuple):
    """A round of questions on M objects of B pictures, and what was drawn.

    Attributes:
        points: ``(B, M, N, 2)``, all clicks so far, x and y in pixels of the picture.
        kinds: ``(B, M, N)`` of `promptable`.
        logits: ``(B, M, 4, s, s)``, all masks.
        answer: ``(B, M, s, s)``, logits of the mask that goes on: the best judged of three, later the first.
    """

    points: torch.Tensor
    kinds: torch.Tensor
    logits: torch.Tensor
    answer: torch.Tensor


@torch.no_grad()
def answer_box(model: PromptableSAM, neck: torch.Tensor, masks: torch.Tensor, step: int) -> torch.Tensor:
    """Ask for every object with its tight box; returns logits ``(B, M, s, s)``."""
    corners = boxes_around(masks, step).view(*masks.shape[:2], 2, 2)
    kinds = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=masks.device).expand(*masks.shape[:2], 2)
    return model.answer(neck, corners, kinds)[0][:, :, 0]


@torch.no_grad()
def click_by_click(
    model: PromptableSAM,
    neck: torch.Tensor,
    masks: torch.Tensor,
    step: int,
    generator: torch.Generator,
    clicks: int,
) -> Iterator[Asked]:
    """Ask for every object with a point inside it, then with further clicks, each where the answer before was wrong."""
    points, kinds = first_prompts(masks, torch.zeros_like(masks[..., 0, 0]), step, generator)
    logits, judged = model.answer(neck, points, kinds)
    rows = (1 + judged[:, :, 1:].argmax(-1, keepdim=True))[..., None, None]
    answer = logits.gather(2, rows.expand(-1, -1, 1, *masks.shape[2:]))[:, :, 0]
    yield Asked(points, kinds, logits, answer)
    for _ in range(1, clicks):
        click, side = further_clicks(masks, answer > 0, 1, step, generator)
        points, kinds = torch.cat((points, click), 2), torch.cat((kinds, side), 2)
        logits = model.answer(neck, points, kinds, answer)[0]
        answer = logits[:, :, 0]
        yield Asked(points, kinds, logits, answer)


def _filled(masks: torch.Tensor) -> torch.Tensor:
    """Return everything within the tight boxes of masks ``(..., s, s)`` bool."""
    spans = []
    for line in (masks.any(-2), masks.any(-1)):
        begun = line.cumsum(-1) > 0
        spans.append(begun & (line.flip(-1).cumsum(-1).flip(-1) > 0))
    return spans[0][..., None, :] & spans[1][..., :, None]


def iou(drawn: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return intersection over union of masks ``(..., s, s)`` bool; 0 where both are empty."""
    both, either = (drawn & wanted).sum((-2, -1)), (drawn | wanted).sum((-2, -1))
    return both / either.clamp(min=1)


def agreement(one: torch.Tensor, other: torch.Tensor, labels: torch.Tensor, patch: int) -> torch.Tensor:
    """Return for each token that lies in one region whether its nearest one under another contrast is of the same region.

    Args:
        one: ``(B, C, h, w)``, features of scenes.
        other: The same under another contrast.
        labels: ``(B, S, S)``.
        patch: Pixels of a token.

    Returns:
        ``(T,)`` float, 1 or 0 for each such token; cosine similarity of features freed of their mean over the picture.
        The token's own place and its neighbours do not count, so that position alone wins nothing.
    """
    regions = token_regions(labels, patch).flatten(1)
    side = one.shape[-1]
    place = torch.arange(side * side, device=labels.device)
    near = ((place[:, None] // side - place // side).abs() <= 2) & (
        (place[:, None] % side - place % side).abs() <= 2
    )
    similar = normalised(one.float()) @ normalised(other.float()).mT
    similar = similar.masked_fill(near | (regions < 0)[:, None], -2.0)
    nearest = regions.gather(1, similar.argmax(-1))
    return (nearest == regions)[regions >= 0].float()
