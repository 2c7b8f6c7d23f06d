"""What a page says is worked out from its results."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from desam_lite.data.manifest import Manifest
from desam_lite.evaluation.statistics import summarise
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.report import sentences, tables


def run(label: str = "U-Net", *, finished: bool = True, **changed: Any) -> Any:
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
    return SimpleNamespace(spec=spec, finished=finished, error="no space left", info=info | changed)


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


def spec(
    backbone: str | None = "sam_tiny", weights: str | None = "random", source: str = "A", seed: int = 0
) -> Any:
    return SimpleNamespace(backbone=backbone, weights=weights, source=source, seed=seed)


def summary(*rows: tuple[str, bool, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["label", "in_domain", "mean", "low", "high"])


LOSER = [("U-Net", True, 0.9, 0.88, 0.92), ("U-Net", False, 0.5, 0.4, 0.6)]
KEEPER = [("DeSAM-B", True, 0.8, 0.7, 0.9), ("DeSAM-B", False, 0.75, 0.6, 0.85)]
PRIOR = [("Prior", True, 0.55, 0.5, 0.6), ("Prior", False, 0.45, 0.4, 0.5)]


def test_the_answer_names_every_number_and_the_control() -> None:
    said = sentences.say_transfer(summary(*LOSER, *PRIOR))
    assert said == (
        "**Not as well**: from the hospital of its training to the others, mean Dice (%) goes from 90 to 50 for U-Net. "
        "The average mask, drawn without looking at the scan, has 45 there."
    )


def test_the_answer_does_not_claim_a_loss_within_the_interval() -> None:
    assert sentences.say_transfer(summary(*LOSER, *KEEPER)).startswith("**Some methods lose**")
    assert sentences.say_transfer(summary(*KEEPER)).startswith("**No loss beyond chance was seen**")


def test_a_longer_distance_is_a_loss() -> None:
    far = summary(("U-Net", True, 2.0, 1.0, 3.0), ("U-Net", False, 9.0, 8.0, 10.0))
    said = sentences.say_transfer(far, metric="hd95")
    assert said.startswith("**Not as well**")
    assert "mean HD95 (mm) goes from 2 to 9" in said


def test_without_results_there_is_no_answer() -> None:
    assert "no answer yet" in sentences.say_transfer(summarise(pd.DataFrame(columns=["label", "in_domain"])))
    assert "no answer yet" in sentences.say_transfer(summary(*PRIOR))


def test_failed_runs_are_named_with_the_reason() -> None:
    assert sentences.say_unfinished([run(), run()]) == "All 2 runs are finished."
    said = sentences.say_unfinished([run(), run("DeSAM-B", finished=False)])
    assert said == "1 of 2 runs failed and are missing below: DeSAM-B from A, seed 0: no space left"


def test_minutes_are_summed_over_finished_runs() -> None:
    said = sentences.say_minutes([run(), run(), run(finished=False)])
    assert (
        said == "The 2 runs took 4 minutes of computing (CPU, 1 thread(s); at most 2.0 GiB of memory each)."
    )
    assert sentences.say_minutes([]) == "No run is finished."


def test_facts_state_task_profile_sources_cases_seeds_and_protocol() -> None:
    said = sentences.say_facts(task(), [spec(), spec(source="B"), spec(seed=1)], "teach", "published")
    assert (
        said
        == "My task; profile `teach`, 2 sources (A, B), 1 to 2 cases per hospital, 2 seeds, protocol `published`."
    )


@pytest.mark.parametrize(
    ("synthetic", "specs", "said"),
    [
        (True, [spec(None, None)], "On this page the scans are synthetic."),
        (False, [spec()], "*random encoder* stands on a `sam_tiny` with random weights"),
        (False, [spec(weights="tiny.safetensors")], "the encoder `sam_tiny` is a small stand-in"),
        (
            False,
            [spec(weights="shipped")],
            "a small stand-in for SAM, trained by this study on synthetic images",
        ),
        (False, [spec("vit_h", "sam_vit_h.pth")], "only where data, protocol and averaging are the same"),
    ],
)
def test_what_forbids_comparison_with_the_paper_is_said(synthetic: bool, specs: list[Any], said: str) -> None:
    caveats = sentences.say_caveats(task(synthetic=synthetic), specs)
    assert said in caveats
    assert ("Not comparable with the paper" in caveats) == (specs[0].backbone != "vit_h")


def test_tables_show_percent_words_and_no_row_numbers() -> None:
    frame = summary(*LOSER).assign(p=[0.0001, np.nan], won=[0.75, 1.0])
    table = tables.score_table(frame, caption="Dice & more")
    assert table.frame.iloc[0].tolist() == ["U-Net", "in", "90.0", "88.0", "92.0", "<0.001", "75%"]
    assert table.frame.iloc[1]["p"] == ""
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
    assert said["runs begun on"] == "2025-01-02"
    assert "<th>" not in table._repr_html_()


def test_long_texts_are_not_cut() -> None:
    table = tables.provenance_table("teach", task(citation="x" * 300))
    assert "x" * 300 in table._repr_html_()


def test_departures_from_the_public_code_are_all_named() -> None:
    place = {"manifest": "m.yaml", "data_root": ".", "source": "A", "method": "desam"}
    plain = make_spec(**place)
    assert "with the settings of the public code" in sentences.say_settings(
        [plain, make_spec(**place, seed=3)]
    )
    changed = [make_spec(**place, epochs=7, iou_loss="mse"), make_spec(**place, epochs=9, prompt_mode="box")]
    said = sentences.say_settings(changed)
    assert "`epochs` 7 or 9 instead of 50" in said
    assert "`iou_loss` mse instead of l1" in said
    assert said.count("instead of") == 2


def test_settings_of_other_methods_are_no_departures() -> None:
    unet = make_spec(manifest="m.yaml", data_root=".", source="A", method="unet", epochs=3)
    assert "instead" not in sentences.say_settings([unet])


def differences(*rows: tuple[str, bool, float, float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["second", "in_domain", "mean", "low", "high"])
    return frame.assign(first="Whole")


def test_parts_count_when_the_interval_excludes_zero() -> None:
    said = sentences.say_ablation(
        differences(("A", False, 0.05, 0.01, 0.09), ("B", False, -0.02, -0.04, 0.03), ("B", True, 9, 9, 9))
    )
    assert said == (
        "**Some parts make a difference**: out of domain, the difference in Dice (%) is "
        "Whole against A +5.0 (+1.0 to +9.0), Whole against B -2.0 (-4.0 to +3.0)."
    )


@pytest.mark.parametrize(
    ("low", "high", "metric", "verdict"),
    [
        (0.01, 0.05, "dice", "Every part that was taken away was missed"),
        (-5.0, -1.0, "hd95", "Every part that was taken away was missed"),
        (-0.05, -0.01, "dice", "Some parts make a difference"),
        (-0.05, 0.05, "dice", "No part was seen to make a difference beyond chance"),
    ],
)
def test_the_verdict_on_parts_follows_the_interval(
    low: float, high: float, metric: str, verdict: str
) -> None:
    said = sentences.say_ablation(differences(("A", False, (low + high) / 2, low, high)), metric=metric)
    assert said.startswith(f"**{verdict}**")


def test_without_common_cases_nothing_is_said_of_parts() -> None:
    assert "no answer yet" in sentences.say_ablation(differences(("A", False, np.nan, np.nan, np.nan)))


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
