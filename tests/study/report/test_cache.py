"""Tables kept on disk: made once, whole or not at all."""

from pathlib import Path

import pandas as pd
import pytest

from desam_lite.study.report.cache import cached_table
from desam_lite.utils.errors import StudyError


def test_a_table_is_made_once_and_names_stay_texts(tmp_path: Path) -> None:
    made = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"case": ["007"], "dice": [0.5]})

    first, second = (cached_table(tmp_path, {"a": 1}, make) for _ in range(2))
    assert len(made) == 1 and first.equals(second) and first["case"][0] == "007"
    cached_table(tmp_path, {"a": 2}, make)
    assert len(made) == 2


def test_a_table_that_fails_to_be_made_leaves_nothing(tmp_path: Path) -> None:
    def make() -> pd.DataFrame:
        raise StudyError("no")

    with pytest.raises(StudyError):
        cached_table(tmp_path, {}, make)
    assert list(tmp_path.iterdir()) == []
