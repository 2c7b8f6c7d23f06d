"""Where a result comes from: code, libraries, machine, and what the run took."""

import importlib.metadata
import platform
import resource
import subprocess
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "segment-anything", "lightning-fabric", "monai", "nibabel", "numpy", "scipy")


def code_version() -> dict[str, Any]:
    """Return the package's version and, in a git checkout, the commit and whether the tree differs from it."""
    version: dict[str, Any] = {
        "version": importlib.metadata.version("desam-lite"),
        "commit": None,
        "dirty": None,
    }
    folder = Path(__file__).resolve().parent
    # Installed into an environment below somebody's repository, the package is no part of that: its commit says nothing.
    tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit = _git(folder, "rev-parse", "HEAD") if tracked else None
    if commit is not None:
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        version.update(commit=commit, dirty=bool(changed))
    return version


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **versions}


def device_name(device: torch.device) -> str:
    """Return the device in words: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'CPU'}, {torch.get_num_threads()} thread(s)"


def reset_peak_memory() -> None:
    """Start measuring the peak memory anew, where the system allows it (Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> dict[str, float]:
    """Return the peak memory since `reset_peak_memory` in MiB: of the process, and of the GPU if there is one."""
    peaks = {"process_mib": _process_peak()}
    if torch.cuda.is_available():
        peaks["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return peaks


def _process_peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (2**20 if platform.system() == "Darwin" else 1024)
