"""Do the Dockerfile's steps in a clean Debian root, where no container engine is at hand; needs root rights and debootstrap.

    python workflow/container/clean_root.py /tmp/root                            # build, and run what the image runs
    python workflow/container/clean_root.py /tmp/root --run "desam-lite info"    # build, and run something else
    python workflow/container/clean_root.py /tmp/root --copy /etc/pip.conf       # a file or folder of this machine, as it is
    python workflow/container/clean_root.py /tmp/root --python ~/.pyenv/versions/3.11.13    # this Python of this machine

The base is a Debian of the release named in FROM, with a Python of this machine or with Debian's own if none is given. The pins
need Python 3.11.5, and bookworm's own is 3.11.2: there pip stops and names the first that does. Everything else is read from the
Dockerfile. The root is made in a new folder and left there.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUDY = HERE.parents[1]
BASE = ("ca-certificates", "python3-venv")
# What a Python built from source links to, and minbase lacks.
LIBRARIES = (
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libreadline8",
    "libsqlite3-0",
    "libssl3",
    "zlib1g",
)
PYTHON = "/usr/local/python"


def main() -> None:
    """Make the root, do the steps one by one, and run what the image runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="a new folder")
    parser.add_argument(
        "--copy", type=Path, action="append", default=[], help="from this machine, into the same place"
    )
    parser.add_argument(
        "--python", type=Path, help="folder of this machine's Python, whose bin/ and lib/ are taken"
    )
    parser.add_argument("--run", default="", help="instead of the image's own command")
    chosen = parser.parse_args()
    steps = list(read_steps((STUDY / "Dockerfile").read_text()))
    root = Root(chosen.root)
    command: dict[str, list[str]] = {"ENTRYPOINT": [], "CMD": []}
    for word, rest in steps:
        if word == "FROM":
            root.make(rest.rpartition("-")[2], chosen.copy, chosen.python)
        elif word == "ENV":
            root.settings |= dict(re.findall(r"(\w+)=(\S+)", rest))
        elif word == "WORKDIR":
            root.work = rest
            root.path(rest).mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            root.copy(*rest.split())
        elif word == "RUN":
            root.run(rest)
        elif word == "USER":
            root.user = rest
        else:
            command[word] = json.loads(rest)
    root.run(chosen.run or " ".join(command["ENTRYPOINT"] + command["CMD"]))


def read_steps(text: str) -> Iterator[tuple[str, str]]:
    """Give (instruction, its words) for each step of a Dockerfile, comments left out and lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for step in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = step.strip().partition(" ")
        if word:
            yield word, " ".join(rest.split())


class Root:
    """A folder that stands for the whole file system of a machine.

    Attributes:
        folder: Where it is.
        settings: Environment variables of its commands.
        work: Their working folder, as seen from inside.
        user: Whose commands they are; "" for root.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.settings: dict[str, str] = {}
        self.work = "/"
        self.user = ""

    def path(self, inside: Path | str) -> Path:
        """Return where a path of the inside lies outside; one that is not absolute starts at the working folder."""
        return self.folder / Path(self.work, inside).relative_to("/")

    def make(self, release: str, copied: list[Path], python: Path | None) -> None:
        """Make a Debian of that release with a Python called ``python``, and this machine's way to the registries."""
        packages = BASE + (LIBRARIES if python else ())
        with_python = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        subprocess.run([*with_python, release, self.folder], check=True)
        if python:
            self._copy_python(python)
        for path in [Path("/etc/resolv.conf"), *copied]:
            self.path(path).parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, self.path(path), dirs_exist_ok=True)
            else:
                shutil.copy(path, self.path(path))
        # The pip that comes with a Python is old.
        self.run(f"python3 -m venv {PYTHON} && {PYTHON}/bin/python -m pip install --quiet --upgrade pip")

    def _copy_python(self, python: Path) -> None:
        """Copy a Python to /usr/local, without what was installed into it."""
        leave = shutil.ignore_patterns("site-packages", "__pycache__", "test")
        for pattern in ("bin/python3*", "lib/libpython3*", "lib/python3.*"):
            for found in python.glob(pattern):
                target = self.path("/usr/local") / found.relative_to(python)
                if found.is_dir():
                    shutil.copytree(found, target, symlinks=True, ignore=leave, dirs_exist_ok=True)
                else:
                    shutil.copy(found, target, follow_symlinks=False)
        self.run("ldconfig")

    def copy(self, source: str, target: str) -> None:
        """Copy from a fresh clone of this checkout: what is committed, with its history, for the code's version."""
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "clone"
            subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", STUDY, clone], check=True)
            self.path(target).parent.mkdir(parents=True, exist_ok=True)
            if (clone / source).is_dir():
                shutil.copytree(clone / source, self.path(target), dirs_exist_ok=True)
            else:
                shutil.copy(clone / source, self.path(target))

    def run(self, command: str) -> None:
        """Run a shell command inside; one that fails ends all."""
        print(f"+ {command}", flush=True)
        began = time.perf_counter()
        who = ["--userspec", f"{self.user}:{self.user}"] if self.user else []
        passed = {key: value for key, value in os.environ.items() if key.upper().startswith(("PIP_", "HTTP"))}
        path = f"{PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        subprocess.run(
            ["chroot", *who, self.folder, "bash", "-euc", f"cd {self.work} && {command}"],
            env={"HOME": "/tmp" if self.user else "/root", **passed, "PATH": path, **self.settings},
            check=True,
        )
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
