"""What tissues are to a magnet: proton density and relaxation times, and how uneven they look.

Relaxation times are rounded from the literature (Stanisz et al., MRM 2005; de Bazelaire et al., Radiology 2004; Bojorquez et al.,
MRI 2017); where a structure is not measured there, it is given that of the tissue it is made of. Fat's T2 is the apparent
one of fast spin echo.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """One tissue.

    Attributes:
        density: Proton density, relative to water.
        t1: ms, at 1.5 T and at 3 T.
        t2: ms, at 1.5 T and at 3 T.
        texture: Standard deviation of its signal over its mean, at the scale of a few mm.
    """

    density: float
    t1: tuple[float, float]
    t2: tuple[float, float]
    texture: float = 0.06


TISSUES: dict[str, Tissue] = {
    "air": Tissue(0.0, (1000, 1000), (50, 50), 0.0),
    "skin": Tissue(0.7, (800, 950), (35, 30)),
    "fat": Tissue(0.9, (300, 370), (115, 105), 0.16),
    "muscle": Tissue(0.85, (1010, 1420), (44, 38), 0.11),
    "cortical bone": Tissue(0.12, (700, 800), (12, 10), 0.1),
    "marrow": Tissue(0.75, (340, 420), (85, 75), 0.18),
    "cartilage": Tissue(0.6, (1000, 1150), (38, 34), 0.1),
    "bladder wall": Tissue(0.85, (1050, 1400), (52, 46), 0.06),
    "urine": Tissue(1.0, (3200, 3900), (900, 800), 0.01),
    "seminal vesicle": Tissue(0.95, (1700, 2000), (190, 170), 0.3),
    "vein": Tissue(0.9, (1400, 1800), (190, 160), 0.12),
    "artery": Tissue(0.15, (1400, 1800), (100, 90), 0.1),
    "capsule": Tissue(0.8, (1000, 1400), (50, 44), 0.08),
    "peripheral zone": Tissue(0.95, (1350, 1700), (150, 135), 0.14),
    "surgical capsule": Tissue(0.8, (1050, 1400), (55, 48), 0.08),
    "transition zone": Tissue(0.9, (1250, 1500), (88, 80), 0.16),
    "bright nodule": Tissue(0.92, (1400, 1700), (135, 120), 0.2),
    "dark nodule": Tissue(0.88, (1150, 1400), (62, 56), 0.14),
    "stroma": Tissue(0.82, (1000, 1350), (46, 40), 0.08),
    "urethra": Tissue(0.92, (1500, 1800), (125, 110), 0.05),
    "rectal wall": Tissue(0.85, (1050, 1400), (62, 54), 0.1),
    "gas": Tissue(0.0, (1000, 1000), (50, 50), 0.0),
    "stool": Tissue(0.6, (900, 1100), (60, 55), 0.35),
    "gel": Tissue(0.95, (2500, 2900), (300, 280), 0.03),
    "balloon": Tissue(0.01, (1000, 1000), (50, 50), 0.0),
}
"""Name to tissue; a tissue map holds positions in this order."""
