"""Buttons that open a page's notebook in Binder or Colab, from one address of the repository; none where no address is set.

The address is ``repository_address`` in _config.yml, its branch ``repository_branch``. The theme's own buttons would open the
executed copy of a notebook, which is no file of the repository.
"""

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from docutils import nodes
from sphinx.application import Sphinx

_EXECUTED = PurePosixPath("book/executed")
_BINDER, _COLAB = "https://mybinder.org/v2", "https://colab.research.google.com/github"


def addresses(repository: str, branch: str, page: str) -> dict[str, str]:
    """Return Binder's and Colab's address of a page's notebook; Colab opens repositories of GitHub alone."""
    path = PurePosixPath(page)
    if not repository or path.parent != _EXECUTED:
        return {}
    notebook = f"notebooks/{path.name}.ipynb"
    repository = repository.rstrip("/").removesuffix(".git")
    parts = urlsplit(repository)
    place = parts.path.strip("/")
    homes = {"github.com": f"gh/{place}", "gitlab.com": f"gl/{quote(place, safe='')}"}
    home = homes.get(parts.netloc, f"git/{quote(repository, safe='')}")
    branch = quote(branch, safe="")
    links = {"Binder": f"{_BINDER}/{home}/{branch}?urlpath=lab/tree/{notebook}"}
    if parts.netloc == "github.com":
        links["Colab"] = f"{_COLAB}/{place}/blob/{branch}/{notebook}"
    return links


def add_buttons(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the buttons to the head of the page."""
    links = addresses(app.config.repository_address, app.config.repository_branch, page)
    icons = {"Binder": "logo_binder.svg", "Colab": "logo_colab.png"}
    buttons = [
        {
            "type": "link",
            "text": name,
            "tooltip": f"Open the notebook in {name}",
            "icon": f"_static/images/{icons[name]}",
            "url": link,
        }
        for name, link in links.items()
    ]
    if buttons:
        group = {
            "type": "group",
            "tooltip": "Run this notebook",
            "icon": "fas fa-rocket",
            "buttons": buttons,
            "label": "launch-buttons",
        }
        context["header_buttons"].append(group)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx; after the theme has made its list of buttons."""
    app.add_config_value("repository_address", "", "html", str)
    app.add_config_value("repository_branch", "main", "html", str)
    app.connect("html-page-context", add_buttons, priority=502)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
