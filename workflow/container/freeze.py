"""Write requirements.txt beside this file: the exact versions of what pyproject.toml asks for, as installed here.

python workflow/container/freeze.py
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1] / "pyproject.toml"
HEAD = "# The versions the container installs; made by freeze.py from pyproject.toml and an environment that passed the tests.\n"


def text() -> str:
    """Return what the file should say: every requirement and what these require, pinned."""
    asked = tomllib.loads(PROJECT.read_text())["project"]
    wanted = [*asked["dependencies"], *asked["optional-dependencies"]["book"]]
    found: dict[str, str] = {}
    _collect([Requirement(line) for line in wanted], found)
    return HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _collect(requirements: list[Requirement], found: dict[str, str]) -> None:
    for requirement in requirements:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system, or optional
        _collect(list(_needed(name, requirement.extras)), found)


def _needed(name: str, extras: set[str]) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(name) or []:
        needed = Requirement(line)
        environments = [{**default_environment(), "extra": extra} for extra in (extras or {""})]
        if needed.marker is None or any(needed.marker.evaluate(environment) for environment in environments):
            yield needed


if __name__ == "__main__":
    (HERE / "requirements.txt").write_text(text())
