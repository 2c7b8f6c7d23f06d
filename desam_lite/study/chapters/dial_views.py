"""The dials of the synthetic scanner to look at: what each turns, and what it does to one picture."""

from collections.abc import Mapping, Sequence

import pandas as pd

from desam_lite.study.chapters.which_shift_hurts import Shift, scan
from desam_lite.study.report.sentences import Table
from desam_lite.study.report.slice_figures import Example, largest_slice
from desam_lite.synthetic.phantoms.dials import BALLOON


def dial_table(shift: Shift) -> Table:
    """Return what each dial turns, with the values at both ends, as a table for the page."""
    one, other = shift.sites
    rows = []
    for dial, names in one.scanner.DIALS.items():
        ends = [(name, getattr(one.scanner, name), getattr(other.scanner, name)) for name in names]
        told = "; ".join(f"{name.replace('_', ' ')} {a:g} to {b:g}" for name, a, b in ends)
        rows.append({"dial": dial.replace("_", " "), f"from {shift.source} to {shift.target}": told})
    if BALLOON in shift.dials:
        told = f"filled {one.balloon or 0:g} to {other.balloon or 0:g}"
        rows.append({"dial": BALLOON, f"from {shift.source} to {shift.target}": told})
    return Table(pd.DataFrame(rows), kind="dials")


def looks(shift: Shift, patient: int, dials: Sequence[str] = (), part: float = 1.0) -> list[Example]:
    """Return one slice of a patient as the source scans it, then with each dial turned, for `pictures.pictures`."""
    chosen = list(dials) or shift.some(0)
    titles = {f"as {shift.source}": {}, **{name.replace("_", " "): {name: part} for name in chosen}}
    return [look(shift, patient, positions, title) for title, positions in titles.items()]


def look(shift: Shift, patient: int, positions: Mapping[str, float], title: str = "") -> Example:
    """Return the slice of a patient with the most organ, with some dials turned."""
    seen = scan(shift, patient, positions)
    z = largest_slice(seen.labels)
    return Example(title, "", seen.images[z], seen.labels[z], None, seen.spacing[1:])
