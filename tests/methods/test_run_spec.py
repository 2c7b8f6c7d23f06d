"""What names a run: every setting its method uses, and no other."""

from pathlib import Path

import pytest

from desam_lite.methods.run_spec import make_spec
from desam_lite.utils.errors import StudyError

WHERE = {"manifest": Path("m.yaml"), "data_root": Path("d"), "source": "A"}


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
        {"mask_loss": "dice_ce"},
        {"selection": "iou"},
    ):
        assert make_spec(**WHERE, method="desam", **change).settings() != plain.settings()


def test_a_setting_that_most_runs_do_without_names_those_that_have_it() -> None:
    plain = make_spec(**WHERE, method="unet")
    assert "patience" not in plain.settings()
    assert make_spec(**WHERE, method="unet", patience=5).settings() == {**plain.settings(), "patience": 5}


def test_where_files_lie_does_not_name_a_run() -> None:
    moved = {**WHERE, "data_root": Path("/elsewhere")}
    assert make_spec(**WHERE, method="unet").settings() == make_spec(**moved, method="unet").settings()


def test_defaults_are_those_of_the_public_code() -> None:
    spec = make_spec(**WHERE, method="desam")
    assert (spec.epochs, spec.batch_size, spec.learning_rate) == (50, 8, 1e-4)
    grid = (spec.points_per_side, spec.iou_threshold, spec.stability_threshold, spec.min_area)
    assert grid == (9, 0.5, 0.0, 1000)
    assert (spec.mask_loss, spec.selection) == ("dice", "published")


def test_labels_are_the_names_of_tables() -> None:
    seen = {"method": "desam", "weights": "sam.pth"}
    assert make_spec(**WHERE, **seen, prompt_mode="box").label == "DeSAM-B"
    assert make_spec(**WHERE, **seen, variant="no_fusion").label == "DeSAM-P without fusion"
    assert make_spec(**WHERE, **seen, variant="pdmm_only").label == "PDMM alone"
    tuned = {"method": "sam_finetuned", "weights": "sam.pth"}
    assert make_spec(**WHERE, **tuned, prompt_mode="box").label == "Tuned SAM-B"
    assert make_spec(**WHERE, method="samed", weights="sam.pth").label == "SAMed"
    assert make_spec(**WHERE, method="unet").label == "U-Net"
    assert make_spec(**WHERE, method="unet", augmentation="nnunet").label == "U-Net + nnU-Net aug."
    assert make_spec(**WHERE, method="csdg").label == "CSDG"


@pytest.mark.parametrize("method", ["desam", "sam_finetuned", "sam_zero_shot", "samed", "dapsam", "unet_box"])
def test_a_random_encoder_is_named_in_the_label(method: str) -> None:
    labels = [make_spec(**WHERE, method=method, weights=w).label for w in ("sam.pth", "random")]
    assert labels[1] == f"{labels[0]}, random encoder"


def test_what_is_not_trained_has_no_settings_of_training() -> None:
    grid = make_spec(**WHERE, method="sam_zero_shot", epochs=3)
    assert grid == make_spec(**WHERE, method="sam_zero_shot", epochs=4, iou_weight=2.0, min_area=1)
    assert grid != make_spec(**WHERE, method="sam_zero_shot", points_per_side=4)
    samed = make_spec(**WHERE, method="samed", prompt_mode="box", embedding_format="float32")
    assert samed == make_spec(**WHERE, method="samed") != make_spec(**WHERE, method="samed", lora_rank=2)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"epochs": 0}, "setting 'epochs' = 0: .* greater than or equal to 1"),
        ({"learning_rte": 1}, "setting 'learning_rte' = 1: Extra inputs are not permitted"),
        ({"method": "nnunet"}, "setting 'method' = 'nnunet': .* 'prior', 'unet'"),
        ({"seed": 2**64}, "setting 'seed'"),
        (
            {"epochs": None},
            "^method 'unet' needs a value for epochs; .* explained in desam_lite/methods/run_spec.py",
        ),
        ({"method": "desam", "prompt_mode": None, "weights": None}, "needs a value for prompt_mode, weights"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(StudyError, match=named):
        make_spec(**{**WHERE, "method": "unet", **wrong})


@pytest.mark.parametrize("unused", [{"epochs": None}, {"epochs": 7}, {"backbone": None}])
def test_a_setting_that_is_not_used_may_be_anything(unused: dict) -> None:
    assert make_spec(**WHERE, method="prior", **unused) == make_spec(**WHERE, method="prior")


def test_prompts_without_points_use_no_setting_of_points() -> None:
    plain = make_spec(**WHERE, method="desam", prompt_mode="box")
    assert make_spec(**WHERE, method="desam", prompt_mode="box", points_per_side=3, iou_weight=2.0) == plain
    alone = make_spec(**WHERE, method="desam", variant="pdmm_only", iou_threshold=0.1)
    assert alone == make_spec(**WHERE, method="desam", variant="pdmm_only")


def test_the_prompt_of_predictions_may_be_another_than_that_of_training() -> None:
    fields = {**WHERE, "method": "sam_finetuned", "prompt_mode": "box", "weights": "sam.pth"}
    crossed = make_spec(**fields, test_prompt="points", points_per_side=4, iou_weight=2.0)
    assert crossed.label == "Tuned SAM-B, tested with points"
    assert (crossed.points_per_side, crossed.iou_weight) == (4, None)  # the grid is used, the IoU loss is not
    assert make_spec(**fields, test_prompt="box") == make_spec(**fields)
    points = make_spec(**WHERE, method="sam_finetuned", test_prompt="box", iou_weight=2.0, points_per_side=4)
    assert (points.points_per_side, points.iou_weight) == (None, 2.0)
    assert make_spec(**WHERE, method="desam", variant="pdmm_only", test_prompt="box").test_prompt is None


def test_an_unusual_encoder_is_named_in_the_label() -> None:
    assert make_spec(**WHERE, method="desam", weights="w", backbone="vit_l").label == "DeSAM-P"
    assert make_spec(**WHERE, method="desam", weights="w", backbone="twin").label == "DeSAM-P, twin"
    assert make_spec(**WHERE, method="unet", backbone="twin").label == "U-Net"
