"""Good and poor prompts, maps and spreads, and the sentence about them, say the numbers that are in them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from loaded_models import CASE, load_models

from desam_lite.data.slices import select_slices
from desam_lite.data.tasks import Task
from desam_lite.study.chapters import coupling_seen
from desam_lite.study.report import style
from desam_lite.study.report.prompt_maps import PromptableModel, spread_rows
from desam_lite.study.report.slice_examples import Example

Place = tuple[Path, Path]
ORGANS = {"gland": "#e69f00"}


@pytest.fixture(scope="module")
def models(
    micro: None, tiny_task: Place, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PromptableModel]:
    return load_models(tmp_path_factory.mktemp("runs"), tiny_task)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def example() -> Example:
    reference = np.zeros((20, 30), np.uint8)
    reference[5:11, 4:12] = 1
    image = np.zeros((20, 30), np.uint8)
    return Example("Tuned SAM-P", "good point", image, reference, reference, (2.0, 1.0))


def maps() -> pd.DataFrame:
    both = [("DeSAM-P", "points"), ("Tuned SAM-P", "points"), ("DeSAM-B", "box")]
    rows = [
        {"label": label, "kind": kind, "side": 2, "dice": 0.2 * place, "inside": place == 3}
        for label, kind in both
        for place in range(4)
    ]
    return pd.DataFrame(rows)


def spreads() -> pd.DataFrame:
    values = {"low": [0.1, 0.6], "typical": [0.4, 0.7], "best": [0.8, 0.75]}
    return pd.DataFrame({"label": ["Tuned SAM-P", "DeSAM-B"], "kind": ["points", "box"], **values})


@pytest.mark.parametrize(
    ("box", "moved"),
    [((2, 5, 10, 11), "right"), ((20, 5, 28, 11), "left"), ((4, 2, 26, 8), "down"), ((4, 13, 26, 19), "up")],
)
def test_a_poor_prompt_no_longer_means_the_organ_and_goes_where_there_is_room(
    box: tuple[int, int, int, int], moved: str
) -> None:
    left, top, right, bottom = box
    reference = np.zeros((20, 30), bool)
    reference[top:bottom, left:right] = True
    for kind in ("points", "box"):
        prompts = coupling_seen.good_and_poor(reference, kind)  # type: ignore[arg-type]
        step = (prompts["poor"] - prompts["good"])[:2]
        named = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}
        assert named[tuple(np.sign(step).astype(int))] == moved
    assert prompts["good"].tolist() == list(box)
    x, y = coupling_seen.good_and_poor(reference, "points")["poor"].astype(int)
    assert not reference[y, x]
    x0, y0, x1, y1 = prompts["poor"].astype(int)
    assert not reference[y0:y1, x0:x1].any() and min(x0, y0) >= 0 and x1 <= 30 and y1 <= 20


def test_views_show_the_good_prompts_above_the_poor_ones(
    models: dict[str, PromptableModel], task: Task, workspace: Path
) -> None:
    models = [models["points"], models["tuned points"], models["box"]]
    row = spread_rows(select_slices(task.slices.load(*CASE).labels, "foreground"), 1)[0]
    views = coupling_seen.predict_good_and_poor(models, task, workspace, *CASE, row)
    assert [view.note.split(":")[0] for view in views] == [
        *["good point"] * 2,
        *["poor point"] * 2,
        "good box",
        "poor box",
    ]
    assert [view.prompt.shape for view in views] == [(1, 3)] * 4 + [(4,)] * 2


def test_a_map_has_the_dice_of_each_place_the_right_way_up() -> None:
    described = coupling_seen.draw_maps(maps(), example())
    drawn = [ax for ax in described.figure.axes if ax.images]
    assert len(drawn) == 3
    assert np.allclose(drawn[0].images[0].get_array(), [[0, 20], [40, 60]])
    assert drawn[0].images[0].get_extent() == [0, 30, 40, 0]
    assert "DeSAM-B, prompted with a box: mean 60 inside, 20 outside the organ" in described.alt


def test_spreads_say_median_and_range() -> None:
    drawn = coupling_seen.draw_spreads(spreads())
    assert len(drawn.figure.axes[0].get_yticks()) == len(spreads())
    assert "Tuned SAM-P prompt: point Tuned SAM-P: 40 (10 to 80)" in drawn.alt


def test_nothing_to_show_is_said() -> None:
    drawn = coupling_seen.draw_maps(pd.DataFrame(), example())
    assert style.NO_RUNS in drawn.alt


PAIRS = [("Tuned SAM-P", "DeSAM-P"), ("Tuned SAM tight box (oracle)", "DeSAM-B")]


def compared(*verdicts: str, cases: int = 5) -> pd.DataFrame:
    rows = [
        {"first": pair[0], "second": pair[1], "verdict": verdict, "in_domain": False, "cases": cases}
        | {"mean": 0.1, "low": 0.05, "high": 0.15}
        for pair, verdict in zip(PAIRS, verdicts, strict=False)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (
            ("better", "better by less than the margin"),
            "A poor prompt lowers Dice more with the coupled decoder",
        ),
        (("better", "worse"), "It depends on how the two were trained"),
        (("better", "cannot tell"), "It depends on how the two were trained"),
        (("worse", "equivalent"), "A poor prompt lowers Dice more with the decoupled decoder"),
        (("equivalent", "equivalent"), "Both decoders depend equally"),
        (("cannot tell", "equivalent"), "Cannot tell"),  # as with one seed
    ],
)
def test_the_verdict_on_coupling_is_that_of_the_rule(verdicts: tuple[str, str], told: str) -> None:
    said = coupling_seen.say_coupling(compared(*verdicts))
    assert said.startswith(f"**{told}") and "+10 (+5 to +15) (n = 5 cases)" in said


def test_one_case_is_singular_and_no_pair_has_no_answer() -> None:
    assert "(n = 1 case)" in coupling_seen.say_coupling(compared("better", cases=1))
    assert "no answer yet" in coupling_seen.say_coupling(compared("better").assign(mean=np.nan))


def prompted(label: str, inside: float, outside: float) -> pd.DataFrame:
    rows = [
        {"label": label, "source": "A", "seed": seed, "target": "B", "in_domain": False, "case": f"c{case}"}
        | {"inside": place, "dice": inside if place else outside}
        for seed in range(2)
        for case in range(4)
        for place in (True, False)
    ]
    return pd.DataFrame(rows)


def test_models_are_compared_inside_and_outside_the_organ() -> None:
    maps = pd.concat([prompted("Tuned SAM-P", 0.8, 0.1), prompted("DeSAM-P", 0.7, 0.7)])
    table = coupling_seen.compare_by_place(maps, PAIRS[:1])
    assert table.set_index("prompts")["verdict"].to_dict() == {"inside": "better", "outside": "worse"}
    said = coupling_seen.say_by_place(table)
    assert "With prompts inside the organ, Tuned SAM-P is better than DeSAM-P: +10.0" in said
    assert "With prompts outside the organ, Tuned SAM-P is worse than DeSAM-P: -60.0" in said
    single = coupling_seen.compare_by_place(maps[maps["seed"] == 0], PAIRS[:1])
    assert "is not distinguishable from DeSAM-P" in coupling_seen.say_by_place(single)  # one seed
    assert "No pair" in coupling_seen.say_by_place(table[:0])


def test_the_overview_has_both_decoders_and_what_each_makes_of_a_poor_point() -> None:
    pairs = [
        [
            example()._replace(title=name, note=f"{kind} point: Dice (%) {dice}", prompt=np.ones((1, 3)))
            for kind, dice in (("good", 80), ("poor", 3))
        ]
        for name in ("Tuned SAM-P", "DeSAM-P")
    ]
    drawn = coupling_seen.draw_overview(*pairs, "#e69f00")
    assert "DeSAM-P, poor point: Dice (%) 3" in drawn.alt
    data, _ = drawn._repr_mimebundle_()
    assert data["image/svg+xml"].count("<image") > 0  # a diagram of vectors with thumbnails in it
    assert style.NO_RUNS in coupling_seen.draw_overview([], [], "#e69f00").alt


def test_the_square_has_decoders_in_rows_and_training_prompts_in_columns() -> None:
    means = pd.DataFrame(
        {
            "label": ["Tuned SAM-P", "DeSAM-P", "DeSAM-B"],
            "typical": [0.4, 0.7, 0.72],
            "spread": [0.6, 0.1, 0.05],
        }
    )
    rows = [line.split(" | ") for line in coupling_seen.square(means).splitlines()[2:]]
    assert rows[0][1:] == ["Tuned SAM-P: Dice 40 %, spread 60", "not run |"]
    assert rows[1][1:] == ["DeSAM-P: Dice 70 %, spread 10", "DeSAM-B: Dice 72 %, spread 5 |"]
