"""Which factor of the shift between two hospitals hurts: trained models on new patients, one dial of the scanner at a time.

The patients are made for this question: nobody has trained on them, and each is scanned again and again, with one dial turned
towards the other hospital or with all of them (`desam_lite.synthetic.phantoms.dials`). Nothing is trained or chosen here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from desam_lite.data.cases import to_organ_ids
from desam_lite.data.embeddings import AT_ONCE, ReadEmbeddings, encode_on_demand
from desam_lite.data.slices import prepare_intensity, select_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import Protocol, score_case
from desam_lite.methods import TrainedModel, load_predictor
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.study.report.cache import kept_table
from desam_lite.study.run import Run
from desam_lite.synthetic.phantoms import Case, Site, dial_names, dialled, make_case
from desam_lite.synthetic.phantoms.making import PHANTOM_VERSION, TASKS
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

DIALS_VERSION = 1
EVERY = "all dials"
"""What the turn of all dials together is called."""

_PATIENTS = 2020  # names the patients of this study, none of whom is in a task's data (its streams have another shape)


@dataclass(frozen=True)
class Shift:
    """The way from one hospital to another.

    Attributes:
        task: The synthetic task.
        source: Where every dial at 0 is.
        target: Where every dial at 1 is.
    """

    task: Task
    source: str
    target: str

    @property
    def sites(self) -> tuple[Site, Site]:
        """The two hospitals."""
        known = TASKS[self.task.manifest.name]
        return known[self.source], known[self.target]

    @property
    def dials(self) -> list[str]:
        """The names of its dials."""
        return dial_names(self.sites[0])

    def some(self, count: int) -> list[str]:
        """Return the first dials, and then all together; 0 for every single one."""
        return [*self.dials[: count or None], EVERY]

    def turned(self, positions: Mapping[str, float]) -> Site:
        """Return the first hospital with some dials turned; `EVERY` turns all of them.

        Raises:
            StudyError: There is no such dial, or a position is outside 0 to 1.
        """
        every = {name: part for name in self.dials for key, part in positions.items() if key == EVERY}
        return dialled(*self.sites, {**every, **{k: part for k, part in positions.items() if k != EVERY}})


def open_shift(task: Task, source: str, target: str = "") -> Shift:
    """Return the way from a hospital to another.

    Args:
        task: A synthetic one.
        source: Where models were trained.
        target: "" for the first other hospital of the task.

    Raises:
        StudyError: The task is not synthetic, or has no such hospitals.
    """
    name = task.manifest.name
    if name not in TASKS:
        raise StudyError(
            f"only a synthetic scanner has dials, and {name} is none: choose from {', '.join(TASKS)}."
        )
    target = target or next(domain for domain in task.manifest.domains if domain != source)
    for domain in (source, target):
        task.manifest.domain(domain)
    if target == source:
        raise StudyError(
            f"a dial leads from one hospital to another, and both are {source}: choose another one."
        )
    return Shift(task, source, target)


class Scan(NamedTuple):
    """A patient as a model sees them.

    Attributes:
        images: ``(Z, H, W)`` uint8, prepared as the source's scans are.
        labels: ``(Z, H, W)`` uint8, organ ids.
        spacing: ``(z, y, x)`` in mm.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]


def scan(shift: Shift, patient: int, positions: Mapping[str, float]) -> Scan:
    """Scan a patient with some dials turned; equal arguments give equal scans.

    Args:
        shift: Between which hospitals.
        patient: Their number; the anatomy is theirs whatever the dials (but for the balloon of an endorectal coil).
        positions: Name of a dial to its position; what is not named stays at 0.
    """
    stream = np.random.default_rng(np.random.SeedSequence(_PATIENTS, spawn_key=(patient,)))
    made: Case = make_case(shift.turned(positions), stream)
    manifest = shift.task.manifest
    intensity = manifest.domain(shift.source).intensity or manifest.intensity
    labels, _ = to_organ_ids(made.label, manifest, shift.source)
    return Scan(prepare_intensity(made.image.astype(np.float32), intensity), labels, made.spacing)


