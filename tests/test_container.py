"""The container installs pinned versions that fit pyproject.toml, from one place; linters find nothing."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CONTAINER = ROOT / "workflow" / "container"
UNDERSTOOD = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}


def pins() -> dict[str, str]:
    lines = [
        line for line in (CONTAINER / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", line) for line in lines)
    return dict(line.split("==") for line in lines)


def test_every_requirement_is_pinned_to_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = pins()
    for line in [*project["dependencies"], *project["optional-dependencies"]["book"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(known[requirement.name]), line


def test_the_pins_name_what_these_packages_need(monkeypatch: pytest.MonkeyPatch) -> None:
    made: str = runpy.run_path(str(CONTAINER / "freeze.py"))["text"]()
    names = {line.partition("==")[0] for line in made.splitlines() if not line.startswith("#")}
    system = ("nvidia-", "cuda-", "triton")  # other builds of PyTorch bring others of these
    missing = {name for name in names - pins().keys() if not name.startswith(system)}
    assert not missing, "run 'python workflow/container/freeze.py'"


def test_the_dockerfile_takes_its_versions_from_there_and_ends_without_root() -> None:
    read = runpy.run_path(str(CONTAINER / "clean_root.py"))["read_steps"]
    steps: list[tuple[str, str]] = list(read((ROOT / "Dockerfile").read_text()))
    words = {word for word, _ in steps}
    assert words <= UNDERSTOOD  # by clean_root.py, which does the steps without an engine
    assert steps[0][0] == "FROM" and re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", steps[0][1])
    installs = [rest for _, rest in steps if "pip install" in rest]
    assert installs and all("--no-deps" in rest for rest in installs)
    assert [rest for word, rest in steps if word == "USER"][-1] != "root"
    for word, rest in steps:
        if word == "COPY":
            assert (ROOT / rest.split()[0]).exists(), rest


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed (it comes with the extra 'dev' on x86-64)")
    done = subprocess.run([found, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_github_workflow_runs_what_everybody_runs_and_publishes_the_book() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    check, publish = workflow["jobs"]["check"], workflow["jobs"]["publish"]
    assert any(".ci/run" in step.get("run", "") for step in check["steps"])
    uploads = [step for step in check["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert uploads[0]["with"]["path"] == "_build/html"
    assert publish["needs"] == "check" and "main" in publish["if"]
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.search(r"@v\d", step["uses"]) for step in check["steps"] if "uses" in step)
