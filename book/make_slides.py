"""Make slides of each part from the built book: its figures, computed sentences, formulas, code in view, and the part's quiz.

Usage: python book/make_slides.py [HTML folder] [folder of the slides]

One file for each part, which holds its images; only formulas need the folder ``mathjax`` beside it. The template is
`slides_template.html`.
"""

import base64
import mimetypes
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).resolve().parents[1]
UNTAUGHT = {"Start", "Appendix"}
LEFT_OUT = {"Recap", "Exercises", "Where these numbers come from", "What is handed in"}
MOST_WORDS, MOST_LINES, MOST_ROWS, MOST_COLUMNS = 130, 20, 11, 7
"""What a slide can hold of text, of code and of a table; longer code and larger tables stay in the book."""
MATHJAX = """<script>window.MathJax = { options: { enableMenu: false } };</script>
<script defer src="mathjax/tex-chtml.js"></script>"""
QUIZ = "book/quizzes"


@dataclass
class Slide:
    """The heading of a slide and its content as HTML, and the chapter that it is from; none for what opens a part or chapter."""

    heading: str
    content: str
    chapter: str = ""

    def html(self) -> str:
        """Return the slide as a section."""
        heading = escape(self.heading, quote=False)
        if not self.chapter:
            return f'<section class="opening"><h1>{heading}</h1>{self.content}</section>'
        source = f'<p class="from">{escape(self.chapter, quote=False)}</p>'
        return f"<section>{source}<h2>{heading}</h2>{self.content}</section>"


def read_article(page: Path) -> Tag:
    """Return a page's article: links as text, images in it as data, without what only serves the page."""
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select_one("article")
    if article is None:
        raise SystemExit(f"{page} has no article: run 'make book' first.")
    for element in article.select(".headerlink, script, style, .copybtn, svg.sd-octicon"):
        element.decompose()
    for link in article.select("a"):
        link.unwrap()
    for image in article.select("img[src]"):
        if not image["src"].startswith("data:"):
            path = page.parent / unquote(urlsplit(image["src"]).path)
            kind = mimetypes.guess_type(path.name)[0] or "image/png"
            image["src"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        for name in ("class", "style", "width", "height"):
            del image[name]
    return article


def chapter_slides(page: Path) -> Iterator[Slide]:
    """Yield the slides of a chapter: question and answer, what its sections show, recap, exercises to check oneself."""
    article = read_article(page)
    title = _text(article.select_one("h1"))
    yield Slide(title, _opening(article))
    for section in article.select("section section"):
        heading = _text(section.find(["h2", "h3"], recursive=False))
        if section.find("h2", recursive=False) and heading not in LEFT_OUT:
            for content in _contents(section):
                yield Slide(heading, content, title)
        elif heading == "Recap":
            yield Slide("Recap", _inner(section.find("ul")), title)
        elif heading == "Check":
            for task in section.find_all("p", recursive=False):
                if re.match(r"\d+\.", _text(task)):
                    yield Slide("Exercise", str(task), title)


def _opening(article: Tag) -> str:
    """Return the answer, what is learnt, and what the numbers are not."""
    parts = []
    first = article.select_one("h1 ~ p")
    if first is not None:
        parts.append(f'<p class="answer">{first.decode_contents()}</p>')
    for term in article.select(".admonition dt"):
        if _text(term) == "You will learn":
            parts.append(f'<p class="small">You will learn {_text(term.find_next("dd"))}</p>')
    caveat = article.select_one(".admonition.important p:not(.admonition-title)")
    if caveat is not None:
        parts.append(f'<p class="small">{caveat.decode_contents()}</p>')
    return "".join(parts)


def _contents(section: Tag) -> Iterator[str]:
    """Yield what a section shows, a slide each: formulas or lists with their text, code in view, small tables, figures."""
    children = [child for child in section.children if isinstance(child, Tag)]
    for chunk in _chunks([part for child in children if _is_prose(child) for part in _split(child)]):
        if any(child.name != "p" for child in chunk):
            yield "".join(map(str, chunk))
    for child in children:
        if child.name == "figure" and child.find("img"):
            yield _figure(child)
        elif "cell" in child.get("class", []):
            yield from _cell(child)


def _is_prose(child: Tag) -> bool:
    return child.name in {"p", "ul", "ol", "dl"} or "math" in child.get("class", [])


def _split(child: Tag) -> Iterator[Tag]:
    """Yield prose as it is, or a list that no slide can hold in parts."""
    if child.name in {"p", "div"} or _words(child) <= MOST_WORDS:
        yield child
        return
    items = [item for item in child.children if isinstance(item, Tag)]
    part, first = Tag(name=child.name), 1
    for number, item in enumerate(items, start=1):
        if part.contents and item.name != "dd" and _words(part) + _words(item) > MOST_WORDS // 2:
            yield part
            part, first = Tag(name=child.name), number
        if child.name == "ol":
            part["start"] = str(first)
        part.append(item)
    yield part


def _chunks(prose: list[Tag]) -> Iterator[list[Tag]]:
    """Split prose where a slide is full; a formula, and the sentence that goes on after it, stay with what is before them."""
    chunk: list[Tag] = []
    for child in prose:
        goes_on = "math" in child.get("class", []) or (child.name == "p" and _text(child)[:1].islower())
        if chunk and not goes_on and sum(map(_words, [*chunk, child])) > MOST_WORDS:
            yield chunk
            chunk = []
        chunk.append(child)
    if chunk:
        yield chunk


def _words(element: Tag) -> int:
    return len(_text(element).split())


def _figure(figure: Tag) -> str:
    """Return the image, and of its caption the question large and the facts small."""
    caption = _text(figure.select_one("figcaption .caption-text") or figure.find("figcaption"))
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z])", caption)
    questions = [sentence for sentence in sentences if _is_question(sentence)]
    facts = [sentence for sentence in sentences if not _is_question(sentence)]
    image = str(figure.find("img"))
    prompt = f'<p class="ask">{escape(" ".join(questions), quote=False)}</p>' if questions else ""
    facts_small = f'<p class="small">{escape(" ".join(facts), quote=False)}</p>'
    return f'<div class="picture"><figure>{image}</figure><div>{prompt}{facts_small}</div></div>'


