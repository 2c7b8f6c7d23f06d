"""A random patient's upper abdomen: drawn, and painted on a grid."""

from collections.abc import Sequence

import numpy as np

from desam_lite.synthetic.phantoms.fields import Field, warp
from desam_lite.synthetic.phantoms.painting import Canvas, TissueMap
from desam_lite.synthetic.phantoms.trunk import IDS, AbdomenPatient, Trunk
from desam_lite.synthetic.phantoms.viscera import Viscera

_KNOTS_REACH = (260.0, 260.0, 200.0)  # what any scan shows at most, from the origin along x, y, z, in mm


def draw_abdomen(rng: np.random.Generator) -> AbdomenPatient:
    """Draw a patient: thin to obese, organs small to enlarged, each a little out of place."""
    habitus = rng.uniform(0, 1)
    liver = float(np.exp(rng.normal(0.02, 0.14)))
    swollen = rng.uniform(1.15, 1.55) if rng.random() < 0.2 else 1.0
    spleen = swollen * np.exp(rng.normal(0, 0.13))

    def shift(x: float, y: float, z: float) -> tuple[float, float, float]:
        return rng.normal(0, x), rng.normal(0, y), rng.normal(0, z)

    def kidney_shift() -> tuple[float, float, float]:
        x, y, z = shift(5, 5, 13)
        return x, y, z - (rng.uniform(20, 50) if rng.random() < 0.12 else 0.0)

    return AbdomenPatient(
        build=rng.uniform(0.9, 1.1),
        girth=(0.88 + 0.24 * habitus + rng.normal(0, 0.04), 0.86 + 0.3 * habitus + rng.normal(0, 0.06)),
        under_skin=6 + 22 * habitus * rng.uniform(0.5, 1.5),
        inner_fat=float(np.clip(habitus + rng.normal(0, 0.25), 0, 1)),
        turn=rng.normal(0, 0.07),
        breath=rng.uniform(-5, 25),
        liver=liver,
        left_lobe=rng.uniform(0.5, 1.4),
        lower_lobe=rng.uniform(0.8, 1.35),
        liver_shift=shift(6, 7, 13),
        spleen=(
            float(spleen * rng.uniform(0.85, 1.15)),
            float(spleen * rng.uniform(0.8, 1.2)),
            float(spleen * rng.uniform(0.8, 1.2)),
        ),
        spleen_shift=shift(4, 10, 10),
        kidneys=(rng.uniform(0.82, 1.16), rng.uniform(0.82, 1.16)),
        kidney_shift=(kidney_shift(), kidney_shift()),
        kidney_tilt=(rng.normal(0.5, 0.25), rng.normal(-0.5, 0.25)),
        stomach=rng.uniform(0, 1),
        gas=rng.uniform(-75, -28),
        gallbladder=0.0 if rng.random() < 0.15 else rng.uniform(0.7, 1.35),
        iron=rng.uniform(0.45, 0.7) if rng.random() < 0.08 else rng.uniform(0.88, 1.12),
        steatosis=rng.uniform(0.3, 1.0) if rng.random() < 0.2 else rng.uniform(0, 0.15),
        seed=int(rng.integers(2**31)),
    )


def paint_abdomen(patient: AbdomenPatient, axes: Sequence[Field]) -> tuple[TissueMap, TissueMap]:
    """Paint a patient on a grid, of axes as in `Canvas`; another grid shows the same anatomy.

    Returned are tissue ids (positions in `ABDOMEN_TISSUES`) and labels (`ORGANS`, else 0): both ``(Z, H, W)`` uint8.
    """
    rng = np.random.default_rng([patient.seed, 2])
    trunk = Trunk(patient, Canvas(IDS, axes, _patient_frame(patient, axes, rng), "fat", turn=patient.turn))
    trunk.body()
    Viscera(trunk, rng).paint()
    trunk.lungs()
    trunk.skeleton()
    canvas = trunk.canvas
    return canvas.tissue, canvas.organ


def _patient_frame(patient: AbdomenPatient, axes: Sequence[Field], rng: np.random.Generator) -> list[Field]:
    """Turn the grid into the patient's frame and warp it."""
    x, y, z = axes
    cos, sin = np.float32(np.cos(patient.turn)), np.float32(np.sin(patient.turn))
    turned = (cos * x + sin * y, cos * y - sin * x, z)
    return warp(turned, axes, (55, 3.2), (22, 1.1), _KNOTS_REACH, rng)
