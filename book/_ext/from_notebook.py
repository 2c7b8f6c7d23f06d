"""The directive ``from-notebook``: what an executed notebook has glued under a name, on another page.

Its arguments are the notebook, without ending and from the folder of the page, and the name. An image becomes a figure with
the content as caption, to which the text glued as ``facts`` is added; a text is read as the page's own Markdown.
"""

import base64
import json
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


def glued(notebook: Path, name: str) -> dict[str, Any]:
    """Return the output of an executed notebook that was glued under a name, its text of Markdown under ``text``."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output.get("metadata", {}).get("scrapbook", {}).get("name", "").rpartition("/")[2] == name:
                text = next((v for k, v in output["data"].items() if k.endswith("text/markdown")), "")
                return {**output, "text": "".join(text)}
    raise ExtensionError(f"{notebook} has nothing glued as {name!r}: execute it again.")


class FromNotebook(SphinxDirective):
    """Puts the output where the directive stands."""

    required_arguments = 2
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "name": directives.unchanged,
        "facts": directives.unchanged,
        "class": directives.class_option,
    }

    def run(self) -> list[nodes.Node]:
        """Return a figure, or the text in a container."""
        _, path = self.env.relfn2path(f"{self.arguments[0]}.ipynb")
        self.env.note_dependency(path)
        output = glued(Path(path), self.arguments[1])
        kind = next((kind for kind in ("image/png", "image/svg+xml") if kind in output["data"]), "")
        if not kind:
            box = nodes.container(classes=self.options.get("class", []))
            self._parse(output["text"].splitlines(), box)
            return [box]
        look, drawn = output["metadata"][kind], "".join(output["data"][kind])
        data = drawn if kind == "image/png" else base64.b64encode(drawn.encode()).decode()
        address = f"data:{kind};base64,{''.join(data.split())}"
        image = nodes.image(uri=address, alt=look["alt"], width=str(look["width"]))
        figure = nodes.figure("", image)
        facts = glued(Path(path), self.options["facts"])["text"] if "facts" in self.options else ""
        caption = nodes.Element()
        self._parse([*self.content, *facts.splitlines()], caption)
        figure += nodes.caption("", "", *caption[0].children)
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]

    def _parse(self, lines: list[str], parent: nodes.Element) -> None:
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, parent)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_directive("from-notebook", FromNotebook)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
