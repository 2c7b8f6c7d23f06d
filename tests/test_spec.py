"""What names a run, and which runs an experiment asks for."""

from pathlib import Path

import pytest

from desam_lite.errors import StudyError
from desam_lite.profiles import PROFILES, get_profile, plan_domain_splits
from desam_lite.spec import make_spec

WHERE = {"manifest": Path("m.yaml"), "data_root": Path("d"), "source": "A"}
ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "data_manifests" / "phantom_prostate.yaml"


def test_settings_a_method_does_not_use_do_not_name_its_run() -> None:
    a = make_spec(**WHERE, method="unet", backbone="vit_h", points_per_side=32)
    b = make_spec(**WHERE, method="unet", backbone="sam_tiny", points_per_side=9)
    assert a.settings() == b.settings()
    assert make_spec(**WHERE, method="prior", epochs=3) == make_spec(**WHERE, method="prior", epochs=50)


def test_every_setting_a_method_uses_names_its_run() -> None:
    plain = make_spec(**WHERE, method="desam")
    for change in (
        {"seed": 1},
        {"points_per_side": 3},
        {"prompt_mode": "box"},
        {"variant": "no_fusion"},
        {"epochs": 2},
    ):
        assert make_spec(**WHERE, method="desam", **change).settings() != plain.settings()


def test_where_files_lie_does_not_name_a_run() -> None:
    moved = {**WHERE, "data_root": Path("/elsewhere")}
    assert make_spec(**WHERE, method="unet").settings() == make_spec(**moved, method="unet").settings()


def test_defaults_are_those_of_the_public_code() -> None:
    spec = make_spec(**WHERE, method="desam")
    assert (spec.epochs, spec.batch_size, spec.learning_rate) == (50, 8, 1e-4)
    assert (spec.points_per_side, spec.iou_threshold, spec.stability_threshold, spec.min_area) == (
        9,
        0.5,
        0.6,
        1000,
    )


def test_labels_are_the_names_of_tables() -> None:
    assert make_spec(**WHERE, method="desam", prompt_mode="box").label == "DeSAM-B"
    assert make_spec(**WHERE, method="desam", variant="no_fusion").label == "DeSAM-P (no_fusion)"
    assert make_spec(**WHERE, method="unet").label == "U-Net"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"epochs": 0}, "epochs"), ({"learning_rte": 1}, "learning_rte"), ({"method": "nnunet"}, "method")],
)
def test_a_wrong_setting_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(StudyError, match=named):
        make_spec(**{**WHERE, "method": "unet", **wrong})


def test_an_experiment_is_every_source_method_and_seed() -> None:
    specs = plan_domain_splits(
        get_profile("teach"), MANIFEST, "data", methods=["unet", "desam_b"], seeds=[4, 5]
    )
    assert len(specs) == 6 * 2 * 2
    assert {s.label for s in specs} == {"U-Net", "DeSAM-B"}
    assert {s.seed for s in specs} == {4, 5}


def test_smoke_trains_on_fewer_sources_than_the_task_has() -> None:
    specs = plan_domain_splits(get_profile("smoke"), MANIFEST, "data")
    assert len({s.source for s in specs}) == PROFILES["smoke"].sources == 2


def test_paper_profile_is_the_published_recipe() -> None:
    specs = plan_domain_splits(get_profile("paper"), MANIFEST, "data", methods=["desam_p"])
    spec = specs[0]
    assert (spec.backbone, spec.epochs, spec.learning_rate) == ("vit_h", 50, 1e-4)
    assert (spec.split, spec.train_slices) == ("published_90_10", "published")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_profile("huge"), "smoke, teach, paper"),
        (lambda: plan_domain_splits(get_profile("teach"), MANIFEST, "d", sources=["Z"]), "domain 'Z'"),
        (lambda: plan_domain_splits(get_profile("teach"), MANIFEST, "d", methods=["sam"]), "method 'sam'"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(call, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        call()
