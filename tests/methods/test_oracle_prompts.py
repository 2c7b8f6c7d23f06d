"""Prompts from the reference: where they lie, and that no oracle is taken for a method that works without a reference."""

from pathlib import Path

import numpy as np
import pytest
from saved_model import SETTINGS, save_model
from small_model import random_embeddings, use_micro

from desam_lite.methods import METHODS, load_predictor
from desam_lite.methods.oracle_prompts import innermost, oracle_prompts, tight_box
from desam_lite.methods.run_spec import make_spec
from desam_lite.prediction.scan import predict_scan
from desam_lite.study.report.style import is_oracle, method_color, oracle_note
from desam_lite.utils.errors import StudyError

WHERE = {"manifest": Path("m"), "data_root": Path("d"), "source": "A", "backbone": "micro"}
ORACLES = [
    ("sam_zero_shot", "point_oracle"),
    ("sam_zero_shot", "box_oracle"),
    ("sam_finetuned", "box_oracle"),
]


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)


def two_organs() -> np.ndarray:
    """Organ ids (20, 40): 1 is a block, 2 a ring that does not hold its own centre."""
    labels = np.zeros((20, 40), np.uint8)
    labels[3:8, 5:14] = 1
    y, x = np.mgrid[:20, :40]
    distance = np.hypot(y - 11, x - 28)
    labels[(distance < 7) & (distance > 3)] = 2
    return labels


@pytest.mark.parametrize("organ", [1, 2])
def test_a_tight_box_loses_its_organ_if_any_edge_moves_in(organ: int) -> None:
    mask = two_organs() == organ
    left, top, right, bottom = tight_box(mask).astype(int)

    def inside(edges: tuple[int, int, int, int]) -> int:
        return int(mask[edges[1] : edges[3], edges[0] : edges[2]].sum())

    assert inside((left, top, right, bottom)) == mask.sum()
    for edges in ((left + 1, top, right, bottom), (left, top + 1, right, bottom)):
        assert inside(edges) < mask.sum()
    for edges in ((left, top, right - 1, bottom), (left, top, right, bottom - 1)):
        assert inside(edges) < mask.sum()


@pytest.mark.parametrize("organ", [1, 2])
def test_the_innermost_point_is_as_far_from_the_outside_as_any(organ: int) -> None:
    mask = np.pad(two_organs() == organ, 1)
    outside, own = np.argwhere(~mask), np.argwhere(mask)
    depth = np.array([np.min(np.hypot(*(outside - place).T)) for place in own])
    x, y = innermost(mask)
    assert mask[y, x]
    assert np.min(np.hypot(*(outside - (y, x)).T)) == pytest.approx(depth.max())


def test_prompts_lie_in_the_models_square() -> None:
    """The slice of 40 columns fills a square of 80: pixel (5, 3) covers 10..12 and 6..8."""
    box, ring, none = oracle_prompts(two_organs(), 3, 80, "box_oracle")
    assert box is not None and box.xyxy is not None and box.xyxy.tolist() == [[10, 6, 28, 16]]
    assert ring is not None and none is None
    point, _, none = oracle_prompts(two_organs(), 3, 80, "point_oracle")
    assert point is not None and point.xy is not None and point.labels is not None and none is None
    x, y = (point.xy[0, 0] / 2).tolist()
    assert two_organs()[int(y), int(x)] == 1 and (x % 1, y % 1) == (0.5, 0.5)
    assert point.labels.tolist() == [[1]]


def predictor(method: str, mode: str, organs: int = 2):  # type: ignore[no-untyped-def]
    spec = make_spec(**WHERE, method=method, prompt_mode=mode, min_area=1)
    return METHODS[method](spec, organs, [])


@pytest.mark.parametrize(("method", "mode"), ORACLES)
def test_an_oracle_draws_only_organs_that_the_reference_has(method: str, mode: str) -> None:
    oracle, labels = predictor(method, mode), np.stack([two_organs(), 0 * two_organs()])
    labels[0][labels[0] == 1] = 0

    def embeddings(rows: range):  # type: ignore[no-untyped-def]
        return random_embeddings(len(rows))

    assert oracle.oracle
    first, second = oracle.predict_oracle(np.zeros_like(labels), embeddings, labels)
    assert set(np.unique(first.labels)) <= {0, 2} and first.probability[1].any()
    assert not first.probability[0].any() and not second.labels.any()
    with pytest.raises(TypeError, match="predict_oracle"):
        next(iter(oracle.predict(np.zeros_like(labels), embeddings)))


def test_what_the_box_oracle_draws_follows_the_box() -> None:
    oracle, moved = predictor("sam_zero_shot", "box_oracle", 1), np.roll(two_organs() == 1, 12, axis=1)
    found = [
        next(iter(oracle.predict_oracle(np.zeros((1, 20, 40)), lambda _: random_embeddings(), labels[None])))
        for labels in ((two_organs() == 1).astype(np.uint8), moved.astype(np.uint8))
    ]
    assert not np.array_equal(found[0].probability, found[1].probability)


@pytest.mark.parametrize(("method", "mode"), [("sam_zero_shot", "box"), ("sam_finetuned", "points")])
def test_who_is_no_oracle_is_not_shown_the_reference(method: str, mode: str) -> None:
    assert not predictor(method, mode).oracle
    prior = METHODS["prior"](make_spec(**WHERE, method="prior"), 1, [])
    with pytest.raises(TypeError, match="Prior is no oracle"):
        prior.predict_oracle(np.zeros((1, 4, 4), np.uint8), None, np.zeros((1, 4, 4), np.uint8))


@pytest.mark.parametrize(("method", "mode"), ORACLES)
def test_an_oracle_does_not_predict_a_new_scan(
    method: str, mode: str, tiny_task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"method": method, "prompt_mode": mode, "backbone": "micro"}
    monkeypatch.setitem(SETTINGS, "oracle", settings)
    model = load_predictor(save_model(tmp_path, "oracle", tiny_task))
    with pytest.raises(StudyError, match=r"\(oracle\).* takes its prompts from the reference"):
        predict_scan(model, tiny_task[1] / "B" / "B0.nii.gz", progress=False)


@pytest.mark.parametrize(("method", "mode"), ORACLES)
def test_tables_and_figures_call_an_oracle_one(method: str, mode: str) -> None:
    label = make_spec(**WHERE, method=method, prompt_mode=mode, weights="sam.pth").label
    random = make_spec(**WHERE, method=method, prompt_mode=mode).label
    assert is_oracle(label) and is_oracle(random) and "(oracle)" in label
    assert method_color(label) == method_color(random)
    assert "reference" in oracle_note(["U-Net", label]) and not oracle_note(["U-Net"])
    assert not is_oracle(make_spec(**WHERE, method=method, prompt_mode="box").label)


def test_a_prompt_that_a_method_does_not_take_is_refused() -> None:
    with pytest.raises(StudyError, match="method 'desam' takes prompt_mode points, box"):
        make_spec(**WHERE, method="desam", prompt_mode="box_oracle")
    with pytest.raises(StudyError, match="method 'sam_finetuned' takes prompt_mode points, box, box_oracle"):
        make_spec(**WHERE, method="sam_finetuned", prompt_mode="point_oracle")


def test_the_reference_is_not_changed() -> None:
    labels = two_organs()
    oracle_prompts(labels, 2, 80, "point_oracle")
    assert np.array_equal(labels, two_organs())
