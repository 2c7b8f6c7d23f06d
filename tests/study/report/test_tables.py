"""What the chapters that teach show: code as it is, seconds, caveats, and SAM at work."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from small_task import write_task

from desam_lite.data.manifest import Manifest
from desam_lite.data.tasks import open_task
from desam_lite.model import decoder
from desam_lite.study.report import sentences, tables


def test_code_is_shown_as_it_stands_in_the_package() -> None:
    shown = tables.Code(decoder.PRIM.forward)._repr_markdown_()
    assert shown.startswith("```python\ndef forward(") and shown.endswith("```")
    assert "self.transformer(image" in shown


def test_caveats_and_provenance_name_task_and_encoder(tmp_path: Path) -> None:
    task = open_task(*write_task(tmp_path), tmp_path / "ws", progress=False)
    assert "small stand-in" in sentences.say_caveats(task, backbone="sam_tiny", weights="shipped")
    assert "small stand-in" not in sentences.say_caveats(task)
    table = dict(tables.provenance_table("smoke", task, weights="shipped").frame.to_numpy().tolist())
    assert table["data"] == task.data_hash and table["encoder weights"] == "shipped"
    assert "data" not in dict(tables.provenance_table("smoke").frame.to_numpy().tolist())


def run(label: str = "U-Net", *, finished: bool = True, kept: bool = False, **changed: Any) -> Any:
    info = {
        "identity": {"weights": None},
        "files": {"weights": None},
        "code": {"version": "0.1.0", "commit": "0123456789abcdef", "dirty": True},
        "libraries": {"torch": "2.6"},
        "device": "CPU, 1 thread(s)",
        "started": "2025-01-02T10:00:00",
        "minutes": {"training": 1.5, "scoring": 0.6},
        "peak_memory": {"process_mib": 2048.0},
    }
    spec = SimpleNamespace(label=label, source="A", seed=0)
    error = "no space left"
    return SimpleNamespace(spec=spec, finished=finished, error=error, info=info | changed, is_kept=kept)


def task(**changed: Any) -> Any:
    fields: dict[str, Any] = {"name": "mine", "title": "My task", "organs": [{"name": "liver", "label": 1}]}
    fields |= {
        "domains": {
            "A": {"title": "North", "vendor": "GE", "field_strength": [1.5, 3.0]},
            "B": {"title": "South"},
        }
    }
    manifest = Manifest.model_validate(fields | changed)
    index = pd.DataFrame({"domain": ["A", "A", "B"], "case": ["1", "2", "1"]})
    return SimpleNamespace(manifest=manifest, index=index, data_hash="d1d2")


def summary(*rows: tuple[str, bool, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["label", "in_domain", "mean", "low", "high"])


def test_tables_show_percent_words_and_no_row_numbers() -> None:
    frame = summary(("U-Net", True, 0.9, 0.88, 0.92), ("U-Net", False, 0.5, 0.4, 0.6)).assign(
        p=[0.0001, np.nan], won=[0.75, 1.0]
    )
    table = tables.score_table(frame, caption="Dice & more")
    assert table.frame.iloc[0].tolist() == ["U-Net", "in", "90.0", "88.0", "92.0", "<0.001", "75%"]
    assert table.frame.iloc[1]["p (these models)"] == ""
    html = table._repr_html_()
    assert html.startswith('<table class="dataframe results"><caption>Dice &amp; more</caption>')
    assert "<th>domain</th>" in html
    assert repr(table).startswith("Dice & more\n")


def test_distances_stay_in_millimetres() -> None:
    assert tables.score_table(summary(("U-Net", True, 2.0, 1.0, 3.0)), metric="hd95").frame[
        "mean"
    ].tolist() == ["2.0"]


def test_an_empty_table_is_still_a_table() -> None:
    assert "<table" in tables.score_table(summary())._repr_html_()


def test_hospitals_are_listed_with_scanner_and_cases() -> None:
    assert tables.domain_table(task()).frame.to_numpy().tolist() == [
        ["A", "North", "GE", "1.5 T or 3 T", "", 2],
        ["B", "South", "", "", "", 1],
    ]


def test_provenance_names_code_data_weights_device_and_date() -> None:
    weighted = run(identity={"weights": "w1w2"}, files={"weights": "tiny.safetensors"})
    table = tables.provenance_table(
        "teach", task(citation="Me, 2025", licence="CC0"), [weighted, run(), run(finished=False)]
    )
    said = dict(table.frame.to_numpy().tolist())
    assert said["task"] == "My task (CC0)"
    assert said["to be cited"] == "Me, 2025"
    assert said["runs"] == "2 of 3 finished"
    assert said["code"] == "desam-lite 0.1.0, 0123456789, with uncommitted changes"
    assert said["data"] == "d1d2"
    assert said["encoder weights"] == "tiny.safetensors (w1w2)"
    assert said["runs kept with the repository"] == "none"
    here = "begun on 2025-01-02 on CPU, 1 thread(s) by desam-lite 0.1.0, 0123456789, with uncommitted changes"
    assert said["runs computed here"] == f"2, {here}"
    assert "<th>" not in table._repr_html_()


def test_provenance_tells_kept_runs_from_those_computed_here() -> None:
    later = {
        "started": "2025-03-04T09:00:00",
        "code": {"version": "0.2.0", "commit": "f" * 16, "dirty": False},
    }
    table = tables.provenance_table(
        "study", task(), [run(kept=True), run(kept=True, **later), run(device="GPU")]
    )
    said = dict(table.frame.to_numpy().tolist())
    assert said["runs kept with the repository"].startswith(
        "2, begun on 2025-01-02 to 2025-03-04 on CPU, 1 thread(s) by"
    )
    assert said["runs kept with the repository"].endswith("; desam-lite 0.2.0, ffffffffff")
    assert said["runs computed here"].startswith("1, begun on 2025-01-02 on GPU by")


def test_long_texts_are_not_cut() -> None:
    table = tables.provenance_table("teach", task(citation="x" * 300))
    assert "x" * 300 in table._repr_html_()


def test_only_words_are_broken_into_lines_never_numbers() -> None:
    cells = {
        "method": "DeSAM-B, random encoder",
        "Dice": "70.8 (66.1 to 74.9)",
        "differs": "every slice " * 9,
    }
    page = tables.Table(pd.DataFrame([cells]))._repr_html_()
    assert '<td class="name">DeSAM-B, random encoder</td>' in page
    assert "<td>70.8 (66.1 to 74.9)</td>" in page
    assert '<td class="long">every slice' in page


def test_a_folded_table_opens_at_its_caption() -> None:
    page = tables.Table(pd.DataFrame({"a": ["1"]}), "Costs & times", folded=True)._repr_html_()
    assert page.startswith("<details class='folded'><summary>Costs &amp; times</summary><table")
    assert "<caption>" not in page and page.endswith("</details>")
