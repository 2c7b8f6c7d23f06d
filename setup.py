"""Puts the manifests of data_manifests/ into the built package; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithManifests(build_py):
    """Copies data_manifests/ into the wheel's package; an editable installation reads the folder itself."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        if not self.editable_mode:
            source, name = Path(__file__).resolve().parent / "data_manifests", "desam_lite/data_manifests"
            shutil.copytree(source, Path(self.build_lib) / name, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithManifests})
