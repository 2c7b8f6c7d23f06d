"""The pretrain command: one line for an hour, one for its twin, and the record of what was trained."""

import json
from pathlib import Path

import pytest
import torch
from small_model import use_micro

from desam_lite.synthetic.pretraining import loop, recipe
from desam_lite.synthetic.pretraining.recipe import Recipe


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    use_micro(monkeypatch)
    small = Recipe("micro", steps=4, warmup=1, decay=2, sizes=(16, 32), scenes=(2, 1), objects=2)
    small_shares = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    monkeypatch.setattr(
        recipe, "Recipe", lambda shares=small_shares: Recipe(**{**vars(small), "shares": shares})
    )
    monkeypatch.setattr(loop, "probe", lambda *_, **__: {"box": 0.5})


def card(folder: Path) -> dict:
    return json.loads((folder / "micro.json").read_text())


def test_the_twin_is_one_command_and_sees_the_same_images(run, tmp_path: Path) -> None:
    usual, twin = tmp_path / "usual", tmp_path / "twin"
    assert run("pretrain", usual)[0] == 0
    code, out, _ = run("pretrain", twin, "--contrast", 0, "--dense", 0)
    assert code == 0 and f"{card(twin)['pictures']} images" in out and "4 steps" in out
    assert card(twin)["pictures"] == card(usual)["pictures"]
    differ = {k for k, v in card(twin)["recipe"].items() if v != card(usual)["recipe"][k]}
    assert differ == {"contrast", "dense"}
    assert "loss_dense" in card(usual)["curve"][0] and "loss_dense" not in card(twin)["curve"][0]


def test_a_run_by_minutes_is_resumed_and_records_its_batch(run, tmp_path: Path) -> None:
    for minutes in (0.01, 0.02):
        code, _, _ = run("pretrain", tmp_path, "--minutes", minutes, "--batch", 3, "--learning-rate", 0.01)
        assert code == 0
    record = card(tmp_path)
    assert record["recipe"]["scenes"] == [6, 3] and record["recipe"]["learning_rate"] == 0.01
    assert 0.02 <= torch.load(tmp_path / "checkpoint.pt", weights_only=True)["minutes"] < 0.05
    assert len(record["curve"]) == 2 and record["steps"] > record["curve"][0]["step"]
    code, _, err = run("pretrain", tmp_path, "--minutes", 0.03)
    assert code == 1 and "was begun with learning_rate = 0.01" in err
