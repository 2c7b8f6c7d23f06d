"""Runs every step that needs a GPU, each within its own time, and keeps one log and one record.

    bash benchmarks/gpu.sh                        # see there
    python benchmarks/gpu.py --steps encoder      # some of the steps

Standard library only: it must be able to say what is missing. A step that fails or runs out of time does not stop the next. After
every step `gpu.json` is written anew, so that whatever ends this process, what was measured is there. `gpu_results.py`
makes the recorded results of it.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODULES = (
    *(
        "torch",
        "torchvision",
        "segment_anything",
        "lightning_fabric",
        "monai",
        "nibabel",
        "pydantic",
        "pydicom",
    ),
    *("numpy", "scipy", "pandas", "filelock", "psutil", "safetensors", "tqdm", "yaml", "pytest"),
)
"""What the steps import."""
MAKE_WHEELS = f"'make wheels WHEELS_FOR={sys.version_info.major}.{sys.version_info.minor}'"
MINUTES = 8.6
LIMITS = {"encoder": 95, "training": 65, "inference": 45, "embeddings": 45, "attention": 75}  # seconds
PRETRAIN_LEAST = 45  # seconds that are kept for the last step
PRETRAIN_END = 35  # seconds of it that are not for training: imports, the probe of the card, writing
PRETRAIN_QUICK = 3
STEP_LEAST = 12  # seconds under which no step is begun
GRACE = 5  # seconds between the request to stop and the end

PROBE = """
import importlib.util, json, sys
missing = [name for name in sys.argv[2:] if importlib.util.find_spec(name) is None]
machine = {"python": sys.version.split()[0], "missing": missing}
if "torch" not in missing:
    import torch
    usable = sys.argv[1] != "cuda" or torch.cuda.is_available()
    machine |= {"torch": torch.__version__, "usable": usable}
    if usable and sys.argv[1] == "cuda":
        card = torch.cuda.get_device_properties(0)
        machine |= {"device": card.name, "memory_gib": round(card.total_memory / 2**30, 1)}
