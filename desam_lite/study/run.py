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
from contextlib import contextmanager, nullcontext, suppress
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
from desam_lite.data.manifest import Manifest
from desam_lite.data.slices import split_cases
from desam_lite.data.tasks import Task, open_task
from desam_lite.evaluation.ceiling import label_ceiling
from desam_lite.evaluation.scoring import prediction_path, read_prediction, score_domains
from desam_lite.methods import METHODS, TrainedModel, load_predictor
from desam_lite.methods.frozen_encoder import check_weights, open_embeddings, weights_hash
from desam_lite.methods.model_card import make_card
from desam_lite.methods.run_spec import RUN_VERSION, RunSpec, make_spec
from desam_lite.model.sam import get_backbone
from desam_lite.study.kept import (
    DO_ANEW,
    MARK,
    MASKS_KEPT,
    SHOWN,
    find_kept,
    identify_rows,
)
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import CHECKPOINT, TrainSettings, train
from desam_lite.training.method import CARD, Method, Predictor
from desam_lite.utils import provenance
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, digest, sha256_file, write_json, write_text
from desam_lite.utils.progress import track

if TYPE_CHECKING:
    from lightning_fabric import Fabric


MASKS = "masks.csv"
"""File in the directory of a run of another tool's masks: which file is of which case, by content."""


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
    def is_kept(self) -> bool:
        """Whether it comes from a kept study and was not done here."""
        return (self.directory / MARK).exists()

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
        """Return the predicted organ ids ``(Z, H, W)`` of a test case; that they were asked for is noted, for `kept`.

        Raises:
            StudyError: They are not there: of a kept run, most are not kept.
        """
        if not self.is_kept:
            labels = self.stored_prediction(domain, case)
            with suppress(OSError):  # in a folder that may not be written
                write_text(self.directory / SHOWN / domain / case, "")
            return labels
        path = self.directory / MASKS_KEPT
        with nullcontext({}) if not path.exists() else np.load(path, allow_pickle=False) as masks:
            if f"{domain}/{case}" in masks:
                return np.asarray(masks[f"{domain}/{case}"], np.uint8)
        raise StudyError(f"the mask of {domain}/{case} by {self._title} was not kept: {DO_ANEW}.")

    def stored_prediction(self, domain: str, case: str) -> npt.NDArray[np.uint8]:
        """Return the predicted organ ids ``(Z, H, W)`` of a test case of a run that was done here."""
        return read_prediction(prediction_path(self.directory, domain, case))

    def load_model(self) -> TrainedModel:
        """Load its model.

        Raises:
            StudyError: It is not there, or damaged: of a kept run, most are not kept.
        """
        if self.is_kept and not (self.directory / CARD).exists():
            raise StudyError(f"the model of {self._title} was not kept: {DO_ANEW}.")
        return load_predictor(self.directory)

    @property
    def _title(self) -> str:
        return f"{self.spec.label} from {self.spec.source}, seed {self.spec.seed},"

    def identified(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return rows about this run with the columns that say which run it is."""
        return identify_rows(frame.assign(run=self.name), {self.name: (self.task, self.spec)})


def identify(spec: RunSpec, manifest: Manifest, data: str) -> dict[str, Any]:
    """Return what names a run by its hash: settings, and manifest, data, frozen weights and a method from outside by content."""
    code = METHODS[spec.method].code_hash()
    return {
        "settings": spec.settings(),
        "manifest": manifest.content_hash(),
        "data": data,
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
    """Return the run of a specification: where it is, or would be; one that is kept is put there.

    Raises:
        StudyError: The source or an organ is none of the task, or the weights of an unfinished run do not fit.
    """
    task.cases(spec.source)
    name = digest(identify(spec, task.manifest, task.data_hash))
    run = Run(spec, task.manifest.name, Path(workspace) / "runs" / name)
    learnt = task.only(spec.organs)
    if not run.finished and (kept := find_kept(workspace)) and name in kept:
        run.directory.mkdir(parents=True, exist_ok=True)
        with run_lock(run.directory):
            if not run.finished:
                kept.restore(name, run.directory)
    if not run.finished:
        check_weights(spec, len(learnt.manifest.organs))
    return run


def open_run(directory: Path) -> Run:
    """Return the run in a directory, by what its ``run.json`` says.

    Raises:
        StudyError: There is none, or it is damaged or of another version of this package.
    """
    try:
        record = json.loads((directory / "run.json").read_text())
        spec = make_spec(**record["identity"]["settings"], **record["files"])
        return Run(spec, record["task"], directory.resolve())
    except OSError as error:
        raise StudyError(f"'{directory}' is no folder of a run: give one, as results/runs/NAME.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"'{directory / 'run.json'}' is damaged or of another version of this package: do the run again."
        ) from error


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
    scored_cases(spec, task)
    if run.finished:
        return run
    options = ExecutionOptions(make_fabric(accelerator, devices, spec.precision), placement, progress)
    run.directory.mkdir(parents=True, exist_ok=True)
    if not options.fabric.is_global_zero:  # it helps to train; the first process does the rest
        quiet, task = replace(options, progress=False), task.only(spec.organs)
        fit(run, task, split_domain(spec, task, spec.source), open_store(run, task, quiet), quiet)
        return run
    with run_lock(run.directory):
        if not run.finished:
            execute(run, task, options)
    return run


@dataclass(frozen=True)
class ExecutionOptions:
    """How a run is executed, which changes none of its numbers."""

    fabric: "Fabric"
    placement: Placement
    progress: bool


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
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


def execute(run: Run, task: Task, options: ExecutionOptions) -> None:
    """Train, predict and score, and write the run's directory, ``done`` last."""
    provenance.reset_peak_memory()
    start, spec, folder = time.perf_counter(), run.spec, run.directory
    record = describe_run(run, task, options.fabric)
    write_json(folder / "run.json", record)
    task = task.only(spec.organs)  # from here on it has no other organs
    split = split_domain(spec, task, spec.source)
    write_csv(pd.DataFrame(split.items(), columns=["case", "part"]), folder / "split.csv")
    store = open_store(run, task, options)
    predictor = fit(run, task, split, store, options)
    trained = time.perf_counter()
    tested = scored_cases(spec, task)
    scores = score_domains(predictor.label, task, tested, store, folder, progress=options.progress)
    write_csv(scores, folder / "metrics.csv")
    predictor.save(folder, make_card(record, spec, task.manifest))
    minutes = {"training": (trained - start) / 60, "scoring": (time.perf_counter() - trained) / 60}
    parameters = predictor.parameters() if isinstance(predictor, Method) else ()
    count = sum(parameter.numel() for parameter in parameters)
    costs = {"minutes": minutes, "peak_memory": provenance.peak_memory(), "trained_parameters": count}
    if isinstance(predictor, Method):
        history = run.history()
        stopped = "plateau" if history["plateau"].iloc[-1] else "budget" if spec.patience else "schedule"
        grid = len(task.manifest.organs), predictor.mask_size, predictor.input_size
        labels = [task.slices.load(spec.source, case).labels for case in split]
        ceiling = float(np.nanmean([label_ceiling(volume, *grid) for volume in labels]))
        costs |= {"epochs": len(history), "stopped": stopped, "ceiling": ceiling}
    write_json(folder / "run.json", {**record, **costs})
    write_text(folder / "done", f"{datetime.datetime.now(datetime.UTC).isoformat()}\n")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def split_domain(spec: RunSpec, task: Task, domain: str) -> Mapping[str, str]:
    """Return case -> "train", "val" or "test" for a domain, by the rule of a run."""
    return split_cases(task.cases(domain), spec.split, spec.seed, patients=task.slices.patients(domain))


def scored_cases(spec: RunSpec, task: Task) -> dict[str, list[str]]:
    """Return domain -> what is scored; refuse to score nothing.

    That are the held-out cases of the source and, but for the split "half_tested", all cases of every target.
    """
    held_out = task.manifest.domains if spec.split == "half_tested" else (spec.source,)
    tested = {domain: task.cases(domain) for domain in task.manifest.domains}
    for domain in held_out:
        parts = split_domain(spec, task, domain)
        tested[domain] = [case for case in tested[domain] if parts[case] == "test"]
    if not any(tested.values()):
        count = len(task.cases(spec.source))
        raise StudyError(
            f"the {count} case(s) of {spec.source} alone leave none to test on: add another domain, or at least three patients."
        )
    return tested


def open_store(run: Run, task: Task, options: ExecutionOptions) -> EmbeddingStore | None:
    """Return the embeddings the run needs, computing what is missing; None for a method on slices."""
    if run.spec.embedding_format is None:
        return None
    workspace, device = run.directory.parents[1], options.fabric.device
    return open_embeddings(run.spec, task.slices, workspace, device, progress=options.progress)


def fit(
    run: Run, task: Task, split: Mapping[str, str], store: EmbeddingStore | None, options: ExecutionOptions
) -> Predictor:
    """Build the method and train it if it is one that trains."""
    spec, source = run.spec, run.spec.source
    parts = {part: [c for c, p in split.items() if p == part] for part in ("train", "val")}
    cases = [task.slices.load(source, case) for case in parts["train"]]
    predictor: Predictor = METHODS[spec.method](spec, len(task.manifest.organs), cases)
    if not isinstance(predictor, Method):
        predictor.to(options.fabric.device)
        return predictor
    data = {
        part: training_data(predictor, spec, task, names, store, options) for part, names in parts.items()
    }
    names = ("epochs", "patience", "batch_size", "learning_rate", "clip", "seed")
    settings = TrainSettings(**{name: getattr(spec, name) for name in names})
    epochs = train(predictor, data["train"], data["val"], settings, run.directory, options.fabric)
    rows = []
    title = f"training {spec.label} on {source}"
    for row in track(epochs, title, total=spec.epochs, enabled=options.progress):
        rows.append(row)
        write_csv(pd.DataFrame(rows), run.directory / "history.csv")
    return predictor


def training_data(
    method: Method,
    spec: RunSpec,
    task: Task,
    cases: list[str],
    store: EmbeddingStore | None,
    options: ExecutionOptions,
) -> TrainingData:
    """Return the slices of some cases of the source as a method takes them."""
    assert spec.train_slices is not None
    refs = list_slices(task.slices, spec.source, cases, spec.train_slices)
    n_organs = len(task.manifest.organs)
    sizes = {"size": method.mask_size, "square": method.input_size}
    if method.inputs == "pixels":
        unit_range = get_backbone(spec.backbone or "").unit_range
        return PixelData(task.slices, refs, n_organs, **sizes, unit_range=unit_range)
    if method.inputs == "slices":
        return SliceData(task.slices, refs, n_organs, method.input_size)
    assert store is not None
    device = options.fabric.device
    return EmbeddingData(store, refs, n_organs, **sizes, device=device, placement=options.placement)


def describe_run(run: Run, task: Task, fabric: "Fabric") -> dict[str, Any]:
    """Return what ``run.json`` says before the run has cost anything."""
    files = {"manifest": str(run.spec.manifest), "data_root": str(run.spec.data_root)}
    masks = run.directory / MASKS
    return {
        "run": run.name,
        "task": task.manifest.name,
        "label": run.spec.label,
        "method_module": METHODS[run.spec.method].module,
        "identity": identify(run.spec, task.manifest, task.data_hash),
        "files": {**files, "weights": run.spec.weights},
        **({"masks": sha256_file(masks)} if masks.is_file() else {}),
        "code": provenance.code_version(),
        "libraries": provenance.library_versions(),
        "device": provenance.device_name(fabric.device),
        "started": datetime.datetime.now(datetime.UTC).isoformat(),
    }


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table, atomically."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
