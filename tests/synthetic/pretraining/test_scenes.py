"""The synthetic stream: reproducible by position, varied, lawful, and ignorant of anatomy."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from desam_lite.methods.appearance import draw_images
from desam_lite.synthetic.pretraining.prompts import flood, pick_objects
from desam_lite.synthetic.pretraining.scenes import (
    AIR,
    FIRST_SHAPE,
    LABELS,
    SHAPES,
    Scenes,
    draw_scenes,
    generator_at,
)

CPU = torch.device("cpu")
FOLDER = ROOT / "desam_lite" / "synthetic" / "pretraining"
PINNED_MEANS = [9.409016609191895, 0.01856146939098835, 111.46134185791016, 0.0972493514418602]
PRIVATE = ("phantoms", "data")


@pytest.fixture(scope="module")
def drawn() -> tuple[Scenes, torch.Tensor, torch.Tensor]:
    """24 scenes of 64 pixels, each under two contrasts."""
    generator = generator_at(3, 0, CPU)
    scenes = draw_scenes(24, 64, generator)
    return scenes, draw_images(scenes.labels, generator), draw_images(scenes.labels, generator)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_training_knows_no_phantom_and_reads_no_scan(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    ]
    assert not [module for module in imported if any(part in PRIVATE for part in module.split("."))]


@pytest.mark.parametrize("name", ["scenes", "prompts"])
def test_the_stream_opens_no_file(name: str) -> None:
    source = ast.parse((FOLDER / f"{name}.py").read_text())
    called = {
        getattr(n.func, "id", getattr(n.func, "attr", ""))
        for n in ast.walk(source)
        if isinstance(n, ast.Call)
    }
    assert not called & {"open", "load", "read_text", "read_bytes", "load_file"}


def test_a_position_of_a_seed_is_always_the_same() -> None:
    def at(seed: int, position: int) -> torch.Tensor:
        generator = generator_at(seed, position, CPU)
        return draw_images(draw_scenes(2, 32, generator).labels, generator)

    assert torch.equal(at(1, 7), at(1, 7))
    assert not torch.equal(at(1, 7), at(1, 8))
    assert not torch.equal(at(1, 7), at(2, 7))


def test_the_stream_is_the_one_that_finished_weights_have_seen() -> None:
    """Its numbers as they were first drawn; a processor may round a border's pixel to the other side."""
    generator = generator_at(3, 5, CPU)
    scenes = draw_scenes(3, 64, generator)
    images = draw_images(scenes.labels, generator)
    masks = pick_objects(scenes, 4, 2, generator)
    values = [float(t.float().mean()) for t in (scenes.labels, scenes.shapes, images, masks)]
    assert values == pytest.approx(PINNED_MEANS, rel=1e-3)


def test_neighbouring_positions_are_unrelated() -> None:
    first = torch.stack(
        [torch.rand(4, generator=generator_at(s, p, CPU)) for s in range(8) for p in range(8)]
    )
    assert len(first.unique(dim=0)) == 64
    assert abs(float(first.mean()) - 0.5) < 0.1


def test_labels_and_shapes_are_what_they_are_said_to_be(drawn: tuple[Scenes, ...]) -> None:
    scenes = drawn[0]
    assert scenes.labels.shape == (24, 64, 64)
    assert scenes.labels.dtype == torch.int64
    assert scenes.shapes.shape == (24, SHAPES, 64, 64)
    assert 0 <= int(scenes.labels.min()) <= int(scenes.labels.max()) < LABELS
    for number in range(SHAPES):  # what is visible of a shape is part of it, the last one is wholly visible
        visible = scenes.labels == FIRST_SHAPE + number
        assert not (visible & ~scenes.shapes[:, number]).any()
    assert torch.equal(scenes.labels == FIRST_SHAPE + SHAPES - 1, scenes.shapes[:, SHAPES - 1])
    assert not (scenes.shapes.any(1) & (scenes.labels == AIR)).any()


def test_scenes_are_varied(drawn: tuple[Scenes, ...]) -> None:
    regions = [len(labels.unique()) for labels in drawn[0].labels]
    assert max(regions) >= min(regions) + 6
    empty = (drawn[0].labels == AIR).float().mean((1, 2))
    assert (
        0.2 < float((empty > 0.02).float().mean()) < 0.9
    )  # most, not all, are bodies before empty background


def test_images_are_whole_intensities(drawn: tuple[Scenes, torch.Tensor, torch.Tensor]) -> None:
    _, first, second = drawn
    for image in (first, second):
        assert image.shape == (24, 64, 64)
        assert torch.equal(image, image.round())
        assert float(image.min()) >= 0
        assert float(image.max()) <= 255
    assert not torch.equal(first, second)


def test_contrast_between_two_regions_turns_round(
    drawn: tuple[Scenes, torch.Tensor, torch.Tensor],
) -> None:
    scenes, first, second = drawn
    signs = []
    for labels, a, b in zip(scenes.labels, first, second, strict=True):
        big = [k for k in labels.unique() if k != AIR and (labels == k).sum() > 200]
        for i, j in pairwise(big):
            difference = [float(p[labels == i].mean() - p[labels == j].mean()) for p in (a, b)]
            signs.append(difference[0] * difference[1] > 0)
    assert len(signs) > 15
    assert 0.2 < sum(signs) / len(signs) < 0.8


def test_flooding_fills_what_is_connected_and_nothing_else() -> None:
    within = torch.tensor(
        [[1, 1, 1, 0, 1], [0, 0, 1, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1]]
    ).bool()
    seed = torch.zeros_like(within)
    seed[0, 0] = True
    expected = within.clone()
    expected[:, 4] = False
    assert torch.equal(flood(seed[None], within[None])[0], expected)
    assert not flood(seed[None], ~within[None]).any()


def test_objects_are_regions_or_whole_shapes_of_the_scene(drawn: tuple[Scenes, ...]) -> None:
    scenes = drawn[0]
    objects = pick_objects(scenes, 6, 1, generator_at(3, 1, CPU))
    assert objects.shape == (24, 6, 64, 64) and objects.any((-2, -1)).all()
    for b in range(24):
        for m in range(6):
            mask = objects[b, m]
            one_region = len(scenes.labels[b][mask].unique()) == 1
            whole_shape = any(torch.equal(mask, shape) for shape in scenes.shapes[b])
            assert one_region or whole_shape