print(json.dumps(machine))
"""


@dataclass
class Step:
    """One part of the run and what became of it.

    Attributes:
        name: What it is called.
        words: Its command, after the Python interpreter.
        limit: Seconds it may take; None for what the others leave.
        outcome: "passed", "failed", "stopped" (out of time) or "not begun".
        seconds: It took.
        tail: The end of its output where it did not pass.
    """

    name: str
    words: list[str]
    limit: float | None
    outcome: str = "not begun"
    seconds: float = 0.0
    tail: list[str] = field(default_factory=list)


def main() -> int:
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("gpu.py: ended from outside; gpu.json has what was measured")
    )
    chosen = _read_options()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (chosen.out / "gpu.log").open("w", encoding="utf-8") as log:
        return Session(chosen, Path(folder), log).run()


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose numbers say nothing")
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or HERE / "out"), help="default: %(default)s"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run alone")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="all steps together (default: %(default)s)"
    )
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="only these (default: all)")
    parser.add_argument(
        "--continue-from",
        default="shipped",
        help="weights that the pretraining begins with; 'nothing': random",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint.pt of a pretraining, which goes on from there instead"
    )
    return parser.parse_args()


class Session:
    """One run of all steps.

    Args:
        chosen: The command line.
        work: A folder for what is needed during the run alone.
        log: Receives everything that is printed.
    """

    def __init__(self, chosen: argparse.Namespace, work: Path, log: TextIO):
        self.chosen, self.work, self.log = chosen, work, log
        self.started = time.monotonic()
        self.records = work / "records"
        self.records.mkdir()
        self.machine: dict[str, Any] = {}
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TQDM_DISABLE": "1",
            "DESAM_LITE_GPU_TESTS": chosen.device,
        }
        self.environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, work / "site")))
        self.steps = self._plan()

    def run(self) -> int:
        """Run the steps; returns the status to exit with."""
        fault = self._prepare()
        if fault:
            self.say(f"gpu.py: {fault}")
            return 2
        for step in self.steps:
            try:
                self._run_step(step)
            finally:
                self._write()
        self.say("")
        for step in self.steps:
            self.say(f"{step.name:12} {step.outcome:10} {step.seconds:6.1f} s")
        self.say(
            f"log and records: {self.chosen.out}; next: python benchmarks/gpu_results.py {self.chosen.out / 'gpu.json'}"
        )
        return 0 if all(step.outcome == "passed" for step in self.steps) else 1

    def say(self, line: str) -> None:
        """Print a line and keep it."""
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def _left(self) -> float:
        return 60 * self.chosen.minutes - (time.monotonic() - self.started)

    def _plan(self) -> list[Step]:
        quick = ["--quick"] if self.chosen.quick else []
        threads = 1 if self.chosen.quick else os.cpu_count() or 1
        usual = [
            *quick,
            *f"--device {self.chosen.device} --threads {threads} --out".split(),
            str(self.records),
        ]
        # Only the older form of the report takes what a test has measured.
        pytest = [
            "-m",
            "pytest",
            "-m",
            "gpu",
            "tests/gpu",
            "-p",
            "no:cacheprovider",
            "-o",
            "junit_family=xunit1",
            "--junitxml",
        ]
        tests = [*pytest, str(self.work / "tests.xml")]
        pretrain = ["--folder", str(self.chosen.out), "--continue-from", self.chosen.continue_from]
        if self.chosen.checkpoint:
            pretrain += ["--checkpoint", str(self.chosen.checkpoint.resolve())]
        wait = 3 if self.chosen.quick else 1  # a rehearsal may share a slow machine
        steps = [
            Step("tests", tests, wait * 80),
            *(Step(name, [f"benchmarks/{name}.py", *usual], wait * limit) for name, limit in LIMITS.items()),
            Step("pretrain", ["benchmarks/pretrain.py", *usual, *pretrain], None),
        ]
        names = [step.name for step in steps]
        odd = [name for name in self.chosen.steps or [] if name not in names]
        if odd:
            sys.exit(f"gpu.py: there is no step '{odd[0]}': choose from {', '.join(names)}.")
        return [step for step in steps if step.name in (self.chosen.steps or names)]

    def _prepare(self) -> str | None:
        """Install the wheels and look at the machine; returns what keeps the steps from running."""
        if self.chosen.wheels is not None:
            wheels = sorted(map(str, self.chosen.wheels.glob("*.whl")))
            if not wheels:
                return f"'{self.chosen.wheels}' holds no wheel: fill it with {MAKE_WHEELS} on a machine with network."
            install = [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-index",
                "--no-deps",
                "--no-compile",
                "--target",
            ]
            if self._call([*install, str(self.work / "site"), *wheels], 60)[0] != "passed":
                return f"the wheels of '{self.chosen.wheels}' do not fit this Python: make them with {MAKE_WHEELS}."
        probe = [sys.executable, "-c", PROBE, self.chosen.device, *MODULES]
        done = subprocess.run(probe, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"Python cannot look at this machine: {done.stderr.strip().splitlines()[-1]}"
        self.machine = json.loads(done.stdout)
        self.say(json.dumps(self.machine))
        if shutil.which("nvidia-smi"):
            self.say(subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout)
        missing = self.machine.pop("missing")
        if missing:
            return (
                f"{', '.join(missing)} cannot be imported by {sys.executable}: run {MAKE_WHEELS} on a machine with network, "
                "and give the folder with --wheels."
            )
        if not self.machine["usable"]:
            return "PyTorch finds no GPU here: run it where nvidia-smi lists one, or rehearse with --quick --device cpu."
        return None

    def _run_step(self, step: Step) -> None:
        last, left = step.limit is None, self._left()
        later = 0 if last or self.steps[-1].limit is not None else PRETRAIN_LEAST
        limit = left if last else min(step.limit or 0, left - later)
        if limit < (PRETRAIN_LEAST if last else STEP_LEAST):
            self.say(f"== {step.name}: not begun, {left:.0f} s are left")
            return
        seconds = PRETRAIN_QUICK if self.chosen.quick else limit - PRETRAIN_END
        words = [*step.words, "--seconds", f"{seconds:.0f}"] if last else step.words
        self.say(f"\n== {step.name}: at most {limit:.0f} s of {left:.0f} s left: {shlex.join(words)}")
        start = time.monotonic()
        step.outcome, lines = self._call(words, limit)
        step.seconds = round(time.monotonic() - start, 1)
        if step.outcome != "passed":
            step.tail = lines[-30:]
        self.say(f"== {step.name}: {step.outcome} after {step.seconds} s")

    def _call(self, words: list[str], limit: float) -> tuple[str, list[str]]:
        """Run Python with these words, print what it prints; returns the outcome and its lines."""
        lines: list[str] = []
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                self.say(lines[-1])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            outcome = "passed" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "stopped"
        finally:
            _end_group(process)
        reader.join(GRACE)
        return outcome, lines

    def _write(self) -> None:
        """Write `gpu.json`: the machine, the steps, and every record there is so far."""
        records = {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(self.records.glob("*.json"))
        }
        content = {
            "quick": self.chosen.quick,
            "device": self.chosen.device,
            "machine": self.machine,
            "seconds": round(time.monotonic() - self.started, 1),
            "steps": [asdict(step) for step in self.steps],
            "tests": _read_tests(self.work / "tests.xml"),
            "records": records,
        }
        partial = self.chosen.out / ".gpu.json"
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.chosen.out / "gpu.json")


def _end_group(process: "subprocess.Popen[str]") -> None:
    """End a process and what it started, if it is still there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None and number == signal.SIGTERM:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _read_tests(path: Path) -> list[dict[str, Any]]:
    """Return name, outcome, seconds and what was measured of each test of a JUnit file."""
    if not path.exists():
        return []
    rows = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        faults = [child for child in case if child.tag in ("failure", "error", "skipped")]
        row = {
            "name": case.get("name"),
            "outcome": faults[0].tag if faults else "passed",
            "seconds": float(case.get("time", 0)),
        }
        row |= {p.get("name"): p.get("value") for p in case.iter("property")}
        rows.append(row | ({"message": faults[0].get("message", "")[:500]} if faults else {}))
    return rows


if __name__ == "__main__":
    sys.exit(main())
