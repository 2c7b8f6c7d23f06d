"""What the chapters that teach show: code as it is, seconds, caveats, and SAM at work."""

import time
from pathlib import Path

from small_task import write_task

from desam_lite.data.tasks import open_task
from desam_lite.model import decoder
from desam_lite.study.report import sentences, tables


def test_code_is_shown_as_it_stands_in_the_package() -> None:
    shown = tables.Code(decoder.PRIM.forward)._repr_markdown_()
    assert shown.startswith("```python\ndef forward(") and shown.endswith("```")
    assert "self.transformer(image" in shown


def test_a_page_without_training_says_its_seconds() -> None:
    assert "it took 3 seconds" in sentences.say_seconds(time.perf_counter() - 3)


def test_caveats_and_provenance_name_task_and_encoder(tmp_path: Path) -> None:
    task = open_task(*write_task(tmp_path), tmp_path / "ws", progress=False)
    assert "small stand-in" in sentences.say_caveats(task, backbone="sam_tiny", weights="shipped")
    assert "small stand-in" not in sentences.say_caveats(task)
    table = dict(tables.provenance_table("smoke", task, weights="shipped").frame.to_numpy().tolist())
    assert table["data"] == task.data_hash and table["encoder weights"] == "shipped"
    assert "data" not in dict(tables.provenance_table("smoke").frame.to_numpy().tolist())
