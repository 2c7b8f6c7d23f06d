"""A patient of the abdomen, and the parts that every organ lies in: wall, skeleton, lungs, great vessels.

Frame: millimetres, x to the patient's left, y to posterior, z to superior (LPS), origin in the middle of the abdominal cavity
at the height of the second lumbar vertebra. Sizes and places are those of adult anatomy as axial atlases show it; each patient
has their own.
"""

from dataclasses import dataclass

import numpy as np

from desam_lite.synthetic.phantoms.fields import Field, ellipsoid
from desam_lite.synthetic.phantoms.painting import Canvas
from desam_lite.synthetic.phantoms.tissues import ABDOMEN_TISSUES

IDS = {name: number for number, name in enumerate(ABDOMEN_TISSUES)}
ORGANS = {"liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}
"""Organ to its label."""
_WALL = 11.0  # muscle of the abdominal wall, mm


@dataclass(frozen=True)
class AbdomenPatient:
    """What differs between patients; lengths in mm, angles in radians, sizes as factors of an average adult's."""

    build: float  # size of the skeleton and of where organs lie
    girth: tuple[float, float]  # width and depth of the abdominal cavity
    under_skin: float  # fat under the skin at the side; in front it is more
    inner_fat: float  # how much fat lies between the organs, 0 to 1
    turn: float  # how far the patient lies rolled to a side
    breath: float  # how far a breath pushes liver, spleen, stomach and kidneys down
    liver: float  # size of the liver; volume goes with its third power
    left_lobe: float  # length of the left lobe
    lower_lobe: float  # how far the right lobe reaches down
    liver_shift: tuple[float, float, float]  # where the liver lies besides
    spleen: tuple[float, float, float]  # size of the spleen: x, y, z
    spleen_shift: tuple[float, float, float]  # where it lies besides
    kidneys: tuple[float, float]  # size of the right and the left kidney
    # where each lies besides; a floating kidney lies centimetres lower
    kidney_shift: tuple[tuple[float, float, float], tuple[float, float, float]]
    kidney_tilt: tuple[float, float]  # rotation of each about z
    stomach: float  # fullness of the stomach, 0 to 1
    gas: float  # level of the fluid in stomach and bowel, y
    gallbladder: float  # size of the gallbladder; 0 where it has been taken out
    iron: float  # shortening of the T2 of liver and spleen by iron, a factor
    steatosis: float  # fat in the liver, 0 to 1
    seed: int  # names the shapes of everything


class Trunk:
    """The outer parts of a patient on a canvas, and the measures that the inner ones go by."""

    def __init__(self, patient: AbdomenPatient, canvas: Canvas):
        self.patient, self.canvas = patient, canvas
        build = patient.build
        self.half_width = 124 * build * patient.girth[0]
        self.half_depth = 74 * build * patient.girth[1]
        radii = (self.half_width, self.half_depth, np.inf)
        self.cavity = ellipsoid(canvas.where, (0, 0, 0), radii, power=2.5)
        """Below 1 inside the abdominal wall."""
        self.back = 45 * build  # middle of the vertebral bodies, y

    def body(self) -> None:
        """Table, skin, fat under the skin, the muscle of the wall, and fat inside."""
        fat, canvas = self.patient.under_skin, self.canvas
        width = self.half_width + _WALL + fat
        front, rear = self.half_depth + _WALL + 1.3 * fat, 74 * self.patient.build + 34 + 0.9 * fat
        centre = (rear - front) / 2
        outline = ellipsoid(canvas.where, (0, centre, 0), (width, (front + rear) / 2, np.inf), power=2.5)
        skin = 1 - 3.0 / width
        canvas.fill(outline > skin, "skin")
        canvas.fill(outline > 1, "air")
        self._table(centre + (front + rear) / 2)
        canvas.fill(self.cavity < 1 + _WALL / self.half_width, "muscle")
        self._back_muscles()
        canvas.fill(self.cavity < 1, "visceral fat")

    def _table(self, back: float) -> None:
        """The couch below the back: a thin shell, flat in the frame of the scanner."""
        x, y, _ = self.canvas.axes
        curve = y - np.float32(back + 12) + np.float32(1 / 700) * x * x
        shell = (np.abs(curve) < 2.2) & (np.abs(x) < 210)
        outside = self.canvas.tissue == IDS["air"]
        self.canvas.fill(outside & shell, "table")

    def _back_muscles(self) -> None:
        build = self.patient.build
        for side in (-1, 1):
            place = (side * 31 * build, self.back + 35 * build, 0)
            self.canvas.solid(place, (30 * build, 21 * build, 500), [("muscle", 0)], power=2.5)

    def skeleton(self) -> None:
        """Vertebrae with discs, arches and the canal; the ribs, which run down towards the front."""
        build, canvas, back = self.patient.build, self.canvas, self.back
        pitch, start = 33 * build, self.patient.seed % 33
        phase = (canvas.where[2] - np.float32(start)) % np.float32(pitch)
        disc, far = phase < 8 * build, 500.0
        box = canvas.box((0, back, 0), (22 * build, 16.5 * build, far))
        body = ellipsoid(canvas.within(box), (0, back, 0), (22 * build, 16.5 * build, np.inf), power=2.5)
        canvas.fill(body < 1, "cortical bone", box=box)
        canvas.fill(body < 1 - 1.6 / (16.5 * build), "marrow", box=box)
        canvas.fill((body < 0.97) & disc[box], "disc", box=box)
        arch = [("cortical bone", 0.0), ("marrow", 2.0)]
        for side in (-1, 1):
            place = (side * 17 * build, back + 22 * build, 0)
            canvas.solid(place, (5.5 * build, 9 * build, far), arch)
            box = canvas.box((side * 34 * build, back + 20 * build, 0), (14 * build, 6 * build, far))
            place = (side * 34 * build, back + 20 * build, 0)
            wing = ellipsoid(canvas.within(box), place, (14 * build, 4.5, far))
            canvas.fill((wing < 1) & (np.abs(phase[box] - 18 * build) < 5), "cortical bone", box=box)
        box = canvas.box((0, back + 42 * build, 0), (3.4, 15 * build, far))
        spine = ellipsoid(canvas.within(box), (0, back + 42 * build, 0), (3.4, 15 * build, np.inf))
        canvas.fill((spine < 1) & (np.abs(phase[box] - 16 * build) < 10 * build), "cortical bone", box=box)
        canvas.solid((0, back + 25 * build, 0), (9.5 * build, 8 * build, far), [("spinal fluid", 0)])
        canvas.solid((0, back + 25 * build, 95), (5 * build, 4.5 * build, 90), [("cord", 0)])
        self._ribs()

    def _ribs(self) -> None:
        canvas, build = self.canvas, self.patient.build
        x, y, z = canvas.where
        front = np.float32(0.5) - np.float32(0.5) * y / np.maximum(np.hypot(x, y), 1)  # 0 behind, 1 in front
        pitch = np.float32(29 * build)
        height = (z + np.float32(135 * build) * front) % pitch
        middle = np.abs(self.cavity - np.float32(1 + 6.5 / self.half_width))
        margin = z > np.float32(-15) + np.float32(125) * np.maximum(front - 0.45, 0)  # the costal arch
        ring = margin & (np.abs(y) < 1.25 * self.half_depth) & (np.hypot(x, y) > 40)
        gone = np.abs(height - 6) / 4.6  # 1 at the edge of a rib
        edge = np.maximum(gone, middle * np.float32(self.half_width / 3.4))
        canvas.fill(ring & (edge < 1), "cortical bone")
        canvas.fill(ring & (edge < 0.6), "marrow")

    def dome(self) -> Field:
        """Return the height of the diaphragm above every voxel, z in mm: two domes, the right one higher, low at the sides."""
        x, y, _ = self.canvas.where
        down = self.patient.breath
        domes = []
        for middle, top, wide in ((-52.0, 122.0, 86.0), (64.0, 110.0, 76.0)):
            across = x - np.float32(middle * self.half_width / 124)
            across /= np.float32(wide * self.half_width / 124)
            along = (y + 12) / np.float32(84 * self.half_depth / 74)
            behind = np.where(along > 0, np.float32(1.15), np.float32(0.85))
            away = across**2 + behind * along**2
            domes.append(np.float32(top - down) - np.float32(22) * away - np.float32(62) * away * away)
        return np.asarray(np.maximum(domes[0], domes[1]), dtype=np.float32)

    def lungs(self) -> None:
        """Lung above the diaphragm, with the heart between."""
        canvas = self.canvas
        above = canvas.where[2] - self.dome()
        kidneys = [ORGANS["right kidney"], ORGANS["left kidney"]]
        inside = (self.cavity < 1) & ~np.isin(canvas.organ, kidneys)
        canvas.fill(inside & (above > -3), "diaphragm")
        lung = inside & (above > 0)
        canvas.fill(lung, "lung")
        build, top = self.patient.build, 128 - self.patient.breath
        for tissue, centre, radii in (
            ("heart", (18 * build, -26 * build, top + 22), (62 * build, 42 * build, 40)),
            ("arterial blood", (22 * build, -24 * build, top + 26), (46 * build, 27 * build, 34)),
            # the mediastinum
            ("visceral fat", (2, self.back - 20 * build, 0), (26 * build, 18 * build, 500)),
        ):
            box = canvas.box(centre, (max(radii[:2]), max(radii[:2]), radii[2]))
            shape = ellipsoid(canvas.within(box), centre, radii, tilt=0.35 if radii[2] < 100 else 0.0)
            canvas.fill(lung[box] & (shape < 1), tissue, box=box)
        self.great_vessels()

    def great_vessels(self) -> None:
        """The aorta before the spine and the inferior vena cava to its right, from the bottom to the heart."""
        build, canvas, y = self.patient.build, self.canvas, self.back - 27 * self.patient.build
        sway = 7 * np.sin(self.patient.seed % 7)
        aorta = [(9 + sway, y + 2, -210), (7 + sway, y, 30), (14, y + 6, 210)]
        radii = [9.5 * build, 11 * build, 12 * build]
        canvas.tube(aorta, radii, [("vessel wall", 0), ("arterial blood", 1.6)])
        low, high = (-19 * build, y + 3, -210), (-21 * build, y, 40)
        end = (-19 * build, y - 16, 126 - self.patient.breath)
        canvas.tube([low, high, end], [11 * build] * 3, [("vessel wall", 0), ("caval blood", 1.0)])
