"""A model of a few thousand weights with every part of the real one, and files of the kinds that fill it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from torch.nn import functional

from desam_lite.model.desam import DeSAM
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import BACKBONES, BackboneSpec, build_image_encoder, build_prompt_encoder

# No two sizes that could be mistaken for one another are equal.
MICRO = BackboneSpec(
    32, 8, 24, 5, 2, (0, 2, 3, 4), window=2, neck=64, pdmm=(48, 32, 16), prim_heads=2, prim_mlp=40
)
PDMM = "mask_decoder.pimm"


def use_micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "micro" the name of this backbone, for one test."""
    monkeypatch.setitem(BACKBONES, "micro", MICRO)


def parts_that_differ(one: DeSAM, other: DeSAM) -> set[str]:
    """The parts of two models (image_encoder, prompt_encoder, prim, pdmm) of which any tensor differs."""
    first, second = one.state_dict(), other.state_dict()
    return {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}


def random_pixels(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        count, 3, MICRO.image_size, MICRO.image_size, generator=torch.Generator().manual_seed(seed)
    )


def random_embeddings(count: int = 1, seed: int = 0, spec: BackboneSpec = MICRO) -> ImageEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(count, c, spec.grid, spec.grid, generator=generator) for c in (spec.width,) * 3]
    neck = torch.randn(count, spec.neck, spec.grid, spec.grid, generator=generator)
    return ImageEmbeddings((maps[0], maps[1], maps[2]), neck)


def sam_decoder(spec: BackboneSpec) -> MaskDecoder:
    """segment-anything's own mask decoder, at this size."""
    transformer = TwoWayTransformer(
        depth=2,
        embedding_dim=spec.neck,
        mlp_dim=spec.prim_mlp,
        num_heads=spec.prim_heads,
        attention_downsample_rate=spec.prim_downsample,
    )
    return MaskDecoder(transformer_dim=spec.neck, transformer=transformer)


def sam_tensors(spec: BackboneSpec = MICRO, seed: int = 1) -> dict[str, torch.Tensor]:
    """A state dict as in SAM's public files, with random values everywhere."""
    sam = Sam(build_image_encoder(spec), build_prompt_encoder(spec), sam_decoder(spec))
    return _random({name: tuple(t.shape) for name, t in sam.state_dict().items()}, seed)


def published_shapes(spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
    """Every decoder and prompt-encoder tensor of the published DeSAM, by its published name."""
    coarse, middle, fine = spec.pdmm
    shapes = {f"mask_decoder.{n}": tuple(t.shape) for n, t in sam_decoder(spec).state_dict().items()}
    shapes |= {
        f"prompt_encoder.{n}": tuple(t.shape) for n, t in build_prompt_encoder(spec).state_dict().items()
    }
    blocks = {"mask_embedding_fusion": (spec.neck + coarse, coarse)}
    for level, width in enumerate(spec.pdmm):
        blocks[f"conv_blocks_context.{level}.block_init"] = (spec.width, width)
        for doubling in range(level):
            name = f"conv_blocks_context.{level}.residual_block.{doubling}"
            shapes[f"{PDMM}.{name}.0.conv.weight"] = (width, width, 2, 2)
            blocks[f"{name}.1"] = (width, width)
    for step, (inputs, outputs) in enumerate([(coarse, middle), (middle, fine)]):
        name = f"conv_blocks_localization.{step}"
        shapes[f"{PDMM}.{name}.transp_conv.conv.weight"] = (inputs, outputs, 2, 2)
        blocks[f"{name}.res_block"] = (2 * outputs, outputs)
        shapes[f"{PDMM}.seg_outputs.{step}.weight"] = (1, outputs, 1, 1)
    for name, (inputs, outputs) in blocks.items():
        shapes[f"{PDMM}.{name}.conv1.conv.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{PDMM}.{name}.conv2.conv.weight"] = (outputs, outputs, 3, 3)
        shapes[f"{PDMM}.{name}.conv3.conv.weight"] = (outputs, inputs, 1, 1)
        shapes[f"{PDMM}.{name}.se.fc.0.weight"] = (outputs // 16, outputs)
        shapes[f"{PDMM}.{name}.se.fc.2.weight"] = (outputs, outputs // 16)
    return shapes


def published_tensors(
    spec: BackboneSpec = MICRO, seed: int = 2, *, encoder: bool = False
) -> dict[str, torch.Tensor]:
    """A state dict as the published DeSAM's, with random values."""
    tensors = _random(published_shapes(spec), seed)
    image = {n: t for n, t in sam_tensors(spec, seed).items() if n.startswith("image_encoder.")}
    return {**tensors, **image} if encoder else tensors


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def published_pdmm(
    weights: dict[str, torch.Tensor], levels: tuple[torch.Tensor, ...], embedding: torch.Tensor
) -> torch.Tensor:
    """PDMM as its description reads, straight from the published tensors; levels shallow to deep, all of batch B."""

    def normalise(x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt()

    def act(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        first, second, third = (weights[f"{PDMM}.{name}.conv{i}.conv.weight"] for i in (1, 2, 3))
        y = act(normalise(functional.conv2d(x, first, padding=1)))
        y = normalise(functional.conv2d(y, second, padding=1))
        hidden = (y.mean((2, 3)) @ weights[f"{PDMM}.{name}.se.fc.0.weight"].T).clamp(min=0)
        scale = 1 / (1 + torch.exp(-hidden @ weights[f"{PDMM}.{name}.se.fc.2.weight"].T))
        same = third.shape[0] == third.shape[1]
        return act(y * scale[..., None, None] + (x if same else normalise(functional.conv2d(x, third))))

    def double(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = weights[
            f"{PDMM}.{name}.conv.weight"
        ]  # (inputs, outputs, 2, 2): each pixel becomes a 2 x 2 patch
        patches = torch.einsum("bihw,ioyx->bohywx", x, weight)
        return patches.reshape(len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])

    context = []
    for number, level in enumerate(reversed(levels)):
        x = block(level, f"conv_blocks_context.{number}.block_init")
        for doubling in range(number):
            name = f"conv_blocks_context.{number}.residual_block.{doubling}"
            x = block(double(x, f"{name}.0"), f"{name}.1")
        context.append(x)
    x = block(torch.cat([embedding, context[0]], dim=1), "mask_embedding_fusion")
    for step, skip in enumerate(context[1:]):
        name = f"conv_blocks_localization.{step}"
        x = block(torch.cat([double(x, f"{name}.transp_conv"), skip], dim=1), f"{name}.res_block")
    return functional.conv2d(x, weights[f"{PDMM}.seg_outputs.1.weight"])


def save_own(
    folder: Path, model: DeSAM, weights: str = "random", weights_hash: str = "", **changes: Any
) -> Path:
    """Write a model as a run does: trained tensors, and the card beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {f"model.{name}": p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / "model.safetensors")
    settings = {"backbone": model.backbone, "variant": model.variant, **changes}
    run = {"identity": {"settings": settings, "weights": weights_hash}, "files": {"weights": weights}}
    (folder / "model.json").write_text(json.dumps({"run": run, "organs": ["gland"]}))
    return folder / "model.safetensors"
