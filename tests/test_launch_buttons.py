"""Buttons for Binder and Colab: from one address, to the notebook in the repository, none without an address."""

import importlib.util
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from built_book import ROOT

PAGE = "book/executed/five_minutes"


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    place = importlib.util.spec_from_file_location("launch", ROOT / "book" / "_ext" / "launch_buttons.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def buttons(launch: ModuleType, address: str, page: str) -> list[dict[str, Any]]:
    context: dict[str, Any] = {"header_buttons": ["the theme's"]}
    config = SimpleNamespace(repository_address=address, repository_branch="main")
    launch.add_buttons(SimpleNamespace(config=config), page, "page.html", context, None)
    assert context["header_buttons"][0] == "the theme's"
    return context["header_buttons"][1:]


def test_both_open_the_source_of_the_notebook(launch: ModuleType) -> None:
    links = launch.addresses("https://github.com/some/study.git", "main", PAGE)
    assert links == {
        "Binder": "https://mybinder.org/v2/gh/some/study/main?urlpath=lab/tree/notebooks/five_minutes.ipynb",
        "Colab": "https://colab.research.google.com/github/some/study/blob/main/notebooks/five_minutes.ipynb",
    }
    assert (ROOT / "notebooks" / "five_minutes.ipynb").is_file()


@pytest.mark.parametrize(
    ("address", "home"),
    [
        ("https://gitlab.com/group/some/study/", "gl/group%2Fsome%2Fstudy"),
        ("https://git.example.org/study", "git/https%3A%2F%2Fgit.example.org%2Fstudy"),
    ],
)
def test_only_binder_opens_repositories_of_other_homes(launch: ModuleType, address: str, home: str) -> None:
    links = launch.addresses(address, "a/branch", PAGE)
    assert list(links) == ["Binder"]
    assert f"/v2/{home}/a%2Fbranch?" in links["Binder"]


def test_without_an_address_no_page_has_buttons(launch: ModuleType) -> None:
    assert buttons(launch, "", PAGE) == []


def test_only_pages_of_notebooks_have_buttons(launch: ModuleType) -> None:
    (group,) = buttons(launch, "https://github.com/some/study", PAGE)
    assert [button["text"] for button in group["buttons"]] == ["Binder", "Colab"]
    assert buttons(launch, "https://github.com/some/study", "book/notation") == []


def test_the_repository_has_no_address_of_its_own() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    assert config["repository_address"] == ""


def test_binder_installs_the_package_and_not_the_container() -> None:
    """A folder ``binder`` is read in place of the Dockerfile, whose entry point is no notebook."""
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["--editable .[book]"]
    assert (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8").startswith("python-3.1")
