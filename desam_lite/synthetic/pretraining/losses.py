"""What a promptable model is trained on: masks and their quality, as SAM, and features that do not depend on contrast.

SAM's focal loss with weight 20 left a model of this size with empty masks for long; class-balanced cross-entropy with Dice does
not. The losses on features are this study's addition: one scene under two contrasts must have the same features.
"""

import torch
from torch.nn import functional

from desam_lite.methods.appearance import region_borders

# Within these, pixels of no object weigh at most five times what they do in a balanced image.
_AREA_BOUNDS = (0.1, 0.9)
# Weight of the masks that a prompt is not meant for: without any they would never learn.
_OTHER_ROLE = 0.25


def mask_losses(logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every mask (balanced cross-entropy plus Dice) and its actual IoU, ``(B, M, 4)`` each.

    Logits are ``(B, M, 4, s, s)``, the masks of objects ``(B, M, s, s)`` bool.
    """
    x, target = logits.float().flatten(3), masks.flatten(2)[:, :, None].float()
    area = target.sum(-1).clamp(min=1)  # (B, M, 1)
    pixels = x.shape[-1]
    share = (area / pixels).clamp(*_AREA_BOUNDS)
    soft = functional.softplus(x)
    inside, outside = ((soft - x) * target).sum(-1), (soft * (1 - target)).sum(-1)
    entropy = (inside / share + outside / (1 - share)) / (2 * pixels)
    probability = x.sigmoid()
    dice = 1 - (2 * (probability * target).sum(-1) + 1) / (probability.sum(-1) + area + 1)
    with torch.no_grad():
        predicted = x > 0
        both = (predicted & masks.flatten(2)[:, :, None]).sum(-1)
        iou = both / (predicted.sum(-1) + area - both).clamp(min=1)
    return entropy + dice, iou


def prediction_loss(
    logits: torch.Tensor, predicted_iou: torch.Tensor, masks: torch.Tensor, clear: torch.Tensor
) -> torch.Tensor:
    """Return the loss of one round of prompts: of the masks, and of the IoU ``(B, M, 4)`` that the model predicts for them.

    Prompts that are ``clear``, ``(B, M)`` bool, leave little doubt: for them the first mask counts, else the best of the other
    three.
    """
    losses, iou = mask_losses(logits, masks)
    single, best = losses[..., 0], losses[..., 1:].amin(-1)
    weight = torch.where(clear, 1.0, _OTHER_ROLE)
    mask = (weight * single + (1 + _OTHER_ROLE - weight) * best).mean()
    return mask + functional.mse_loss(predicted_iou.float(), iou)


def contrast_loss(
    first: torch.Tensor, second: torch.Tensor, regions: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """Return how far the tokens of one region are from agreeing under two contrasts, against those of other regions.

    InfoNCE (van den Oord et al., 2018) with every token of the same region as positive: minus the logarithm of their share. Both
    features are ``(B, C, h, w)``, the regions of tokens ``(B, h, w)`` int64, negative where there is none; the temperature is
    that of the cosine similarities.
    """
    a, b = (normalise_features(features) for features in (first, second))
    region = regions.flatten(1)
    real = (region >= 0).to(a.dtype)
    alike = (region[:, :, None] == region[:, None]).to(a.dtype) * real[:, None]
    similar = (a @ b.mT) / temperature  # (B, h w, h w)
    total = similar.new_zeros(())
    for scores, same in ((similar, alike), (similar.mT, alike.mT)):
        weights = (scores - scores.detach().amax(-1, keepdim=True)).exp() * real[:, None]
        share = ((weights * same).sum(-1) + 1e-6) / (weights.sum(-1) + 1e-6)
        total = total - (share.log() * real).sum() / real.sum().clamp(min=1)
    return total / 2


def normalise_features(features: torch.Tensor) -> torch.Tensor:
    """Return unit vectors ``(B, h w, C)`` of the features freed of their mean over the image."""
    flat = features.flatten(2)
    return functional.normalize((flat - flat.mean(2, keepdim=True)).mT, dim=-1)


def token_regions(labels: torch.Tensor, patch: int) -> torch.Tensor:
    """Return the label at the middle of each patch, -1 where the patch's corners are of another: ``(B, h, w)``."""
    middle = labels[:, patch // 2 :: patch, patch // 2 :: patch]
    near, far = patch // 4, patch - 1 - patch // 4
    pure = torch.ones_like(middle, dtype=torch.bool)
    for y in (near, far):
        for x in (near, far):
            pure &= labels[:, y::patch, x::patch] == middle
    return torch.where(pure, middle, -1)


def extent_targets(
    labels: torch.Tensor, patch: int, first: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far the region of each token of ``patch`` pixels reaches to its left, top, right and bottom, and where it does.

    Labels are ``(B, S, S)`` int64, below ``count``; those from ``first`` on have regions of one piece. The reach ``(B, 4, h,
    w)`` is in parts of the image; the other ``(B, h, w)`` bool says where a token has such a region.
    """
    batch, side = labels.shape[:2]
    place = torch.arange(side, device=labels.device, dtype=torch.float32)
    ends = []
    for along in (place[None, None].expand_as(labels), place[None, :, None].expand_as(labels)):
        for reduce in ("amin", "amax"):
            table = torch.zeros(batch, count, device=labels.device)
            table.scatter_reduce_(1, labels.flatten(1), along.flatten(1), reduce, include_self=False)
            ends.append(table)
    middle = labels[:, patch // 2 :: patch, patch // 2 :: patch]
    left, right, top, bottom = (t.gather(1, middle.flatten(1)).view(middle.shape) for t in ends)
    x = place[patch // 2 :: patch].expand_as(middle)
    y = place[patch // 2 :: patch, None].expand_as(middle)
    return torch.stack((x - left, y - top, right - x, bottom - y), dim=1) / side, middle >= first


def border_targets(labels: torch.Tensor, patch: int) -> torch.Tensor:
    """Return where regions meet, in 4 x 4 parts of each token: ``(B, 16, h, w)`` float."""
    parts = functional.max_pool2d(region_borders(labels).float()[:, None], patch // 4)
    return functional.pixel_unshuffle(parts, 4)
