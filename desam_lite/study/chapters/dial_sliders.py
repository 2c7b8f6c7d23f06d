"""The synthetic scanner with its dials as sliders, for whoever runs a notebook by hand."""

from collections.abc import Mapping
from typing import Any

import ipywidgets
from IPython.display import display

from desam_lite.study.chapters.dial_views import look
from desam_lite.study.chapters.which_shift_hurts import Shift
from desam_lite.study.report.notebook import Picture
from desam_lite.study.report.slice_figures import pictures, pictures_alt

_PATIENTS = 5


def sliders(shift: Shift, organs: Mapping[str, str]) -> ipywidgets.VBox:
    """Return a slider for each dial, one for the patient, and the picture they give; a move takes about a second.

    Args:
        shift: Between which hospitals the dials lead.
        organs: Name -> colour.
    """
    style = {"description_width": "9em"}
    turned = {
        name: ipywidgets.FloatSlider(
            0,
            min=0,
            max=1,
            step=0.1,
            description=name.replace("_", " "),
            continuous_update=False,
            style=style,
        )
        for name in shift.dials
    }
    patient = ipywidgets.IntSlider(
        0, min=0, max=_PATIENTS - 1, description="patient", continuous_update=False, style=style
    )

    def show(patient: int, **positions: float) -> None:
        display(picture(shift, organs, patient, positions))  # type: ignore[no-untyped-call]

    out = ipywidgets.interactive_output(show, {"patient": patient, **turned})
    return ipywidgets.VBox([ipywidgets.HTML(_ends(shift)), patient, *turned.values(), out])


def picture(shift: Shift, organs: Mapping[str, str], patient: int, positions: Mapping[str, float]) -> Picture:
    """Return the slice of a patient as it looks with the dials at these positions."""
    moved = {name: part for name, part in positions.items() if part}
    title = ", ".join(f"{name.replace('_', ' ')} {part:g}" for name, part in moved.items())
    seen = [look(shift, patient, moved, title or f"as {shift.source}")]
    return Picture(pictures(seen, organs), pictures_alt(seen, organs))


def _ends(shift: Shift) -> str:
    names: Any = shift.task.manifest.domains
    return f"0: {names[shift.source].title}; 1: {names[shift.target].title}"
