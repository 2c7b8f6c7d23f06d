"""How good a promptable model is on images of the stream that it never trained on."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from desam_lite.methods.appearance import draw_images
from desam_lite.model.sam import preprocess
from desam_lite.synthetic.pretraining.losses import normalise_features, token_regions
from desam_lite.synthetic.pretraining.promptable_sam import BOTTOM_RIGHT, TOP_LEFT, PromptableSAM
from desam_lite.synthetic.pretraining.prompts import (
    MASK_STEP,
    boxes_around,
    first_prompts,
    further_clicks,
    pick_objects,
)
from desam_lite.synthetic.pretraining.scenes import draw_scenes, generator_at

HELD_OUT_SEED = 1 << 40
"""Seed of the stream that is never trained on."""
_NEAR_TOKENS = 2  # tokens; nearer ones see nearly the same pixels


@torch.no_grad()
def probe(
    model: PromptableSAM, size: int, *, batches: int = 4, scenes: int = 4, objects: int = 8, clicks: int = 8
) -> dict[str, float]:
    """Measure mean IoU on held-out images of a size, batches of scenes, with each kind of prompt, and how alike contrasts look.

    Each of the clicks is put where the mask of those before is wrong.

    Returns:
        IoU with a tight ``box``, one ``point`` (the mask of highest predicted IoU), the ``best_of_three``, and 3 and
        more clicks; that of the ``filled_box`` itself; ``contrast``: share of tokens whose most similar token of the
        scene under another contrast is of the same region (see `agreement`).
    """
    device = next(model.parameters()).device
    values: dict[str, list[torch.Tensor]] = {}
    for number in range(batches):
        generator = generator_at(HELD_OUT_SEED, number, device)
        drawn = draw_scenes(scenes, size, generator)
        masks = pick_objects(drawn, objects, MASK_STEP, generator)
        images = [preprocess(draw_images(drawn.labels, generator), size) for _ in range(2)]
        first, second = (model.encode_image(pixels).neck for pixels in images)
        scores = score_prompts(model, first, masks, MASK_STEP, generator, clicks)
        scores["contrast"] = agreement(first, second, drawn.labels, model.spec.patch)
        for name, value in scores.items():
            values.setdefault(name, []).append(value.flatten())
    return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


@torch.no_grad()
def score_prompts(
    model: PromptableSAM,
    neck: torch.Tensor,
    masks: torch.Tensor,
    step: int,
    generator: torch.Generator,
    clicks: int = 8,
) -> dict[str, torch.Tensor]:
    """Prompt for every object with a box, a point and further clicks; returns the IoU ``(B, M)`` of each kind of prompt."""
    in_box = predict_box(model, neck, masks, step) > 0
    scores = {"box": iou(in_box, masks), "filled_box": iou(_fill_boxes(masks), masks)}
    for number, clicked in enumerate(click_by_click(model, neck, masks, step, generator, clicks), start=1):
        reached = iou(clicked.chosen > 0, masks)
        if number == 1:
            best = iou(clicked.logits[:, :, 1:] > 0, masks[:, :, None]).amax(-1)
            scores |= {"point": reached, "best_of_three": best}
        elif number in (3, clicks):
            scores[f"clicks_{number}"] = reached
    return scores


class Clicked(NamedTuple):
    """A round of clicks on M objects of B images, and what was predicted."""

    points: torch.Tensor  # ``(B, M, N, 2)``, all clicks so far, x and y in pixels of the image
    kinds: torch.Tensor  # ``(B, M, N)`` of `promptable_sam`
    logits: torch.Tensor  # ``(B, M, 4, s, s)``, all masks
    # ``(B, M, s, s)``, logits of the mask that goes on: of three the one of highest predicted IoU, later the first
    chosen: torch.Tensor


@torch.no_grad()
def predict_box(model: PromptableSAM, neck: torch.Tensor, masks: torch.Tensor, step: int) -> torch.Tensor:
    """Prompt for every object with its tight box; returns logits ``(B, M, s, s)``."""
    corners = boxes_around(masks, step).view(*masks.shape[:2], 2, 2)
    kinds = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=masks.device).expand(*masks.shape[:2], 2)
    return model.predict_masks(neck, corners, kinds)[0][:, :, 0]


@torch.no_grad()
def click_by_click(
    model: PromptableSAM,
    neck: torch.Tensor,
    masks: torch.Tensor,
    step: int,
    generator: torch.Generator,
    clicks: int,
) -> Iterator[Clicked]:
    """Prompt for every object with a point inside it, then with further clicks, each where the mask before was wrong."""
    points, kinds = first_prompts(masks, torch.zeros_like(masks[..., 0, 0]), step, generator)
    logits, predicted_iou = model.predict_masks(neck, points, kinds)
    best = (1 + predicted_iou[:, :, 1:].argmax(-1))[..., None, None, None]
    chosen = logits.take_along_dim(best, 2)[:, :, 0]
    yield Clicked(points, kinds, logits, chosen)
    for _ in range(1, clicks):
        click, side = further_clicks(masks, chosen > 0, 1, step, generator)
        points, kinds = torch.cat((points, click), 2), torch.cat((kinds, side), 2)
        logits = model.predict_masks(neck, points, kinds, chosen)[0]
        chosen = logits[:, :, 0]
        yield Clicked(points, kinds, logits, chosen)


def _fill_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return everything within the tight boxes of masks ``(..., s, s)`` bool."""
    spans = []
    for line in (masks.any(-2), masks.any(-1)):
        begun = line.cumsum(-1) > 0
        spans.append(begun & (line.flip(-1).cumsum(-1).flip(-1) > 0))
    return spans[0][..., None, :] & spans[1][..., :, None]


def iou(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return intersection over union of masks ``(..., s, s)`` bool; 0 where both are empty."""
    both, either = (predicted & target).sum((-2, -1)), (predicted | target).sum((-2, -1))
    return both / either.clamp(min=1)


def agreement(first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor, patch: int) -> torch.Tensor:
    """Return for each token that lies in one region whether its nearest one under another contrast is of the same: ``(T,)``.

    Near is the cosine similarity of features ``(B, C, h, w)`` freed of their mean over the image; labels are ``(B, S, S)``. The
    token's own place and its neighbours do not count, so that position alone wins nothing.
    """
    regions = token_regions(labels, patch).flatten(1)
    side = first.shape[-1]
    place = torch.arange(side * side, device=labels.device)
    rows, columns = place // side, place % side
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    similar = normalise_features(first.float()) @ normalise_features(second.float()).mT
    similar = similar.masked_fill(
        (apart <= _NEAR_TOKENS) | (regions < 0)[:, None], -2.0
    )  # below every cosine
    nearest = regions.gather(1, similar.argmax(-1))
    return (nearest == regions)[regions >= 0].float()
