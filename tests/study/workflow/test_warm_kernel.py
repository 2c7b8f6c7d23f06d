"""A notebook whose kernel is a copy of the warm process gives what one with a kernel of its own gives, and ends with it."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from test_execution import notebook

from desam_lite.study.workflow.job import WARM
from desam_lite.study.workflow.kernel import WarmKernelManager
from desam_lite.study.workflow.notebooks import execute_notebook
from desam_lite.study.workflow.reproduce import warm_process
from desam_lite.utils.errors import StudyError

FIGURE = """
import matplotlib, os, sys, torch
from matplotlib.figure import Figure
figure = Figure((2, 2))
figure.subplots().plot([0, 1], [1, 3])
print(torch.get_num_threads(), matplotlib.get_backend(), os.path.basename(os.getcwd()))
figure
"""
PYPLOT = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with warm_process(tmp_path_factory.mktemp("warm"), environment) as path:
        yield path


@pytest.fixture
def warm(socket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(WARM, socket)
    return socket


def outputs(path: Path) -> list[Any]:
    cells = nbformat.read(path, as_version=4).cells  # type: ignore[no-untyped-call]
    return [cell.get("outputs") for cell in cells]


def test_outputs_are_those_of_a_kernel_of_its_own(
    warm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = notebook(tmp_path / "why.ipynb", FIGURE, PYPLOT, "print(profile)")
    copy = execute_notebook(source, tmp_path / "warm.ipynb", {"profile": "smoke"}, progress=False)
    monkeypatch.delenv(WARM)
    own = execute_notebook(source, tmp_path / "own.ipynb", {"profile": "smoke"}, progress=False)
    assert outputs(copy) == outputs(own)
    assert "image/png" in str(outputs(copy))


def test_the_kernel_is_a_copy_and_two_know_nothing_of_each_other(warm: str, tmp_path: Path) -> None:
    tells = "import sys\nknown = 'x' in globals(), 'desam_lite.study.report.score_figures' in sys.modules\nx = 1\nprint(known)"
    source = notebook(tmp_path / "why.ipynb", tells)
    for name in ("first", "second"):
        out = execute_notebook(source, tmp_path / f"{name}.ipynb", progress=False)
        assert outputs(out)[-1][0]["text"] == "(False, True)\n"


def test_what_goes_wrong_is_told_as_of_a_kernel_of_its_own(warm: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="ZeroDivisionError in cell 3"):
        execute_notebook(notebook(tmp_path / "a.ipynb", "1 / 0"), tmp_path / "out.ipynb", progress=False)
    dies = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(StudyError, match="died"):
        execute_notebook(notebook(tmp_path / "b.ipynb", dies), tmp_path / "out.ipynb", progress=False)


def test_a_kernel_of_its_own_is_started_where_the_warm_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WARM, str(tmp_path / "gone"))
    out = execute_notebook(
        notebook(tmp_path / "why.ipynb", "print(profile)"), tmp_path / "out.ipynb", progress=False
    )
    assert outputs(out)[-1][0]["text"] == "teach\n"


def test_the_copy_ends_with_the_process_that_jupyter_watches(warm: str) -> None:
    copy = asyncio.run(_kill_what_jupyter_watches())
    end = time.monotonic() + 30
    while Path(f"/proc/{copy}").exists():
        assert time.monotonic() < end, f"the kernel {copy} goes on"
        time.sleep(0.1)


async def _kill_what_jupyter_watches() -> int:
    """Start a kernel and kill the process that Jupyter started; return the process id of what ran the cells."""
    manager = WarmKernelManager()
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    asked = client.execute("", user_expressions={"pid": "__import__('os').getpid()"})
    while (reply := await client.get_shell_msg(timeout=30))["parent_header"]["msg_id"] != asked:
        pass
    copy = int(reply["content"]["user_expressions"]["pid"]["data"]["text/plain"])
    watched = manager.provisioner.pid  # type: ignore[union-attr]
    assert Path(f"/proc/{copy}").exists()
    assert copy != watched
    os.kill(watched, signal.SIGKILL)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)
    return copy