def _is_question(sentence: str) -> bool:
    return sentence.endswith("?") or sentence.startswith("Compare ")


def _cell(cell: Tag) -> Iterator[str]:
    """Yield a cell's code if it is in view, defines something and is short, and its tables if they are small."""
    hidden = any(name.startswith(("tag_hide", "tag_remove-input")) for name in cell.get("class", []))
    shown = cell.select_one(".cell_input pre")
    code = shown.get_text().strip() if shown is not None and not hidden else ""
    if re.search(r"^(def|class) ", code, re.MULTILINE) and code.count("\n") < MOST_LINES:
        yield f"<pre><code>{escape(code)}</code></pre>"
    for table in cell.select(".cell_output table"):
        rows = table.select("tr")
        if len(rows) <= MOST_ROWS and max(len(row.find_all(["td", "th"])) for row in rows) <= MOST_COLUMNS:
            for element in [table, *table.find_all(True)]:
                for name in ("class", "style", "border", "id"):
                    del element[name]
            yield str(table)


def quiz_slides(page: Path, part: str) -> Iterator[Slide]:
    """Yield a slide for each question of a part's quiz, and after it the same with its answer."""
    for section in read_article(page).select("section section"):
        if _text(section.find("h2", recursive=False)) != part:
            continue
        for question in section.find_all("p", recursive=False):
            choices, answer = question.find_next_sibling("ul"), question.find_next_sibling("details")
            text = f"{question}{choices}"
            yield Slide("Question", text, f"{part}: quiz")
            answers = "".join(map(str, answer.select(".sd-summary-content > p")))
            yield Slide("Answer", f'{text}<div class="answer">{answers}</div>', f"{part}: quiz")


def _text(element: Tag | None) -> str:
    return " ".join(element.get_text().split()) if element is not None else ""


def _inner(element: Tag | None) -> str:
    return str(element) if element is not None else ""


def part_slides(html: Path, part: str, chapters: list[str]) -> list[Slide]:
    """Return all slides of a part: its title with its chapters, the chapters, its quiz."""
    pages = [html / f"{chapter}.html" for chapter in chapters if "/api/" not in chapter]
    decks = [list(chapter_slides(page)) for page in pages]
    titles = "".join(f"<li>{escape(deck[0].heading, quote=False)}</li>" for deck in decks)
    opening = Slide(part, f"<ol>{titles}</ol>")
    quiz = html / f"{QUIZ}.html"
    return [opening, *(slide for deck in decks for slide in deck), *quiz_slides(quiz, part)]


def write_slides(html: Path, out: Path, toc: Path = ROOT / "_toc.yml") -> list[Path]:
    """Write the slides of every part that is taught, and a page that lists them; return the parts' files."""
    template = Template((Path(__file__).parent / "slides_template.html").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    written, links = [], []
    parts = yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]
    taught = [part for part in parts if part["caption"] not in UNTAUGHT]
    for number, part in enumerate(taught, start=1):
        name = part["caption"]
        slides = part_slides(html, name, [chapter["file"] for chapter in part["chapters"]])
        body = "\n".join(slide.html() for slide in slides)
        formulas = MATHJAX if 'class="math' in body else ""
        file = out / f"{number}-{re.sub(r'[^a-z]+', '-', name.lower())}.html"
        file.write_text(
            template.substitute(title=escape(name), mathjax=formulas, slides=body), encoding="utf-8"
        )
        written.append(file)
        links.append(f'<li><a href="{file.name}">{escape(name)}</a> ({len(slides)} slides)</li>')
    listing = f"<section><h1>DeSAM Lite: slides</h1><ol>{''.join(links)}</ol></section>"
    whole = template.substitute(title="DeSAM Lite: slides", mathjax="", slides=listing)
    (out / "index.html").write_text(whole, encoding="utf-8")
    _copy_mathjax(html / "_static" / "mathjax", out / "mathjax")
    return written


def _copy_mathjax(source: Path, target: Path) -> None:
    """Copy the bundle that the slides load, and its fonts."""
    if source.is_dir():
        fonts = Path("output") / "chtml" / "fonts"
        shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
        shutil.copy(source / "tex-chtml.js", target / "tex-chtml.js")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "html"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "_build" / "slides"
    if not (folder / "index.html").exists():
        raise SystemExit(f"there is no book at {folder}: run 'make book' first.")
    for path in write_slides(folder.resolve(), target):
        print(f"wrote {path}")
