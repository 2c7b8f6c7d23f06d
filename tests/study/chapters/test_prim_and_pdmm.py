"""The table says what the built model is: its parts, shapes and sizes, whatever the variant; the drawings name the same parts."""

from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
import torch

from desam_lite.model.desam import DeSAM, Variant
from desam_lite.study.chapters.prim_and_pdmm import (
    decoder_parts,
    prompt_reach,
)

ROOT = Path(__file__).resolve().parents[3]


def build(variant: Variant, backbone: str = "sam_tiny", organs: int = 1) -> DeSAM:
    with torch.device("meta"):
        return DeSAM(backbone, variant, organs)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_parts_hold_every_trained_parameter_once(variant: Variant) -> None:
    model = build(variant)
    counted = sum(part.parameters for part in decoder_parts(model).values())
    other_parts = ("pdmm.head", "prim.iou_token", "prim.mask_tokens")
    counted += sum(p.numel() for name, p in model.named_parameters() if name.startswith(other_parts))
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_shapes_are_those_of_the_published_model() -> None:
    parts = decoder_parts(build("desam", "vit_b", organs=2))
    shapes = {key: part.shape for key, part in parts.items()}
    assert shapes["level0"] == (768, 64, 64)
    assert shapes["transformer"] == shapes["fusion"] == (256, 64, 64)
    assert [shapes[f"context{i}"] for i in range(3)] == [(256, 64, 64), (128, 128, 128), (64, 256, 256)]
    assert shapes["mask"] == (2, 256, 256)
    assert shapes["iou"] == (2,)


@pytest.mark.parametrize(
    ("variant", "lacking"),
    [
        ("desam", set()),
        ("no_iou_head", {"iou_head", "iou"}),
        ("no_fusion", set()),
        ("pdmm_only", {"prompt", "neck", "transformer", "iou_head", "iou"}),
    ],
)
def test_parts_that_a_variant_lacks_have_no_shape(variant: Variant, lacking: set[str]) -> None:
    assert {key for key, part in decoder_parts(build(variant)).items() if not part.shape} == lacking


def test_no_hook_stays_on_the_model() -> None:
    model = build("desam")
    decoder_parts(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("variant", "mask", "iou"),
    [
        ("desam", True, True),
        ("no_iou_head", True, False),
        ("no_fusion", False, True),
        ("pdmm_only", False, False),
    ],
)
def test_a_prompt_reaches_what_the_wiring_lets_it(variant: Variant, mask: bool, iou: bool) -> None:
    assert prompt_reach(DeSAM("sam_tiny", variant)) == (mask, iou)


@pytest.mark.parametrize("name", ["decoder", "decoder_variants"])
def test_the_drawing_names_every_part_and_describes_itself(name: str) -> None:
    root = ElementTree.parse(ROOT / "book" / "static" / f"{name}.svg").getroot()
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    drawn = {
        "prompt": "prompt tokens",
        "level 0": "level 0 (shallow)",
        "level 2": "level 2 (deep)",
        "IoU": "predicted IoU",
    }
    for part in decoder_parts(build("desam")).values():
        assert drawn.get(part.name, part.name) in texts
    described = [root.findtext(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc")]
    assert root.get("role") == "img" and all(described)
