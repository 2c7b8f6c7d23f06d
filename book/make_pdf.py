"""Print the built book as one PDF, with chromium: all chapters in order, links between them kept, solutions folded.

Usage: python book/make_pdf.py [HTML folder] [PDF file]

The chapters' articles are joined to one page beside the book's own, so that its styles, formulas and pictures are the same.
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).resolve().parents[1]
JOINED = "_print.html"
STYLE = """
@page { size: A4; margin: 18mm 16mm 20mm; }
html, body { background: #fff !important; font-size: 10.5pt; }
.bd-main, article { display: block !important; max-width: none !important; padding: 0 !important; }
article { break-before: page; }
article:first-of-type { break-before: auto; }
h1, h2, h3, h4 { break-after: avoid; }
figure, table, .admonition, details, tr { break-inside: avoid; }
.bd-article figure img { max-height: 205mm; width: auto; }
.bd-article pre, pre { white-space: pre-wrap !important; overflow-wrap: anywhere; font-size: 8pt !important; }
table { font-size: 8pt !important; width: 100%; }
table td, table th { white-space: normal !important; overflow-wrap: anywhere; }
.headerlink, .copybtn, .prev-next-footer, .tocsection, button { display: none !important; }
"""
FOOTER = (
    '<div style="font-size:7.5pt;color:#555;width:100%;padding:0 16mm;display:flex;justify-content:space-between">'
    '<span>DeSAM Lite, an executable study</span><span class="pageNumber"></span></div>'
)


def chapters(html: Path) -> list[Path]:
    """Return the pages of the contents, in order, but for the API's."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *[chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]]
    return [html / f"{name}.html" for name in names if "/api/" not in name]


def join(html: Path) -> str:
    """Return one page with the articles of all chapters."""
    pages = chapters(html)
    whole = BeautifulSoup(pages[0].read_text(encoding="utf-8"), "html.parser")
    _localise(whole, pages[0], html)
    articles = [_article(page, html, pages) for page in pages]
    body = whole.new_tag("body")
    main = whole.new_tag("main", attrs={"class": "bd-main bd-article"})
    main.extend(articles)
    body.append(main)
    if isinstance(whole.body, Tag):
        whole.body.replace_with(body)
    style = whole.new_tag("style")
    style.string = STYLE
    if isinstance(whole.head, Tag):
        whole.head.append(style)
    return str(whole)


def _article(page: Path, html: Path, pages: list[Path]) -> Tag:
    """Return a chapter's article; its ids begin with the chapter's name, so that they are unique in the whole."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article")
    if article is None:
        raise SystemExit(f"{page} has no article: build the book first.")
    _localise(article, page, html)
    for element in article.find_all(id=True):
        element["id"] = _place(page, element["id"])
    article["id"] = _place(page, "")
    for link in article.find_all("a", href=True):
        parts = urlsplit(link["href"])
        if parts.scheme:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if target in pages:
            link["href"] = "#" + _place(target, unquote(parts.fragment))
        else:
            del link["href"]  # a page that is not in the PDF
    return article


def _place(page: Path, name: str) -> str:
    return f"{page.stem}--{name}"


def _localise(part: Tag, page: Path, html: Path) -> None:
    """Make addresses of pictures, styles and scripts start from the folder of the joined page."""
    for name in ("src", "href"):
        for element in part.find_all(["img", "script", "link"], attrs={name: True}):
            parts = urlsplit(element[name])
            if not parts.scheme and parts.path:
                target = (page.parent / unquote(parts.path)).resolve()
                element[name] = target.relative_to(html.resolve()).as_posix()


def print_pdf(html: Path, out: Path) -> None:
    """Write the PDF."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit(
            "there is no chromium: install Debian's package of that name, or print pages from your browser."
        )
    joined = html / JOINED
    joined.write_text(join(html), encoding="utf-8")
    try:
        with sync_playwright() as running:
            browser = running.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(color_scheme="light")
            page.goto(joined.as_uri(), wait_until="load")
            page.evaluate("window.MathJax?.startup?.promise")
            page.wait_for_timeout(1000)
            options = {
                "display_header_footer": True,
                "header_template": "<span></span>",
                "footer_template": FOOTER,
            }
            page.pdf(
                path=out,
                prefer_css_page_size=True,
                print_background=True,
                outline=True,
                tagged=True,
                **options,
            )
            browser.close()
    finally:
        joined.unlink()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "html"
    pdf = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "_build" / "desam-lite.pdf"
    if not (folder / "index.html").exists():
        raise SystemExit(f"there is no book at {folder}: run 'make book' first.")
    print_pdf(folder.resolve(), pdf)
    print(f"wrote {pdf}")
