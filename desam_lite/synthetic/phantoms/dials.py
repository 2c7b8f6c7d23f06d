"""Every factor of the shift between two hospitals is a dial: 0 leaves it as at the first, 1 makes it that of the second."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from desam_lite.synthetic.phantoms.body_scanner import BodyScanner
from desam_lite.synthetic.phantoms.scanner import Scanner
from desam_lite.synthetic.phantoms.sites import Site
from desam_lite.utils.errors import StudyError

AnyScanner = TypeVar("AnyScanner", Scanner, BodyScanner)
BALLOON = "balloon"
"""The dial that changes the patient, not the scanner: the balloon of an endorectal coil in the rectum."""


def dial_names(site: Site) -> list[str]:
    """Return the dials of a site."""
    return [*site.scanner.DIALS, *([] if site.balloon is None else [BALLOON])]


def dialled(first: Site, second: Site, dials: Mapping[str, float]) -> Site:
    """Return the first site, where every dial at 0 is, with some factors moved towards the second, where every dial at 1 is.

    Intensities stay in the unit of the first (Hounsfield units for a CT), so that the data are prepared as its own. Dials left
    out stay at 0.

    Raises:
        StudyError: There is no such dial, a position is outside 0 to 1, or the sites are of different tasks.

    >>> from desam_lite.synthetic.phantoms import PROSTATE_SITES
    >>> dialled(PROSTATE_SITES["A"], PROSTATE_SITES["B"], {"contrast": 0.5}).scanner.field_strength
    2.25
    """
    if type(first.scanner) is not type(second.scanner):
        raise StudyError("a dial cannot lead from a pelvis to an abdomen: take two sites of one task.")
    moved = {}
    for dial, part in dials.items():
        if not 0 <= part <= 1:
            raise StudyError(f"dial '{dial}' cannot be at {part:g}: a dial goes from 0 to 1.")
        if dial not in dial_names(first):
            raise StudyError(f"there is no dial '{dial}': choose from {', '.join(dial_names(first))}.")
        for name in first.scanner.DIALS.get(dial, ()):
            start, end = getattr(first.scanner, name), getattr(second.scanner, name)
            moved[name] = end if part == 1 else start + part * (end - start)
    scanner = replace(first.scanner, **moved)
    if first.balloon is None or second.balloon is None:
        return replace(first, scanner=scanner)
    part = dials.get(BALLOON, 0.0)
    return replace(first, scanner=scanner, balloon=first.balloon + part * (second.balloon - first.balloon))


def jitter(scanner: AnyScanner, rng: np.random.Generator, amount: float = 0.06) -> AnyScanner:
    """Return the scanner as set up for one patient: every setting but the fixed ones (`FIXED`) varies a little."""
    names = [f.name for f in fields(scanner) if f.name not in scanner.FIXED]
    changed = {name: getattr(scanner, name) * float(np.exp(rng.normal(0, amount))) for name in names}
    return replace(scanner, **changed)
