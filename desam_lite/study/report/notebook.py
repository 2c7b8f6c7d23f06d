"""What every notebook of the study needs: a start, data that are ready, results of many runs, pictures with words."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from desam_lite.data.manifest import load_manifest
from desam_lite.study.plans import study_root
from desam_lite.study.report.slice_figures import Example, largest_slice
from desam_lite.study.report.style import UNITS
from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from desam_lite.data.slices import CaseSlices
    from desam_lite.data.tasks import Task
    from desam_lite.study.profiles import Profile
    from desam_lite.study.run import Run

_ROOT_MARK = "data_manifests"


def project_root(start: Path | str) -> Path:
    """Return the nearest folder at or above a file or folder that holds ``data_manifests``; else the folder itself.

    Relative paths in notebooks start there, whether they are run by hand in ``notebooks/`` or by papermill.
    """
    path = Path(start).resolve()
    folder = path.parent if path.is_file() else path
    return next((place for place in (folder, *folder.parents) if (place / _ROOT_MARK).is_dir()), folder)


def start() -> None:
    """Begin a notebook: work in the root of the repository, and show failures a reader can act on as one sentence."""
    os.chdir(project_root(Path.cwd()))
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((StudyError,), _show_sentence)  # type: ignore[no-untyped-call]


def _show_sentence(shell: Any, kind: type, error: BaseException, _traceback: Any, **_: Any) -> list[str]:
    shell._showtraceback(kind, error, [str(error)])  # what the shell itself does with the long form
    return [str(error)]


def by_hand() -> bool:
    """Whether a person runs this notebook, so that widgets can be moved; a batch job takes no input, and says so."""
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


class Picture:
    """A figure with its alternative text, as Jupyter displays it; the book takes the text from there.

    Args:
        figure: What to show.
        alt: What is in it, in words.
    """

    def __init__(self, figure: "Figure", alt: str):
        self.figure = figure
        self.alt = alt

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width = round(self.figure.get_figwidth() * 100)
        data = {"image/png": base64.b64encode(png(self.figure)).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": width}}


def png(figure: "Figure") -> bytes:
    """Draw a figure in 256 colours, chosen so that even the rarest keeps its hue: half the bytes of all colours."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi="figure")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(
            256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
        )
    few.save(packed, "png", optimize=True)
    return packed.getvalue()


def open_study(manifest: Path | str, data_root: str, workspace: Path | str, profile: "Profile") -> "Task":
    """Return the task of a notebook, ready to be used; synthetic data that are not there yet are made.

    Args:
        manifest: Path or name of the manifest.
        data_root: Folder with the data; "" for ``data/<task>``, with the number of cases appended for synthetic data.
        workspace: Where results and caches go.
        profile: Says how many synthetic cases there are per domain.

    Raises:
        StudyError: The manifest or the data are at fault; all faulty cases are in one message.
    """
    from desam_lite.data.tasks import open_task

    task = load_manifest(manifest)
    root = study_root(manifest, data_root, profile)
    if task.synthetic:
        from desam_lite.synthetic.phantoms import make_task

        make_task(task.name, root, cases=profile.cases)
    elif not root.is_dir():
        raise StudyError(f"there are no data at {root}: pass data_root. How to get them: {task.obtain}")
    return open_task(manifest, root, workspace)


def site_examples(task: "Task") -> list[Example]:
    """Return one slice per domain: of the case with the median organ volume, the slice with most organ in it."""
    examples = []
    for name, domain in task.manifest.domains.items():
        rows = task.index[task.index["domain"] == name]
        volume = rows.filter(like="voxels_").sum(axis=1).sort_values()
        case = task.slices.load(name, str(rows.loc[volume.index[(len(volume) - 1) // 2], "case"]))
        z = largest_slice(case.labels)
        strength = " or ".join(f"{tesla:g} T" for tesla in domain.field_strength)
        scanner = ", ".join(fact for fact in (domain.vendor, strength) if fact)
        note = f"{scanner}\n{domain.coil}".strip()
        examples.append(Example(domain.title, note, case.images[z], case.labels[z], None, case.spacing[1:]))
    return examples


def case_example(task: "Task", runs: "Sequence[Run]", row: pd.Series, rule: str) -> Example:
    """Return the slice with most organ of a case that `results.pick_case` chose, with the prediction of its run.

    Args:
        task: Where the case is.
        runs: Among them the one that scored it.
        row: The chosen row of the scores.
        rule: How it was chosen; written under the picture.
    """
    case = task.slices.load(row["target"], row["case"])
    z = largest_slice(case.labels)
    title, factor = UNITS[row["metric"]]
    score = f"{rule}: {title} {row['value'] * factor:.0f}"
    note = f"{score}\n{row['case']} of {row['target']},\ntrained on {row['source']}, seed {row['seed']}"
    prediction = prediction_of(task, runs, row)
    return slice_example(case, prediction, z, row["label"], note)


def run_of(runs: "Sequence[Run]", row: pd.Series) -> "Run":
    """Return the run that a row of scores (``label``, ``source``, ``seed``) is of."""
    wanted = (row["label"], row["source"], row["seed"])
    return next(run for run in runs if (run.spec.label, run.spec.source, run.spec.seed) == wanted)


def prediction_of(task: "Task", runs: "Sequence[Run]", row: pd.Series) -> "npt.NDArray[np.uint8]":
    """Return the organ ids ``(Z, H, W)`` drawn into the case of a row of scores, as the task numbers them.

    Where each organ has a model of its own, their masks are laid over each other; where two overlap, the later organ is shown.
    """
    run = run_of(runs, row)
    if run.spec.organs is None:
        return run.prediction(row["target"], row["case"])
    ids = {organ.name: number for number, organ in enumerate(task.manifest.organs, start=1)}
    wanted = (run.spec.label, run.spec.source, run.spec.seed)
    own = [r for r in runs if (r.spec.label, r.spec.source, r.spec.seed) == wanted and r.finished]
    drawn = np.zeros_like(run.prediction(row["target"], row["case"]))
    for run in own:
        found = run.prediction(row["target"], row["case"])
        for number, organ in enumerate(task.only(run.spec.organs).manifest.organs, start=1):
            drawn[found == number] = ids[organ.name]
    return drawn


def slice_example(
    case: "CaseSlices", prediction: "npt.NDArray[np.uint8] | None", z: int, title: str, note: str
) -> Example:
    """Return slice ``z`` of a case with its prediction ``(Z, H, W)``, ready to be drawn."""
    drawn = None if prediction is None else prediction[z]
    return Example(title, note, case.images[z], case.labels[z], drawn, case.spacing[1:])


def all_metrics(runs: "Sequence[Run]") -> pd.DataFrame:
    """Return the metrics of all finished runs, one below the other; empty if there is none."""
    return _stacked([run.metrics() for run in runs if run.finished])


def all_history(runs: "Sequence[Run]") -> pd.DataFrame:
    """Return the training histories of all finished runs, one below the other; empty if there is none."""
    return _stacked([run.history() for run in runs if run.finished])


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if not frame.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
