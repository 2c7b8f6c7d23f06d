"""A method looks the same in every figure, and no two look alike."""

from desam_lite.methods.registry import METHOD_CHOICES
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.report import style


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
