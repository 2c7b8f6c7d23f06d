"""Our forward pass gives the features of segment-anything's own, however windows fall and however the work is portioned."""

from dataclasses import replace

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos
from small_model import MICRO, use_micro
from torch import nn

from desam_lite.model import fast_encoder as encoder
from desam_lite.model.build import build_desam
from desam_lite.model.prompted_sam import PromptedSAM
from desam_lite.model.sam import BackboneSpec, build_image_encoder, encode_levels, get_backbone

SHRUNKEN = BackboneSpec(
    112, 8, 48, 4, 3, (0, 1, 2, 3), window=5
)  # 14 tokens in windows of 5: one must be padded
SPECS = {
    "sam_tiny": get_backbone("sam_tiny"),
    "windows_fit": MICRO,
    "windows_padded": replace(SHRUNKEN, global_blocks=(1, 2, 3, 3)),
    "window_larger_than_map": replace(MICRO, window=6),
}


def drawn(spec: BackboneSpec) -> ImageEncoderViT:
    torch.manual_seed(0)
    built = build_image_encoder(spec).eval()
    for name, parameter in built.named_parameters():
        if "pos" in name or name.endswith("bias"):  # zero when new: a forgotten one would go unseen
            nn.init.normal_(parameter, std=0.5)
    return built


def pixels(spec: BackboneSpec, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(1))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def both(
    spec: BackboneSpec, dtype: torch.dtype = torch.float32, *, fast: bool = True
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each map of ours in ``dtype``, and of segment-anything's own forward in float32."""
    reference, maps = drawn(spec), []
    for number in spec.global_blocks[:3]:
        reference.blocks[number].register_forward_hook(lambda _m, _i, out: maps.append(out.movedim(-1, 1)))
    with torch.no_grad():
        neck = reference(pixels(spec))
    levels, ours = encode_levels(drawn(spec).to(dtype), pixels(spec).to(dtype), spec.global_blocks, fast=fast)
    return [*zip(levels, maps, strict=True), (ours, neck)]


@pytest.mark.parametrize("name", SPECS)
def test_the_plain_way_is_that_of_segment_anything_bit_by_bit(name: str) -> None:
    assert all(torch.equal(ours, theirs) for ours, theirs in both(SPECS[name], fast=False))


def test_a_model_takes_the_fast_way_unless_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)
    model, calls, run_block = build_desam("micro"), [], encoder.run_block
    monkeypatch.setattr(encoder, "run_block", lambda *a: (calls.append(1), run_block(*a))[1])
    fast = model.encode(pixels(MICRO)).neck
    assert len(calls) == MICRO.depth
    monkeypatch.setattr(PromptedSAM, "fast", False)
    assert distance(fast, model.encode(pixels(MICRO)).neck) < 1e-5
    assert len(calls) == MICRO.depth


@pytest.mark.parametrize("name", SPECS)
def test_features_are_those_of_segment_anything(name: str) -> None:
    for ours, theirs in both(SPECS[name]):
        assert ours.shape == theirs.shape
        assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", SPECS)
def test_half_precision_costs_no_more_than_its_rounding(name: str) -> None:
    for ours, theirs in both(SPECS[name], torch.bfloat16):
        assert distance(ours, theirs) < 2e-2


@pytest.mark.parametrize("limit", [1, 40, 600, 10_000])
def test_portions_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_BIAS_AT_ONCE", {"cpu": limit})
    monkeypatch.setattr(encoder, "_TOKENS_AT_ONCE", {"cpu": max(limit // 100, 1)})
    for ours, theirs in both(SPECS["windows_padded"]):
        assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize("limit", [1, 10_000, 1 << 28])
def test_the_way_of_a_gpu_is_that_of_a_processor(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "attend_fused", encoder._attend_by_products)
    monkeypatch.setattr(encoder, "_BIAS_AT_ONCE", {"cuda": limit})
    for spec in SPECS.values():
        for ours, theirs in both(spec):
            assert distance(ours, theirs) < 1e-5


def test_slices_of_a_batch_do_not_see_each_other() -> None:
    spec = SPECS["windows_padded"]
    built, both_slices = drawn(spec), pixels(spec)
    together = encode_levels(built, both_slices, spec.global_blocks)[1]
    alone = encode_levels(built, both_slices[1:], spec.global_blocks)[1]
    assert distance(together[1:], alone) < 1e-5


def test_kept_levels_are_not_overwritten_by_later_blocks() -> None:
    spec = SPECS["windows_fit"]
    built = drawn(spec)
    levels = encode_levels(built, pixels(spec), spec.global_blocks)[0]
    for block in built.blocks[1:]:
        nn.init.zeros_(block.mlp.lin2.weight)  # what follows the first level differs now
    again = encode_levels(built, pixels(spec), spec.global_blocks)[0]
    assert torch.equal(levels[0], again[0])
    assert not torch.equal(levels[1], again[1])


def test_queries_times_positions_are_those_of_segment_anything() -> None:
    height, width, channels = 5, 7, 3
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 4 * height * width, channels, generator=generator)
    rows, columns = (torch.randn(2 * n - 1, channels, generator=generator) for n in (height, width))
    down, across = encoder._products_by_key(queries, height, width, rows, columns)
    q = queries.view(2, 4, height, width, channels)
    torch.testing.assert_close(down, torch.einsum("anhwc,hkc->anhwk", q, get_rel_pos(height, height, rows)))
    torch.testing.assert_close(
        across, torch.einsum("anhwc,wkc->anhwk", q, get_rel_pos(width, width, columns))
    )
