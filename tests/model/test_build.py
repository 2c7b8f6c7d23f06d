"""A DeSAM is built by name, or one sentence says which name is wrong."""

import pytest
import torch
from small_model import use_micro

from desam_lite.model.build import build_desam
from desam_lite.utils.errors import StudyError


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vit_x",), "no backbone 'vit_x'"),
        (("micro", "best"), "no decoder variant 'best': choose from desam, no_iou_head"),
        (("micro", "desam", 0), "at least one organ, not 0"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        build_desam(*arguments)  # type: ignore[arg-type]


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    build_desam("micro", seed=3)
    assert torch.equal(torch.rand(1), expected)
