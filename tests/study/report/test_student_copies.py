"""Copies for a class hold everything but the solutions, and still run."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from desam_lite.study.report.student_copies import write_student_copies
from desam_lite.study.workflow.notebooks import execute_notebook
from desam_lite.utils.errors import StudyError

ROOT = Path(__file__).resolve().parents[3]


def write_notebook(path: Path) -> Path:
    cell, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [
        text("# Is it?", id="title"),
        cell("x = 1", id="start"),
        cell('profile: str = "teach"', id="parameters", metadata={"tags": ["parameters"]}),
        cell("secret = 42", id="solution-1", metadata={"tags": ["hide-cell"]}),
        text("The secret is 42.", id="solution-2"),
        cell("x + 1", id="rest"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_solutions_become_empty_cells_in_their_places(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "one.ipynb")
    (copy,) = write_student_copies(tmp_path, tmp_path / "class")
    cells = nbformat.read(copy, as_version=4).cells
    assert [c.id for c in cells] == ["title", "start", "parameters", "answer-1", "answer-2", "rest"]
    assert "42" not in copy.read_text()
    assert "hide-cell" not in copy.read_text()
    assert "42" in source.read_text()


def test_a_copy_runs_from_top_to_bottom(tmp_path: Path) -> None:
    write_notebook(tmp_path / "one.ipynb")
    (copy,) = write_student_copies(tmp_path, tmp_path / "class")
    execute_notebook(copy, tmp_path / "done.ipynb", progress=False)


def test_no_later_cell_of_the_book_needs_a_solution(tmp_path: Path) -> None:
    import ast

    for copy in write_student_copies(ROOT / "notebooks", tmp_path / "class"):
        whole = nbformat.read(ROOT / "notebooks" / copy.name, as_version=4).cells
        made = {
            node.id
            for cell in whole
            if cell.id.startswith("solution-") and cell.cell_type == "code"
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        left = [ast.parse(c.source) for c in nbformat.read(copy, as_version=4).cells if c.cell_type == "code"]
        nodes = [node for tree in left for node in ast.walk(tree)]
        names = [node for node in nodes if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        stored |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        assert not {node.id for node in names if isinstance(node.ctx, ast.Load)} & (made - stored), copy.name


def test_the_notebooks_themselves_are_not_replaced(tmp_path: Path) -> None:
    write_notebook(tmp_path / "one.ipynb")
    with pytest.raises(StudyError, match="name another folder"):
        write_student_copies(tmp_path, tmp_path)
    with pytest.raises(StudyError, match="there is no notebook"):
        write_student_copies(tmp_path / "none", tmp_path / "class")


def test_the_command_says_what_it_wrote(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    write_notebook(tmp_path / "one.ipynb")
    code, out, _ = run("student", "--notebooks", tmp_path, "--out", tmp_path / "class")
    assert code == 0 and "1 notebooks without solutions" in out
