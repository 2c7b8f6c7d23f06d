"""What tissues are to a magnet and to X-rays: proton density and relaxation times, Hounsfield units, and how uneven they look.

Relaxation times are rounded from the literature (Stanisz et al., MRM 2005; de Bazelaire et al., Radiology 2004; Bojorquez et al.,
MRI 2017), Hounsfield units from the usual ranges of abdominal CT; where a structure is not measured there, it is given that of
the tissue it is made of. Fat's T2 is the apparent one of fast spin echo.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """One tissue."""

    density: float  # proton density, relative to water
    t1: tuple[float, float]  # ms, at 1.5 T and at 3 T
    t2: tuple[float, float]  # ms, at 1.5 T and at 3 T
    texture: float = 0.06  # standard deviation of its signal over its mean, at the scale of a few mm
    hounsfield: float = 0.0  # HU without contrast medium
    uptake: float = 0.0  # HU that contrast medium adds in the portal venous phase
    fat: float = 0.0  # part of the signal that fat suppression takes away


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
"""Name to tissue of the pelvis; a tissue map holds positions in this order."""


ABDOMEN_TISSUES: dict[str, Tissue] = {
    # density, T1 and T2 at 1.5 and 3 T, texture, HU, uptake, fat
    "air": Tissue(0.0, (1000, 1000), (50, 50), 0.0, -1000),
    "table": Tissue(0.0, (1000, 1000), (50, 50), 0.0, -60),
    "skin": Tissue(0.6, (800, 950), (38, 34), 0.05, 45, 10),
    "fat": Tissue(0.9, (300, 370), (115, 105), 0.1, -105, 3, 1.0),
    "visceral fat": Tissue(0.9, (300, 370), (110, 100), 0.13, -98, 6, 0.97),
    "muscle": Tissue(0.8, (1000, 1400), (36, 33), 0.12, 52, 10),
    "cortical bone": Tissue(0.1, (700, 800), (12, 10), 0.1, 620, 0),
    "marrow": Tissue(0.7, (550, 590), (62, 58), 0.16, 190, 15, 0.35),
    "disc": Tissue(0.75, (1000, 1200), (70, 62), 0.12, 85, 5),
    "spinal fluid": Tissue(1.0, (3200, 3900), (900, 800), 0.02, 12),
    "cord": Tissue(0.8, (900, 1000), (85, 78), 0.05, 38, 2),
    "lung": Tissue(0.12, (1000, 1200), (38, 28), 0.35, -840, 15),
    "heart": Tissue(0.75, (1200, 1500), (60, 52), 0.22, 42, 95),
    "diaphragm": Tissue(0.8, (1000, 1400), (40, 36), 0.08, 50, 12),
    "arterial blood": Tissue(0.22, (1450, 1930), (120, 110), 0.15, 42, 108),
    "vessel wall": Tissue(0.8, (1000, 1400), (60, 54), 0.05, 45, 30),
    "caval blood": Tissue(0.45, (1450, 1930), (130, 115), 0.12, 42, 80),
    "portal blood": Tissue(0.75, (1450, 1930), (135, 120), 0.08, 42, 118),
    "liver": Tissue(0.85, (590, 810), (46, 41), 0.055, 57, 52),
    "bile": Tissue(1.0, (2500, 2900), (520, 470), 0.02, 9),
    "gallbladder wall": Tissue(0.85, (1000, 1300), (60, 55), 0.05, 35, 35),
    "spleen": Tissue(0.92, (1060, 1330), (84, 76), 0.05, 48, 68),
    "renal cortex": Tissue(0.9, (970, 1140), (82, 75), 0.05, 34, 150),
    "renal medulla": Tissue(0.95, (1410, 1550), (112, 104), 0.06, 32, 95),
    "urine": Tissue(1.0, (3200, 3900), (900, 800), 0.02, 6),
    "adrenal": Tissue(0.85, (1000, 1200), (58, 52), 0.05, 30, 40),
    "pancreas": Tissue(0.85, (590, 730), (58, 54), 0.2, 40, 55, 0.15),
    "stomach wall": Tissue(0.85, (1000, 1300), (66, 60), 0.08, 38, 42),
    "bowel wall": Tissue(0.85, (1000, 1300), (68, 62), 0.1, 38, 45),
    "fluid": Tissue(1.0, (2600, 3100), (430, 390), 0.14, 18),
    "chyme": Tissue(0.9, (1300, 1600), (150, 130), 0.35, 32),
    "stool": Tissue(0.55, (900, 1100), (62, 56), 0.45, -10),
    "gas": Tissue(0.0, (1000, 1000), (50, 50), 0.0, -950),
}
"""Name to tissue of the abdomen; a tissue map holds positions in this order."""
