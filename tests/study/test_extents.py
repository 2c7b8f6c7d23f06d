"""Every profile has its amounts for prompts, grids and dials."""

import pytest

from desam_lite.study.extents import get_extent
from desam_lite.utils.errors import StudyError


def test_every_profile_says_how_much_is_asked() -> None:
    assert get_extent("smoke").side < get_extent("teach").side < get_extent("paper").side
    assert max(get_extent("paper").sides) == 32
    with pytest.raises(StudyError, match="there is no profile 'huge'"):
        get_extent("huge")
