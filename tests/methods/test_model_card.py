"""The card of a model says all that a later prediction needs, and a damaged one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from saved_model import spec_of

from desam_lite.data.manifest import Term, load_manifest
from desam_lite.methods.model_card import make_card, read_card
from desam_lite.utils.errors import StudyError

TASK: dict[str, Any] = {
    "name": "two",
    "title": "Two hospitals",
    "organs": [
        {"name": "liver", "label": 6, "color": "#112233"},
        {"name": "spleen", "label": 1, "snomed": "64033007 left"},
    ],
    "domains": {
        "A": {"title": "A", "intensity": {"window": [-100, 300]}},
        "B": {"title": "B", "label_map": {7: 6}},
    },
    "licence": "ask them",
}


def write_card(folder: Path, name: str = "unet", **fields: Any) -> dict[str, Any]:
    (folder / "two.yaml").write_text(yaml.safe_dump(TASK))
    task = load_manifest(folder / "two.yaml")
    spec = spec_of(name, (Path("m.yaml"), Path("d")), **fields)
    files = {"manifest": "m.yaml", "data_root": "d", "weights": spec.weights}
    record = {"identity": {"settings": spec.settings(), "weights": "abc"}, "files": files}
    card = json.loads(json.dumps(make_card(record, spec, task)))
    (folder / "model.json").write_text(json.dumps(card))
    return card


@pytest.mark.parametrize("name", ["prior", "unet", "points", "box"])
def test_a_card_brings_back_model_organs_and_the_sources_preparation(name: str, tmp_path: Path) -> None:
    written = write_card(tmp_path, name, seed=3)
    card = read_card(tmp_path)
    assert card.spec == spec_of(name, (Path("m.yaml"), Path("d")), seed=3)
    assert list(card.organs) == ["liver", "spleen"] and card.organs["liver"] == "#112233"
    assert card.terms == {"spleen": Term("64033007", "left")}
    assert card.intensity.window == (-100, 300) and card.intensity.percentiles is None
    assert card.title.endswith("trained on A of Two hospitals")
    assert written["licence_of_data"] == "ask them"


def test_a_card_from_before_colours_gets_those_of_the_palette(tmp_path: Path) -> None:
    card = write_card(tmp_path)
    del card["colors"]
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert list(read_card(tmp_path).organs.values()) == ["#e69f00", "#56b4e9"]


@pytest.mark.parametrize(
    ("name", "fields", "predicted"),
    [
        ("points", {}, True),
        ("points", {"variant": "no_fusion"}, True),
        ("points", {"variant": "no_iou_head"}, False),
        ("points", {"variant": "pdmm_only"}, False),
        ("box", {}, False),  # its head exists and is never trained
        ("unet", {}, False),
        ("prior", {}, False),
    ],
)
def test_only_a_model_trained_on_points_predicts_iou(
    name: str, fields: dict[str, Any], predicted: bool, tmp_path: Path
) -> None:
    write_card(tmp_path, name, **fields)
    assert read_card(tmp_path).spec.predicts_iou == predicted


@pytest.mark.parametrize("folder", ["nowhere", "empty", "file"])
def test_a_folder_without_card_is_no_model(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=f"{folder}' holds no model.json: give the folder of a finished run"):
        read_card(tmp_path / folder)


def _without(*keys: str) -> dict[str, Any]:
    return {"without": keys}


@pytest.mark.parametrize(
    "harm",
    [
        "{",
        "[]",
        "{}",
        "null",
        _without("run"),
        _without("organs"),
        _without("preparation", "intensity"),
        _without("run", "identity", "settings", "method"),
        {"organs": ["one too few"]},
        {"preparation": {"intensity": {"window": [5, 1]}}},
        {"run": {"identity": {"settings": {"method": "unet", "layers": 3}}, "files": {}}},
    ],
    ids=str,
)
def test_a_damaged_card_is_refused_in_one_sentence(harm: Any, tmp_path: Path) -> None:
    card = write_card(tmp_path)
    if isinstance(harm, dict) and "without" in harm:
        *outer, last = harm["without"]
        place = card
        for key in outer:
            place = place[key]
        del place[last]
    text = harm if isinstance(harm, str) else json.dumps({**card, **harm})
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(StudyError, match=r"model\.json' is damaged or of another version") as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)
