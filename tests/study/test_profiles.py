"""Which runs an experiment asks for under each profile; the paper's code path, at a size that runs anywhere."""

from pathlib import Path
from typing import Any

import pytest

from desam_lite.data.manifest import load_manifest
from desam_lite.study.parallel import execute_runs
from desam_lite.study.plans import EXPERIMENTS
from desam_lite.study.profiles import METHOD_CHOICES, PROFILES, get_profile, plan_domain_splits
from desam_lite.utils.errors import StudyError

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "data_manifests" / "phantom_prostate.yaml"


def plan(profile: str, **chosen: Any) -> list[Any]:
    return plan_domain_splits(get_profile(profile), MANIFEST, "data", **chosen)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_every_source_method_and_seed(name: str) -> None:
    profile = get_profile(name)
    sources = list(load_manifest(MANIFEST).domains)[: profile.sources]
    specs = plan(name, weights="sam.pth")
    assert [(s.source, s.method, s.prompt_mode, s.seed) for s in specs] == [
        (source, choice["method"], choice.get("prompt_mode"), seed)
        for source in sources
        for choice in (METHOD_CHOICES[method] for method in profile.methods)
        for seed in profile.seeds
    ]
    assert len(set(specs_hash(specs))) == len(specs)
    assert profile.name == name


def specs_hash(specs: list[Any]) -> list[str]:
    return [spec.model_dump_json() for spec in specs]


def test_what_is_chosen_is_all_that_is_run() -> None:
    methods = {"methods": ["unet", "desam_b"], "weights": "sam.pth"}
    specs = plan("teach", sources=["F", "B"], seeds=[4, 5], **methods)
    assert [(s.source, s.label, s.seed) for s in specs] == [
        (source, label, seed) for source in "FB" for label in ("U-Net", "DeSAM-B") for seed in (4, 5)
    ]


def test_settings_given_win_over_those_of_the_profile() -> None:
    assert {s.epochs for s in plan("teach", methods=["unet", "desam_p"], epochs=2)} == {2}
    assert {s.unet_width for s in plan("paper", methods=["unet"], unet_width=5)} == {5}


def test_a_control_keeps_what_makes_it_one() -> None:
    both = {"methods": ["desam_b", "desam_b_random"], "sources": ["A"], "seeds": [0]}
    seen, control = plan("teach", weights="sam.pth", **both)
    assert (seen.label, control.label) == ("DeSAM-B", "DeSAM-B, random encoder")
    assert {**seen.settings(), "weights": 0} == {**control.settings(), "weights": 0}
    assert plan("teach", weights="random", **both) == [control]  # the same run is not done twice


def test_a_choice_may_name_its_own_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = {"method": "desam", "prompt_mode": "box", "backbone": "twin", "weights": "twin.safetensors"}
    monkeypatch.setitem(METHOD_CHOICES, "desam_b_twin", twin)
    both = {"methods": ["desam_b", "desam_b_twin"], "sources": ["A"], "seeds": [0]}
    usual, other = plan("study", backbone="vit_b", weights="sam.pth", **both)
    assert (usual.backbone, usual.label) == ("vit_b", "DeSAM-B")
    assert (other.backbone, other.weights, other.label) == ("twin", "twin.safetensors", "DeSAM-B, twin")


@pytest.mark.parametrize("name", METHOD_CHOICES)
def test_the_paper_profile_knows_every_method(name: str) -> None:
    spec = plan("paper", methods=[name], weights="sam_vit_h.pth", sources=["A"], seeds=[0])[0]
    choice = METHOD_CHOICES[name]
    assert {key: getattr(spec, key) for key in choice} == choice
    if spec.backbone is not None and "weights" not in choice:
        with pytest.raises(StudyError, match="profile paper needs SAM's own weights"):
            plan("paper", methods=[name])


def test_smoke_is_less_work_than_teach() -> None:
    smoke, teach = get_profile("smoke"), get_profile("teach")
    work = [(p.cases, len(plan(p.name)), plan(p.name, methods=["unet"])[0].epochs) for p in (smoke, teach)]
    assert all(less < more for less, more in zip(*work, strict=True))


