"""What a graph remembers on disk: one record per finished job, one mark per running one, one log each.

A record says "ok" or "failed" and why. It is written last, whole or not at all, and believed only as long as what it speaks of
is still there (`drop_stale`).
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from desam_lite.utils.files import digest, write_json, write_text

Kind = Literal["data", "embeddings", "run", "page", "book"]
KINDS: dict[Kind, str] = {
    "data": "data",
    "embeddings": "embeddings",
    "run": "runs",
    "page": "pages",
    "book": "book",
}
"""Kind of job to its folder of records, which is also its part of the plan."""
BEAT = 2.0
"""Seconds between two signs of life of a running job."""
SILENT = 60.0
"""Seconds without one after which it counts as gone."""
FAILED = "failed"
"""File in a run directory that says why the run could not be finished."""


NO_RETRY = "DESAM_LITE_NO_RETRY"
"""Environment variable: what failed in the graph is not tried again in a notebook, which says so instead."""


class Job(NamedTuple):
    """One job of the graph."""

    kind: Kind
    key: str


Record = dict[str, Any]


def record_path(folder: Path, job: Job) -> Path:
    """Return where the record of a job is, or will be."""
    return folder / KINDS[job.kind] / f"{job.key}.json"


def log_path(folder: Path, job: Job) -> Path:
    """Return where what a job says is written."""
    return folder / "logs" / f"{job.kind}-{job.key}.log"


def mark_path(folder: Path, job: Job) -> Path:
    """Return where a running job leaves its mark."""
    return folder / "running" / f"{job.kind}-{job.key}.json"


def read_record(folder: Path, job: Job) -> Record | None:
    """Return the record of a job; None when there is none or it is damaged."""
    return _read(record_path(folder, job)) or _read(_beside(folder, job))


def write_record(folder: Path, job: Job, status: str, **more: Any) -> None:
    """Write the record of a job."""
    write_json(record_path(folder, job), {"status": status, **more})


def fail(folder: Path, job: Job, reason: str) -> int:
    """Record a failed job, a run in its directory too; return the exit status that lets the others go on, or not.

    Failed data or a failed book stop what needs them: their record goes beside the name that is waited for. A failed run or
    page stops nothing, and where the embeddings of an encoder fail, each of its runs says so.
    """
    directory = (_read(mark_path(folder, job)) or {}).get("directory", "")
    if directory:
        write_text(Path(directory) / FAILED, reason + "\n")
    record = {"status": "failed", "reason": reason, "directory": directory}
    stops = job.kind in ("data", "book")
    write_json(_beside(folder, job) if stops else record_path(folder, job), record)
    return int(stops)


def _beside(folder: Path, job: Job) -> Path:
    return record_path(folder, job).with_suffix(".failed")


def list_jobs(plan: dict[str, Any]) -> list[Job]:
    """Return all jobs of a plan, in the order of its stages."""
    jobs = [Job(kind, key) for kind, part in KINDS.items() if kind != "book" for key in plan[part]]
    return [*jobs, Job("book", "book")] if plan["book"] else jobs


def title_of(plan: dict[str, Any], job: Job) -> str:
    """Return a job in words."""
    return "the book" if job.kind == "book" else str(plan[KINDS[job.kind]][job.key]["title"])


def begin(folder: Path, job: Job, **more: Any) -> Path:
    """Mark a job as running; return its mark, which is to be touched every `BEAT` seconds and removed at the end."""
    mark = mark_path(folder, job)
    write_json(mark, {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time(), **more})
    return mark


def running(folder: Path, plan: dict[str, Any]) -> dict[Job, Record]:
    """Return the jobs of a plan that gave a sign of life lately, with their marks."""
    found: dict[Job, Record] = {}
    for job in list_jobs(plan):
        mark = mark_path(folder, job)
        try:
            alive = time.time() - mark.stat().st_mtime < SILENT
        except OSError:
            continue
        content = _read(mark)
        if content and alive and _lives(content):
            found[job] = content
    return found


def _lives(mark: Record) -> bool:
    """Tell whether a mark's process is there; of another machine only its signs of life are known."""
    if mark["host"] != socket.gethostname():
        return True
    try:
        os.kill(mark["pid"], 0)  # no signal, only the question
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def drop_stale(folder: Path, plan: dict[str, Any]) -> None:
    """Remove the records that no longer hold: of failures, of what was changed, of what is damaged or gone."""
    going = running(folder, plan)
    for job in list_jobs(plan):
        if job not in going:  # of a process that was killed
            mark_path(folder, job).unlink(missing_ok=True)
        record = read_record(folder, job)
        if record is None or record["status"] != "ok" or not _holds(plan, job, record):
            record_path(folder, job).unlink(missing_ok=True)
            _beside(folder, job).unlink(missing_ok=True)
            if job.kind == "run" and record and record.get("directory"):
                _forget(Path(record["directory"]), record)


def _holds(plan: dict[str, Any], job: Job, record: Record) -> bool:
    if job.kind == "data":
        return bool(record["stamp"] == listing(Path(plan["data"][job.key]["root"])))
    if job.kind == "run":
        return run_is_whole(Path(record["directory"]), record["bytes"])
    if job.kind == "page":
        page = plan["pages"][job.key]
        return bool(record["key"] == page["key"] and record["stamp"] == _stamp(Path(page["page"])))
    return job.kind == "embeddings" or Path(record["index"]).is_file()


def _forget(directory: Path, record: Record) -> None:
    """Take back that a run is done if it is damaged, and that it has failed: it is tried again."""
    (directory / FAILED).unlink(missing_ok=True)
    if record["status"] == "ok" and not run_is_whole(directory, record["bytes"]):
        (directory / "done").unlink(missing_ok=True)


def run_is_whole(directory: Path, sizes: dict[str, int]) -> bool:
    """Tell by names, sizes and last bytes whether a finished run is as it was left; nothing large is read."""
    tables = [directory / name for name in ("metrics.csv", "split.csv", "run.json")]
    whole = (directory / "done").is_file() and all(_ends_with_newline(path) for path in tables)
    return whole and run_sizes(directory) == sizes


def run_sizes(directory: Path) -> dict[str, int]:
    """Return the bytes of a run's model and of its predictions together."""
    model = directory / "model.safetensors"
    return {
        "model": model.stat().st_size if model.is_file() else 0,
        "predictions": sum(size for _, size, _ in _files(directory / "predictions")),
    }


def _ends_with_newline(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    except OSError:
        return False


def listing(root: Path) -> str:
    """Return what names the files below a folder by path, size and time of change."""
    return digest(sorted(_files(root)))


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    try:
        entries = list(os.scandir(root))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):  # locks, and what is not whole yet
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            status = entry.stat()
            yield entry.path, status.st_size, status.st_mtime_ns


def page_stamp(page: Path) -> list[int]:
    """Return size and time of change of a page."""
    return _stamp(page)


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> Record | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
