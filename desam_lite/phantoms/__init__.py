"""Synthetic hospitals: random patients under different scanners, written as NIfTI like any hospital's data.

Anatomy (`pelvis`) and physics (`tissues`, `scanner`) are apart, so that one patient can be seen by any scanner and every factor
of the shift between two sites moved alone.
"""

from desam_lite.phantoms.making import make_case, make_task
from desam_lite.phantoms.scanner import DIALS, Scanner, mix
from desam_lite.phantoms.sites import PROSTATE_SITES, Site

__all__ = ["DIALS", "PROSTATE_SITES", "Scanner", "Site", "make_case", "make_task", "mix"]
