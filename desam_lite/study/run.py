"""From a specification to a finished run directory: cached, resumable, done once, with provenance.

A run directory holds ``run.json`` (specification and provenance), ``split.csv``, ``history.csv``, ``predictions/`` (one NIfTI per
test case, on the scan's own grid), ``metrics.csv`` (one row per case, organ and protocol), ``model.safetensors`` with its card
``model.json``, and ``done``, written last.
"""

import datetime
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from desam_lite.data.datasets import EmbeddingData, PixelData, Placement, SliceData, TrainingData, list_slices
from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import split_cases
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation.scoring import prediction_path, read_prediction, score_domains
from desam_lite.methods import METHODS
from desam_lite.methods.frozen_encoder import check_weights, open_embeddings, weights_hash
from desam_lite.methods.model_card import make_card
from desam_lite.methods.run_spec import RUN_VERSION, RunSpec
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import CHECKPOINT, TrainSettings, train
from desam_lite.training.method import Method, Predictor
from desam_lite.utils import provenance
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, digest, write_json, write_text
from desam_lite.utils.progress import track

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Run:
    """A run on disk, finished or not.

    Attributes:
        spec: What it is.
        task: Name of the task.
        directory: Where it lies.
        error: Why it could not be finished this time; empty when all went well.
    """

    spec: RunSpec
    task: str
    directory: Path
    error: str = ""

    @property
    def name(self) -> str:
        """The hash that names the run."""
        return self.directory.name

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return (self.directory / "done").exists()

    @property
    def info(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        record: dict[str, Any] = json.loads((self.directory / "run.json").read_text())
        return record

    def metrics(self) -> pd.DataFrame:
        """Return one row per case, organ and protocol, with the columns that say which run it is.

        Raises:
            StudyError: The run is not finished.
        """
        if not self.finished:
            raise StudyError(
                f"run {self.name} ({self.spec.label} from {self.spec.source}) is not finished: run it again."
            )
        frame = pd.read_csv(self.directory / "metrics.csv", dtype={"target": str, "case": str, "organ": str})
        return self.identified(frame)

    def history(self) -> pd.DataFrame:
        """Return one row per finished epoch (none for a method that is not trained)."""
        path = self.directory / "history.csv"
        return self.identified(pd.read_csv(path)) if path.exists() else pd.DataFrame()

    def prediction(self, domain: str, case: str) -> npt.NDArray[np.uint8]:
        """Return the predicted organ ids ``(Z, H, W)`` of a test case."""
        return read_prediction(prediction_path(self.directory, domain, case))

    def identified(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return rows about this run with the columns that say which run it is."""
        spec = self.spec
        names = ("source", "method", "label", "variant", "prompt_mode", "backbone", "weights", "seed")
        columns = {"run": self.name, "task": self.task, **{name: getattr(spec, name) for name in names}}
        if "target" in frame:
            columns["in_domain"] = frame["target"] == spec.source
        return frame.assign(**columns)


def identify(spec: RunSpec, task: Task) -> dict[str, Any]:
    """Return what names a run: its settings, and manifest, data, frozen weights and a method from outside by content."""
    code = METHODS[spec.method].code_hash()
    return {
        "settings": spec.settings(),
        "manifest": task.manifest.content_hash(),
        "data": task.data_hash,
        "weights": weights_hash(spec),
        "version": RUN_VERSION,
        **({} if code is None else {"method_code": code}),
    }


def collect_metrics(runs: "Sequence[Run]") -> pd.DataFrame:
    """Return the metrics of all finished runs, one below the other; empty if there is none."""
    return _stacked([run.metrics() for run in runs if run.finished])


def collect_history(runs: "Sequence[Run]") -> pd.DataFrame:
    """Return the training histories of all finished runs, one below the other; empty if there is none."""
    return _stacked([run.history() for run in runs if run.finished])


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if not frame.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def find_run(spec: RunSpec, task: Task, workspace: Path | str) -> Run:
    """Return the run of a specification: where it is, or would be.

    Raises:
        StudyError: The source or an organ is none of the task, or the weights of an unfinished run do not fit.
    """
    task.cases(spec.source)
    name = digest(identify(spec, task))
    run = Run(spec, task.manifest.name, Path(workspace) / "runs" / name)
    learnt = task.only(spec.organs)
    if not run.finished:
        check_weights(spec, len(learnt.manifest.organs))
    return run


def execute_run(
    spec: RunSpec,
    workspace: Path | str,
    *,
    accelerator: str = "auto",
    devices: int = 1,
    placement: Placement = "auto",
    progress: bool = True,
) -> Run:
    """Do a run, or what is left of it; a finished one is returned as it is.

    Two processes asked for the same run do it once: the second waits for the first. A run that was killed continues from
    its last checkpoint and ends in the same ``metrics.csv``.

    Args:
        spec: What to run.
        workspace: Folder for results and caches.
        accelerator: "auto", "cpu" or "gpu".
        devices: How many of them.
        placement: Where the embeddings are held in training: on the "device", in "memory", on "disk", or "auto" (the first of
            these of which they fill less than half).
        progress: Whether to show progress bars.

    Raises:
        StudyError: The data, a setting or a weights file is at fault.
    """
    task = open_task(spec.manifest, spec.data_root, workspace, progress=progress)
    run = find_run(spec, task, workspace)
    if run.finished:
        return run
    means = _Means(make_fabric(accelerator, devices, spec.precision), placement, progress)
    run.directory.mkdir(parents=True, exist_ok=True)
    if not means.fabric.is_global_zero:  # it helps to train; the first process does the rest
        quiet = replace(means, progress=False)
        task = task.only(spec.organs)
        _learn(run, task, _split(spec, task), _embeddings(run, task, workspace, quiet), quiet)
        return run
    with _alone(run.directory):
        if not run.finished:
            _work(run, task, Path(workspace), means)
    return run


@dataclass(frozen=True)
class _Means:
    """What a run is done with, which changes none of its numbers."""

    fabric: "Fabric"
    placement: Placement
    progress: bool


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the lock of a run directory, waiting for whoever has it; the system frees the lock of a process that dies."""
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        tqdm.write(f"another process is doing run {directory.name}: waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _work(run: Run, task: Task, workspace: Path, means: _Means) -> None:
    provenance.reset_peak_memory()
    start, spec, folder = time.perf_counter(), run.spec, run.directory
    record = _record(run, task, means.fabric)
    write_json(folder / "run.json", record)
    task = task.only(spec.organs)  # from here on it has no other organs
    split = _split(spec, task)
    _write_csv(pd.DataFrame(split.items(), columns=["case", "part"]), folder / "split.csv")
    embeddings = _embeddings(run, task, workspace, means)
    predictor = _learn(run, task, split, embeddings, means)
    trained = time.perf_counter()
    tested = _tested(spec, task, split)
    scores = score_domains(predictor, task, tested, embeddings, folder, progress=means.progress)
    _write_csv(scores, folder / "metrics.csv")
    predictor.save(folder, make_card(record, spec, task.manifest))
    took = {"training": (trained - start) / 60, "scoring": (time.perf_counter() - trained) / 60}
    costs = {
        "minutes": took,
        "peak_memory": provenance.peak_memory(),
        "trained_parameters": _trained(predictor),
    }
    write_json(folder / "run.json", {**record, **costs})
    write_text(folder / "done", f"{datetime.datetime.now(datetime.UTC).isoformat()}\n")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _trained(predictor: Predictor) -> int:
    """Return how many numbers the training has set; 0 for what is not trained by steps."""
    return sum(p.numel() for p in predictor.parameters()) if isinstance(predictor, Method) else 0


def _split(spec: RunSpec, task: Task) -> Mapping[str, str]:
    return split_cases(
        task.cases(spec.source), spec.split, spec.seed, patients=task.slices.patients(spec.source)
    )


def _embeddings(run: Run, task: Task, workspace: Path | str, means: _Means) -> EmbeddingStore | None:
    """Return the embeddings the run needs, computing what is missing; None for a method on slices."""
    if run.spec.embedding_format is None:
        return None
    device = means.fabric.device
    return open_embeddings(run.spec, task.slices, Path(workspace), device, progress=means.progress)


def _learn(
    run: Run,
    task: Task,
    split: Mapping[str, str],
    embeddings: EmbeddingStore | None,
    means: _Means,
) -> Predictor:
    """Build the method and train it if it is one that trains."""
    spec, source = run.spec, run.spec.source
    chosen = {part: [c for c, p in split.items() if p == part] for part in ("train", "val")}
    cases = [task.slices.load(source, case) for case in chosen["train"]]
    predictor: Predictor = METHODS[spec.method](spec, len(task.manifest.organs), cases)
    if not isinstance(predictor, Method):
        predictor.to(means.fabric.device)
        return predictor
    data = {part: _data(predictor, spec, task, names, embeddings, means) for part, names in chosen.items()}
    rows = []
    epochs = train(predictor, data["train"], data["val"], _settings(spec), run.directory, means.fabric)
    bar = track(epochs, f"training {spec.label} on {source}", total=spec.epochs, enabled=means.progress)
    for row in bar:
        rows.append(row)
        _write_csv(pd.DataFrame(rows), run.directory / "history.csv")
    return predictor


def _data(
    method: Method,
    spec: RunSpec,
    task: Task,
    cases: list[str],
    embeddings: EmbeddingStore | None,
    means: _Means,
) -> TrainingData:
    assert spec.train_slices is not None
    refs = list_slices(task.slices, spec.source, cases, spec.train_slices)
    n_organs = len(task.manifest.organs)
    sizes = {"size": method.mask_size, "square": method.input_size}
    if method.inputs == "pixels":
        return PixelData(task.slices, refs, n_organs, **sizes)
    if embeddings is None:
        return SliceData(task.slices, refs, n_organs, method.input_size)
    device = means.fabric.device
    return EmbeddingData(embeddings, refs, n_organs, **sizes, device=device, placement=means.placement)


def _settings(spec: RunSpec) -> TrainSettings:
    names = ("epochs", "batch_size", "learning_rate", "clip", "seed")
    return TrainSettings(**{name: getattr(spec, name) for name in names})


def _tested(spec: RunSpec, task: Task, split: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the cases that are scored: the held-out ones of the source, all of every target."""
    held_out = [case for case, part in split.items() if part == "test"]
    domains = {domain: task.cases(domain) for domain in task.manifest.domains}
    return {**domains, spec.source: held_out}


def _record(run: Run, task: Task, fabric: "Fabric") -> dict[str, Any]:
    files = {"manifest": str(run.spec.manifest), "data_root": str(run.spec.data_root)}
    return {
        "run": run.name,
        "task": task.manifest.name,
        "label": run.spec.label,
        "method_module": METHODS[run.spec.method].module,
        "identity": identify(run.spec, task),
        "files": {**files, "weights": run.spec.weights},
        "code": provenance.code_version(),
        "libraries": provenance.library_versions(),
        "device": provenance.device_name(fabric.device),
        "started": datetime.datetime.now(datetime.UTC).isoformat(),
    }


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
