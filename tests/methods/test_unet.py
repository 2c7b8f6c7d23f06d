"""The plain U-Net: its plan follows the size of the slices, its seed names its weights, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from desam_lite.data.datasets import SliceData, list_slices
from desam_lite.data.tasks import open_task
from desam_lite.methods.unet import UNetMethod, build_unet
from desam_lite.utils.errors import StudyError


@pytest.mark.parametrize(("size", "levels"), [(16, 3), (64, 5), (96, 5), (128, 6), (256, 7)])
def test_a_unet_halves_its_input_to_four_to_seven_pixels(size: int, levels: int) -> None:
    network = build_unet(2, 4, size, 0)
    shapes: list[torch.Size] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape))
    with torch.no_grad():
        out = network.eval()(torch.zeros(1, 1, size, size))
    assert out.shape == (1, 2, size, size)
    assert min(shape[-1] for shape in shapes) == size // 2 ** (levels - 1)
    assert max(shape[1] for shape in shapes) == min(4 * 2 ** (levels - 1), 512)


def test_the_seed_names_a_unets_weights_and_nothing_else() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (build_unet(1, 4, 32, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(
        torch.rand(3), expected
    )  # the stream of whoever calls goes on as if nothing had been drawn
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_size_that_cannot_be_halved_is_refused_with_sizes_that_can() -> None:
    with pytest.raises(
        StudyError, match="unet_size 100 is not divisible by 16: use a power of two, as 64, 128"
    ):
        build_unet(1, 4, 100, 0)


def test_a_trained_unet_draws_the_organ_where_it_is(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    task = open_task(*tiny_task, tmp_path, progress=False)
    refs = list_slices(task.slices, "A", ["A0", "A1", "A2"], "all")
    method = UNetMethod(1, 8, 32, 0)
    batch = SliceData(task.slices, refs, 1, 32).batch(np.arange(len(refs)))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        method.loss(method.module.train(), batch).backward()
        optimizer.step()
    case = task.slices.load("A", "A3")
    found = np.stack([drawn.labels for drawn in method.predict(case.images, None)]) == 1
    reference = case.labels == 1
    assert 2 * (found & reference).sum() / (found.sum() + reference.sum()) > 0.85
