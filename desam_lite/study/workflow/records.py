"""What the study remembers on disk: one record per finished job, one mark per running one, one log each.

A record says "ok" or "failed" and why. It is written last, whole or not at all, and believed only as long as what it speaks of
is still there (`drop_stale`).
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from desam_lite.study.plans import FAILED
from desam_lite.utils.files import digest, write_json, write_text

Plan = dict[str, Any]
"""``jobs``: name -> entry (see `desam_lite.study.workflow.plan`), each after those it needs; ``root`` and ``workspace``."""
Record = dict[str, Any]
BEAT = 2.0
"""Seconds between two signs of life of a running job."""
SILENT = 60.0
"""Seconds without one after which it counts as gone; a shared file system may show a change that late."""


def record_path(folder: Path, job: str) -> Path:
    """Return where the record of a job is, or will be."""
    return folder / "records" / f"{job}.json"


def log_path(folder: Path, job: str) -> Path:
    """Return where the output of a job is written."""
    return folder / "logs" / f"{job}.log"


def mark_path(folder: Path, job: str) -> Path:
    """Return where a running job leaves its mark."""
    return folder / "running" / f"{job}.json"


def read_record(path: Path) -> Record:
    """Return the content of a record or mark; empty when there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def status_of(folder: Path, job: str) -> str:
    """Return "ok", "failed", or "" for a job that has not ended."""
    return str(read_record(record_path(folder, job)).get("status", ""))


def write_record(folder: Path, job: str, status: str, **more: Any) -> None:
    """Write the record of a job."""
    write_json(record_path(folder, job), {"status": status, **more})


def write_mark(folder: Path, job: str, **more: Any) -> Path:
    """Mark a job as running; return its mark, which is to be touched every `BEAT` seconds and removed at the end."""
    mark = mark_path(folder, job)
    write_json(mark, {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time(), **more})
    return mark


def record_failure(folder: Path, job: str, reason: str) -> None:
    """Record a failed job; that of a run goes into its directory too, where notebooks look for it."""
    directory = read_record(mark_path(folder, job)).get("directory", "")
    if directory:
        write_text(Path(directory) / FAILED, reason + "\n")
    write_record(folder, job, "failed", reason=reason, directory=directory)


def list_running(folder: Path, plan: Plan) -> dict[str, Record]:
    """Return the jobs of a plan that gave a sign of life lately, with their marks."""
    marks = {job: mark_path(folder, job) for job in plan["jobs"]}
    alive = {job: read_record(mark) for job, mark in marks.items() if _age(mark) < SILENT}
    return {job: mark for job, mark in alive.items() if mark}


def _age(path: Path) -> float:
    stamp = stamp_file(path)
    return time.time() - stamp[1] / 1e9 if stamp else SILENT


def drop_stale(folder: Path, plan: Plan) -> None:
    """Remove the records that no longer hold: of failures, of what was changed, damaged or is gone, and of what needed that.

    Data that were deleted after everything was made with them make nothing else stale.
    """
    shutil.rmtree(folder / "running", ignore_errors=True)  # of processes that were killed
    stale: dict[str, Record] = {}
    spreading: set[str] = set()
    for job, entry in plan["jobs"].items():
        record = read_record(record_path(folder, job))
        sound = record.get("status") == "ok" and _holds(record_path(folder, job), entry, record)
        if not sound or spreading & set(entry["needs"]):
            stale[job] = record
            if entry["kind"] != "embeddings" and not (entry["kind"] == "data" and not _is_there(entry)):
                spreading.add(job)
    for job, record in reversed(stale.items()):  # what needs something first: a kill in between loses nothing
        record_path(folder, job).unlink(missing_ok=True)
        if record.get("directory"):
            _reopen_run(Path(record["directory"]), record)


def _is_there(entry: dict[str, Any]) -> bool:
    return Path(entry["root"]).is_dir()


def _holds(path: Path, entry: dict[str, Any], record: Record) -> bool:
    if entry["kind"] == "data":
        return bool(record.get("stamp") == stamp_folder(Path(entry["root"])))
    if entry["kind"] == "run":
        return bool(record.get("stamp") == stamp_run(Path(record.get("directory", "nowhere"))))
    if entry["kind"] == "page":
        return bool(
            record.get("key") == entry["key"] and record.get("stamp") == stamp_file(Path(entry["page"]))
        )
    if entry["kind"] == "book":
        younger = any(stamp_file(Path(source))[1:] > stamp_file(path)[1:] for source in entry["sources"])
        return Path(record.get("index", "nowhere")).is_file() and not younger
    return True


def _reopen_run(directory: Path, record: Record) -> None:
    """Take back that a run is done if it is damaged, and that it has failed: it is tried again."""
    (directory / FAILED).unlink(missing_ok=True)
    stamp = stamp_run(directory)
    if record["status"] == "ok" and record.get("stamp", stamp) != stamp:
        (directory / "done").unlink(missing_ok=True)


def stamp_run(directory: Path) -> str:
    """Return what names the results of a finished run by their sizes, or "" where some are missing; nothing is read."""
    results = [directory / "model.safetensors", *directory.glob("*.csv"), *directory.glob("predictions/*")]
    sizes = [[str(path.relative_to(directory)), path.stat().st_size] for path in results if path.is_file()]
    whole = all((directory / name).is_file() for name in ("done", "run.json"))
    return digest(sorted(sizes)) if whole else ""


def stamp_folder(root: Path) -> str:
    """Return what names the files below a folder by path, size and time of change."""
    return digest(sorted([str(path), *stamp_file(path)] for path in _files_below(root)))


def _files_below(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in names if name[0] != ".")  # of locks and unfinished files


def stamp_file(path: Path) -> list[int]:
    """Return size and time of change of a file; nothing where there is none."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
