"""What the methods cost and what they say of themselves stands beside what they gave."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from desam_lite.methods import METHODS
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.profiles import METHOD_CHOICES
from desam_lite.study.report.comparison import cost_table, departure_table
from desam_lite.study.run import execute_run


def run(label: str, training: float, memory: float, *, finished: bool = True, parameters: int = 0) -> Any:
    minutes = {"training": training, "scoring": 0.5}
    info = {"minutes": minutes, "peak_memory": {"process_mib": memory}, "trained_parameters": parameters}
    return SimpleNamespace(spec=SimpleNamespace(label=label, epochs=20), finished=finished, info=info)


def test_costs_stand_beside_scores_one_row_per_method() -> None:
    runs = [
        run("U-Net", 1.0, 1024, parameters=1234567),
        run("CSDG", 4.0, 3072),
        run("U-Net", 2.0, 2048, parameters=1234567),
    ]
    summary = pd.DataFrame(
        [("U-Net", True, 0.74), ("U-Net", False, 0.42)], columns=["label", "in_domain", "mean"]
    )
    frame = cost_table([*runs, run("MaxStyle", 9, 9, finished=False)], summary).frame.set_index("method")
    assert list(frame.index) == ["U-Net", "CSDG"]
    assert frame.loc["U-Net"].tolist() == ["1,234,567", "20", "1.5", "0.5", "2.0", "74.0", "42.0"]
    assert frame.loc["CSDG"].tolist()[-2:] == ["", ""]


def test_no_finished_run_gives_an_empty_table() -> None:
    assert cost_table([run("CSDG", 1, 1, finished=False)], pd.DataFrame()).frame.empty


def test_a_run_records_how_many_numbers_were_trained(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    where: dict[str, Any] = {"manifest": tiny_task[0], "data_root": tiny_task[1], "source": "A"}
    small = {"unet_width": 4, "unet_size": 32, "epochs": 1, "split": "70_10_20", "train_slices": "all"}
    done = execute_run(make_spec(**where, method="maxstyle", **small), tmp_path, progress=False)
    assert done.info["trained_parameters"] == sum(
        p.numel() for p in METHODS["maxstyle"].load()(1, 4, 32, 0).parameters()
    )
    prior = execute_run(make_spec(**where, method="prior", split="70_10_20"), tmp_path, progress=False)
    assert prior.info["trained_parameters"] == 0
    assert cost_table([done, prior], pd.DataFrame()).frame["method"].tolist() == ["MaxStyle", "Prior"]


def test_every_method_says_what_differs_from_its_paper() -> None:
    specs = [
        make_spec(manifest=".", data_root=".", source="A", **choice) for choice in METHOD_CHOICES.values()
    ]
    frame = departure_table(specs).frame.set_index("method")
    assert "U-Net, U-Net + light aug., U-Net + nnU-Net aug." in frame.index
    assert frame.loc["Prior", "paper"] == "this study"
    assert frame.loc["CSDG", "paper"] == "csdg"
    assert "EfficientNet" in frame.loc["CSDG", "what differs"]
    assert frame.loc["MaxStyle", "what differs"].endswith("same one.")
