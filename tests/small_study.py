"""A study that runs in seconds, for the tests of the graph: one small notebook on the tiny task of two domains."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
from conftest import write_tiny_case, write_tiny_task
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = """\
profile: str = "smoke"
manifest: str = "tiny.yaml"
data_root: str = "data"
workspace: str = "results"
methods: list[str] = ["prior", "unet"]
sources: list[str] = ["A", "B"]
jobs: int = 1
"""
BODY = """\
from pathlib import Path
from desam_lite.study.plans import plan_experiment
from desam_lite.study.profiles import get_profile
from desam_lite.study.parallel import execute_runs
from desam_lite.study.report.sentences import say_unfinished
asked = {"sources": sources, "methods": methods}
specs = plan_experiment("domain_splits", get_profile(profile), manifest, data_root, **asked)
print(say_unfinished(execute_runs(specs, workspace, progress=False)))
"""


def write_notebook(path: Path, parameters: str = PARAMETERS, body: str = BODY) -> Path:
    """Write a notebook with a cell of parameters and one that does its runs."""
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(body)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def write_study(root: Path) -> Path:
    """Write data, manifest, notebook and workflow; domain B has one case, too few to train and validate on."""
    _, data = write_tiny_task(root)
    for path in (data / "B").iterdir():
        path.unlink()
    write_tiny_case(data / "B", "B0", 10)
    (root / "data_manifests").mkdir()
    shutil.copytree(ROOT / "workflow", root / "workflow")
    write_notebook(root / "notebooks" / "domain_splits.ipynb")
    return root


def reproduce(root: Path, *words: object, **environment: str) -> "subprocess.Popen[str]":
    """Start ``desam-lite reproduce`` in a study."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "desam_lite.cli.main",
            "reproduce",
            "--no-book",
            "--pages",
            "pages",
            *map(str, words),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """Undo what a shell does to what it runs in the background: tests that were started there would not be stopped by SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
