"""The book in a real browser, opened from the disk: wide and narrow, light and dark, without a network."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from built_book import ROOT, built_html, pages

pytestmark = pytest.mark.browser

WIDTHS = (1280, 390)
LOOKS = ("light", "dark")


@dataclass
class Visit:
    """An open page and what went wrong on it."""

    page: "Page"  # noqa: F821
    faults: list[str] = field(default_factory=list)

    def open(self, path: Path, query: str = "") -> None:
        self.page.goto(path.as_uri() + query, wait_until="load")
        if path.name == "index.html":  # it leads on to the introduction
            self.page.wait_for_url("**/introduction.html", wait_until="load")
        self.page.wait_for_timeout(100)


@pytest.fixture(scope="module")
def html() -> Path:
    return built_html()


@pytest.fixture
def visit(browser: "Browser", request: pytest.FixtureRequest) -> Iterator[Visit]:  # noqa: F821
    width, look = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=look)
    context.add_init_script(
        f"localStorage.setItem('mode', '{look}'); localStorage.setItem('theme', '{look}')"
    )
    opened = Visit(context.new_page())
    page, faults = opened.page, opened.faults
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "requestfailed", lambda asked: None if _left_early(asked) else faults.append(f"failed: {asked.url}")
    )
    page.on("request", lambda asked: None if _is_local(asked.url) else faults.append(f"outside: {asked.url}"))
    yield opened
    context.close()


def _left_early(asked: Any) -> bool:
    """Whether a request ended because the test went to another page: on a busy machine an icon is still being read then."""
    return asked.failure == "net::ERR_ABORTED"


def _is_local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


@pytest.mark.parametrize("visit", [(w, look) for w in WIDTHS for look in LOOKS], indirect=True, ids=str)
def test_every_page_opens_without_a_fault_and_fits(html: Path, visit: Visit) -> None:
    wrong = []
    for path in pages(html):
        visit.open(path)
        found = visit.page.evaluate(LOOK)
        wide = found["wide"] > 0
        filtered = {each for each in found["filters"] if each != "none"}
        wrong += [f"{path.name}: {fault}" for fault in visit.faults]
        wrong += [f"{path.name} is {found['wide']} pixels too wide: {found['widest']}"] if wide else []
        wrong += [f"{path.name}: pictures are filtered by {filtered}"] if filtered else []
        wrong += [f"{path.name}: {src} has no alternative text" for src in found["silent"]]
        visit.faults.clear()
    assert wrong == []


LOOK = """() => {
  const root = document.documentElement, images = [...document.querySelectorAll('img')];
  const over = [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1);
  return {
    wide: root.scrollWidth - root.clientWidth,
    widest: over.length ? over[0].outerHTML.slice(0, 120) : '',
    filters: [...document.querySelectorAll('article figure img')].map(i => getComputedStyle(i).filter),
    silent: images.filter(i => !(i.getAttribute('alt') || '').trim()).map(i => i.src),
  };
}"""


def test_every_experiment_shows_pictures_whose_grey_levels_can_be_looked_at(html: Path, visit: Visit) -> None:
    for path in (html / "book" / "executed").glob("*.html"):
        visit.open(path)
        loaded = visit.page.eval_on_selector_all("article figure img", "all => all.map(i => i.naturalWidth)")
        assert loaded and min(loaded) > 0, path.name


@pytest.mark.parametrize("visit", [(1280, "light"), (390, "dark")], indirect=True, ids=str)
def test_axe_finds_nothing_serious(html: Path, visit: Visit) -> None:
    script = axe_script()
    found = []
    for path in pages(html):
        if (path.parent.name == "api" and path.name != "data.html") or path.name in (
            "genindex.html",
            "index.html",
        ):
            continue  # made of the same parts, many thousands of them
        visit.open(path)
        visit.page.evaluate(script)
        for fault in visit.page.evaluate(AXE):
            found.append(f"{path.name}: {fault['id']} at {fault['nodes'][0]['html'][:150]}")
    assert found == []


# Text in the very colour of its ground is no violation for axe, as it may be hidden on purpose; here nothing is.
AXE = """async () => {
  const wanted = {resultTypes: ['violations', 'incomplete'], iframes: false, elementRef: false};
  const all = await axe.run(document, wanted);
  const unseen = node => node.any.some(check => check.data && check.data.messageKey === 'equalRatio');
  const blank = all.incomplete.filter(v => v.id === 'color-contrast' && v.nodes.some(unseen));
  for (const one of blank) one.nodes = one.nodes.filter(unseen);
  return [...all.violations.filter(v => ['serious', 'critical'].includes(v.impact)), ...blank];
}"""


def axe_script() -> str:
    """The script of axe-core, which checks whether people who cannot see or point can use a page."""
    pytest.importorskip("axe_playwright_python")
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def test_the_reader_is_led_through_the_whole_book_and_back(html: Path, visit: Visit) -> None:
    visit.open(html / "index.html")
    forward = [visit.page.url]
    while visit.page.locator("a.right-next").count():
        with visit.page.expect_navigation():
            visit.page.locator("a.right-next").first.click()
        forward.append(visit.page.url)
        assert len(forward) < 100
    back = [visit.page.url]
    while visit.page.locator("a.left-prev").count():
        with visit.page.expect_navigation():
            visit.page.locator("a.left-prev").first.click()
        back.append(visit.page.url)
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    assert back[::-1] == forward
    assert len(forward) == 1 + sum(len(part["chapters"]) for part in toc["parts"])


@pytest.mark.parametrize("visit", [(1280, look) for look in LOOKS], indirect=True, ids=str)
def test_captions_stand_out_from_the_page(html: Path, visit: Visit) -> None:
    for path in (html / "book" / "executed").glob("*.html"):
        visit.open(path)
        contrast = visit.page.evaluate(CONTRAST, "article figcaption p")
        assert contrast > 4.5


CONTRAST = """selector => {
  const light = colour => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const text = light(getComputedStyle(document.querySelector(selector)).color);
  const page = light(getComputedStyle(document.body).backgroundColor);
  return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
}"""


WIDGETS = {
    "coupling_seen": "pixel",
    "number_of_points": "threshold",
    "real_difference": "vote",
    "which_shift_hurts": "dial",
}


@pytest.mark.parametrize("visit", [(w, look) for w in WIDTHS for look in LOOKS], indirect=True, ids=str)
def test_widgets_answer_to_a_click_and_a_key(html: Path, visit: Visit) -> None:
    for name, kind in WIDGETS.items():
        visit.open(html / "book" / "executed" / f"{name}.html")
        widget = visit.page.locator(f".widget[data-widget={kind}]")
        widget.locator(".live").wait_for()
        told = widget.locator(".told")
        before = told.inner_text()
        if kind == "pixel":
            widget.locator(".view:visible svg").first.click(position={"x": 5, "y": 5})
        else:
            widget.locator("input[type=range], button").first.press("Enter" if kind == "vote" else "Home")
        if kind == "threshold":
            widget.get_by_role("slider").last.press("End")
        if kind == "dial":
            widget.get_by_role("slider").press("End")
        assert told.inner_text() != before, name
    assert visit.faults == []


def test_without_a_script_a_widget_is_its_table(html: Path, browser: "Browser") -> None:  # noqa: F821
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in WIDGETS:
        page.goto((html / "book" / "executed" / f"{name}.html").as_uri(), wait_until="load")
        assert page.locator(".widget table").is_visible() and page.locator(".live").count() == 0, name
    context.close()


def test_search_finds_a_word_of_the_book(html: Path, visit: Visit) -> None:
    visit.open(html / "search.html", "?q=hospital")
    visit.page.wait_for_selector("#search-results li a", timeout=10_000)
    assert visit.page.locator("#search-results li").count() >= 2
    assert visit.faults == []


def test_the_answer_of_a_prose_chapter_opens(html: Path, visit: Visit) -> None:
    visit.open(html / "book" / "quizzes.html")
    solution = visit.page.locator("details.sd-dropdown").first
    inside = solution.locator("p").last
    assert not inside.is_visible()
    solution.locator("summary").click()
    assert inside.is_visible()


def test_a_solution_opens(html: Path, visit: Visit) -> None:
    visit.open(html / "book" / "executed" / "domain_splits.html")
    solution = visit.page.locator("details", has_text="Show the solution").first
    hidden = solution.locator(".cell_input").first
    assert not hidden.is_visible()
    solution.locator("summary").first.click()
    assert hidden.is_visible()


def test_formulas_are_drawn_without_a_network(html: Path, visit: Visit) -> None:
    visit.open(html / "book" / "notation.html")
    visit.page.wait_for_selector("mjx-container", timeout=10_000)
    assert visit.faults == []


def test_a_reader_can_switch_to_dark(html: Path, visit: Visit) -> None:
    visit.open(html / "book" / "introduction.html")
    before = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(3):
        visit.page.locator("button.theme-switch-button").first.click()
        if visit.page.evaluate("getComputedStyle(document.body).backgroundColor") != before:
            return
    pytest.fail("the switch changes nothing")
