"""The page of names knows every method that can be asked for."""

import importlib.util
from pathlib import Path

import pytest

from desam_lite.methods.run_spec import label_of
from desam_lite.study.profiles import METHOD_CHOICES

ROOT = Path(__file__).resolve().parents[1]


def table() -> list[str]:
    place = importlib.util.spec_from_file_location("method_table", ROOT / "book" / "_ext" / "method_table.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    lines: list[str] = module.markdown()
    return lines


@pytest.mark.parametrize("name", METHOD_CHOICES)
def test_every_method_is_named_in_the_notation(name: str) -> None:
    (row,) = [line for line in table() if f"`{name}`" in line]
    assert row.startswith(f"| {label_of(METHOD_CHOICES[name])} | ")
    assert len(row.split(" | ")[1]) > 10


def test_the_page_has_the_table() -> None:
    assert "```{method-table}" in (ROOT / "book" / "notation.md").read_text()
