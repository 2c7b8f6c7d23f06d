"""Which factor of the shift between two hospitals lowers Dice: trained models on new patients, one dial of the scanner at a time.

The patients are made for this question: no model was trained on them, and each is scanned again and again, with one dial turned
towards the other hospital or with all of them (`desam_lite.synthetic.phantoms.dials`). Nothing is trained or chosen here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from IPython.display import display

from desam_lite.data.cases import to_organ_ids
from desam_lite.data.embeddings import AT_ONCE, ReadEmbeddings, encode_on_demand
from desam_lite.data.slices import prepare_intensity, select_slices
from desam_lite.data.tasks import Task
from desam_lite.evaluation.metrics import Protocol, score_case
from desam_lite.evaluation.statistics import MARGINS, decide
from desam_lite.methods import TrainedModel
from desam_lite.methods.prompted import PromptedMethod
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.study.report.cache import cached_table
from desam_lite.study.report.sentences import sum_up
from desam_lite.study.report.slice_examples import Example, largest_slice
from desam_lite.study.report.slice_figures import draw_slices
from desam_lite.study.report.style import DescribedFigure
from desam_lite.study.report.tables import Table
from desam_lite.study.report.widgets import MASK_SIDE, Widget, describe_slices, pack_masks, shrink_masks
from desam_lite.study.run import Run
from desam_lite.synthetic.phantoms import Site, dial_names, dialled, make_case
from desam_lite.synthetic.phantoms.dials import BALLOON
from desam_lite.synthetic.phantoms.making import PHANTOM_VERSION, TASKS
from desam_lite.utils.errors import StudyError
from desam_lite.utils.progress import track

DIALS_VERSION = 1
ALL_DIALS = "all dials"
"""What the turn of all dials together is called."""

GEOMETRY = ("resolution", "field_of_view", BALLOON)
"""The dials that give the organ another place, size or shape in the image; the others change its appearance alone."""

PATIENT_SEED = 2020
"""Names the patients of this study, none of whom is in a task's data (its random streams have another shape)."""

_SLIDER_PATIENTS = 5
_DIAL_BYTES = 200_000  # of the slices of all settings
_SharedMaps = dict[tuple[str, str], ImageEmbeddings]


@dataclass(frozen=True)
class Shift:
    """The way between two hospitals of a synthetic task: every dial at 0 is the source, every dial at 1 the target."""

    task: Task
    source: str
    target: str

    @property
    def sites(self) -> tuple[Site, Site]:
        """The two hospitals."""
        sites = TASKS[self.task.manifest.name]
        return sites[self.source], sites[self.target]

    @property
    def dials(self) -> list[str]:
        """The names of the dials that change anything."""
        first, second = self.sites
        return [name for name in dial_names(first) if dialled(first, second, {name: 1.0}) != first]

    def some(self, count: int) -> list[str]:
        """Return the first dials, and then all together; 0 for every single one."""
        return [*self.dials[: count or None], ALL_DIALS]

    def turned(self, positions: Mapping[str, float]) -> Site:
        """Return the source with some dials turned; `ALL_DIALS` turns all of them. `StudyError` for a wrong name or position."""
        every = dict.fromkeys(self.dials, positions[ALL_DIALS]) if ALL_DIALS in positions else {}
        return dialled(*self.sites, {**every, **{k: part for k, part in positions.items() if k != ALL_DIALS}})


def open_shift(task: Task, source: str, target: str = "") -> Shift:
    """Return the way from a hospital of a synthetic task to another.

    Without a target it is that with the source's anatomy (with or without an endorectal balloon) whose echo time differs most:
    the contrast really changes, and the organ does not.
    """
    name = task.manifest.name
    if name not in TASKS:
        raise StudyError(
            f"only a synthetic scanner has dials, and {name} is not synthetic: choose from {', '.join(TASKS)}."
        )
    sites, own = TASKS[name], TASKS[name].get(source)
    if not target and own is not None:
        others = [each for each in sites if each != source]
        alike = [each for each in others if sites[each].balloon == own.balloon] or others
        target = max(alike, key=lambda each: abs(sites[each].scanner.echo - own.scanner.echo))
    for domain in (source, target):
        task.manifest.domain(domain)
    if target == source:
        raise StudyError(
            f"a dial leads from one hospital to another, and both are {source}: choose another one."
        )
    return Shift(task, source, target)


