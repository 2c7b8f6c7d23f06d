"""The directive ``course-table``: the chapters that are notebooks, with what a teacher plans by.

Read from the executed copies when the book is built: the question, the minutes to read it, how many exercises it has, and what
its computing took on the machine that made the page.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from from_notebook import glued
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_READ = re.compile(r"(\d+ minutes|one hour)[^.]*\.")


def describe(notebook: Path) -> dict[str, str]:
    """Return ``question``, ``read``, ``exercises`` and ``took`` of an executed notebook; "" for what it does not say."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    read = _READ.search(first)
    solutions = sum(cell.get("id", "").startswith("solution-") for cell in cells)
    return {
        "question": first.splitlines()[0].removeprefix("# "),
        "read": read.group(1) if read else "",
        "exercises": str(solutions),
        "took": re.split(r" \(|\.(?=\s|$)", glued(notebook, "took")["text"])[
            0
        ],  # without the machine and its memory
    }


def rows(toc: Path) -> list[list[str]]:
    """Return part, link, minutes to read, exercises and computing of every notebook in the contents."""
    found = []
    for part in yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]:
        for chapter in part["chapters"]:
            notebook = toc.parent / f"{chapter['file']}.ipynb"
            if notebook.exists():
                said = describe(notebook)
                link = f"{{doc}}`{said['question']} </{chapter['file']}>`"
                found.append([part["caption"], link, said["read"], said["exercises"], said["took"]])
    return found


class CourseTable(SphinxDirective):
    """Put the table in the place of the directive."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        head = ["Part", "Chapter", "To read", "Exercises", "Computing, where this copy was made"]
        lines = [_line(head), _line(["---"] * len(head))]
        lines += [_line(row) for row in rows(Path(self.env.srcdir) / "_toc.yml")]
        box = nodes.container()
        self.state.nested_parse(StringList(lines, self.env.docname), self.content_offset, box)
        return box.children


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_directive("course-table", CourseTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
