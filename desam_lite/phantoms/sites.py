"""The six synthetic sites, after the six real ones of the cross-site prostate set (see data_manifests/prostate.yaml).

Field strength, coil, vendor-like contrast, resolution and coverage follow the table of the real sites; what it does not say
(echo and repetition times, noise, smoothness) is set within the usual range of such protocols. The field of view is such
that the gland fills 4 to 10 % of its largest slice, as it does in the real scans of ``promise12_small``.
"""

from dataclasses import dataclass

from desam_lite.phantoms.scanner import Scanner


@dataclass(frozen=True)
class Site:
    """A hospital: its scanner and how it acquires.

    Attributes:
        scanner: Settings.
        balloon: Whether patients carry an endorectal coil.
        slices: Slices per volume.
    """

    scanner: Scanner
    balloon: bool
    slices: int


def _scanner(
    tesla: float, tr: float, te: float, gamma: float, noise: float, bias: float, endorectal: float, surface: float,
    blur: float, thickness: float, fov: float, ghost: float,
) -> Scanner:  # fmt: skip
    return Scanner(tesla, tr, te, gamma, noise, bias, endorectal, surface, blur, thickness, fov, ghost)


PROSTATE_SITES: dict[str, Site] = {
    # tesla, TR, TE, gamma, noise, bias, endorectal, surface, blur, thickness, field of view, ghost
    "A": Site(_scanner(3.0, 4200, 100, 1.00, 0.10, 0.10, 0.0, 0.35, 0.7, 3.8, 150, 0.00), False, 18),
    "B": Site(_scanner(1.5, 3200, 85, 0.90, 0.22, 0.12, 1.0, 0.0, 0.9, 3.4, 135, 0.02), True, 18),
    "C": Site(_scanner(3.0, 3400, 140, 1.35, 0.16, 0.30, 0.0, 0.7, 1.0, 2.6, 165, 0.03), False, 24),
    "D": Site(_scanner(1.5, 5200, 75, 0.80, 0.18, 0.18, 0.0, 0.1, 1.2, 3.4, 150, 0.00), False, 18),
    "E": Site(_scanner(3.0, 4600, 115, 1.15, 0.30, 0.15, 1.0, 0.0, 0.6, 3.2, 120, 0.00), True, 18),
    "F": Site(_scanner(1.5, 6000, 130, 1.10, 0.14, 0.22, 0.8, 0.1, 1.1, 3.6, 155, 0.04), True, 18),
}
"""Name of a domain of the task ``phantom_prostate`` to its site."""
