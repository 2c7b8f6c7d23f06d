"""What lies in the abdominal cavity: liver with its vessels, spleen, kidneys, stomach, bowel, pancreas, gallbladder."""

import numpy as np

from desam_lite.synthetic.phantoms.fields import ellipsoid
from desam_lite.synthetic.phantoms.painting import VoxelMask
from desam_lite.synthetic.phantoms.trunk import ORGANS, Trunk


class Viscera:
    """Paints the organs of the cavity into a trunk, from those at the back to those that press on them.

    The stream names the shapes of vessels and bowel.
    """

    def __init__(self, trunk: Trunk, rng: np.random.Generator):
        self.trunk, self.patient, self.canvas, self.rng = trunk, trunk.patient, trunk.canvas, rng
        self.wide = trunk.half_width / 124  # organs follow the cavity they lie in
        self.deep = trunk.half_depth / 74
        self.room = trunk.cavity < 0.985

    def at(self, x: float, y: float, z: float, moved: float = 1.0) -> tuple[float, float, float]:
        """Return where a point of the average patient is in this one; ``moved`` is how far it follows the breath."""
        return x * self.wide, y * self.deep, z - moved * self.patient.breath

    def paint(self) -> None:
        """Paint everything; what would reach beyond the cavity is cut off at its wall."""
        canvas, wall = self.canvas, self.trunk.cavity >= 1
        before = canvas.tissue[wall]
        self.psoas()
        self.bowel()
        self.stomach()
        self.pancreas()
        self.spleen()
        self.liver()
        for side in (-1, 1):
            self.kidney(side)
        self.colon()
        self.vessels()
        self.gallbladder()
        canvas.tissue[wall], canvas.organ[wall] = before, 0

    def psoas(self) -> None:
        """The muscle beside the spine, thicker further down."""
        build, back = self.patient.build, self.trunk.back
        for side in (-1, 1):
            low, high = (side * 46 * build, back - 2, -180.0), (side * 27 * build, back + 4, 25.0)
            self.canvas.tube([low, high], [25 * build, 8 * build], [("muscle", 0)])

    def liver(self) -> None:
        """A large right lobe under the right dome, a left lobe across the midline, vessels in both."""
        patient, canvas = self.patient, self.canvas
        size, (dx, dy, dz) = patient.liver, patient.liver_shift
        long = patient.lower_lobe
        right = self.at(-60 + dx, -4 + dy, 52 + dz - 20 * (long - 1))
        reach = (76 * size * self.wide, 78 * size * self.deep, 90 * size * long)
        lobe = self._shape(right, reach)
        left = self.at(2 + dx + 26 * (patient.left_lobe - 1), -34 + dy, 72 + dz)
        other = (66 * size * patient.left_lobe * self.wide, 35 * size * self.deep, 46 * size)
        lobe |= self._shape(left, other)
        x, y, z = canvas.where
        # The lower surface rises to the left and to the back: it leans on kidney, stomach and colon.
        under = np.float32(-58 * size * long + dz - patient.breath)
        slope = np.float32(0.52) * (x + np.float32(95 * self.wide)) + np.float32(0.16) * (y + 40)
        fissure = np.hypot(x - np.float32(right[0] + 58 * self.wide), np.float32(0.45) * (z - under)) > 7
        notch = fissure | (y > np.float32(-18 * self.deep)) | (z > np.float32(under + 95))
        build = self.patient.build
        behind = ellipsoid(canvas.where, (0, self.trunk.back, 0), (47 * build, 38 * build, np.inf)) > 1
        inside = lobe & self.room & (z - under > slope) & notch & behind
        canvas.fill(inside, "liver", organ=ORGANS["liver"])
        self._liver_vessels(right, left)

    def _shape(self, centre: tuple[float, float, float], radii: tuple[float, ...]) -> VoxelMask:
        inside = np.zeros(self.canvas.tissue.shape, bool)
        box = self.canvas.box(centre, radii)
        inside[box] = ellipsoid(self.canvas.within(box), centre, radii, power=2.5) < 1
        return inside

    def _liver_vessels(self, right: tuple[float, float, float], left: tuple[float, float, float]) -> None:
        """Hepatic veins that meet at the vena cava below the dome, portal branches from the hilum."""
        organ, size = ORGANS["liver"], self.patient.liver
        cava = (-21 * self.patient.build, self.trunk.back - 34 * self.patient.build, right[2] + 34 * size)
        hilum = self.at(-24, 2, 40 + self.patient.liver_shift[2])
        for kind, root, count, thick in (("caval blood", cava, 7, 4.4), ("portal blood", hilum, 10, 4.6)):
            for number in range(count):
                goal = left if number % 3 == 2 else right
                reach = zip(goal, (58, 58, 60), strict=True)
                end = [g + s * self.rng.uniform(-0.75, 0.75) * size for g, s in reach]
                self._vessel(root, end, thick, kind, organ, forks=4)

    def _vessel(
        self, start: tuple[float, ...], end: list[float], thick: float, kind: str, organ: int, forks: int
    ) -> None:
        """A tapering, bent vessel with side branches, inside one organ."""
        steps = np.linspace(0, 1, 5)[:, None]
        line = np.asarray(start) + steps * (np.asarray(end) - np.asarray(start))
        line[1:-1] += self.rng.normal(0, 5, (3, 3))
        radii = list(thick * (1 - 0.72 * steps[:, 0]))
        self.canvas.tube(list(line), radii, [(kind, 0)], organ=organ, only=organ)
        for _ in range(forks):
            where = int(self.rng.integers(1, 4))
            way = self.rng.normal(0, 26, 3)
            branch, thickness = [line[where], line[where] + way], [0.7 * radii[where], 0.8]
            self.canvas.tube(branch, thickness, [(kind, 0)], organ=organ, only=organ)

    def gallbladder(self) -> None:
        """Under the right lobe, near the front."""
        size = self.patient.gallbladder
        if not size:
            return
        dx, dy, dz = self.patient.liver_shift
        low = self.at(-58 + dx, -46 + dy, -14 + dz - 30 * (self.patient.lower_lobe - 1))
        high = self.at(-36 + dx, -22 + dy, 22 + dz)
        tissues = [("gallbladder wall", 0.0), ("bile", 1.8)]
        self.canvas.tube([low, high], [16 * size, 8 * size], tissues)

    def spleen(self) -> None:
        """A crescent at the back of the left side, hollow towards stomach and kidney."""
        (sx, sy, sz), (dx, dy, dz) = self.patient.spleen, self.patient.spleen_shift
        x, y, z = self.at(90 + dx, 22 + dy, 56 + dz)
        radii = (40 * sx, 54 * sy, 54 * sz)
        tilt = self.rng.uniform(-0.6, -0.15)
        box = self.canvas.box((x, y, z), (max(radii[:2]), max(radii[:2]), radii[2]))
        where = self.canvas.within(box)
        outer = ellipsoid(where, (x, y, z), radii, tilt=tilt, power=2.5)
        hollow = (x - 1.05 * radii[0], y - 0.4 * radii[1], z - 8)
        inner = ellipsoid(where, hollow, (radii[0] * 0.85, radii[1] * 0.85, radii[2] * 1.0), tilt=tilt)
        inside = (outer < 1) & (inner > 1) & self.room[box]
        self.canvas.fill(inside, "spleen", box=box, organ=ORGANS["spleen"])

    def kidney(self, side: int) -> None:
        """Cortex, medullary pyramids, and the pelvis in its fat; around it a capsule of fat, above it the adrenal."""
        index = 0 if side < 0 else 1
        organ, size = ORGANS["right kidney" if side < 0 else "left kidney"], self.patient.kidneys[index]
        dx, dy, dz = self.patient.kidney_shift[index]
        out = (60 + 8 * self.patient.inner_fat) * side
        x, y, z = self.at(out, 0, 2 if side < 0 else 14, 0.7)
        x, y, z = x + dx, self.trunk.back - 4 + 0.5 * dy, z + dz
        tilt = self.patient.kidney_tilt[index]
        radii = (25 * size, 30 * size, 54 * size)
        fat = 3 + 11 * self.patient.inner_fat
        around = [r + fat for r in radii]
        canvas = self.canvas
        box = canvas.box((x, y, z), (max(around[:2]), max(around[:2]), around[2]))
        where = canvas.within(box)
        # The upper pole lies nearer to the spine and to the back.
        above = where[2] - z
        lean = [where[0] + np.float32(0.16 * side) * above, where[1] + np.float32(0.12) * above, where[2]]
        room = self.trunk.cavity[box] < 1.0
        whole = ellipsoid(lean, (x, y, z), radii, tilt=tilt, power=2.5)
        canvas.fill(room & (ellipsoid(lean, (x, y, z), around, tilt=tilt) < 1), "visceral fat", box=box)
        canvas.fill(room & (whole < 1), "renal cortex", box=box, organ=organ)
        angle = np.arctan2(lean[1] - np.float32(y), lean[0] - np.float32(x)) + np.float32(0.03) * lean[2]
        pyramid = (np.cos(7 * angle) + np.cos(np.float32(0.42) * (lean[2] - z))) > -0.15
        canvas.fill(room & (whole < 0.76) & pyramid, "renal medulla", box=box, organ=organ)
        hilum = (x - side * 17 * size, y - 8 * size, z)
        sinus = ellipsoid(lean, hilum, (16 * size, 7.5 * size, 18 * size), tilt=0.5 * side)
        canvas.fill(room & (whole < 1.05) & (sinus < 1), "visceral fat", box=box)
        pelvis = ellipsoid(lean, hilum, (13 * size, 3.4 * size, 9 * size), tilt=0.5 * side)
        canvas.fill(room & (pelvis < 1), "urine", box=box)
        top = (x - side * 16, y - 12, z + radii[2] + 4)
        canvas.tube([top, (top[0] + side * 16, y - 2, top[2] - 8)], [2.8, 2.2], [("adrenal", 0)])

    def stomach(self) -> None:
        """From the dome on the left to before the pancreas; fluid below, gas above, as the patient lies on the back."""
        full = self.patient.stomach
        points = [
            self.at(50, 14, 92),
            self.at(66, -4, 72),
            self.at(62, -34, 42, 0.9),
            self.at(34, -48, 16 - 14 * full, 0.8),
            self.at(-8, -44, 12, 0.7),
            self.at(-26, -26, 10, 0.7),
        ]
        wide = 0.62 + 0.55 * full
        radii = [27 * wide, 35 * wide, 31 * wide, 24 * wide, 16 * wide, 11.0]
        content = "chyme" if self.rng.random() < 0.35 else "fluid"
        self.canvas.tube(points, radii, [("stomach wall", 0), (content, 4.2)])
        y = self.canvas.where[1]
        inside = self.canvas.tissue == self.canvas.ids[content]
        self.canvas.fill(inside & (y < np.float32(self.patient.gas)), "gas")

    def pancreas(self) -> None:
        """Head in the curve of the duodenum, tail to the hilum of the spleen."""
        points = [(-26, 4, -14), (-20, -6, 6), (4, -14, 16), (32, -8, 24), (58, 10, 36), (76, 18, 44)]
        line = [self.at(x, y, z + self.rng.normal(0, 4), 0.6) for x, y, z in points]
        self.canvas.tube(line, [13, 12, 8, 8, 8, 6], [("pancreas", 0)])
        duodenum = [(-30, -24, 10), (-44, -4, 4), (-42, 10, -22), (-14, 8, -42), (14, 4, -36)]
        tube = [self.at(x, y, z, 0.6) for x, y, z in duodenum]
        self.canvas.tube(tube, [11, 12, 12, 11, 11], [("bowel wall", 0), ("chyme", 2.6)])

    def bowel(self) -> None:
        """Loops of small bowel, each filled its own way, in the room that the other organs leave."""
        count = int(88 - 36 * self.patient.inner_fat)
        for _ in range(count):
            x, y = self.rng.uniform(-88, 96), self.rng.uniform(-62, 22)
            start = np.array(self.at(x, y, self.rng.uniform(-160, 26), 0.3))
            way = self.rng.normal(0, 1, 3) * (20, 14, 12)
            radius = self.rng.uniform(8.5, 14.5)
            content = str(self.rng.choice(["chyme", "fluid", "gas"], p=[0.6, 0.32, 0.08]))
            loop = [start, start + way, start + 1.6 * way[[1, 0, 2]]]
            self.canvas.tube(loop, [radius] * 3, [("bowel wall", 0), (content, 2.2)])

    def colon(self) -> None:
        """Up the right side, across below liver and stomach, down the left side: stool, with gas in front."""
        low = self.rng.uniform(-62, -18)
        across = [(-88, -6, -30), (-62, -50, low), (-10, -62, low - 10), (44, -58, low + 8), (90, -30, 24)]
        down = [(102, 12, 4), (101, 14, -70), (100, 8, -190)]
        up = [(-100, 6, -190), (-99, 10, -90), (-94, 6, -42)]
        line = _rounded([self.at(*p, 0.4) for p in (*up, *across, *down)])
        radii = list(self.rng.uniform(14, 23, len(line)))
        canvas = self.canvas
        content = "stool" if self.rng.random() < 0.65 else "chyme"
        canvas.tube(line, radii, [("bowel wall", 0), (content, 2.4)], only=0)
        inside = canvas.tissue == canvas.ids[content]
        level = np.float32(self.patient.gas - 4)
        canvas.fill(inside & (canvas.where[1] < level) & (canvas.organ == 0), "gas")

    def vessels(self) -> None:
        """Splenic and mesenteric vein meet to the portal vein, which runs to the hilum; fine vessels in the fat."""
        meet = self.at(-8, 2, 6, 0.6)
        hilum = self.at(-26, 2, 42 + self.patient.liver_shift[2])
        spleen = self.at(74, 24, 42, 0.8)
        canvas = self.canvas
        canvas.tube([spleen, self.at(34, 4, 30, 0.6), meet], [4.5, 5, 5.5], [("portal blood", 0)])
        canvas.tube([self.at(2, -14, -110, 0.3), meet, hilum], [4.5, 6, 7], [("portal blood", 0)])
        artery = self.at(12, -10, -110, 0.3)
        canvas.tube([artery, self.at(9, 2, 10, 0.3)], [3.2, 3.6], [("arterial blood", 0)])
        for _ in range(26):
            x, y, z = (self.rng.uniform(*ends) for ends in ((-70, 80), (-50, 10), (-130, 0)))
            place = np.array(self.at(x, y, z, 0.3))
            way = self.rng.normal(0, 14, 3)
            canvas.tube([place, place + way], [1.8, 1.2], [("portal blood", 0)], only=0)


def _rounded(line: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Cut the corners of a line of points once (Chaikin), its ends kept."""
    points = np.asarray(line)
    near, far = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
    inner = np.stack([near, far], axis=1).reshape(-1, 3)[1:-1]
    return [tuple(p) for p in (points[0], *inner, points[-1])]
