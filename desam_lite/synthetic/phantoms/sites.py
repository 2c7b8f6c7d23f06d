"""The synthetic sites: six of the prostate, after the real ones of data_manifests/prostate.yaml; CT and MRI of the abdomen.

Field strength, coil, vendor-like contrast and resolution of the prostate sites follow the table of the real ones; what it does
not say (echo and repetition times, noise, smoothness) is set within the usual range of such protocols. The field of view is such
that the gland fills 4 to 10 % of its largest slice, as it does in the real scans of ``promise12_small``. The two abdominal sites
follow BTCV (portal venous CT) and CHAOS (T2-SPIR at 1.5 T, slices 7.7 mm apart); see data_manifests/abdomen.yaml.
"""

from dataclasses import dataclass

from desam_lite.synthetic.phantoms.body_scanner import BodyScanner
from desam_lite.synthetic.phantoms.scanner import Scanner


@dataclass(frozen=True)
class Site:
    """A hospital: its scanner and what it does to patients."""

    scanner: Scanner | BodyScanner  # settings
    # how far the balloon of an endorectal coil is filled, 0 (there is none) to 1; None for the abdomen
    balloon: float | None = None
    hounsfield: bool = False  # whether intensities are stored in Hounsfield units


PROSTATE_SITES: dict[str, Site] = {
    # tesla, TR, TE, gamma, noise, bias, endorectal, surface, blur, thickness, field of view, coverage, ghost, gibbs
    "A": Site(Scanner(3.0, 4200, 100, 1.00, 0.10, 0.10, 0.0, 0.35, 0.7, 3.8, 150, 80, 0.00, 0.0), 0.0),
    "B": Site(Scanner(1.5, 3200, 85, 0.90, 0.22, 0.12, 1.0, 0.0, 0.9, 3.4, 135, 75, 0.02, 0.5), 1.0),
    "C": Site(Scanner(3.0, 3400, 140, 1.35, 0.16, 0.30, 0.0, 0.7, 1.0, 2.6, 165, 75, 0.03, 0.0), 0.0),
    "D": Site(Scanner(1.5, 5200, 75, 0.80, 0.18, 0.18, 0.0, 0.1, 1.2, 3.4, 150, 78, 0.00, 0.6), 0.0),
    "E": Site(Scanner(3.0, 4600, 115, 1.15, 0.30, 0.15, 1.0, 0.0, 0.6, 3.2, 120, 74, 0.00, 0.3), 1.0),
    "F": Site(Scanner(1.5, 6000, 130, 1.10, 0.14, 0.22, 0.8, 0.1, 1.1, 3.6, 155, 80, 0.04, 0.4), 1.0),
}
"""Name of a domain of the task ``phantom_prostate`` to its site."""

ABDOMEN_SITES: dict[str, Site] = {
    "CT": Site(
        BodyScanner(
            modality=0.0, enhancement=1.0, field_strength=1.5, repetition=2000, echo=75, suppression=0.9,
            noise=0.036, grain=0.7, bias=0.0, surface=0.0, blur=0.9, thickness=5.0, field_of_view=325, coverage=225,
            streak=0.012, ghost=0.0, gibbs=0.0,
        ),
        hounsfield=True,
    ),
    "MR": Site(
        BodyScanner(
            modality=1.0, enhancement=0.0, field_strength=1.5, repetition=2000, echo=75, suppression=0.9,
            noise=0.011, grain=0.0, bias=0.16, surface=0.4, blur=1.0, thickness=7.7, field_of_view=325, coverage=245,
            streak=0.0, ghost=0.05, gibbs=0.5,
        ),
    ),
}  # fmt: skip
"""Name of a domain of the task ``phantom_abdomen`` to its site."""
