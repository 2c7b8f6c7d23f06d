"""The slides of a part: what they take from a built book, and how they answer to keys, touch, no script and paper."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from built_book import ROOT, built_html

CHAPTER = """<article><section><h1>What is shown?<a class="headerlink">#</a></h1><p><strong>A lot</strong>: 71 and 4 &lt; 5.</p>
<div class="admonition"><dl><dt>You will learn</dt><dd>to show</dd></dl></div>
<div class="admonition important"><p class="admonition-title">Important</p><p>Not comparable.</p></div>
<section><h2>A formula</h2><p>The mean is</p><div class="math">\\[ m = 3 \\]</div>
<p>where m is <a href="x.html">a mean</a>.</p></section>
<section><h2>Only words</h2><p>These stay in the book.</p></section>
<section><h2>A figure</h2><figure><img src="../_images/dot.png" alt="a dot" class="x"/><figcaption>
<p><span class="caption-number">Fig. 1 </span><span class="caption-text">One dot. Where is it?</span></p></figcaption></figure>
<div class="cell tag_hide-input"><div class="cell_input"><pre>def hidden(): pass</pre></div></div>
<div class="cell"><div class="cell_input"><pre>used = shown(1)</pre></div></div>
<div class="cell"><div class="cell_input"><pre>def shown(x): return x &lt; 2</pre></div>
<div class="cell_output"><table class="t"><tr><th>label</th></tr><tr><td>U-Net</td></tr></table></div></div></section>
<section><h2>Many</h2><ul>LIST</ul></section>
<section><h2>Recap</h2><ul><li>It was shown.</li></ul></section>
<section><h2>Exercises</h2><section><h3>Check</h3><p><strong>1.</strong> How many?</p><details><p>Two.</p></details></section>
<section><h3>Change</h3><p><strong>2.</strong> Change it.</p></section></section></section></article>"""
QUIZ = """<article><section><h1>Quizzes</h1><section><h2>Other</h2><p>1. No.</p></section><section><h2>Part &amp; one</h2>
<p><strong>1.</strong> Is it?</p><ul><li><strong>A</strong> Yes</li></ul>
<details><summary>Answer</summary><div class="sd-summary-content"><p><strong>A.</strong> It is.</p></div></details>
</section></section></article>"""
TOC = """root: intro
parts:
- {caption: Start, chapters: [{file: book/missing}]}
- {caption: Part & one, chapters: [{file: book/shown}, {file: book/api/model}]}
"""


@pytest.fixture(scope="module")
def slides() -> ModuleType:
    place = importlib.util.spec_from_file_location("make_slides", ROOT / "book" / "make_slides.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules["make_slides"] = module  # for its dataclass
    place.loader.exec_module(module)
    return module


@pytest.fixture
def deck(tmp_path: Path, slides: ModuleType) -> Path:
    html = tmp_path / "html"
    (html / "book").mkdir(parents=True)
    (html / "_images").mkdir()
    (html / "_images" / "dot.png").write_bytes(b"dot")
    items = "".join(f"<li>{f'item{n} ' * 40}</li>" for n in range(5))
    (html / "book" / "shown.html").write_text(CHAPTER.replace("LIST", items))
    (html / "book" / "quizzes.html").write_text(QUIZ)
    (tmp_path / "_toc.yml").write_text(TOC)
    (file,) = slides.write_slides(html, tmp_path / "slides", tmp_path / "_toc.yml")
    return file


def texts(file: Path) -> list[str]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    return [" ".join(section.get_text(" ").split()) for section in soup.select("section")]


def test_a_part_has_its_chapters_sections_recap_checks_and_quiz_in_order(deck: Path) -> None:
    whole = texts(deck)
    assert whole[0] == "Part & one What is shown?"
    assert whole[1] == "What is shown? A lot : 71 and 4 < 5. You will learn to show Not comparable."
    assert whole[2] == "What is shown? A formula The mean is \\[ m = 3 \\] where m is a mean."
    assert whole[3] == "What is shown? A figure Where is it? One dot."
    assert whole[4] == "What is shown? A figure def shown(x): return x < 2"
    assert whole[5] == "What is shown? A figure label U-Net"
    assert whole[-4] == "What is shown? Recap It was shown."
    assert whole[-3] == "What is shown? Exercise 1. How many?"
    assert whole[-2] == "Part & one: quiz Question 1. Is it? A Yes"
    assert whole[-1] == "Part & one: quiz Answer 1. Is it? A Yes A. It is."


def test_a_long_list_is_split_and_complete(deck: Path, slides: ModuleType) -> None:
    many = [text for text in texts(deck) if text.startswith("What is shown? Many")]
    assert len(many) > 1
    assert all(len(text.split()) < slides.MOST_WORDS for text in many)
    assert " ".join(many).count("item4") == 40


def test_images_lie_in_the_file_with_their_text(deck: Path) -> None:
    text = deck.read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,ZG90"' in text and 'alt="a dot"' in text


def test_the_list_of_parts_leads_to_them(deck: Path) -> None:
    assert f'href="{deck.name}"' in (deck.parent / "index.html").read_text(encoding="utf-8")


def test_nothing_of_the_template_is_from_outside() -> None:
    template = (ROOT / "book" / "slides_template.html").read_text(encoding="utf-8")
    assert "http" not in template and "//" not in template.split("<script>")[0]


@pytest.fixture
def show(browser: "Browser") -> Iterator[Any]:  # noqa: F821
    pages = []

    def opened(file: Path, **options: Any) -> Any:
        pages.append(browser.new_page(viewport={"width": 1280, "height": 720}, **options))
        pages[-1].goto(file.as_uri())
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


def shown(page: Any) -> int:
    """Return the number of the slide that is visible, from the page and not from its counter."""
    seen = page.evaluate(
        "[...document.querySelectorAll('section')].map((s, i) => getComputedStyle(s).visibility == 'visible' ? i + 1 : 0)"
    )
    (number,) = [each for each in seen if each]
    return int(number)


@pytest.mark.browser
def test_keys_buttons_and_address_move_between_slides(deck: Path, show: Any) -> None:
    page, last = show(deck), len(texts(deck))
    assert shown(page) == 1
    for key, number in [
        *(("ArrowRight", 2), ("Space", 3), ("PageDown", 4), ("ArrowLeft", 3), ("Shift+Space", 2)),
        *(("End", last), ("ArrowRight", last), ("Home", 1), ("ArrowLeft", 1)),
    ]:
        page.keyboard.press(key)
        assert shown(page) == number, key
    page.click("#next")
    assert shown(page) == 2 and page.inner_text("#place") == f"2 / {last}"
    page.keyboard.press("Space")  # on the button, which it presses once
    assert shown(page) == 3
    page.evaluate("location.hash = '5'")
    page.wait_for_function("document.getElementById('place').textContent.startsWith('5 ')")
    assert shown(page) == 5
    page.reload()
    assert shown(page) == 5


@pytest.mark.browser
def test_without_script_all_slides_can_be_read(deck: Path, show: Any) -> None:
    page = show(deck, java_script_enabled=False)
    assert page.locator("section:visible").count() == len(texts(deck))
    assert not page.locator("nav").is_visible()


@pytest.mark.browser
def test_slides_of_the_built_book_fit_and_load_nothing_from_outside(
    tmp_path: Path, slides: ModuleType, show: Any
) -> None:
    files = slides.write_slides(built_html(), tmp_path)
    assert len(files) == 7
    faults: list[str] = []
    for file in files:
        page = show(file)
        page.goto("about:blank")  # what the first look was still loading is no fault
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on(
            "request", lambda request: faults.append(request.url) if request.url.startswith("http") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(file.as_uri(), wait_until="load")
        page.evaluate("window.MathJax?.startup?.promise")
        for number in range(1, len(texts(file)) + 1):
            over = page.evaluate("(s => s.scrollHeight - s.clientHeight)(document.querySelector('.on'))")
            assert over <= 1, f"{file.name}, slide {number} is {over} pixels too high"
            page.keyboard.press("ArrowRight")
    assert faults == []
