"""Notebooks are run as jobs on tiny notebooks made here; every way to get it wrong is one sentence."""

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from desam_lite.study.workflow.notebooks import PAGE_LIMIT, check_executed, execute_notebook, read_parameters
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

PARAMETERS = 'profile: str = "teach"\nseeds: list[int] = []\nrate: float = 0.5\nfast: bool = False'
BODY = "import os, sys\nprint(profile, seeds, os.getcwd())"


def notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    made = new_notebook(cells=[new_markdown_cell("# Why?")])
    if parameters is not None:
        made.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made.cells += [new_code_cell(source) for source in cells]
    nbformat.write(made, path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return notebook(tmp_path / "why.ipynb", BODY)


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))


def test_parameters_are_passed_and_the_copy_says_what_it_was_made_from(source: Path, tmp_path: Path) -> None:
    out = execute_notebook(
        source, tmp_path / "pages" / "why.ipynb", {"profile": "smoke", "seeds": [3]}, progress=False
    )
    assert printed(out).startswith("smoke [3]")
    page = nbformat.read(out, as_version=4)
    injected = [cell for cell in page.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert injected and all("remove-input" in cell.metadata.tags for cell in injected)
    record = page.metadata["desam_lite"]
    assert record == {"source_sha256": sha256_file(source), "parameters": {"profile": "smoke", "seeds": [3]}}
    assert check_executed(out.parent, [source]) == []


def test_cells_work_in_the_root_of_the_repository_and_bars_keep_their_last_state(tmp_path: Path) -> None:
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "notebooks").mkdir()
    bar = "sys.stderr.write('\\r 10%\\r 99%\\r100%\\n')"
    out = execute_notebook(
        notebook(tmp_path / "notebooks" / "why.ipynb", BODY, bar), tmp_path / "out.ipynb", progress=False
    )
    assert f"teach [] {tmp_path}\n" in printed(out)
    assert "100%\n" in printed(out)
    assert "99%" not in printed(out)


