"""LoRA changes nothing at first, is of low rank on queries and values, and alone is trained of the encoder."""

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from small_model import MICRO, random_pixels
from torch import nn

from desam_lite.methods.samed import LoRAQueryValue, add_lora
from desam_lite.model.sam import build_image_encoder, encode_levels


def an_encoder() -> ImageEncoderViT:
    torch.manual_seed(0)
    built = build_image_encoder(MICRO).eval()
    for name, parameter in built.named_parameters():
        if "pos" in name or name.endswith("bias"):  # zero when new: a forgotten one would go unseen
            nn.init.normal_(parameter, std=0.3)
    return built


def adapted(rank: int = 4, *, changed: bool = True) -> ImageEncoderViT:
    encoder = an_encoder()
    torch.manual_seed(1)
    add_lora(encoder, rank)
    if changed:
        for block in encoder.blocks:
            nn.init.normal_(block.attn.qkv.lora_up, std=0.3)
    return encoder


def seen(encoder: ImageEncoderViT) -> torch.Tensor:
    return encode_levels(encoder, random_pixels(), ())[1]


def test_lora_starts_as_the_identity() -> None:
    assert torch.equal(seen(adapted(changed=False)), seen(an_encoder()))
    assert not torch.allclose(seen(adapted()), seen(an_encoder()), atol=1e-2)


@torch.no_grad()
def test_queries_and_values_change_by_a_product_of_low_rank_and_keys_do_not() -> None:
    projection = nn.Linear(12, 36)
    changed = LoRAQueryValue(projection, 2)
    nn.init.normal_(changed.lora_up)
    change = changed(torch.eye(12)).T - projection(torch.eye(12)).T
    query, key, value = change.split(12)
    assert [int(torch.linalg.matrix_rank(part, atol=1e-4)) for part in (query, key, value)] == [2, 0, 2]
    tokens = torch.randn(5, 3, 12)
    expected = projection(tokens) + tokens @ change.T
    torch.testing.assert_close(changed(tokens), expected, rtol=1e-4, atol=1e-5)
    assert changed.weight is projection.weight and changed.bias is projection.bias


@pytest.mark.parametrize("rank", [1, 4])
def test_only_the_changes_are_trained(rank: int) -> None:
    trained = {name: p.shape for name, p in adapted(rank).named_parameters() if p.requires_grad}
    assert len(trained) == 2 * MICRO.depth
    assert set(trained.values()) == {(2, rank, MICRO.width), (2, MICRO.width, rank)}
