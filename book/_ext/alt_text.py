"""Give each figure of a notebook's page the alternative text that the notebook computed for it.

`desam_lite.study.report.style.DescribedFigure` stores the text in the metadata of its output. myst-nb names the file of an
output by the SHA-256 of its bytes and leaves its alternative text empty, which Sphinx would fill with the
file's path.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def texts_of(notebook: Path) -> dict[str, str]:
    """Return SHA-256 of the image -> alternative text, for all figures of an executed notebook."""
    texts = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for kind, look in output.get("metadata", {}).items():
                if kind in ("image/png", "image/svg+xml") and look.get("alt"):
                    drawn = "".join(output["data"][kind])
                    data = base64.b64decode(drawn) if kind == "image/png" else _as_written(drawn)
                    texts[hashlib.sha256(data).hexdigest()] = look["alt"]
    return texts


def _as_written(svg: str) -> bytes:
    return os.linesep.join(svg.splitlines()).encode()  # as myst-nb writes it


def fill_in(app: Sphinx, document: nodes.document) -> None:
    """Set ``alt`` of every image of a notebook's page that has a text and none written by hand."""
    source = Path(app.env.doc2path(app.env.docname))
    if source.suffix != ".ipynb":
        return
    texts = texts_of(source)
    for image in document.findall(nodes.image):
        text = texts.get(Path(image["uri"]).stem)
        if text and "alt" not in image:
            image["alt"] = text


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("doctree-read", fill_in)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
