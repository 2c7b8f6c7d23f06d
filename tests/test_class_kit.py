"""The instructor's pages: every chapter in the plans and outcomes, every quiz with its answers, withdrawn verdicts gone."""

import json
import re
from collections import Counter
from itertools import pairwise

import pytest
import yaml
from built_book import ROOT

from desam_lite.evaluation.statistics import decide

PARTS = {
    part["caption"]: [chapter["file"].removeprefix("book/") for chapter in part["chapters"]]
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
}
TAUGHT = {
    caption: [chapter for chapter in chapters if not chapter.startswith("api/")]
    for caption, chapters in PARTS.items()
    if caption not in ("Start", "Appendix")
}


def page(name: str) -> str:
    return (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Split a page into its sections, heading -> text."""
    starts = [*re.finditer(r"^## (.+)$", text, re.MULTILINE), None]
    return {
        first[1]: text[first.end() : second.start() if second else None] for first, second in pairwise(starts)
    }


def test_every_chapter_has_an_outcome_and_a_misconception_in_the_order_of_the_book() -> None:
    written = sections(page("outcomes"))
    assert list(written) == list(TAUGHT)
    for caption, text in written.items():
        entries = re.findall(
            r"^\{doc\}`(.+)`\n: \*\*Outcome\.\*\* .+\n: \*\*Misconception\.\*\* ", text, re.M
        )
        assert entries == TAUGHT[caption]


@pytest.mark.parametrize("chapter", [chapter for chapters in TAUGHT.values() for chapter in chapters])
def test_every_chapter_is_in_the_semester(chapter: str) -> None:
    assert f"{{doc}}`{chapter}`" in sections(page("instructor"))["A semester"]


def test_every_part_has_a_quiz_in_the_order_of_the_book() -> None:
    assert list(sections(page("quizzes"))) == list(TAUGHT)


@pytest.mark.parametrize("caption", TAUGHT)
def test_each_question_has_choices_and_an_answer_that_is_one_of_them_with_its_chapter(caption: str) -> None:
    questions = re.split(r"^(?=\*\*\d+\.\*\* )", sections(page("quizzes"))[caption], flags=re.M)[1:]
    assert 4 <= len(questions) <= 6
    for number, question in enumerate(questions, start=1):
        assert question.startswith(f"**{number}.** ")
        choices = re.findall(r"^- \*\*([A-C])\*\* ", question, re.M)
        answer = re.search(r"^:::\{dropdown\} Answer\n\*\*([A-C])[.*]", question, re.M)
        assert len(choices) >= 2 and answer and answer[1] in choices, question
        chapter = re.search(r"\{doc\}`(.+)`\n:::", question)
        assert chapter and chapter[1] in TAUGHT[caption], question


def test_right_answers_are_not_always_the_same_letter() -> None:
    letters = re.findall(r"^\*\*([A-C])[.*]", page("quizzes"), re.M)
    assert max(letters.count(letter) for letter in "ABC") < len(letters) / 2


def test_the_quiz_on_the_decision_rule_has_the_verdict_of_the_rule() -> None:
    text = sections(page("quizzes"))["Question"]
    low, high, margin = re.search(
        r"from .([\d.]+) to \+([\d.]+) points of Dice, and the margin is (\d+) points", text
    ).groups()
    verdict = decide(-float(low), float(high), float(margin))
    answer = text.split("and the margin is")[1]
    right = re.search(r"\{dropdown\} Answer\n\*\*([A-C])", answer)[1]
    assert re.search(rf"^- \*\*{right}\*\* (.+)\.$", answer, re.M)[1].lower() == verdict


VERDICTS = re.findall(r"^(.+)\n: \*\*(Stands|Changed|Withdrawn)\.\*\* (.+)$", page("verdicts"), re.M)


def flatten(text: str) -> str:
    return " ".join(text.split())


def book_text() -> str:
    """Return the text of the book: Markdown pages but for that of the verdicts, notebooks, and the code of sentences."""
    parts = [path.read_text(encoding="utf-8") for path in (ROOT / "desam_lite").rglob("*.py")]
    parts += [
        path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md") if path.stem != "verdicts"
    ]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        parts += ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    return flatten("\n".join(parts))


def test_the_verdicts_are_counted_as_they_are() -> None:
    counts = Counter(kind for _, kind, _ in VERDICTS)
    sentence = (
        f"Of {len(VERDICTS)} verdicts, {counts['Stands']} stand, {counts['Changed']} were changed "
        f"and {counts['Withdrawn']} were withdrawn."
    )
    assert sentence in flatten(page("verdicts"))
    kinds = re.findall(r"^: \*\*(?:Stands|Changed|Withdrawn)\.\*\*", page("verdicts"), re.M)
    assert len(kinds) == len(VERDICTS)


def test_what_was_withdrawn_is_no_longer_in_the_book() -> None:
    text = book_text()
    withdrawn = [re.match(r'"(.+?)"', verdict) for verdict, kind, _ in VERDICTS if kind == "Withdrawn"]
    assert all(withdrawn)
    assert [quote[1] for quote in withdrawn if flatten(quote[1]) in text] == []


def test_the_verdicts_of_a_chapter_stand_under_its_title() -> None:
    headings = re.findall(r"^## (.+)\n\n\{doc\}`To the chapter <(.+)>`$", page("verdicts"), re.M)
    assert len(headings) == page("verdicts").count("\n## ") - 1  # all but the last section
    for heading, chapter in headings:
        notebook = ROOT / "notebooks" / f"{chapter.removeprefix('executed/')}.ipynb"
        first = (
            "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
            if chapter.startswith("executed/")
            else page(chapter)
        )
        assert first.splitlines()[0] == f"# {heading}"
