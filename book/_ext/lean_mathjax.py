"""Leave out of the built book those of MathJax's bundles that no page loads: more than half of the book's bytes."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

KEPT = ("tex-chtml.js", "loader.js", "startup.js", "core.js", "latest.js")
"""The bundle the pages load, and the small parts it may ask for; folders stay."""


def leave_out(app: Sphinx, error: Exception | None) -> None:
    """Delete the bundles, once the book is written."""
    if error is None:
        for bundle in (Path(app.outdir) / "_static" / "mathjax").glob("*.js"):
            if bundle.name not in KEPT:
                bundle.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx; after the extension that copies MathJax."""
    app.connect("build-finished", leave_out, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
