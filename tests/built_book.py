"""Where the built book is, for the tests of its pages."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HTML = Path(os.environ.get("DESAM_LITE_HTML", ROOT / "_build" / "html"))


def built_html() -> Path:
    """Return the folder of the built book; skip without one, or fail where DESAM_LITE_BOOK=1 says that there must be one."""
    if not (HTML / "index.html").exists():
        reason = f"there is no book at {HTML}: run 'make book' first"
        if os.environ.get("DESAM_LITE_BOOK") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return HTML


def pages(html: Path) -> list[Path]:
    """Return the pages a reader can open."""
    return [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]