def turn_dials(
    runs: Sequence[Run],
    shift: Shift,
    workspace: Path | str,
    positions: Sequence[float],
    patients: int,
    *,
    dials: Sequence[str] = (),
    protocol: Protocol = "published",
    progress: bool = True,
) -> pd.DataFrame:
    """Score trained models on the same patients with each dial at each position; what is known is read from disk.

    Under ``published`` a model that sees slice by slice draws only those that this protocol scores.

    Args:
        runs: Finished, trained at the shift's source.
        shift: Between which hospitals.
        workspace: Folder for results and caches.
        positions: From 0 to 1; 0 is scanned once for all dials.
        patients: How many.
        dials: Names; empty for all of the scanner, each alone and then all together.
        protocol: How Dice is computed.
        progress: Whether to show a bar.

    Returns:
        One row per model, dial, position, patient and organ: ``dial``, ``position``, ``label``, ``source``, ``target``,
        ``in_domain`` (false), ``seed``, ``case``, ``organ``, ``dice``.

    Raises:
        StudyError: A model was trained elsewhere, or there is no such dial or position.
    """
    chosen = list(dials) or shift.some(0)
    for run in runs:
        if run.spec.source != shift.source:
            raise StudyError(
                f"{run.spec.label} was trained at {run.spec.source}: dials start from {shift.source}."
            )
    settings = {(name, part): {name: part} if part else {} for name in chosen for part in positions}
    for turned in settings.values():
        shift.turned(turned)  # refuses a wrong name before anything is made
    models = _Models(runs)
    work = [(key, patient) for patient in range(patients) for key in settings]
    found = []
    for (dial, part), patient in track(work, "turning dials", enabled=progress):
        trial = _Trial(models, shift, patient, settings[dial, part], protocol)
        for run in runs:
            table = kept_table(Path(workspace) / "dials", trial.made_from(run), partial(trial.score, run))
            found.append(table.assign(dial=dial, position=float(part), **_who(run, shift, patient)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _who(run: Run, shift: Shift, patient: int) -> dict[str, Any]:
    spec = run.spec
    place = {"label": spec.label, "source": spec.source, "target": shift.target, "in_domain": False}
    return {**place, "seed": spec.seed, "case": f"Patient{patient:02d}"}


class _Models:
    """Loads each model when it is first asked for, and once."""

    def __init__(self, runs: Sequence[Run]):
        self._runs, self._loaded = {run.name: run for run in runs}, dict[str, TrainedModel]()

    def __getitem__(self, run: Run) -> TrainedModel:
        if run.name not in self._loaded:
            self._loaded[run.name] = load_predictor(self._runs[run.name].directory)
        return self._loaded[run.name]


class _Trial:
    """One patient under one setting: scanned when first needed, embedded once for all models with one encoder."""

    def __init__(
        self, models: _Models, shift: Shift, patient: int, positions: Mapping[str, float], protocol: Protocol
    ):
        self.models, self.shift, self.patient, self.positions = models, shift, patient, positions
        self.protocol: Protocol = protocol
        self._scan: Scan | None = None
        self._maps: dict[tuple[str, str], ImageEmbeddings] = {}

    def made_from(self, run: Run) -> dict[str, object]:
        what = ["dials", DIALS_VERSION, PHANTOM_VERSION, run.name, self.shift.task.manifest.content_hash()]
        how = [_PATIENTS, self.patient, asdict(self.shift.turned(self.positions)), self.protocol]
        return {"what": what, "how": how}

    def score(self, run: Run) -> pd.DataFrame:
        self._scan = self._scan or scan(self.shift, self.patient, self.positions)
        drawn = draw(self.models[run], self._scan, self._rows(), self._maps)
        organs = self.shift.task.manifest.organs
        values = [
            score_case(drawn, self._scan.labels, self._scan.spacing, number, self.protocol).dice
            for number in range(1, len(organs) + 1)
        ]
        return pd.DataFrame({"organ": [organ.name for organ in organs], "dice": values})

    def _rows(self) -> list[int]:
        assert self._scan is not None
        labels = self._scan.labels
        return select_slices(labels, "all" if self.protocol == "whole_volume" else "foreground")


def draw(
    model: TrainedModel,
    scanned: Scan,
    rows: Sequence[int],
    known: dict[tuple[str, str], ImageEmbeddings] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw the organs into some slices of a scan.

    Args:
        model: Of `desam_lite.methods.load_predictor`.
        scanned: The scan.
        rows: Which slices; a model that does not see slice by slice gets all of them.
        known: Embeddings of these slices by encoder, taken from and added to.

    Returns:
        ``(Z, H, W)`` uint8, zero in slices that were not drawn.
    """
    predictor, drawn = model.predictor, np.zeros_like(scanned.labels)
    if not isinstance(predictor, PromptedMethod):
        every = encode_on_demand(predictor.encoder, scanned.images, "float16") if predictor.encoder else None
        return np.stack([one.labels for one in predictor.predict(scanned.images, every)])
    images = scanned.images[list(rows)]
    read = _embedded(model, images, {} if known is None else known)
    for row, one in zip(rows, predictor.predict(images, read), strict=True):
        drawn[row] = one.labels
    return drawn


def _embedded(
    model: TrainedModel, images: npt.NDArray[np.uint8], known: dict[tuple[str, str], ImageEmbeddings]
) -> ReadEmbeddings:
    encoder, form = model.predictor.encoder, model.card.spec.embedding_format or "float16"
    assert encoder is not None
    name = (f"{encoder.backbone} {model.card.weights_hash}", form)
    if name not in known:
        encode, count = encode_on_demand(encoder, images, form), len(images)
        parts = [encode(range(start, min(start + AT_ONCE, count))) for start in range(0, count, AT_ONCE)]
        known[name] = ImageEmbeddings.stack(parts)
    return lambda rows: known[name][torch.arange(rows.start, rows.stop)]


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return what each dial costs: Dice with it fully turned minus that with all at 0, patient by patient.

    Args:
        table: Of `turn_dials`, with positions 0 and another.

    Returns:
        Rows that `desam_lite.evaluation.statistics` takes, with ``dial``: ``value`` is negative where the dial hurts.
    """
    keys = ["label", "source", "target", "in_domain", "seed", "case", "dial"]
    means = table.groupby([*keys, "position"], sort=False)["dice"].mean().reset_index(name="value")
    last = means["position"] == means["position"].max()
    full, none = means[last].drop(columns="position"), means[means["position"] == 0].drop(columns="position")
    both = full.merge(none, on=keys, suffixes=("", "_none"))
    lost = both.assign(value=both["value"] - both["value_none"], metric="dice")
    rows: pd.DataFrame = lost[[*keys, "metric", "value"]]
    return rows


def say_dials(lost: pd.DataFrame, source: str, target: str, *, control: str = "Prior") -> str:
    """Answer which dial hurts most.

    Args:
        lost: `results.summarise` by label and dial of `dial_study.losses`.
        source: Hospital of all dials at 0.
        target: Hospital of all dials at 1.
        control: The method that is not trained.

    Returns:
        A sentence in Markdown: the dial with the largest mean loss over the trained methods.
    """
    learnt = lost[lost["label"] != control]
    single = learnt[learnt["dial"] != EVERY].groupby("dial", sort=False)["mean"].mean()
    if single.empty:
        return "There is no answer yet: no trained method has met a dial."
    worst = str(single.idxmin())
    rows = learnt[learnt["dial"] == worst]
    seen = bool((rows["high"] < 0).any())
    name = worst.replace("_", " ")
    verdict = (
        f"**The {name}**"
        if seen
        else f"**No single dial was seen to hurt beyond chance**; the {name} costs most"
    )
    each = ", ".join(f"{row['mean'] * 100:+.0f} for {row['label']}" for row in rows.to_dict("records"))
    together = learnt[learnt["dial"] == EVERY]
    said = ", ".join(f"{row['mean'] * 100:+.0f} for {row['label']}" for row in together.to_dict("records"))
    every = f"; with all dials turned it is {said}" if said else ""
    return f"{verdict}: turned from {source} to {target} on the same patients, Dice (%) changes by {each}{every}."
