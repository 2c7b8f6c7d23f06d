"""Synthetic hospitals: random patients under different scanners, written as NIfTI like any hospital's data.

Anatomy (`pelvis`, `abdomen`) and physics (`tissues`, `scanner`, `body_scanner`) are apart, so that one patient can be seen by
any scanner and every factor of the shift between two sites moved alone (`dials`).
"""

from desam_lite.synthetic.phantoms.cases import Case, make_case
from desam_lite.synthetic.phantoms.dials import dial_names, dialled
from desam_lite.synthetic.phantoms.making import make_task, planned_hash
from desam_lite.synthetic.phantoms.sites import ABDOMEN_SITES, PROSTATE_SITES, Site

__all__ = [
    "ABDOMEN_SITES",
    "PROSTATE_SITES",
    "Case",
    "Site",
    "dial_names",
    "dialled",
    "make_case",
    "make_task",
]
__all__ += ["planned_hash"]
