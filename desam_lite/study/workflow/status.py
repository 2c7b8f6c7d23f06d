"""What a person is told about the study: what would run and how long, what is going on, what failed."""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from desam_lite.study.workflow import records
from desam_lite.study.workflow.records import Plan, Record, status_of

USUAL_SECONDS = {"data": 20.0, "embeddings": 60.0, "run": 60.0, "page": 20.0, "book": 40.0}
"""Of a job when there is no record of its kind yet: on two cores in the profile teach, only to have an order of size."""
LAST_LINES = 12
"""Of the log of a failed job, which are shown."""
QUIET = 60.0
"""Seconds after which the progress line is shown although no job has ended."""
_NAMED = 8


def open_jobs(plan: Plan, folder: Path) -> list[str]:
    """Return the jobs that have no good record; data and embeddings only where something still needs them."""
    entries = plan["jobs"]
    missing = {job: entries[job] for job in entries if status_of(folder, job) != "ok"}
    final = {job for job, entry in missing.items() if entry["kind"] in ("run", "page", "book")}
    needed = final | {need for job in final for need in missing[job]["needs"]}
    return [job for job in missing if job in needed]


def failed_jobs(plan: Plan, folder: Path) -> list[str]:
    """Return the jobs that are recorded as failed."""
    return [job for job in plan["jobs"] if status_of(folder, job) == "failed"]


def estimate_seconds(plan: Plan, folder: Path, jobs: Sequence[str]) -> float:
    """Return the seconds of computing of some jobs: each as long as the recorded ones of its kind in the median."""
    seconds: dict[str, list[float]] = {kind: [] for kind in USUAL_SECONDS}
    for path in (folder / "records").glob("*.json"):
        if "seconds" in (record := records.read_record(path)):
            seconds[path.name.partition("-")[0].removesuffix(".json")].append(record["seconds"])
    usual = {kind: statistics.median(seconds[kind] or [USUAL_SECONDS[kind]]) for kind in seconds}
    return sum(usual[plan["jobs"][job]["kind"]] for job in jobs)


def say_plan(plan: Plan, folder: Path, at_once: int) -> str:
    """Return what would run, by page, and how long it may take."""
    entries, jobs, lines = plan["jobs"], open_jobs(plan, folder), []
    for job, page in entries.items():
        if page["kind"] == "page":
            runs = [need for need in page["needs"] if entries[need]["kind"] == "run"]
            left = sum(run in jobs for run in runs)
            values = {key: value for key, value in page["parameters"].items() if key != "workspace"}
            given = ", ".join(f"{key}={value}" for key, value in values.items())
            state = "to be made" if job in jobs else "current"
            name = job.removeprefix("page-")
            lines.append(
                f"{name} ({given}): {len(runs) + page['kept']} runs, {left} of them to do, {page['kept']} kept; page {state}"
            )
    if not jobs:
        return "\n".join([*lines, "Nothing to do: all is made."])
    lines += [f"  {entries[job]['kind']:10}  {entries[job]['title']}" for job in jobs]
    total = estimate_seconds(plan, folder, jobs)
    left_over = f"about {_span(total / at_once)} with {at_once} at once"
    return "\n".join([*lines, f"{len(jobs)} jobs, {_span(total)} of computing, {left_over} (estimated)."])


def say_status(plan: Plan, folder: Path) -> str:
    """Return how many jobs of each kind are done, running, failed and waiting, and which run or failed."""
    running = records.list_running(folder, plan)
    counts: dict[str, Counter[str]] = {}
    for job, entry in plan["jobs"].items():
        state = {"ok": "done", "failed": "failed", "": "waiting"}[status_of(folder, job)]
        counts.setdefault(entry["kind"], Counter())["running" if job in running else state] += 1
    lines = [
        f"{kind:10} {', '.join(f'{number} {state}' for state, number in counts[kind].items())}"
        for kind in USUAL_SECONDS
        if kind in counts
    ]
    lines += [f"running    {_say_running(plan, job, mark)}, {mark['host']}" for job, mark in running.items()]
    return "\n".join([*lines, *say_failed_jobs(plan, folder)])


def _say_running(plan: Plan, job: str, mark: Record) -> str:
    return f"{plan['jobs'][job]['title']} ({_span(time.time() - mark['started'])})"


def say_failed_jobs(plan: Plan, folder: Path) -> list[str]:
    """Return for each failed job its reason and the last lines of its log."""
    lines = []
    for job in failed_jobs(plan, folder):
        reason = records.read_record(records.record_path(folder, job)).get("reason", "")
        log = records.log_path(folder, job)
        lines.append(f"failed     {plan['jobs'][job]['title']}: {reason}")
        lines += [*(f"    {line}" for line in last_lines(log)), f"    (whole log: {log})"]
    return lines


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log as a terminal would show them."""
    try:
        text = log.read_bytes().decode(errors="replace")
    except OSError:
        return ["(no log)"]
    return [line.rpartition("\r")[2] for line in text.rstrip().split("\n")][-LAST_LINES:]


class ProgressLine:
    """Shows on standard error, line by line, how the study goes on.

    Args:
        plan: What is to be done.
        folder: Of the plan.
        jobs: What is left of it.
        at_once: How many are done at once.
    """

    def __init__(self, plan: Plan, folder: Path, jobs: Sequence[str], at_once: int):
        self._plan, self._folder, self._jobs, self._at_once = plan, folder, list(jobs), at_once
        self._start = time.time()
        self._shown = (-1, 0.0)

    def show(self) -> None:
        """Print how it stands, if a job has ended since the last time or that was long ago."""
        left = [job for job in self._jobs if not status_of(self._folder, job)]
        now = time.time()
        if len(left) == self._shown[0] and now - self._shown[1] < QUIET:
            return
        self._shown = (len(left), now)
        running = records.list_running(self._folder, self._plan)
        parts = [f"[{len(self._jobs) - len(left)}/{len(self._jobs)}] {_span(now - self._start)}"]
        if left:
            spent = sum(now - mark["started"] for mark in running.values())
            rest = max(estimate_seconds(self._plan, self._folder, left) - spent, 0)
            parts.append(f", about {_span(rest / self._at_once)} left")
        if running:
            names = [_say_running(self._plan, job, mark) for job, mark in running.items()]
            parts.append(f"; now: {'; '.join(names[:_NAMED])}")
        print("".join(parts), file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
