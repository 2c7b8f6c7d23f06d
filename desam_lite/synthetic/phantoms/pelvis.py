"""A random male pelvis around the prostate, painted structure by structure.

Frame: millimetres, x to the patient's left, y to posterior, z to superior (LPS), origin in the middle of the prostate of
an average patient. The sizes are those of adult anatomy as axial atlases show it; each patient draws their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from desam_lite.synthetic.phantoms.fields import Field, ellipsoid, warp
from desam_lite.synthetic.phantoms.painting import Box, Canvas, TissueMap
from desam_lite.synthetic.phantoms.tissues import TISSUES

_ID = {name: number for number, name in enumerate(TISSUES)}
_WARP_KNOTS = (160.0, 160.0, 80.0)  # what any scan shows at most, from the origin along x, y, z, in mm
_WARP_REACH = 12.0  # how far, in mm, the warp may carry a structure out of its box


@dataclass(frozen=True)
class Patient:
    """What differs between patients; lengths in mm, angles in radians."""

    gland: tuple[float, float, float]  # half axes of the prostate: x, y, z
    place: tuple[float, float, float]  # where its middle lies
    turn: float  # rotation of the gland about z
    zone: float  # size of the transition zone as a part of the gland
    nodules: int  # nodules in the transition zone
    rectum: float  # radius of the rectum
    rectum_side: float  # how far it lies off the midline
    content: str  # what fills it: "gas", "stool" or "gel"
    balloon: float  # radius of an endorectal coil's balloon; 0 without
    bladder: float  # fullness, 0 to 1
    fat: float  # width of the fat between the structures, a factor
    build: float  # size of the skeleton, a factor
    seed: int  # names the shapes of everything


def draw_patient(rng: np.random.Generator, *, balloon: float) -> Patient:
    """Draw a patient; the more a balloon in the rectum is filled, 0 to 1, the more the gland is flattened and pushed forward.

    The stream names the patient, whatever the balloon.
    """
    size = rng.uniform(0.8, 1.3)
    flat = 1 + balloon * (rng.uniform(0.72, 0.86) - 1)
    gland = (
        24 * size * rng.uniform(0.9, 1.12) / np.sqrt(flat),
        17.5 * size * rng.uniform(0.85, 1.15) * flat,
        20 * size * rng.uniform(0.85, 1.15),
    )
    forward = balloon * rng.uniform(4, 12)
    return Patient(
        gland=gland,
        place=(rng.normal(0, 3), rng.normal(0, 6) - forward, rng.normal(0, 4)),
        turn=rng.normal(0, 0.12),
        zone=rng.uniform(0.5, 0.8) * min(1.0, 0.85 + 0.15 * size),
        nodules=int(rng.integers(1, 9)),
        rectum=rng.uniform(9, 19),
        rectum_side=rng.normal(0, 4),
        content=str(rng.choice(["gas", "stool", "gel"], p=[0.45, 0.4, 0.15])),
        balloon=balloon * rng.uniform(18, 25),
        bladder=rng.uniform(0.1, 1.0),
        fat=rng.uniform(0.75, 1.3),
        build=rng.uniform(0.92, 1.1),
        seed=int(rng.integers(2**31)),
    )


def paint_pelvis(patient: Patient, axes: Sequence[Field]) -> tuple[TissueMap, TissueMap]:
    """Paint a patient on a grid, of axes as in `Canvas`; another grid shows the same anatomy.

    Returned are tissue ids (positions in `TISSUES`) and the label (1 in the prostate): both ``(Z, H, W)`` uint8.
    """
    rng = np.random.default_rng([patient.seed, 1])
    painter = _Painter(patient, axes, warp(axes, axes, (30, 2.4), (9, 0.8), _WARP_KNOTS, rng), rng)
    painter.body()
    painter.skeleton()
    painter.muscles()
    painter.bladder()
    painter.vessels()
    label = painter.prostate()
    label &= ~painter.rectum()
    return painter.tissue, label.astype(np.uint8)


class _Painter(Canvas):
    """Paints structures over each other, from the skin inwards."""

    def __init__(self, patient: Patient, axes: Sequence[Field], where: list[Field], rng: np.random.Generator):
        super().__init__(_ID, axes, where, "fat", reach=_WARP_REACH)
        self.patient, self.rng = patient, rng

    def _at(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Move a point of the average skeleton to this patient's."""
        size = self.patient.build
        return x * size, y * size, z

    def body(self) -> None:
        """Outline, skin, and the fibrous strands that run through the fat."""
        size = self.patient.build
        outline = ellipsoid(self.where, (0, 12, 0), (185 * size, 118 * size, np.inf), power=2.6)
        self.fill(outline > 0.985, "skin")
        self.fill(outline > 1, "air")

    def skeleton(self) -> None:
        """Pubic bones with the symphysis, ischium and femoral head on each side, the coccyx."""
        size = self.patient.build
        for side in (-1, 1):
            self._bone(self._at(side * 24, -54, 2), (25 * size, 12 * size, 24), side * 0.42)
            self._bone(self._at(side * 78, 18, 0), (17 * size, 34 * size, 60), side * -0.25)
            self._bone(self._at(side * 98, -18, 28), (24 * size, 24 * size, 26), 0)
        self.solid(self._at(0, -52, 2), (3.2, 13, 22), [("cartilage", 0)])
        self._bone(self._at(0, 92, 10), (14 * size, 9 * size, 40), 0)

    def _bone(self, centre: Sequence[float], radii: Sequence[float], tilt: float) -> None:
        self.solid(centre, radii, [("cortical bone", 0), ("marrow", 2.6)], tilt=tilt, power=2.4)

    def muscles(self) -> None:
        """Obturator internus and externus, levator ani, gluteus, pectineus."""
        size, fat = self.patient.build, self.patient.fat
        for side in (-1, 1):
            self._muscle(self._at(side * (43 + 6 * fat), 2, 6), (10.5 * size, 33 * size, 55), side * -0.2)
            self._muscle(self._at(side * 44, -38, -14), (23 * size, 10 * size, 18), side * 0.5)
            self._muscle(self._at(side * 78, 76, 0), (58 * size, 19 * size, 80), side * -0.5)
            self._muscle(self._at(side * 62, -72, 0), (24 * size, 15 * size, 70), side * 0.35)
            self._muscle(self._at(side * 108, 22, -8), (14 * size, 20 * size, 40), 0)
        sling = ellipsoid(self.where, (0, 20, -14), (31 * fat**0.5, 42, 46), power=2.2)
        behind = self.where[1] > -14
        self.fill((sling < 1) & (sling > 0.87) & behind, "muscle")

    def _muscle(self, centre: Sequence[float], radii: Sequence[float], tilt: float) -> None:
        self.solid(centre, radii, [("muscle", 0)], tilt=tilt, power=2.3)

    def bladder(self) -> None:
        """Urine in a wall, above and before the prostate; the seminal vesicles behind it."""
        gland, (x, y, z) = self.patient.gland, self.patient.place
        full = self.patient.bladder
        radii = (22 + 18 * full, 16 + 14 * full, 12 + 14 * full)
        middle = (x, y - 10, z + gland[2] + radii[2] - 4)
        self.solid(middle, radii, [("bladder wall", -3.5), ("urine", 0)], power=2.2)
        for side in (-1, 1):
            centre = (x + side * 0.62 * gland[0], y + 0.72 * gland[1], z + gland[2] + 3)
            self.solid(centre, (0.66 * gland[0], 5.5, 7.5), [("seminal vesicle", 0)], tilt=side * -0.2)

    def vessels(self) -> None:
        """Veins before and beside the gland, bundles at its back corners, larger vessels at the pelvic wall."""
        gland, (x, y, z) = self.patient.gland, self.patient.place
        for _ in range(26):
            angle = self.rng.uniform(-0.15, 1.15) * np.pi
            away = self.rng.uniform(1.1, 1.4)
            centre = (
                x + away * gland[0] * np.cos(angle),
                y - away * gland[1] * np.sin(angle),
                z + self.rng.uniform(-1, 1) * gland[2],
            )
            radii = (*self.rng.uniform(0.9, 2.6, 2), self.rng.uniform(4, 14))
            kind = "vein" if self.rng.random() < 0.75 else "artery"
            self.solid(centre, radii, [(kind, 0)], tilt=self.rng.uniform(0, np.pi))

    def prostate(self) -> npt.NDArray[np.bool_]:
        """Capsule, zones, nodules, stroma and urethra of the gland; returns where it is."""
        gland, zone, centre = self.patient.gland, self.patient.zone, self.patient.place
        box = self.box(centre, (max(gland[:2]), max(gland[:2]), gland[2]))
        local = self._gland_frame(box)
        shape = ellipsoid(local, (0, 0, 0), gland, power=2.25)
        hollow = ellipsoid(local, (0, gland[1] * 1.95, 0), (gland[0] * 0.85, gland[1], np.inf))
        inside = (shape < 1) & (hollow > 1)  # the back is flat or a little hollow
        margin = 1.3 / gland[1]
        core = (shape < 1 - margin) & (hollow > 1 + margin)
        middle = (0, -gland[1] * (0.9 - zone) * 0.9, gland[2] * 0.12)
        within = ellipsoid(local, middle, [g * zone for g in gland])
        front = ellipsoid(local, (0, -gland[1] * 0.95, 0), (gland[0] * 0.42, gland[1] * 0.38, gland[2] * 0.9))
        tube = ellipsoid(local, (0, -gland[1] * 0.05, 0), (2.0, 2.2, np.inf))
        self.fill(inside, "capsule", box=box)
        self.fill(core, "peripheral zone", box=box)
        self.fill(core & (within < 1), "surgical capsule", box=box)
        self.fill(core & (within < 1 - 1.1 / (gland[1] * zone)), "transition zone", box=box)
        self._nodules(core & (within < 0.93), local, box)
        self.fill(core & (front < 1), "stroma", box=box)
        self.fill(core & (tube < 1), "urethra", box=box)
        whole = np.zeros(self.tissue.shape, bool)
        whole[box] = inside
        return whole

    def _gland_frame(self, box: Box) -> list[Field]:
        """Return x, y, z of a box in the gland's own turned frame, widened towards the apex so that the gland tapers there."""
        gland, turn = self.patient.gland, self.patient.turn
        x, y, z = (w - c for w, c in zip(self.within(box), self.patient.place, strict=True))
        taper = 1 - 0.2 * np.clip(-z / gland[2], 0, 1) ** 1.5
        cos, sin = np.cos(turn), np.sin(turn)
        return [(cos * x + sin * y) / taper, (-sin * x + cos * y) / taper, z]

    def _nodules(self, room: npt.NDArray[np.bool_], local: list[Field], box: Box) -> None:
        for _ in range(self.patient.nodules):
            centre = [self.rng.uniform(-0.5, 0.5) * self.patient.zone * g * 1.2 for g in self.patient.gland]
            radius = self.rng.uniform(2.5, 7.5)
            radii = [radius * self.rng.uniform(0.8, 1.25) for _ in range(3)]
            ball = ellipsoid(local, centre, radii)
            self.fill(room & (ball < 1), "surgical capsule", box=box)
            kind = "bright nodule" if self.rng.random() < 0.5 else "dark nodule"
            self.fill(room & (ball < 1 - 0.9 / radius), kind, box=box)

    def rectum(self) -> npt.NDArray[np.bool_]:
        """The rectum behind the gland, or the balloon of a coil in it; returns where it is."""
        patient = self.patient
        x, y, _ = patient.place
        if patient.balloon:
            return self._balloon(x + 0.4 * patient.rectum_side, y)
        radius = patient.rectum
        z = self.where[2]
        narrow = np.clip(1 + (z + 18) / 60, 0.55, 1.15).astype(np.float32)  # towards the anal canal
        middle = y + patient.gland[1] + radius + 3.5
        sideways = self.where[0] - np.float32(x + patient.rectum_side)
        backwards = self.where[1] - np.float32(middle) + np.float32(0.12) * z
        across, along = (np.asarray(away / narrow, np.float32) for away in (sideways, backwards))
        shape = ellipsoid((across, along, z), (0, 0, 0), (radius * 1.12, radius, np.inf))
        inside = shape < 1
        self.fill(inside, "rectal wall")
        self.fill(shape < 1 - 3.2 / radius, patient.content)
        return np.asarray(inside)

    def _balloon(self, x: float, y: float) -> npt.NDArray[np.bool_]:
        patient = self.patient
        radius = patient.balloon
        middle = y + patient.gland[1] * 0.82 + radius
        shape = ellipsoid(self.where, (x, middle, 4), (radius * 1.1, radius, 62), power=2.1)
        wall = 1 + 2.4 / radius
        inside = shape < wall
        self.fill(inside, "rectal wall")
        self.fill(shape < 1, "balloon")
        loop = ellipsoid(self.where, (x, middle - radius * 0.55, 4), (radius * 0.75, 2.0, 40))
        self.fill(loop < 1, "gel")
        return np.asarray(inside)
