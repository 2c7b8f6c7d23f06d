"""Which modules of the package a notebook uses, read from the code without running it: a page is made again when one changes."""

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from desam_lite.utils.files import digest

PACKAGE = Path(__file__).resolve().parents[2]


def code_hash(notebook: Path) -> str:
    """Return what names the code behind a notebook (`reached_files`)."""
    files = reached_files(notebook)
    return digest(sorted([str(path.relative_to(PACKAGE)), _content(path)] for path in files))


def reached_files(notebook: Path) -> set[Path]:
    """Return the package's files that a notebook's cells import, and all that those import."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    waiting = {path for source in code for path in _imported(source)}
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting |= set(_imports_of(path)) - reached
    return reached


@cache
def _content(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _imports_of(path: Path) -> tuple[Path, ...]:
    return tuple(_imported(_content(path)))


def _imported(source: str) -> Iterator[Path]:
    """Yield the package's files that some code imports, at its top or anywhere in it, or names in a text as registries do."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell with a line that only IPython reads
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value.partition(":")[0]]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE.name and all(map(str.isidentifier, name.split("."))):
                yield from _files_of(name)


@cache
def _files_of(module: str) -> tuple[Path, ...]:
    """Return the file of a module and those of the packages it lies in; none for a name that is no module."""
    place = PACKAGE.parent.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not file.is_file():
        return ()
    parents = [folder / "__init__.py" for folder in place.parents if PACKAGE in (folder, *folder.parents)]
    return (file, *parents)
