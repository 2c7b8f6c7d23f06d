"""What a person is told about the graph: what would run and how long, what is going on, what failed."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from desam_lite.study.workflow.plan import Plan
from desam_lite.study.workflow.records import KINDS, Job, list_jobs, log_path, read_record, running, title_of

USUAL = {"data": 1.0, "embeddings": 2.0, "run": 2.0, "page": 0.7, "book": 0.7}
"""Minutes of a job of which there is no record yet, on two cores in the profile teach; only to have an order of size."""
LAST_LINES = 12


class Estimate:
    """Minutes of jobs, from what earlier ones took in the same workspace.

    Args:
        plan: What is to be done.
        folder: Of the graph.
    """

    def __init__(self, plan: Plan, folder: Path):
        self._plan = plan
        self._folder = folder
        self._same, self._alike = _past_runs(Path(plan["workspace"]))

    def minutes(self, job: Job) -> tuple[float, bool]:
        """Return the minutes of a job, and whether they are known from earlier ones of its kind."""
        if job.kind == "run":
            return self._of_run(self._plan["runs"][job.key]["spec"])
        seconds = _past_seconds(self._folder, job)
        return (seconds / 60, True) if seconds is not None else (USUAL[job.kind], False)

    def _of_run(self, spec: dict[str, Any]) -> tuple[float, bool]:
        same = self._same.get(_settings(spec))
        if same:
            return statistics.median(same), True
        alike = self._alike.get(_work(spec))
        if alike:
            return statistics.median(alike) * (spec["epochs"] or 1), True
        return USUAL["run"], False


def _past_runs(workspace: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return minutes by all settings but source and seed, and minutes per epoch by method and encoder alone."""
    same: dict[str, list[float]] = defaultdict(list)
    alike: dict[str, list[float]] = defaultdict(list)
    for path in (workspace / "runs").glob("*/run.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            minutes = sum(record["minutes"].values())
            settings = record["identity"]["settings"]
        except (OSError, ValueError, KeyError):
            continue
        same[_settings(settings)].append(minutes)
        alike[_work(settings)].append(minutes / (settings.get("epochs") or 1))
    return same, alike


def _settings(spec: dict[str, Any]) -> str:
    left_out = ("source", "seed", "manifest", "data_root", "weights")
    return json.dumps({key: value for key, value in spec.items() if key not in left_out}, sort_keys=True)


def _work(spec: dict[str, Any]) -> str:
    return json.dumps(
        [spec.get(key) for key in ("method", "backbone", "prompt_mode", "unet_size", "unet_width")]
    )


def _past_seconds(folder: Path, job: Job) -> float | None:
    kept = folder / "seconds.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    seconds = known.get(f"{job.kind}-{job.key}")
    return float(seconds) if seconds is not None else None


def open_jobs(plan: Plan, folder: Path) -> list[Job]:
    """Return the jobs that have no good record; data and embeddings count only where something still needs them."""
    missing = {job for job in list_jobs(plan) if (read_record(folder, job) or {}).get("status") != "ok"}
    needed = set()
    for job in missing:
        if job.kind == "run":
            run = plan["runs"][job.key]
            needed |= {Job("data", run["data"])} | (
                {Job("embeddings", run["embeddings"])} if run["embeddings"] else set()
            )
        elif job.kind == "page":
            needed |= {Job("data", key) for key in plan["pages"][job.key]["data"]}
    return [
        job
        for job in list_jobs(plan)
        if job in missing and (job.kind in ("run", "page", "book") or job in needed)
    ]


def say_plan(plan: Plan, folder: Path, jobs: int) -> str:
    """Return what would run, by experiment, and how long it may take."""
    todo = open_jobs(plan, folder)
    estimate = Estimate(plan, folder)
    lines = []
    for name, page in plan["pages"].items():
        left = [key for key in page["runs"] if Job("run", key) in todo]
        given = ", ".join(f"{key}={value}" for key, value in page["parameters"].items() if key != "workspace")
        state = "to be made" if Job("page", name) in todo else "current"
        lines.append(f"{name} ({given}): {len(page['runs'])} runs, {len(left)} of them to do; page {state}")
    for job in todo:
        minutes, known = estimate.minutes(job)
        lines.append(
            f"  {job.kind:10}  {title_of(plan, job):60}  {_span(minutes)}{'' if known else ' (a guess)'}"
        )
    total = sum(estimate.minutes(job)[0] for job in todo)
    guessed = sum(not estimate.minutes(job)[1] for job in todo)
    note = f"; {guessed} of them without a record of earlier ones" if guessed else ""
    if not todo:
        return "\n".join([*lines, "Nothing to do: all is made."])
    said = f"{len(todo)} jobs, {_span(total)} of computing, about {_span(total / jobs)} with {jobs} at once{note}."
    return "\n".join([*lines, said])


def say_status(plan: Plan, folder: Path) -> str:
    """Return how many jobs of each kind are done, running, failed and waiting, and which run or failed."""
    going = running(folder, plan)
    counts: dict[str, dict[str, int]] = {kind: defaultdict(int) for kind in KINDS}
    for job in list_jobs(plan):
        state = str((read_record(folder, job) or {}).get("status", "waiting"))
        counts[job.kind]["running" if job in going else {"ok": "done"}.get(state, state)] += 1
    lines = [
        f"{kind:10} " + ", ".join(f"{number} {state}" for state, number in each.items())
        for kind, each in counts.items()
        if each
    ]
    lines += [f"running    {_running(plan, job, mark)}" for job, mark in going.items()]
    return "\n".join([*lines, *say_failures(plan, folder)])


def _running(plan: Plan, job: Job, mark: dict[str, Any]) -> str:
    return f"{title_of(plan, job)} ({_span((time.time() - mark['started']) / 60)}, {mark['host']})"


def say_failures(plan: Plan, folder: Path) -> list[str]:
    """Return for each failed job its reason and the last lines of its log."""
    lines = []
    for job in failures(plan, folder):
        record = read_record(folder, job) or {}
        log = log_path(folder, job)
        lines.append(f"failed     {title_of(plan, job)}: {record.get('reason', '')}")
        lines += [f"    {line}" for line in _tail(log)] + [f"    (whole log: {log})"]
    return lines


def failures(plan: Plan, folder: Path) -> list[Job]:
    """Return the jobs that are recorded as failed."""
    return [job for job in list_jobs(plan) if (read_record(folder, job) or {}).get("status") == "failed"]


def _tail(log: Path) -> list[str]:
    try:
        text = log.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ["(no log)"]
    shown = [line.rpartition("\r")[2] for line in text.rstrip().split("\n")]
    return shown[-LAST_LINES:]


class Progress:
    """Tells, line by line, how a run of the graph goes on.

    Args:
        plan: What is to be done.
        folder: Of the graph.
        jobs: How many are done at once.
    """

    def __init__(self, plan: Plan, folder: Path, jobs: int):
        self._plan, self._folder, self._jobs = plan, folder, jobs
        self._todo = open_jobs(plan, folder)
        estimate = Estimate(plan, folder)
        self._minutes = {job: estimate.minutes(job)[0] for job in self._todo}
        self._expected = 0.0
        self._start = time.time()
        self._said: object = None

    def line(self) -> str | None:
        """Return how it stands now; None when there is nothing new to say."""
        ended = [job for job in self._todo if read_record(self._folder, job)]
        going = running(self._folder, self._plan)
        quiet = self._said is not None and not going and len(ended) < len(self._todo)
        if (len(ended), set(going)) == self._said or quiet:
            return None
        self._said = (len(ended), set(going))
        now = "; ".join(_running(self._plan, job, mark) for job, mark in list(going.items())[: 2 * 4])
        left = self._left(ended, going)
        passed, left = _span((time.time() - self._start) / 60), self._left(ended, going)
        return f"[{len(ended)}/{len(self._todo)}] {passed}, about {left} left; now: {now or ('ending' if ended else 'starting')}"

    def _left(self, ended: Sequence[Job], going: dict[Job, Any]) -> str:
        """Estimate what is left: the records' minutes, corrected by how long the jobs of this time took against them."""
        done = sum(self._minutes[job] for job in ended)
        spent = sum((time.time() - mark["started"]) / 60 for mark in going.values())
        passed = (time.time() - self._start) / 60 * self._jobs
        factor = (passed - spent) / done if done > 1 and passed > spent else 1.0
        rest = sum(minutes for job, minutes in self._minutes.items() if job not in set(ended)) * factor
        return _span(max(rest - spent, 0) / self._jobs)


def keep_seconds(plan: Plan, folder: Path) -> None:
    """Remember how long jobs took, for the next estimate."""
    from desam_lite.utils.files import write_json

    kept = folder / "seconds.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known |= dict(_seconds(plan, folder, list_jobs(plan)))
    write_json(kept, known)


def _seconds(plan: Plan, folder: Path, jobs: Iterable[Job]) -> Iterable[tuple[str, float]]:
    for job in jobs:
        record = read_record(folder, job) or {}
        if job.kind != "run" and "seconds" in record:
            yield f"{job.kind}-{job.key}", record["seconds"]


def _span(minutes: float) -> str:
    if minutes < 2:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
