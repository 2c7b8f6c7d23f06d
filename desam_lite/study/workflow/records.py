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
from typing import Any, Literal, NamedTuple

from desam_lite.study.plans import FAILED
from desam_lite.utils.files import digest, write_json, write_text

JobKind = Literal["data", "embeddings", "run", "page", "book"]
PARTS: dict[JobKind, str] = {
    "data": "data",
    "embeddings": "embeddings",
    "run": "runs",
    "page": "pages",
    "book": "book",
}
"""Kind of job to its folder of records, which is also its part of the plan; in the order of the stages."""
BEAT = 2.0
"""Seconds between two signs of life of a running job."""
SILENT = 60.0
"""Seconds without one after which it counts as gone; a shared file system may show a change that late."""


class StudyJob(NamedTuple):
    """One job of a plan."""

    kind: JobKind
    key: str


Record = dict[str, Any]


def record_path(folder: Path, job: StudyJob) -> Path:
    """Return where the record of a job is, or will be."""
    return folder / PARTS[job.kind] / f"{job.key}.json"


def log_path(folder: Path, job: StudyJob) -> Path:
    """Return where the output of a job is written."""
    return folder / "logs" / f"{job.kind}-{job.key}.log"


def mark_path(folder: Path, job: StudyJob) -> Path:
    """Return where a running job leaves its mark."""
    return folder / "running" / f"{job.kind}-{job.key}.json"


