"""The directive ``method-table``: every registered method, what it is and what it is asked for by, read from the registry."""

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from desam_lite.methods.registry import CHOICES, METHOD_CHOICES
from desam_lite.methods.run_spec import label_of


def markdown() -> list[str]:
    """Return the table, line by line: name in tables, meaning, name in ``methods``."""
    head = ["| Name | Meaning | In `methods` |", "|---|---|---|"]
    rows = [
        f"| {label_of(METHOD_CHOICES[name])} | {choice.meaning} | `{name}` |"
        for name, choice in CHOICES.items()
    ]
    return head + rows


class MethodTable(SphinxDirective):
    """Puts the table where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """Read the table as the page's own Markdown is read."""
        container = nodes.container()
        self.state.nested_parse(StringList(markdown(), source="method-table"), self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("method-table", MethodTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
