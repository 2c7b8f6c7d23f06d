"""Where Dice is measured: the synthetic hospitals of the book, and two real ones where their scans lie beside the checkout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.plans import plan_experiment
from desam_lite.study.profiles import get_profile
from desam_lite.study.report.notebook import open_study

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "realdata" / "prostate"


class Place(NamedTuple):
    """A task and how much is trained on it; what is empty is as the experiment or the profile has it."""

    profile: str = "teach"
    data_root: str = ""
    sources: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    cases: int = 0


PLACES = {
    "phantom_prostate": Place(),
    # The real scans have two to three times the slices and are passed over half as often, so that the steps are alike.
    "promise12_small": Place(data_root=str(REAL), sources=("UCL", "BIDMC"), settings=(("epochs", 6),)),
}


def quick_place(folder: Path) -> dict[str, Place]:
    """Return one for a run of seconds, with its data in a folder."""
    settings = (("unet_size", 32),)
    return {"phantom_prostate": Place("smoke", f"{folder}/data", ("A",), ("prior", "unet"), settings, 2)}


def plan_at(
    name: str,
    place: Place,
    workspace: Path,
    seeds: Sequence[int],
    methods: Sequence[str] = (),
    **settings: Any,
) -> list[RunSpec]:
    """List the runs there of methods (the place's, or all that are compared), when its data are made or found whole.

    Those of the book are the same runs, and done once.
    """
    profile = get_profile(place.profile)
    profile = profile.model_copy(update={"cases": place.cases or profile.cases})
    manifest = ROOT / "data_manifests" / f"{name}.yaml"
    open_study(manifest, place.data_root, workspace, profile)
    chosen: dict[str, Any] = {"sources": place.sources, "methods": methods or place.methods, "seeds": seeds}
    chosen |= {**dict(place.settings), **settings}
    return plan_experiment("method_comparison", profile, manifest, place.data_root, **chosen)