def read_record(path: Path) -> Record:
    """Return the content of a record or mark; empty when there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def status_of(folder: Path, job: StudyJob) -> str:
    """Return "ok", "failed", or "" for a job that has not ended."""
    return str(read_record(record_path(folder, job)).get("status", ""))


def write_record(folder: Path, job: StudyJob, status: str, **more: Any) -> None:
    """Write the record of a job."""
    write_json(record_path(folder, job), {"status": status, **more})


def write_mark(folder: Path, job: StudyJob, **more: Any) -> Path:
    """Mark a job as running; return its mark, which is to be touched every `BEAT` seconds and removed at the end."""
    mark = mark_path(folder, job)
    write_json(mark, {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time(), **more})
    return mark


def record_failure(folder: Path, job: StudyJob, reason: str) -> None:
    """Record a failed job; that of a run goes into its directory too, where notebooks look for it."""
    directory = read_record(mark_path(folder, job)).get("directory", "")
    if directory:
        write_text(Path(directory) / FAILED, reason + "\n")
    write_record(folder, job, "failed", reason=reason, directory=directory)


def list_jobs(plan: dict[str, Any]) -> list[StudyJob]:
    """Return all jobs of a plan, each after those it needs."""
    jobs = [StudyJob(kind, key) for kind, part in PARTS.items() if kind != "book" for key in plan[part]]
    return [*jobs, StudyJob("book", "book")] if plan["book"] else jobs


def entry_of(plan: dict[str, Any], job: StudyJob) -> dict[str, Any]:
    """Return what a plan says about a job: at least its ``title``, and its ``work``, equal for jobs that take equally long."""
    if job.kind == "book":
        return {"title": "the book", "work": "book"}
    entry: dict[str, Any] = plan[PARTS[job.kind]][job.key]
    return entry


def resources_of(plan: dict[str, Any], job: StudyJob) -> dict[str, int]:
    """Return the processors and GPUs that a job takes, and for a run or embeddings what else it asks of a cluster."""
    resources: dict[str, int] = entry_of(plan, job).get("resources", {"cpus": 1, "gpu": 0})
    return resources


def list_needs(plan: dict[str, Any], job: StudyJob) -> list[StudyJob]:
    """Return the jobs that must have ended before a job can start."""
    if job.kind == "data":
        return []
    if job.kind == "book":
        return [StudyJob("page", name) for name in plan["pages"]]
    entry = entry_of(plan, job)
    if job.kind == "page":
        runs = [StudyJob("run", key) for key in entry["runs"]]
        return [*(StudyJob("data", key) for key in entry["data"]), *runs]
    store = [StudyJob("embeddings", entry["embeddings"])] if entry.get("embeddings") else []
    return [StudyJob("data", entry["data"]), *store]


def list_running(folder: Path, plan: dict[str, Any]) -> dict[StudyJob, Record]:
    """Return the jobs of a plan that gave a sign of life lately, with their marks."""
    marks = {job: mark_path(folder, job) for job in list_jobs(plan)}
    alive = {job: read_record(mark) for job, mark in marks.items() if _age(mark) < SILENT}
    return {job: mark for job, mark in alive.items() if mark}


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def drop_stale(folder: Path, plan: dict[str, Any]) -> None:
    """Remove the records that no longer hold: of failures, of what was changed, damaged or is gone, and of what needed that.

    Data that were deleted after everything was made with them make nothing else stale.
    """
    shutil.rmtree(folder / "running", ignore_errors=True)  # of processes that were killed
    stale: dict[StudyJob, Record] = {}
    for job in list_jobs(plan):
        record = read_record(record_path(folder, job))
        sound = record.get("status") == "ok" and _holds(folder, plan, job, record)
        if not sound or any(need in stale and _spreads(plan, need) for need in list_needs(plan, job)):
            stale[job] = record
    for job, record in reversed(stale.items()):  # what needs something first: a kill in between loses nothing
        record_path(folder, job).unlink(missing_ok=True)
        if job.kind == "run" and record.get("directory"):
            _reopen(Path(record["directory"]), record)


def _spreads(plan: dict[str, Any], job: StudyJob) -> bool:
    """Whether what needs a job is stale with it."""
    return job.kind != "embeddings" and (job.kind != "data" or Path(plan["data"][job.key]["root"]).is_dir())


def _holds(folder: Path, plan: dict[str, Any], job: StudyJob, record: Record) -> bool:
    if job.kind == "data":
        return bool(record.get("stamp") == stamp_folder(Path(plan["data"][job.key]["root"])))
    if job.kind == "run":
        return bool(record.get("stamp") == stamp_run(Path(record["directory"])))
    if job.kind == "page":
        page = plan["pages"][job.key]
        return bool(
            record.get("key") == page["key"] and record.get("stamp") == stamp_file(Path(page["page"]))
        )
    if job.kind == "book":
        built = record_path(folder, job).stat().st_mtime
        younger = any(Path(path).stat().st_mtime > built for path in plan["book_sources"])
        return Path(record["index"]).is_file() and not younger
    return True


def _reopen(directory: Path, record: Record) -> None:
    """Take back that a run is done if it is damaged, and that it has failed: it is tried again."""
    (directory / FAILED).unlink(missing_ok=True)
    if record["status"] == "ok" and record.get("stamp") not in (
        None,
        stamp_run(directory),
    ):  # None: of an older edition
        (directory / "done").unlink(missing_ok=True)


def stamp_run(directory: Path) -> str:
    """Return what names the results of a finished run by their sizes, or "" where some are missing; nothing is read."""
    results = [directory / "model.safetensors", *directory.glob("*.csv"), *directory.glob("predictions/*")]
    sizes = [[str(path.relative_to(directory)), path.stat().st_size] for path in results if path.is_file()]
    whole = all((directory / name).is_file() for name in ("done", "run.json"))
    return digest(sorted(sizes)) if whole else ""


def stamp_folder(root: Path) -> str:
    """Return what names the files below a folder by path, size and time of change."""
    return digest(sorted(_walk(root)))


def _walk(root: Path) -> Iterator[tuple[str, int, int]]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):  # a lock, or what is not whole yet
                status = (Path(folder) / name).stat()
                yield f"{folder}/{name}", status.st_size, status.st_mtime_ns


def stamp_file(path: Path) -> list[int]:
    """Return size and time of change of a file; nothing where there is none."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
