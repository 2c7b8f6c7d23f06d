"""pip and conda users get the same environment."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_conda_environment_lists_exactly_the_requirements_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert sorted(pip) == sorted(
        [*project["dependencies"], *extras["book"], *extras["dicom"], *extras["dev"]]
    )


def test_conda_environment_asks_for_the_python_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python{project['requires-python']}" in conda


def test_a_wheel_has_the_manifests_wherever_it_is_used(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="pip has no setuptools that can build this")
    shutil.copytree(
        ROOT / "desam_lite", tmp_path / "desam_lite", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "data_manifests", tmp_path / "data_manifests")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "."]
    subprocess.run([sys.executable, *build], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    code = "from desam_lite.data.manifest import load_manifest as m; print(m('phantom_prostate').name)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "phantom_prostate"
