"""Every notebook keeps to the conventions that make it run by hand, as a job and as a page."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from desam_lite.study.workflow.notebooks import read_parameters

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
HIDDEN = {"hide-input", "remove-input", "hide-cell"}


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def cells(path: Path, kind: str | None = None) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


def test_there_are_notebooks() -> None:
    assert SOURCES


def test_sources_carry_no_outputs(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id


def test_cells_have_names_that_stay(path: Path) -> None:
    names = [cell["id"] for cell in json.loads(path.read_text())["cells"]]  # nbformat would mend them quietly
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and not name.isdigit() for name in names)


def test_title_is_a_question(path: Path) -> None:
    title = cells(path)[0].source.splitlines()[0]
    assert title.startswith("# ") and title.endswith("?")


def test_answer_and_caveats_are_read_from_results(path: Path) -> None:
    first = cells(path)[0].source
    for said in (
        "{glue:md}`answer`",
        "{glue:md}`caveats`",
        "{glue:md}`took`",
        "You will learn",
        "You need",
        "Time",
    ):
        assert said in first


def test_parameters_are_typed_literals_in_the_second_code_cell(path: Path) -> None:
    second = cells(path, "code")[1]
    assert second.metadata["tags"] == ["parameters", "hide-input"]
    names = list(read_parameters(path))
    assert names[0] == "profile"
    assert all("#" in line for line in second.source.splitlines())


def test_every_glued_name_is_made_and_used_once(path: Path) -> None:
    made = [
        node.args[0].value
        for cell in cells(path, "code")
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "glue"
        and isinstance(node.args[0], ast.Constant)
    ]
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert len(set(made)) == len(made)
    for name in made:
        directives = (f"{{glue:figure}} {name}\n", f"{{glue:md}} {name}\n")
        assert f"`{name}`" in text or any(each in text for each in directives), name


def test_what_serves_the_page_is_hidden(path: Path) -> None:
    for cell in cells(path, "code"):
        imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body)
        if (
            "glue(" in cell.source
            or "plan_experiment(" in cell.source
            or "provenance" in cell.source
            or imports
        ):
            assert HIDDEN & set(cell.metadata.get("tags", [])), cell.id


def test_progress_of_long_work_is_kept_off_the_page(path: Path) -> None:
    """The book counts standard error on a page as a fault."""
    for cell in cells(path, "code"):
        if "open_study(" in cell.source or "execute_runs(" in cell.source:
            assert "remove-stderr" in cell.metadata.get("tags", []), cell.id


def test_what_is_defined_in_a_notebook_is_shown(path: Path) -> None:
    for cell in cells(path, "code"):
        if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(cell.source).body):
            assert cell.id.startswith("solution-") or not HIDDEN & set(cell.metadata.get("tags", [])), cell.id


def test_cells_that_only_glue_show_nothing_twice(path: Path) -> None:
    for cell in cells(path, "code"):
        if "glue(" in cell.source:
            assert "remove-output" in cell.metadata.get("tags", []), cell.id


def test_what_is_hidden_says_what_opening_it_shows(path: Path) -> None:
    for cell in cells(path, "code"):
        if {"hide-cell", "hide-input"} & set(cell.metadata.get("tags", [])):
            assert cell.metadata["mystnb"]["code_prompt_show"].startswith("Show "), cell.id


def test_exercises_have_three_grades_and_solutions_that_run(path: Path) -> None:
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert [grade for grade in ("### Check", "### Change", "### Investigate") if grade in text] == [
        "### Check",
        "### Change",
        "### Investigate",
    ]
    solutions = [cell for cell in cells(path, "code") if cell.id.startswith("solution-")]
    assert len(solutions) >= 3
    assert all("hide-cell" in cell.metadata["tags"] for cell in solutions)


def test_every_exercise_has_an_answer_in_prose(path: Path) -> None:
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    exercises = re.findall(r"^\*\*(\d+)\.\*\*", text, re.MULTILINE)
    answers = [c.source for c in cells(path, "markdown") if c.id.startswith("solution-")]
    solutions = [c.id for c in cells(path, "code") if c.id.startswith("solution-")]
    assert len(exercises) == len(answers) == len(solutions)
    for answer in answers:
        assert answer.startswith(":::{dropdown} Answer\n") and len(answer.split()) > 20


def test_every_check_is_given_to_the_reader_and_passed_by_the_solution(path: Path) -> None:
    code = cells(path, "code")
    checks = {
        node.targets[0].id
        for cell in code
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assign) and getattr(getattr(node.value, "func", None), "id", "") == "Check"
    }
    assert checks
    for check in checks:
        assert any(
            c.id.startswith("check-") and "= ..." in c.source and f"{check}(" in c.source for c in code
        )
        assert any(c.id.startswith("solution-") and f"{check}(" in c.source for c in code), check


def test_the_last_cell_says_where_the_numbers_come_from(path: Path) -> None:
    assert "provenance" in cells(path)[-1].source


def test_no_path_of_this_machine_is_in_a_source(path: Path) -> None:
    assert str(ROOT) not in path.read_text()
