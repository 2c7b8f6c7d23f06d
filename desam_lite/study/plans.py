"""Which runs each experiment of the study needs: said once, for its notebook and for whatever runs many notebooks.

An experiment is named after its notebook. The notebook asks `plan_experiment` with its own parameters, and so does the graph
that runs the whole study.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from desam_lite.data.manifest import load_manifest
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study.profiles import Profile, plan_domain_splits
from desam_lite.utils.errors import StudyError


@dataclass(frozen=True)
class Experiment:
    """What an experiment trains when its notebook is given nothing else.

    Attributes:
        methods: Names of `profiles.METHOD_CHOICES`; empty for the profile's.
        few: Whether it trains at the profile's few domains, because its question is not about hospitals.
        manifest: The task of its notebook.
        per_organ: Those of its methods that are also trained with a model for each organ, where the task has several.
        seeds: Profile -> seeds, where not the profile's own.
        settings: Profile -> fields of `RunSpec`, where not the profile's own.
        synthetic: Whether it asks for scans that can be made to order: on a task of real ones it stays with the synthetic.
    """

    methods: tuple[str, ...] = ()
    few: bool = False
    manifest: str = "phantom_prostate"
    per_organ: tuple[str, ...] = ()
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    synthetic: bool = False


_SINGLE_SEED = dict.fromkeys(("smoke", "teach", "paper"), (0,))  # for what asks much of each trained model

EXPERIMENTS: dict[str, Experiment] = {
    "domain_splits": Experiment(),
    "decoder_ablation": Experiment(
        methods=("desam_b", "pdmm_only", "desam_p", "desam_p_no_iou_head", "desam_p_no_fusion"),
        few=True,
        seeds={"teach": (0,)},
    ),
    "method_comparison": Experiment(
        methods=(
            *("prior", "unet", "unet_aug", "unet_random", "unet_synth"),
            *("randconv", "mixstyle", "csdg", "advbias", "maxstyle", "slaug"),
            *("sam_grid", "sam_box", "unet_box", "sam_point_oracle", "sam_box_oracle"),
            *("sam_finetuned_b", "sam_finetuned_p", "sam_finetuned_b_points", "sam_finetuned_p_box", "samed"),
            "dapsam",
            *("pdmm_only", "desam_b", "desam_p", "desam_b_random", "desam_p_random"),
        ),
        few=True,
        seeds={"teach": (0,)},  # so many methods: one seed each, so that the book keeps its time
    ),
    "own_method": Experiment(methods=("prior", "unet"), few=True, seeds={"teach": (0,)}),
    "protocol_hides": Experiment(),  # the runs of domain_splits, scored in other ways
    "real_difference": Experiment(),  # the same runs again
    "visual_comparison": Experiment(),  # and again
    "modality_splits": Experiment(
        methods=("prior", "unet", "desam_b", "desam_p"),
        manifest="phantom_abdomen",
        per_organ=("desam_b",),
        seeds={"teach": (0,)},
        settings={"teach": {"epochs": 4}},  # an abdomen has three times the slices of a prostate
    ),
    "number_of_points": Experiment(methods=("desam_p", "sam_finetuned_p"), few=True, seeds=_SINGLE_SEED),
    "coupling_seen": Experiment(
        methods=(
            *("sam_point_oracle", "sam_finetuned_p", "desam_p"),
            *("sam_box_oracle", "sam_finetuned_oracle", "sam_finetuned_b", "desam_b"),
        ),
        few=True,
        seeds=_SINGLE_SEED,
    ),
    "which_shift_hurts": Experiment(
        methods=("prior", "unet", "desam_b", "desam_p"), few=True, seeds=_SINGLE_SEED, synthetic=True
    ),
}
"""Name of a notebook to what it trains."""

MADE_TO_ORDER = "phantom_prostate"
"""The task of an experiment on scans made to order, where the task given is real."""

FAILED = "failed"
"""File in a run directory that says why the run could not be finished."""
NO_RETRY = "DESAM_LITE_NO_RETRY"
"""Environment variable: a run that failed is not tried again in a notebook, which says so instead."""
_ROOT_MARK = "data_manifests"


def project_root(start: Path | str) -> Path:
    """Return the nearest folder at or above a file or folder that holds ``data_manifests``; else the folder itself.

    Relative paths in notebooks start there, whether they are run by hand in ``notebooks/`` or by papermill.
    """
    path = Path(start).resolve()
    folder = path.parent if path.is_file() else path
    return next((place for place in (folder, *folder.parents) if (place / _ROOT_MARK).is_dir()), folder)


def kept_folder(workspace: Path | str) -> Path:
    """Return where the kept study of a workspace is, if it has one; that of ``results`` is in the repository."""
    return Path(workspace) / "published"


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


def study_task(name: str, manifest: Path | str, data_root: str) -> tuple[Path | str, str]:
    """Return the manifest and data folder an experiment is on: those given, but synthetic ones where it needs these."""
    if EXPERIMENTS[name].synthetic and not load_manifest(manifest).synthetic:
        return MADE_TO_ORDER, ""
    return manifest, data_root


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
    experiment = EXPERIMENTS[name]
    manifest, data_root = study_task(name, manifest, data_root)
    task = load_manifest(manifest)
    settings = {**experiment.settings.get(profile.name, {}), **settings}
    if weights:
        settings["weights"] = weights
    plan = partial(
        plan_domain_splits,
        profile,
        manifest,
        study_root(manifest, data_root, profile),
        sources=sources or (list(task.domains)[: profile.few] if experiment.few else ()),
        seeds=seeds or experiment.seeds.get(profile.name, ()),
        **settings,
    )
    named = methods or experiment.methods
    specs = plan(methods=named)
    alone = [name for name in experiment.per_organ if name in named]
    if alone and len(task.organs) > 1:
        # A model for each organ is dear: at few domains, unless some were asked for.
        few = sources or list(task.domains)[: profile.few]
        specs += [
            spec for organ in task.organs for spec in plan(methods=alone, organs=(organ.name,), sources=few)
        ]
    return specs
