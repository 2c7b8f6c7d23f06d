"""Where a result comes from: the package's own commit, libraries, device, and the memory of one run."""

import mmap
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import torch

from desam_lite.utils import provenance


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the package in it, which the module takes for its own."""
    package = tmp_path / "desam_lite"
    package.mkdir()
    (package / "provenance.py").write_text("# here\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "desam_lite")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path


def test_a_clean_checkout_is_told_by_its_commit(checkout: Path) -> None:
    expected = {
        "version": metadata.version("desam-lite"),
        "commit": git(checkout, "rev-parse", "HEAD"),
        "dirty": False,
    }
    assert provenance.code_version() == expected


def test_changed_code_is_dirty_and_files_git_does_not_know_are_not(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("mine")
    assert provenance.code_version()["dirty"] is False
    (checkout / "desam_lite" / "provenance.py").write_text("# there\n")
    assert provenance.code_version()["dirty"] is True


def test_installed_below_another_repository_there_is_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / ".venv" / "desam_lite"
    installed.mkdir(parents=True)
    (installed / "provenance.py").write_text("# here\n")
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    found = provenance.code_version()
    assert (found["commit"], found["dirty"]) == (None, None)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.code_version()["commit"] is None


def test_libraries_are_told_by_their_versions() -> None:
    found = provenance.library_versions()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert {"python", "monai", "lightning-fabric", "segment-anything"} <= set(found)


def test_a_processor_is_told_with_its_threads() -> None:
    assert provenance.device_name(torch.device("cpu")).endswith(f", {torch.get_num_threads()} thread(s)")


def test_a_gpu_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a fast one")
    assert provenance.device_name(torch.device("cuda")) == "a fast one"


def _peak_can_be_reset() -> bool:
    """Tell, without the code under test, whether Linux's own reset of the peak does anything here."""
    try:
        with _block(60):
            before = _high_water_kib()
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water_kib() < before
    except OSError:
        return False


@contextmanager
def _block(mib: int) -> Iterator[None]:
    """Hold so much memory, from the system and back to it: the allocator may keep what it gets (`keep_freed_memory`)."""
    with mmap.mmap(-1, mib << 20) as block:
        block[:: mmap.PAGESIZE] = b"1" * (len(block) // mmap.PAGESIZE)  # each page is touched
        yield


def _high_water_kib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def test_peak_memory_is_that_since_the_last_reset() -> None:
    if not _peak_can_be_reset():
        pytest.skip("this system does not let a process reset its peak memory")
    with _block(60):
        high = provenance.peak_memory()["process_mib"]
    provenance.reset_peak_memory()
    low = provenance.peak_memory()["process_mib"]
    assert low < high - 40
    with _block(30):
        assert provenance.peak_memory()["process_mib"] == pytest.approx(low + 30, abs=10)


def test_memory_of_a_gpu_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "gpu_mib" not in provenance.peak_memory() or torch.cuda.is_available()
    resets: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 << 20)
    provenance.reset_peak_memory()
    assert resets == ["reset"]
    assert provenance.peak_memory()["gpu_mib"] == 3


def test_where_the_system_tells_less_the_peak_of_the_whole_process_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError("no such file")))
    provenance.reset_peak_memory()
    peak = provenance.peak_memory()["process_mib"]
    assert 50 < peak < 1 << 16
    assert "thread(s)" in provenance.device_name(torch.device("cpu"))
