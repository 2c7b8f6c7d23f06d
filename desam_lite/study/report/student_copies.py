"""Copies of the notebooks for a class: the same cells, with the solutions taken out."""

import json
from pathlib import Path
from typing import Any

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_text

SOLUTION = "solution-"
"""How the ids of cells with solutions begin."""


def without_solutions(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which each solution is an empty cell of the same kind, to be filled in.

    Args:
        notebook: With solutions in cells whose ids begin with `SOLUTION`.
    """
    cells = [_emptied(cell) if cell["id"].startswith(SOLUTION) else cell for cell in notebook["cells"]]
    return {**notebook, "cells": cells}


def _emptied(cell: dict[str, Any]) -> dict[str, Any]:
    name = cell["id"].replace(SOLUTION, "answer-", 1)
    source = "# Your answer:" if cell["cell_type"] == "code" else "*Your answer:*"
    return {**cell, "id": name, "metadata": {}, "source": source}


def write_student_copies(notebooks: Path | str, out: Path | str) -> list[Path]:
    """Write every notebook of a folder without its solutions.

    Args:
        notebooks: Folder with the sources.
        out: Folder for the copies; another one.

    Returns:
        The copies.

    Raises:
        StudyError: There are no notebooks, or the copies would replace them.
    """
    notebooks, out = Path(notebooks), Path(out)
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise StudyError(f"there is no notebook in {notebooks}: name their folder with --notebooks.")
    if out.resolve() == notebooks.resolve():
        raise StudyError(f"{out} holds the notebooks themselves: name another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    copies = []
    for source in sources:
        copy = out / source.name
        notebook = json.loads(source.read_text(encoding="utf-8"))
        write_text(copy, json.dumps(without_solutions(notebook), indent=1, ensure_ascii=False) + "\n")
        copies.append(copy)
    return copies
