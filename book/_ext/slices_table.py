"""The directive ``slices-table``: what `benchmarks/all_slices.py` recorded, or that it has not been measured yet."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from desam_lite.study.report.benchmark_tables import say_slices, slices_rows

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def markdown(folder: Path = RESULTS) -> list[str]:
    """Return the first record of a folder as a table and what it is of, line by line; a sentence where there is none."""
    path = next(iter(sorted(folder.glob("all_slices-*.json"))), None)
    if path is None:
        return ["*Not measured yet.*"]
    record = json.loads(path.read_text(encoding="utf-8"))
    frame = slices_rows(record)
    cells = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return [*(f"| {' | '.join(row)} |" for row in cells), "", f"{say_slices(record)}."]


class SlicesTable(SphinxDirective):
    """Puts the table where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """Read the table as the page's own Markdown is read."""
        container = nodes.container()
        self.state.nested_parse(StringList(markdown(), source="slices-table"), self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("slices-table", SlicesTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
