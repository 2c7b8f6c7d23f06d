"""Whatever the method: it learns from whole volumes, slices without any organ among them, and says how its training ended."""

from pathlib import Path

import pytest

from desam_lite.methods import METHODS
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.run import execute_run

TRAINED = [name for name, entry in METHODS.items() if "epochs" in entry.uses and entry.own]
SMALL = {
    "unet_width": 4,
    "unet_size": 32,
    "backbone": "micro",
    "weights": "random",
    "points_per_side": 2,
    "min_area": 0,
}


@pytest.mark.usefixtures("micro")
@pytest.mark.parametrize("name", TRAINED)
def test_a_method_learns_from_slices_with_and_without_organ(
    name: str, tiny_task: tuple[Path, Path], tmp_path: Path
) -> None:
    training = {"train_slices": "all", "epochs": 3, "patience": 2, "batch_size": 3, "learning_rate": 3e-3}
    fields = {"manifest": tiny_task[0], "data_root": tiny_task[1], "source": "A", "split": "half_tested"}
    run = execute_run(make_spec(method=name, **fields, **SMALL, **training), tmp_path, progress=False)
    history = run.history()
    assert history[["train_loss", "val_loss"]].notna().all().all()
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert (run.info["stopped"], run.info["epochs"]) == ("budget", len(history))
    assert 0 < run.info["ceiling"] <= 1
    assert set(run.metrics()["case"]) == {"A2", "A3", "B2", "B3"}
