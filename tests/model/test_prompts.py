"""Prompts and embeddings have the shapes they say, and are cut, joined and moved row by row."""

import pytest
import torch
from small_model import random_embeddings

from desam_lite.model.prompts import ImageEmbeddings, Prompts


def same(first: ImageEmbeddings, other: ImageEmbeddings) -> bool:
    return all(map(torch.equal, (*first.levels, first.neck), (*other.levels, other.neck)))


@pytest.mark.parametrize(("xy", "labels"), [((3, 2), (3,)), ((3, 1, 3), (3, 1)), ((3, 2, 2), (3, 1))])
def test_points_of_another_shape_are_refused(xy: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"points are \(B, N, 2\)"):
        Prompts.points(torch.zeros(xy), torch.zeros(labels))


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"boxes are \(B, 4\)"):
        Prompts.box(torch.zeros(shape))


def test_prompts_are_cut_and_moved() -> None:
    many = Prompts.points(torch.rand(5, 1, 2), torch.ones(5, 1))
    part = many[1:3].to(torch.device("cpu"))
    assert part.count == 2
    assert many.xy is not None
    assert part.xy is not None
    assert torch.equal(part.xy, many.xy[1:3])
    assert Prompts.whole_image(5)[3:].count == 2


def test_embeddings_are_cut_joined_and_converted() -> None:
    many = random_embeddings(3)
    assert len(many) == 3
    assert len(many[1]) == 1
    assert same(ImageEmbeddings.stack([many[0], many[1], many[2]]), many)
    assert same(many[torch.tensor([2, 0])], ImageEmbeddings.stack([many[2], many[0]]))
    half = many.to(dtype=torch.float16)
    assert {m.dtype for m in (*half.levels, half.neck)} == {torch.float16}
