"""Small repairs of what Sphinx writes: no empty words for fields of tuples, and a list of works that screen readers can read."""

from typing import Any

from sphinx.application import Sphinx

_LIST = '<div role="list" class="citation-list">'  # its entries have the role of entries, which a list may not hold


def skip_fields(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out "Alias for field number 0": the docstring of the tuple says what the field is."""
    return True if type(member).__name__ == "_tuplegetter" else None


def tidy(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Take the role of a list from the list of works."""
    if "body" in context:
        context["body"] = context["body"].replace(_LIST, '<div class="citation-list">')


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("html-page-context", tidy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