def test_the_paper_profile_is_the_published_recipe() -> None:
    spec = plan("paper", methods=["desam_p"], weights="sam_vit_h.pth")[0]
    assert (spec.backbone, spec.epochs, spec.batch_size, spec.learning_rate) == ("vit_h", 50, 8, 1e-4)
    assert (spec.split, spec.train_slices) == (
        "80_10_10",
        "published",
    )  # the published one tests nothing at the source
    assert (spec.iou_loss, spec.iou_weight) == ("l1", 1.0)
    grid = (spec.points_per_side, spec.iou_threshold, spec.stability_threshold, spec.min_area)
    assert grid == (9, 0.5, 0.0, 1000)
    assert (spec.mask_loss, spec.selection) == ("dice", "published")
    assert plan("paper", methods=["sam_grid"], weights="sam_vit_h.pth")[0].stability_threshold == 0.95


@pytest.mark.parametrize("name", ["smoke", "teach"])
def test_all_decoders_of_a_small_profile_have_one_loss_and_one_way_to_choose(name: str) -> None:
    specs = plan(name, methods=list(METHOD_CHOICES))
    assert len({spec.mask_loss for spec in specs} - {None}) == 1
    assert len({spec.selection for spec in specs} - {None}) == 1


def test_the_paper_profile_asks_for_weights_where_there_is_an_encoder() -> None:
    with pytest.raises(StudyError, match="profile paper needs SAM's own weights: pass weights=PATH"):
        plan("paper")
    assert {s.method for s in plan("paper", methods=["unet", "prior"])} == {"unet", "prior"}


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"sources": ["A", "Z"]}, "has no domain 'Z': choose from A, B, C, D, E, F"),
        ({"methods": ["sam"]}, "has no method 'sam': choose from prior, unet, .*desam_b, desam_p"),
        ({"epochs": -1}, "run setting 'epochs' = -1"),
        ({"colour": 1}, "run setting 'colour' = 1"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        plan("teach", **chosen)


def test_the_paper_profile_runs_every_competitor_and_control_and_nothing_else_unasked() -> None:
    named = {
        name
        for name, choice in METHOD_CHOICES.items()
        if not choice.get("prompt_mode", "").endswith("_oracle")
        and choice.get("variant", "pdmm_only") == "pdmm_only"
        and "weights" not in choice
    }
    assert set(get_profile("paper").methods) == named - {"unet_light"}


def test_in_the_study_everyone_trains_to_the_plateau_and_a_domain_is_tested_on_the_same_patients() -> None:
    study = get_profile("study")
    assert len(study.methods) >= 14
    compared = EXPERIMENTS["method_comparison"].methods
    specs = plan("study", seeds=[0], sources=["A"], methods=[*study.methods, *compared, "desam_p_no_fusion"])
    trained = [spec for spec in specs if spec.epochs is not None]
    assert {(spec.epochs, spec.patience) for spec in trained} == {(150, 10)}
    assert {spec.unet_size for spec in trained} == {128, None}
    assert (
        {spec.split for spec in specs} == {"half_tested"} and len(study.seeds) >= 3 and study.sources is None
    )
    assert {spec.batch_size for spec in trained if spec.method in ("mixstyle", "maxstyle")} == {8}


def test_an_unknown_profile_is_answered_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match="no profile 'huge': use one of smoke, teach, study, paper"):
        get_profile("huge")


def test_the_paper_path_runs_at_a_tiny_size(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    """The four methods of every profile, as published but for the split: mixed precision, published slices, both protocols."""
    tiny = {"backbone": "sam_tiny", "weights": "random", "epochs": 1, "unet_width": 4, "unet_size": 32}
    methods = ["prior", "unet", "desam_b", "desam_p"]
    specs = plan_domain_splits(
        get_profile("paper"), *tiny_task, sources=["A"], methods=methods, seeds=[0], **tiny
    )
    assert {spec.precision for spec in specs} == {"bf16-mixed", None}
    runs = execute_runs(specs, tmp_path, jobs=1, progress=False)
    assert [run.error for run in runs] == [""] * 4
    for run in runs:
        metrics = run.metrics()
        held_out = set(metrics["case"]) - {"B0", "B1", "B2", "B3"}
        assert len(held_out) == 1 and min(held_out).startswith("A")
        assert set(metrics["protocol"]) == {"whole_volume", "published"}
        assert metrics["dice"].between(0, 1).all()
        assert len(run.history()) == (0 if run.spec.method == "prior" else 1)


def test_a_larger_profile_computes_more_with_its_models() -> None:
    sizes = [get_profile(name).size for name in ("smoke", "teach", "study", "paper")]
    for attribute in ("side", "fine", "sides", "positions", "cases", "patients"):
        values = [getattr(size, attribute) for size in sizes]
        amounts = [len(value) if isinstance(value, tuple) else value for value in values]
        assert amounts == sorted(amounts), attribute
