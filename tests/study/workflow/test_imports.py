"""What a notebook reaches is read from its code, so that a change to one chapter makes one page anew."""

from pathlib import Path

import pytest
from small_study import write_notebook

from desam_lite.study.workflow import imports
from desam_lite.study.workflow.imports import code_hash


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of four modules: `first` names `by_text` and `inner` in two other ways, `other` stands alone."""
    files = {
        "__init__.py": "",
        "first.py": "TABLE = {'x': 'small.by_text:Thing'}\ndef f():\n    from small.deep import inner\n",
        "by_text.py": "",
        "other.py": "",
        "deep/__init__.py": "",
        "deep/inner.py": "import numpy",
    }
    for name, text in files.items():
        (tmp_path / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / name).write_text(text)
    monkeypatch.setattr(imports, "PACKAGE", tmp_path / "small")
    return tmp_path / "small"


def hash_now(notebook: Path) -> str:
    for function in (imports._content, imports._imports_of, imports._files_of):
        function.cache_clear()  # as in a new process
    return code_hash(notebook)


@pytest.mark.parametrize(
    ("module", "reached"),
    [
        ("first.py", True),
        ("by_text.py", True),
        ("deep/__init__.py", True),
        ("deep/inner.py", True),
        ("__init__.py", True),
        ("other.py", False),
    ],
)
def test_a_notebook_is_keyed_by_the_modules_it_uses(module: str, reached: bool, package: Path) -> None:
    notebook = write_notebook(package.parent / "a.ipynb", body="%time\n")
    assert hash_now(notebook) == hash_now(write_notebook(package.parent / "a.ipynb", body="print(1)"))
    notebook = write_notebook(package.parent / "a.ipynb", body="from small import first")
    before = hash_now(notebook)
    (package / module).write_text((package / module).read_text() + "X = 1\n")
    assert (hash_now(notebook) != before) == reached


def test_a_chapter_is_reached_by_its_own_notebook_alone() -> None:
    root = Path(__file__).resolve().parents[3]
    chapter = root / "desam_lite" / "study" / "chapters" / "real_difference.py"
    reached = [p.stem for p in (root / "notebooks").glob("*.ipynb") if chapter in imports.reached_files(p)]
    assert reached == ["real_difference"]
