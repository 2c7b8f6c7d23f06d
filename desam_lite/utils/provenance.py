"""Where a result comes from: code, libraries, machine, and what the run took."""

import contextlib
import importlib.metadata
import platform
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

import torch

_RESULTS_DEPEND_ON = ("torch", "segment-anything", "lightning-fabric", "monai", "nibabel", "numpy", "scipy")


def code_version() -> dict[str, Any]:
    """Return the package's version and, in a git checkout, the commit and whether the tree differs from it."""
    file = Path(__file__).resolve()
    # Installed into an environment below somebody's repository, the package is no part of that: its commit says nothing.
    tracked = _git(file.parent, "ls-files", "--error-unmatch", file.name) is not None
    commit = _git(file.parent, "rev-parse", "HEAD") if tracked else None
    changed = None if commit is None else _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    dirty = None if commit is None else bool(changed)
    return {"version": _installed("desam-lite"), "commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: _installed(name) for name in _RESULTS_DEPEND_ON}}


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # the code runs from a folder that Python was told of
        return "not installed"


def device_name(device: torch.device) -> str:
    """Return the device in words: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _proc("cpuinfo", r"model name\s*: (.+)") or platform.processor() or "CPU"
    return f"{name}, {torch.get_num_threads()} thread(s)"


def reset_peak_memory() -> None:
    """Start measuring the peak memory anew, where the system allows it (Linux).

    Elsewhere, and in containers that refuse it, the peak stays that of the whole life of the process.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> dict[str, float]:
    """Return the peak memory since `reset_peak_memory` in MiB: of the process, and of the GPU if there is one.

    Linux's own count is read, for psutil 7 has no peak and that of `resource` cannot be reset.
    """
    kib = _proc("self/status", r"VmHWM:\s*(\d+)") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks = {"process_mib": float(kib) / (2**20 if platform.system() == "Darwin" else 1024)}
    if torch.cuda.is_available():
        peaks["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return peaks


def _proc(name: str, pattern: str) -> str | None:
    """Return what the first group of a pattern matches in a file of Linux's ``/proc``; None elsewhere."""
    path = Path("/proc") / name
    match = re.search(pattern, path.read_text()) if path.exists() else None
    return match and match[1]