def test_cells_run_in_this_interpreter_whatever_kernel_jupyter_would_take(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    foreign = {"argv": ["/bin/false", "{connection_file}"], "display_name": "old", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(foreign))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    which = notebook(tmp_path / "which.ipynb", "import sys\nprint(sys.executable)")
    assert sys.executable in printed(execute_notebook(which, tmp_path / "out.ipynb", progress=False))


def test_a_failing_cell_is_one_sentence_and_leaves_the_page_as_it_was(tmp_path: Path) -> None:
    source = notebook(tmp_path / "why.ipynb", "1 / 0")
    page = tmp_path / "pages" / "why.ipynb"
    page.parent.mkdir()
    page.write_text("an older page")
    with pytest.raises(
        StudyError, match=r"stopped: ZeroDivisionError in cell 3: division by zero\."
    ) as failure:
        execute_notebook(source, page, progress=False)
    assert page.read_text() == "an older page"
    kept = page.with_name("why.failed.ipynb")
    assert str(kept) in str(failure.value)
    assert "ZeroDivisionError" in kept.read_text()


def test_a_failure_the_reader_can_act_on_is_shown_as_its_sentence(tmp_path: Path) -> None:
    code = "from desam_lite.study.report.notebook import start\nfrom desam_lite.utils.errors import StudyError\nstart()"
    source = notebook(tmp_path / "why.ipynb", code, "raise StudyError('no data at /x: pass data_root.')")
    with pytest.raises(StudyError, match=r"stopped: no data at /x: pass data_root\. The copy"):
        execute_notebook(source, tmp_path / "out.ipynb", progress=False)
    cells = nbformat.read(tmp_path / "out.failed.ipynb", as_version=4).cells
    (output,) = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    assert output["traceback"] == ["no data at /x: pass data_root."]


def test_a_kernel_that_dies_is_one_sentence(tmp_path: Path) -> None:
    source = notebook(tmp_path / "why.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(StudyError, match="died"):
        execute_notebook(source, tmp_path / "out.ipynb", progress=False)
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"sedes": [1]}, "no parameter 'sedes': did you mean 'seeds'"),
        ({"colour": 1}, "no parameter 'colour': choose from profile, seeds, rate, fast"),
        ({"seeds": 3}, r"'seeds' of .* is a list of whole numbers, as \[0, 1\], not 3"),
        ({"seeds": ["a"]}, "'seeds' .* not \\['a'\\]"),
        ({"profile": 3}, "'profile' .* is text, not 3"),
        ({"fast": 1}, "'fast' .* is true or false, not 1"),
        ({"rate": True}, "'rate' .* is a number, not True"),
        ({"rate": None}, "'rate' .* not None"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(
    source: Path, tmp_path: Path, parameters: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(StudyError, match=sentence):
        execute_notebook(source, tmp_path / "out.ipynb", parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["why.ipynb"]


@pytest.mark.parametrize(
    "cell", ["x = 1", "x: int", "x: dict = {}", "x: int = len('ab')", "import os", "x: int = ("]
)
def test_the_cell_of_parameters_holds_typed_literals_only(tmp_path: Path, cell: str) -> None:
    with pytest.raises(StudyError, match=r"must hold only lines like 'seeds: list\[int\] = \[\]'"):
        read_parameters(notebook(tmp_path / "why.ipynb", parameters=cell))


def test_parameters_are_read_with_type_and_default(source: Path) -> None:
    assert read_parameters(source) == {
        "profile": ("str", "teach"),
        "seeds": ("list[int]", []),
        "rate": ("float", 0.5),
        "fast": ("bool", False),
    }


def test_a_notebook_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no code cells tagged 'parameters'"):
        execute_notebook(notebook(tmp_path / "why.ipynb", BODY, parameters=None), tmp_path / "out.ipynb")


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"cells": 3}', '{"nbformat": 4, "cells": []}'])
def test_what_is_no_notebook_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "why.ipynb"
    path.write_text(content)
    with pytest.raises(StudyError, match=r"why\.ipynb is not a notebook"):
        execute_notebook(path, tmp_path / "out.ipynb")


def test_a_notebook_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"there is no notebook .*nowhere\.ipynb"):
        execute_notebook(tmp_path / "nowhere.ipynb", tmp_path / "out.ipynb")


def page(source: Path, folder: Path, *outputs: Any) -> Path:
    """Write a page as `execute_notebook` would, with these outputs."""
    copy = nbformat.read(source, as_version=4)
    copy.metadata["desam_lite"] = {"source_sha256": sha256_file(source), "parameters": {}}
    copy.cells[-1].outputs = list(outputs)
    folder.mkdir(exist_ok=True)
    nbformat.write(copy, folder / source.name)
    return folder / source.name


def test_a_missing_page_is_found(source: Path, tmp_path: Path) -> None:
    (fault,) = check_executed(tmp_path / "pages", [source])
    assert "why.ipynb is missing: run 'desam-lite execute" in fault


def test_a_stale_page_is_found(source: Path, tmp_path: Path) -> None:
    page(source, tmp_path / "pages")
    notebook(source, BODY, "print('new')")
    (fault,) = check_executed(tmp_path / "pages", [source])
    assert "made from another version" in fault


def test_a_page_with_an_error_is_found(source: Path, tmp_path: Path) -> None:
    page(source, tmp_path / "pages", new_output("error", ename="KeyError", evalue="x", traceback=[]))
    (fault,) = check_executed(tmp_path / "pages", [source])
    assert "holds an error in cell 3 (KeyError)" in fault


def test_a_page_that_is_too_large_is_found(source: Path, tmp_path: Path) -> None:
    page(source, tmp_path / "pages", new_output("stream", text="x" * PAGE_LIMIT))
    (fault,) = check_executed(tmp_path / "pages", [source])
    assert f"over the limit of {PAGE_LIMIT / 1e6:.0f} MB" in fault


def test_a_damaged_page_is_found(source: Path, tmp_path: Path) -> None:
    whole = page(source, tmp_path / "pages").read_text()
    (tmp_path / "pages" / "why.ipynb").write_text(whole[: len(whole) // 2])
    (fault,) = check_executed(tmp_path / "pages", [source])
    assert "is not a notebook" in fault


def test_a_page_made_by_hand_is_stale(source: Path, tmp_path: Path) -> None:
    made = page(source, tmp_path / "pages")
    content = json.loads(made.read_text())
    del content["metadata"]["desam_lite"]
    made.write_text(json.dumps(content))
    assert len(check_executed(tmp_path / "pages", [source])) == 1
