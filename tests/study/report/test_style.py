"""A method looks the same in every figure, and no two look alike."""

from desam_lite.methods.registry import METHOD_CHOICES
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.report import style


def test_an_augmentation_that_is_no_choice_and_an_encoder_keep_the_look_of_the_method() -> None:
    assert style.method_look("CSDG + nnU-Net aug.") == style.method_look("CSDG")
    color, marker = style.method_look("DeSAM-B, twin")
    assert marker == style.method_marker("DeSAM-B") and color != style.method_color("DeSAM-B")
    assert style.method_look("U-Net + nnU-Net aug.") != style.method_look("U-Net")


def test_a_method_has_one_colour_and_known_ones_differ() -> None:
    known = ["Prior", "U-Net", "DeSAM-B", "DeSAM-P"]
    assert len({style.method_color(label) for label in known}) == 4
    known += [
        make_spec(manifest=".", data_root=".", source="A", **choice).label
        for choice in METHOD_CHOICES.values()
    ]
    looks = {(style.method_color(label), style.method_marker(label)) for label in known}
    assert len(looks) == len(set(known))
    assert style.method_color("nnU-Net") == style.method_color("nnU-Net")
