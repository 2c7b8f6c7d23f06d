"""Which runs each experiment of the study needs: said once, for its notebook and for whatever runs many notebooks.

An experiment is named after its notebook. The notebook asks `plan_experiment` with its own parameters, and so does the graph
that runs the whole study.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desam_lite.errors import StudyError
from desam_lite.manifest import load_manifest
from desam_lite.profiles import Profile, plan_domain_splits
from desam_lite.spec import RunSpec


@dataclass(frozen=True)
class Experiment:
    """What an experiment trains when its notebook is given nothing else.

    Attributes:
        methods: Names of `profiles.METHOD_CHOICES`; empty for the profile's.
        few: Whether it trains at the profile's few domains, because its question is not about hospitals.
        dear: Whether it gets the profile's fewer seeds, because it has many methods or should be done soon.
    """

    methods: tuple[str, ...] = ()
    few: bool = False
    dear: bool = False


EXPERIMENTS: dict[str, Experiment] = {
    "domain_splits": Experiment(),
    "decoder_ablation": Experiment(
        methods=("desam_b", "pdmm_only", "desam_p", "desam_p_no_iou_head", "desam_p_no_fusion"), few=True
    ),
    "method_comparison": Experiment(
        methods=(
            *("prior", "unet", "randconv", "mixstyle", "csdg", "advbias", "maxstyle"),
            *(
                "sam_grid",
                "sam_box",
                "sam_point_oracle",
                "sam_box_oracle",
                "sam_finetuned_b",
                "sam_finetuned_p",
                "samed",
            ),
            *("desam_b", "desam_p", "desam_b_random"),
        ),
        few=True,
        dear=True,
    ),
    "own_method": Experiment(methods=("prior", "unet"), few=True, dear=True),
}
"""Name of a notebook to what it trains."""


def study_root(manifest: Path | str, data_root: str, profile: Profile) -> Path:
    """Return the folder with a study's data.

    Args:
        manifest: Path or name of the manifest.
        data_root: The folder, where the user named one; "" for ``data/<task>``, with the number of cases appended for
            synthetic data.
        profile: Says how many synthetic cases there are per domain.
    """
    task = load_manifest(manifest)
    default = f"{task.name}_{profile.cases}" if task.synthetic else task.name
    return Path(data_root) if data_root else Path("data") / default


def plan_experiment(
    name: str,
    profile: Profile,
    manifest: Path | str,
    data_root: str = "",
    *,
    sources: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    weights: str = "",
    **settings: Any,
) -> list[RunSpec]:
    """List the runs of an experiment; the arguments are its notebook's parameters, empty where the user chose nothing.

    Args:
        name: Of `EXPERIMENTS`.
        profile: How much work.
        manifest: The task's manifest, by name or path.
        data_root: Folder with its data; "" for the usual one (`study_root`).
        sources: Domains to train on.
        methods: Names of `profiles.METHOD_CHOICES`.
        seeds: One run each.
        weights: File with the frozen encoder's weights.
        **settings: Fields of `RunSpec` to set for every run.

    Raises:
        StudyError: There is no such experiment, or what `plan_domain_splits` refuses.
    """
    if name not in EXPERIMENTS:
        raise StudyError(f"there is no experiment '{name}': choose from {', '.join(EXPERIMENTS)}.")
    usual = EXPERIMENTS[name]
    domains = list(load_manifest(manifest).domains)
    if weights:
        settings["weights"] = weights
    return plan_domain_splits(
        profile,
        manifest,
        study_root(manifest, data_root, profile),
        sources=sources or (domains[: profile.few] if usual.few else ()),
        methods=methods or usual.methods,
        seeds=seeds or (profile.dear_seeds if usual.dear else ()),
        **settings,
    )
