"""The functions that a notebook defines in view, to be tested as those of the package are."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def definitions(name: str) -> Any:
    """Return the imports, functions and classes of a notebook, without running anything else of it."""
    cells = [
        cell
        for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
        if cell.cell_type == "code"
    ]
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    body = [node for cell in cells for node in ast.parse(cell.source).body if isinstance(node, kinds)]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), name, "exec"), namespace)  # noqa: S102
    return SimpleNamespace(**namespace)
