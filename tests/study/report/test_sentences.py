"""What a page says is worked out from its results."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from desam_lite.data.manifest import Manifest
from desam_lite.evaluation.statistics import MARGINS, METRICS, decide, summarise
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


def losses(*verdicts: str) -> pd.DataFrame:
    return pd.DataFrame({"label": ["U-Net"] * len(verdicts), "verdict": verdicts})


LOSER = [("U-Net", True, 0.9, 0.88, 0.92), ("U-Net", False, 0.5, 0.4, 0.6)]
KEEPER = [("DeSAM-B", True, 0.8, 0.7, 0.9), ("DeSAM-B", False, 0.75, 0.6, 0.85)]
PRIOR = [("Prior", True, 0.55, 0.5, 0.6), ("Prior", False, 0.45, 0.4, 0.5)]


def test_the_answer_names_every_number_and_the_control() -> None:
    said = sentences.say_transfer(summary(*LOSER, *PRIOR), losses("worse"))
    assert said == (
        "**Not as well**. Mean Dice (%) in domain and out of domain: U-Net 90 and 50. "
        "Prior, an average mask that ignores the scan, scores 45 out of domain."
    )


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (("worse", "worse by less than the margin"), "Not as well"),
        (("worse", "cannot tell"), "Some methods score lower there"),
        (("equivalent", "cannot tell"), "Cannot tell"),
        (("better", "equivalent"), "No loss was shown"),
        (("cannot tell", "cannot tell"), "Cannot tell"),  # as with one seed
    ],
)
def test_the_answer_on_transfer_is_that_of_the_rule(verdicts: tuple[str, str], verdict: str) -> None:
    frame = pd.DataFrame({"label": ["U-Net", "DeSAM-B"], "verdict": verdicts})
    control = pd.DataFrame({"label": ["Prior"], "verdict": ["worse"]})
    told = sentences.say_transfer(summary(*LOSER, *KEEPER, *PRIOR), pd.concat([frame, control]))
    assert told.startswith(f"**{verdict}**")


def test_each_source_is_told_where_the_summary_has_it() -> None:
    rows = [(*row[:1], source, *row[1:]) for source in ("CT", "MR") for row in (*LOSER, *PRIOR)]
    by_source = pd.DataFrame(rows, columns=["label", "source", "in_domain", "mean", "low", "high"])
    said = sentences.say_transfer(by_source, losses("worse", "worse"))
    assert "U-Net from CT 90 and 50; U-Net from MR 90 and 50." in said
    assert "scores 45 from CT and 45 from MR out of domain." in said
    assert "no answer yet" in sentences.say_transfer(by_source[by_source["in_domain"]], losses("worse"))


def test_an_oracle_is_no_method_that_loses() -> None:
    oracle = [("SAM box (oracle)", inside, mean, mean, mean) for inside, mean in ((True, 0.9), (False, 0.5))]
    assert "no answer yet" in sentences.say_transfer(summary(*oracle), losses("worse"))


def test_distances_are_told_in_mm() -> None:
    far = summary(("U-Net", True, 2.0, 1.0, 3.0), ("U-Net", False, 9.0, 8.0, 10.0))
    told = sentences.say_transfer(far, losses("worse"), metric="hd95")
    assert "Mean HD95 (mm) in domain and out of domain: U-Net 2 and 9" in told


def test_without_results_there_is_no_answer() -> None:
    empty = summarise(pd.DataFrame(columns=["label", "in_domain"]))
    assert "no answer yet" in sentences.say_transfer(empty, losses()[:0])
    assert "no answer yet" in sentences.say_transfer(summary(*PRIOR), losses("worse"))
    assert sentences.say_transfer(summary(*LOSER), losses()[:0]).startswith("**Cannot tell**")


def test_failed_runs_are_named_with_the_reason() -> None:
    assert sentences.say_unfinished([run(), run()]) == "All 2 runs are finished."
    assert sentences.say_unfinished([run()]) == "The run is finished."
    assert sentences.say_unfinished([run(finished=False)]).startswith("1 of 1 run failed")
    said = sentences.say_unfinished([run(), run("DeSAM-B", finished=False)])
    assert said == "1 of 2 runs failed and are missing below: DeSAM-B from A, seed 0: no space left"


def test_minutes_are_summed_over_finished_runs() -> None:
    said = sentences.say_minutes([run(), run(), run(finished=False)])
    assert (
        said == "The 2 runs took 4 minutes of computing (CPU, 1 thread(s); at most 2.0 GiB of memory each)."
    )
    assert sentences.say_minutes([run(minutes={"training": 1.0})]).startswith("The 1 run took 1 minute of")
    assert sentences.say_minutes([]) == "No run is finished."


def test_facts_state_task_profile_sources_cases_seeds_and_protocol() -> None:
    said = sentences.say_facts(task(), [spec(), spec(source="B"), spec(seed=1)], "teach", "published")
    assert (
        said
        == "My task; profile `teach`, 2 sources (A, B), 1 to 2 cases per hospital, 2 seeds, protocol `published`."
    )


def test_facts_of_one_source_case_and_seed_are_singular() -> None:
    small = task()
    small.index = small.index.iloc[1:]
    facts = sentences.say_facts(small, [spec()], "smoke", "whole_volume")
    assert "1 source (A), 1 case per hospital, 1 seed," in facts


@pytest.mark.parametrize(
    ("synthetic", "specs", "said"),
    [
        (True, [spec(None, None)], "The scans are synthetic."),
        (False, [spec()], "*random encoder* marks an untrained `sam_tiny`."),
        (False, [spec(weights="tiny.safetensors")], "The encoder `sam_tiny` is a small stand-in for SAM."),
        (
            False,
            [spec(weights="shipped")],
            "a small stand-in for SAM, trained by this study on synthetic images",
        ),
        (
            False,
            [spec("vit_h", "sam_vit_h.pth")],
            "only where data, settings, protocol and averaging are the same",
        ),
    ],
)
def test_what_forbids_comparison_with_the_paper_is_said(synthetic: bool, specs: list[Any], said: str) -> None:
    caveats = sentences.say_caveats(task(synthetic=synthetic), specs)
    assert said in caveats
    assert ("Not comparable with the paper" in caveats) == (specs[0].backbone != "vit_h")


def test_departures_from_the_public_code_are_all_named() -> None:
    place = {"manifest": "m.yaml", "data_root": ".", "source": "A", "method": "desam"}
    plain = make_spec(**place)
    assert sentences.list_departures([plain, make_spec(**place, seed=3)]) == []
    changed = [make_spec(**place, epochs=7, iou_loss="mse"), make_spec(**place, epochs=9, prompt_mode="box")]
    departures = [("epochs", "7 or 9", "50"), ("iou_loss", "mse", "l1")]
    assert sorted(sentences.list_departures(changed)) == departures
    assert tables.settings_table(changed).frame["public code"].tolist() == ["50", "l1"]
    assert tables.settings_table([plain]).caption == "DeSAM has the settings of the public code"


def test_settings_of_other_methods_are_no_departures() -> None:
    unet = make_spec(manifest="m.yaml", data_root=".", source="A", method="unet", epochs=3)
    assert sentences.list_departures([unet]) == []


def differences(*rows: tuple[str, bool, float, float, float], metric: str = "dice") -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["second", "in_domain", "mean", "low", "high"])
    rule = {"margin": MARGINS[metric], "more_is_better": METRICS[metric]}
    verdicts = [decide(low, high, **rule) for low, high in zip(frame["low"], frame["high"], strict=True)]
    return frame.assign(first="Whole", verdict=verdicts)


def test_parts_count_when_the_interval_excludes_zero() -> None:
    said = sentences.say_ablation(
        differences(("A", False, 0.05, 0.01, 0.09), ("B", False, -0.02, -0.04, 0.03), ("B", True, 9, 9, 9))
    )
    assert said == (
        "**Some parts help**. Out of domain, in Dice (%): Whole is better than A: +5.0 (+1.0 to +9.0); "
        "Whole is not distinguishable from B: -2.0 (-4.0 to +3.0)."
    )


@pytest.mark.parametrize(
    ("low", "high", "metric", "verdict"),
    [
        (0.01, 0.05, "dice", "The full decoder is better than every reduced one"),
        (-5.0, -1.0, "hd95", "The full decoder is better than every reduced one"),
        (-0.05, -0.01, "dice", "The full decoder is worse than a reduced one"),
        (-0.05, 0.05, "dice", "Cannot tell which part helps"),
        (0.0, 0.0, "dice", "No part makes a difference"),  # a tie
        (np.nan, np.nan, "dice", "Cannot tell which part helps"),  # one seed
    ],
)
def test_the_verdict_on_parts_follows_the_interval(
    low: float, high: float, metric: str, verdict: str
) -> None:
    frame = differences(("A", False, np.nan_to_num(low + high) / 2, low, high), metric=metric)
    said = sentences.say_ablation(frame, metric=metric)
    assert said.startswith(f"**{verdict}**")


def test_parts_may_help_and_hurt() -> None:
    mixed = differences(("A", False, 0.05, 0.01, 0.09), ("B", False, -0.05, -0.09, -0.01))
    assert sentences.say_ablation(mixed).startswith("**Some parts help and some hurt**")


def test_without_common_cases_nothing_is_said_of_parts() -> None:
    assert "no answer yet" in sentences.say_ablation(differences(("A", False, np.nan, np.nan, np.nan)))


def test_a_page_without_training_says_its_seconds() -> None:
    assert "it took 3 seconds to run." in sentences.say_seconds(time.perf_counter() - 3)


def test_words_are_listed_and_values_joined_once() -> None:
    assert [sentences.list_words(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert sentences.join_distinct(["x", "", "y", "x"]) == "x; y" and sentences.join_distinct([]) == "none"
