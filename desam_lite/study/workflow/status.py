"""What a person is told about the study: what would run and how long, what is going on, what failed."""

import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from desam_lite.study.workflow.plan import Plan
from desam_lite.study.workflow.records import (
    PARTS,
    Record,
    StudyJob,
    entry_of,
    list_jobs,
    list_needs,
    list_running,
    log_path,
    read_record,
    record_path,
    status_of,
)

USUAL_SECONDS = {"data": 20.0, "embeddings": 60.0, "run": 60.0, "page": 20.0, "book": 40.0}
"""Of a job when there is no record of its kind yet: on two cores in the profile teach, only to have an order of size."""
LAST_LINES = 12
"""Of the log of a failed job, which are shown."""
QUIET = 60.0
"""Seconds after which the progress line is shown although no job has ended."""


def open_jobs(plan: Plan, folder: Path) -> list[StudyJob]:
    """Return the jobs that have no good record; data and embeddings only where something still needs them."""
    missing = [job for job in list_jobs(plan) if status_of(folder, job) != "ok"]
    needed = {need for job in missing if job.kind in ("run", "page") for need in list_needs(plan, job)}
    return [job for job in missing if job.kind in ("run", "page", "book") or job in needed]


def failed_jobs(plan: Plan, folder: Path) -> list[StudyJob]:
    """Return the jobs that are recorded as failed."""
    return [job for job in list_jobs(plan) if status_of(folder, job) == "failed"]


class Estimate:
    """Seconds that jobs may take: those of the same kind that are recorded in the folder, or a usual value.

    Args:
        plan: What is to be done.
        folder: Of the plan.
    """

    def __init__(self, plan: Plan, folder: Path):
        self._plan = plan
        self._seconds: dict[str, list[float]] = defaultdict(list)
        for kind, part in PARTS.items():
            for path in (folder / part).glob("*.json"):
                if "seconds" in (record := read_record(path)):
                    for name in (kind, record.get("work", "")):
                        self._seconds[name].append(record["seconds"])

    def seconds(self, job: StudyJob) -> tuple[float, bool]:
        """Return the seconds of a job, and whether an equal amount of work is recorded."""
        work = entry_of(self._plan, job).get("work")
        if work in self._seconds:
            return statistics.median(self._seconds[work]), True
        usual = self._seconds.get(job.kind)
        return (statistics.median(usual) if usual else USUAL_SECONDS[job.kind]), False


def say_plan(plan: Plan, folder: Path, at_once: int) -> str:
    """Return what would run, by experiment, and how long it may take."""
    jobs, estimate, lines = open_jobs(plan, folder), Estimate(plan, folder), []
    for name, page in plan["pages"].items():
        left = [key for key in page["runs"] if StudyJob("run", key) in jobs]
        given = ", ".join(f"{key}={value}" for key, value in page["parameters"].items() if key != "workspace")
        state = "to be made" if StudyJob("page", name) in jobs else "current"
        lines.append(f"{name} ({given}): {len(page['runs'])} runs, {len(left)} of them to do; page {state}")
    if not jobs:
        return "\n".join([*lines, "Nothing to do: all is made."])
    for job in jobs:
        seconds, recorded = estimate.seconds(job)
        guess = "" if recorded else " (a guess)"
        lines.append(f"  {job.kind:10}  {entry_of(plan, job)['title']:60}  {_span(seconds)}{guess}")
    total = sum(estimate.seconds(job)[0] for job in jobs)
    lines.append(
        f"{len(jobs)} jobs, {_span(total)} of computing, about {_span(total / at_once)} with {at_once} at once."
    )
    return "\n".join(lines)


def say_status(plan: Plan, folder: Path) -> str:
    """Return how many jobs of each kind are done, running, failed and waiting, and which run or failed."""
    running = list_running(folder, plan)
    counts: dict[str, Counter[str]] = {job.kind: Counter() for job in list_jobs(plan)}
    for job in list_jobs(plan):
        state = {"ok": "done", "failed": "failed", "": "waiting"}[status_of(folder, job)]
        counts[job.kind]["running" if job in running else state] += 1
    lines = [
        f"{kind:10} {', '.join(f'{number} {state}' for state, number in states.items())}"
        for kind, states in counts.items()
    ]
    lines += [f"running    {_say_running(plan, job, mark)}, {mark['host']}" for job, mark in running.items()]
    return "\n".join([*lines, *say_failed_jobs(plan, folder)])


def _say_running(plan: Plan, job: StudyJob, mark: Record) -> str:
    return f"{entry_of(plan, job)['title']} ({_span(time.time() - mark['started'])})"


def say_failed_jobs(plan: Plan, folder: Path) -> list[str]:
    """Return for each failed job its reason and the last lines of its log."""
    lines = []
    for job in failed_jobs(plan, folder):
        reason = read_record(record_path(folder, job)).get("reason", "")
        log = log_path(folder, job)
        lines.append(f"failed     {entry_of(plan, job)['title']}: {reason}")
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

    def __init__(self, plan: Plan, folder: Path, jobs: Sequence[StudyJob], at_once: int):
        self._plan, self._folder, self._at_once = plan, folder, at_once
        self._jobs = list(jobs)
        self._start = time.time()
        self._shown = (-1, 0.0)

    def show(self) -> None:
        """Print how it stands, if a job has ended since the last time or that was long ago."""
        ended = [job for job in self._jobs if status_of(self._folder, job)]
        now = time.time()
        if len(ended) == self._shown[0] and now - self._shown[1] < QUIET:
            return
        self._shown = (len(ended), now)
        running = list_running(self._folder, self._plan)
        names = "; ".join(_say_running(self._plan, job, mark) for job, mark in list(running.items())[:8])
        left = "" if len(ended) == len(self._jobs) else f", about {self._left(ended, running)} left"
        state = f"[{len(ended)}/{len(self._jobs)}] {_span(now - self._start)}{left}"
        print(f"{state}; now: {names}" if names else state, file=sys.stderr, flush=True)

    def _left(self, ended: Sequence[StudyJob], running: dict[StudyJob, Record]) -> str:
        """Estimate what is left, by what the jobs that have ended took."""
        estimate = Estimate(self._plan, self._folder)
        rest = sum(estimate.seconds(job)[0] for job in self._jobs if job not in ended)
        spent = sum(time.time() - mark["started"] for mark in running.values())
        return _span(max(rest - spent, 0) / self._at_once)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
