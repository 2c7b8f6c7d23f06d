"""The page of names knows every method that can be asked for."""

from pathlib import Path

import pytest

from desam_lite.profiles import METHOD_CHOICES

PAGE = (Path(__file__).resolve().parents[1] / "book" / "notation.md").read_text()


@pytest.mark.parametrize("name", METHOD_CHOICES)
def test_every_method_is_named_in_the_notation(name: str) -> None:
    assert f"`{name}`" in PAGE