class PreparedScan(NamedTuple):
    """A patient as a model gets them: images and organ ids ``(Z, H, W)`` uint8, and the spacing ``(z, y, x)`` in mm."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]


def scan(shift: Shift, patient: int, positions: Mapping[str, float]) -> PreparedScan:
    """Scan a patient with some dials turned, prepared as the source's scans are; equal arguments give equal scans."""
    stream = np.random.default_rng(np.random.SeedSequence(PATIENT_SEED, spawn_key=(patient,)))
    case, manifest = make_case(shift.turned(positions), stream), shift.task.manifest
    intensity = manifest.domain(shift.source).intensity or manifest.intensity
    labels, _ = to_organ_ids(case.label, manifest, shift.source)
    return PreparedScan(prepare_intensity(case.image.astype(np.float32), intensity), labels, case.spacing)


def turn_dials(
    runs: Sequence[Run],
    shift: Shift,
    positions: Sequence[float],
    patients: int,
    *,
    dials: Sequence[str] = (),
    protocol: Protocol = "published",
    progress: bool = True,
) -> pd.DataFrame:
    """Score trained models on the same patients with each dial at each position; tables on disk are read.

    Under ``published`` a model with prompts predicts only the slices that this protocol scores. Positions go from 0 to 1; 0 is
    scanned once for all dials. Without ``dials``, all of the scanner are turned, each alone and then all together.
    """
    for run in runs:
        if run.spec.source != shift.source:
            raise StudyError(
                f"{run.spec.label} was trained at {run.spec.source}: dials start from {shift.source}."
            )
    settings = [(dial, part) for dial in list(dials) or shift.some(0) for part in positions]
    turned = {(dial, part): {dial: part} if part else {} for dial, part in settings}
    sites = {setting: shift.turned(dialling) for setting, dialling in turned.items()}  # refuses a wrong name
    work = [(setting, patient) for patient in range(patients) for setting in sites]
    load, tables = cache(Run.load_model), []
    for (dial, part), patient in track(work, "turning dials", enabled=progress):
        take = cache(partial(scan, shift, patient, turned[dial, part]))
        maps: _SharedMaps = {}
        for run in runs:
            what = [DIALS_VERSION, PHANTOM_VERSION, shift.task.manifest.content_hash()]
            how = [PATIENT_SEED, patient, asdict(sites[dial, part]), protocol]
            make = partial(_score, partial(load, run), take, maps, shift.task, protocol)
            table = cached_table(run, "dials", {"what": what, "how": how}, make)
            place = {"label": run.spec.label, "source": run.spec.source, "target": shift.target}
            columns: dict[str, Any] = {
                **place,
                "in_domain": False,
                "seed": run.spec.seed,
                "case": f"Patient{patient:02d}",
            }
            tables.append(table.assign(dial=dial, position=float(part), **columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _score(
    load: Callable[[], TrainedModel],
    take: Callable[[], PreparedScan],
    maps: _SharedMaps,
    task: Task,
    protocol: Protocol,
) -> pd.DataFrame:
    """Predict and score one scan, which is taken once for all models, as is each encoder's embedding of it."""
    scanned = take()
    rows = select_slices(scanned.labels, "all" if protocol == "whole_volume" else "foreground")
    predicted = _predict(load(), scanned, rows, maps)
    dice = [
        score_case(predicted, scanned.labels, scanned.spacing, number, protocol).dice
        for number in range(1, len(task.manifest.organs) + 1)
    ]
    return pd.DataFrame({"organ": [organ.name for organ in task.manifest.organs], "dice": dice})


def _predict(
    model: TrainedModel, scanned: PreparedScan, rows: Sequence[int], maps: _SharedMaps
) -> npt.NDArray[np.uint8]:
    """Return organ ids ``(Z, H, W)``; a model with prompts predicts the given slices, any other model all of them."""
    predictor, predicted = model.predictor, np.zeros_like(scanned.labels)
    if not isinstance(predictor, PromptedMethod):
        every = encode_on_demand(predictor.encoder, scanned.images, "float16") if predictor.encoder else None
        return np.stack([prediction.labels for prediction in predictor.predict(scanned.images, every)])
    images = scanned.images[list(rows)]
    embeddings = _embed_once(model, images, maps)
    for row, prediction in zip(rows, predictor.predict(images, embeddings), strict=True):
        predicted[row] = prediction.labels
    return predicted


def _embed_once(model: TrainedModel, images: npt.NDArray[np.uint8], maps: _SharedMaps) -> ReadEmbeddings:
    encoder, form = model.predictor.encoder, model.card.spec.embedding_format or "float16"
    assert encoder is not None
    name = (f"{encoder.backbone} {model.card.weights_hash}", form)
    if name not in maps:
        encode, count = encode_on_demand(encoder, images, form), len(images)
        parts = [encode(range(start, min(start + AT_ONCE, count))) for start in range(0, count, AT_ONCE)]
        maps[name] = ImageEmbeddings.stack(parts)
    return lambda rows: maps[name][torch.arange(rows.start, rows.stop)]


def turn_a_dial(
    runs: Sequence[Run],
    shift: Shift,
    positions: Sequence[float],
    *,
    dials: Sequence[str] = (),
    patient: int = 0,
    most: int = 3,
) -> Widget:
    """Return one slice of a new patient with each dial at each position, and the masks of models; tables on disk are read.

    The slice is that with the most organ. Shown are the first ``most`` methods that look at the image, with their first run;
    what a kept study has neither the table nor the model of is left out.
    """
    named, parts = list(dials) or shift.some(0), sorted({*positions} - {0.0})
    settings = [("", 0.0), *((dial, part) for dial in named for part in parts)]
    turned = [{dial: part} if part else {} for dial, part in settings]

    @cache
    def take(place: int) -> PreparedScan:
        scanned = scan(shift, patient, turned[place])
        z = largest_slice(scanned.labels)
        return scanned._replace(images=scanned.images[[z]], labels=scanned.labels[[z]])

    maps: list[_SharedMaps] = [{} for _ in settings]
    first = {run.spec.label: run for run in reversed(runs) if run.spec.method != "prior"}
    models: list[dict[str, Any]] = []
    for label in [label for label in dict.fromkeys(run.spec.label for run in runs) if label in first]:
        run = first[label]
        what = [DIALS_VERSION, PHANTOM_VERSION, shift.task.manifest.content_hash()]
        how = [PATIENT_SEED, patient, [asdict(shift.turned(each)) for each in turned]]
        make = partial(_draw_settings, run, take, maps)
        with suppress(StudyError):
            table = cached_table(run, "dial_masks", {"what": what, "how": how}, make)
            dice, masks = table["dice"].round().astype(int).tolist(), table["mask"].tolist()
            models.append({"name": label, "dice": dice, "masks": masks})
    models = models[:most]
    scans = [take(place) for place in range(len(settings))]
    references = np.concatenate([scanned.labels == _shown_organ(scanned) for scanned in scans])
    images = np.concatenate([scanned.images for scanned in scans])
    organ = shift.task.manifest.organs[_shown_organ(scans[0]) - 1]
    data = {
        **describe_slices(images, references, (1.0, 1.0), _DIAL_BYTES, windows=False),
        "maskPixels": list(shrink_masks(references, MASK_SIDE).shape[:0:-1]),
        "organ": organ.name,
        "color": organ.color,
        "dials": [name.replace("_", " ") for name in named],
        "positions": [0.0, *parts],
        "way": [shift.source, shift.target],
        "models": models,
    }
    rows = [(dial.replace("_", " ") or "none", f"{part:g}") for dial, part in settings]
    table = pd.DataFrame(rows, columns=["dial", "position"])
    table = table.assign(**{model["name"]: [str(value) for value in model["dice"]] for model in models})
    caption = f"Dice (%) of one slice of a new patient, dials turned from {shift.source} to {shift.target}"
    return Widget("dial", f"Turn a dial from {shift.source} to {shift.target}", data, Table(table, caption))


def _shown_organ(scanned: PreparedScan) -> int:
    return int(np.bincount(scanned.labels[scanned.labels > 0]).argmax())


def _draw_settings(
    run: Run, take: Callable[[int], PreparedScan], maps: Sequence[_SharedMaps]
) -> pd.DataFrame:
    """Return Dice (%) and packed mask of a model in the slice of each setting of the dials."""
    model, rows = run.load_model(), []
    for place, shared in enumerate(maps):
        scanned = take(place)
        organ = _shown_organ(scanned)
        mask, reference = _predict(model, scanned, [0], shared) == organ, scanned.labels == organ
        dice = 200 * float((mask & reference).sum()) / float(mask.sum() + reference.sum())
        rows.append((dice, pack_masks(shrink_masks(mask, MASK_SIDE))))
    return pd.DataFrame(rows, columns=["dice", "mask"])


def dial_table(shift: Shift) -> Table:
    """Return what each dial turns, with the values at both ends, as a table for the page."""
    first, second = shift.sites
    rows = []
    for dial, names in first.scanner.DIALS.items():
        ends = [(name, getattr(first.scanner, name), getattr(second.scanner, name)) for name in names]
        values = "; ".join(f"{name.replace('_', ' ')} {a:g} to {b:g}" for name, a, b in ends)
        rows += [(dial.replace("_", " "), values)] if dial in shift.dials else []
    if BALLOON in shift.dials:
        rows.append((BALLOON, f"filled {first.balloon or 0:g} to {second.balloon or 0:g}"))
    return Table(pd.DataFrame(rows, columns=["dial", f"from {shift.source} to {shift.target}"]), kind="dials")


def show_dials(shift: Shift, patient: int, dials: Sequence[str]) -> list[Example]:
    """Return one slice of a patient as the source scans it, then with each dial fully turned."""
    titles = {f"as {shift.source}": {}, **{name.replace("_", " "): {name: 1.0} for name in dials}}
    return [show_patient(shift, patient, positions, title) for title, positions in titles.items()]


def show_patient(shift: Shift, patient: int, positions: Mapping[str, float], title: str) -> Example:
    """Return the slice of a patient with the most organ, with some dials turned."""
    scanned = scan(shift, patient, positions)
    z = largest_slice(scanned.labels)
    return Example(title, "", scanned.images[z], scanned.labels[z], None, scanned.spacing[1:])


def sliders(shift: Shift, organs: Mapping[str, str]) -> ipywidgets.VBox:
    """Return a slider for each dial, one for the patient, and the image they give; a move takes about a second."""
    look = {"continuous_update": False, "style": {"description_width": "9em"}}
    moved = {
        name: ipywidgets.FloatSlider(0, min=0, max=1, step=0.1, description=name.replace("_", " "), **look)
        for name in shift.dials
    }
    person = ipywidgets.IntSlider(0, min=0, max=_SLIDER_PATIENTS - 1, description="patient", **look)

    def show(patient: int, **positions: float) -> None:
        display(slider_picture(shift, organs, patient, positions))  # type: ignore[no-untyped-call]

    out = ipywidgets.interactive_output(show, {"patient": person, **moved})
    titles = [shift.task.manifest.domain(name).title for name in (shift.source, shift.target)]
    ends = ipywidgets.HTML(f"0: {titles[0]}; 1: {titles[1]}")
    return ipywidgets.VBox([ends, person, *moved.values(), out])


def slider_picture(
    shift: Shift, organs: Mapping[str, str], patient: int, positions: Mapping[str, float]
) -> DescribedFigure:
    """Return the slice of a patient with the dials at these positions."""
    turned = {name: part for name, part in positions.items() if part}
    title = ", ".join(f"{name.replace('_', ' ')} {part:g}" for name, part in turned.items())
    examples = [show_patient(shift, patient, turned, title or f"as {shift.source}")]
    return draw_slices(examples, organs, windows=False)


def say_dials(lost: pd.DataFrame, source: str, target: str, *, control: str = "Prior") -> str:
    """Say which dial of appearance from source to target lowers Dice most, as the mean over the trained methods.

    The worst dial of `GEOMETRY` is told apart from it: it changes what there is to be segmented.
    """
    trained = lost[lost["label"] != control]
    single = trained[trained["dial"] != ALL_DIALS].groupby("dial", sort=False)["mean"].mean()
    looks, shapes = single.drop(list(GEOMETRY), errors="ignore"), single[single.index.isin(GEOMETRY)]
    if looks.empty:
        return "There is no answer yet: no trained method has been scored with a dial of appearance turned."
    worst, moved = str(looks.idxmin()), str(shapes.idxmin()) if len(shapes) else ""
    each, shape, together = (
        ", ".join(
            f"{row['mean'] * 100:+.0f} for {row['label']}"
            for row in trained[trained["dial"] == dial].to_dict("records")
        )
        for dial in (worst, moved, ALL_DIALS)
    )
    name = worst.replace("_", " ")
    ends = trained[trained["dial"] == worst][["low", "high"]].to_numpy(float)
    verdict = sum_up(
        [decide(low, high, MARGINS["dice"]) for low, high in ends],
        both=f"**The {name}**",
        worse=f"**The {name}**",
        unsure=f"**Cannot tell with so few seeds or patients**; the {name} has the lowest mean",
        better=(none := f"**No dial of appearance was shown to lower Dice**; the {name} has the lowest mean"),
        equivalent=none,
    )
    apart = (
        f" Of the dials that move or reshape the organ, the {moved.replace('_', ' ')} changes it most: {shape}."
        if shape
        else ""
    )
    every = f" With all dials turned it changes by {together}." if together else ""
    return f"{verdict}. Turned from {source} to {target} on the same patients, it changes Dice (%) by {each}.{apart}{every}"
