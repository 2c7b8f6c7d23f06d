"""What a notebook has glued is taken to another page by its name, or the missing name is told."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def extension() -> ModuleType:
    place = importlib.util.spec_from_file_location(
        "from_notebook", ROOT / "book" / "_ext" / "from_notebook.py"
    )
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_an_output_is_taken_by_the_whole_of_its_name(tmp_path: Path, extension: ModuleType) -> None:
    outputs = [
        {"data": {"text/markdown": text}, "metadata": {"scrapbook": {"name": name}}}
        for name, text in (
            ("two-facts", ["six ", "hospitals"]),
            ("application/papermill.record/facts", "one"),
        )
    ]
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps({"cells": [{"source": ""}, {"outputs": outputs}]}))
    assert extension.glued(path, "two-facts")["text"] == "six hospitals"
    assert extension.glued(path, "facts")["text"] == "one"
    with pytest.raises(ExtensionError, match="has nothing glued as 'story': execute it again"):
        extension.glued(path, "story")
