"""Loaded models that take any prompt, untrained, and a table of prompts made by hand."""

from pathlib import Path

import pandas as pd
from saved_model import save_model, spec_of

from desam_lite.study.report.prompt_maps import PromptableModel, open_model
from desam_lite.study.run import Run

CASE = ("B", "B0")


def finished_run(folder: Path, name: str, task: tuple[Path, Path]) -> Run:
    save_model(folder, name, task)
    tested = [("A", "A3"), ("B", "B0"), ("B", "B1")]
    pd.DataFrame(tested, columns=["target", "case"]).to_csv(folder / "metrics.csv", index=False)
    (folder / "done").touch()
    return Run(spec_of(name, task), "tiny", folder)


def load_models(root: Path, task: tuple[Path, Path]) -> dict[str, PromptableModel]:
    names = ("points", "box", "tuned points", "grid")
    return {name: open_model(finished_run(root / name.replace(" ", ""), name, task)) for name in names}


def prompt_table(
    dice: list[float], score: list[float], inside: list[bool], label: str = "DeSAM-P"
) -> pd.DataFrame:
    identity = {"label": label, "source": "A", "seed": 0, "target": "B", "in_domain": False, "case": "C0"}
    columns = {"dice": dice, "iou": dice, "score": score, "inside": inside, "x": range(len(dice))}
    return pd.DataFrame({**columns, "kind": "points", "slice": 3, "organ": "gland"}).assign(**identity)
