"""DAPSAM: adapters gate channels and take low-level features in, and the prompt is made of prototypes."""

import numpy as np
import pytest
import torch
from small_model import MICRO, random_pixels, use_micro
from torch.nn import functional

from desam_lite.methods.dapsam import DAPSAM, PROTOTYPES, Adapter, PrototypePrompt
from desam_lite.model.sam_decoder import SAM


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> DAPSAM:
    use_micro(monkeypatch)
    return DAPSAM(SAM("micro"), seed=3)


@torch.no_grad()
def test_an_adapter_gates_each_channel_by_its_mean_and_its_largest_value() -> None:
    adapter, tokens = Adapter(8), torch.randn(2, 3, 5, 8)
    for row in range(2):
        flat = tokens[row].flatten(0, 1)  # (15, 8)
        gate = 1 / (1 + torch.exp(-(flat.max(dim=0).values + flat.mean(dim=0))))
        expected = adapter.up(functional.gelu(adapter.down(flat * gate)))
        torch.testing.assert_close(adapter(tokens)[row].flatten(0, 1), expected)


@torch.no_grad()
def test_the_prompt_is_made_of_features_their_prototype_and_how_alike_they_are() -> None:
    prompt, neck = PrototypePrompt(6), torch.randn(2, 6, 4, 4)
    assert prompt.memory.shape == (PROTOTYPES, 6)
    for row in range(2):
        summary = neck[row].mean((1, 2)) + neck[row].amax((1, 2))
        weights = torch.softmax(prompt.memory @ summary, dim=0)
        prototype = (weights[:, None] * prompt.memory).sum(0)
        for y, x in np.ndindex(4, 4):
            here = neck[row, :, y, x]
            alike = here @ prototype / (here.norm() * prototype.norm())
            parts = torch.cat([here, prototype, alike[None]])
            expected = prompt.fuse.weight[:, :, 0, 0] @ parts + prompt.fuse.bias
            torch.testing.assert_close(prompt(neck)[row, :, y, x], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_encoder_is_sams_with_both_adapters_at_each_block(method: DAPSAM) -> None:
    """Computed with segment-anything's own blocks, whose MLP an adapter is put beside."""
    network, encoder, pixels = method.module, method.model.image_encoder, random_pixels()
    low = encoder.patch_embed(pixels) + encoder.pos_embed
    tokens, low = low, network.low_level(low)
    for number, block in enumerate(encoder.blocks):
        tokens = tokens + network.before[number](tokens / 2 + low)
        added: list[torch.Tensor] = []
        hook = block.mlp.register_forward_hook(
            lambda _m, inputs, out, n=number, into=added: into.append(
                network.parallel[n](inputs[0] + low) / 2
            )
        )
        tokens = block(tokens)
        tokens = tokens + added[0]
        hook.remove()
    neck = encoder.neck(tokens.permute(0, 3, 1, 2))
    sparse, dense = torch.zeros(2, 0, MICRO.neck), network.prompt(neck)
    expected = method.model.predict_masks(neck, sparse, dense, 1).mask_logits
    torch.testing.assert_close(network(pixels), expected, rtol=1e-4, atol=1e-5)


def test_adapters_prompt_and_decoder_are_trained_and_the_encoder_is_not(method: DAPSAM) -> None:
    kept = set(method.state_dict())
    assert {name.split(".")[0] for name in kept if not name.startswith("model.")} == {
        *("low_level", "before", "parallel", "prompt")
    }
    assert {name.split(".")[1] for name in kept if name.startswith("model.")} == {"mask_decoder"}
    assert not any("iou_prediction_head" in name for name in kept)
    method.module(random_pixels()).square().mean().backward()
    silent = {n for n, p in method.module.named_parameters() if p.requires_grad and p.grad is None}
    # The four mask tokens share one weight; the networks of those beyond the organs are not asked.
    assert all("output_hypernetworks_mlps" in name for name in silent)


def test_the_seed_names_the_initial_values_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (DAPSAM(SAM("micro"), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["prompt.memory"], other["prompt.memory"])
