"""Equal time is planned from what was measured, and sentences about the best method say what the tables say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from desam_lite.data.manifest import load_manifest
from desam_lite.evaluation.statistics import compare, summarise
from desam_lite.methods import METHODS
from desam_lite.methods.registry import METHOD_CHOICES
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.report import comparison
from desam_lite.study.run import execute_run
from desam_lite.utils.errors import StudyError


def run(
    label_of: str, seconds: list[float], *, epochs: int = 20, seed: int = 0, finished: bool = True
) -> Any:
    spec = make_spec(manifest=".", data_root=".", source="A", method=label_of, epochs=epochs, seed=seed)
    return SimpleNamespace(
        spec=spec,
        finished=finished,
        history=lambda: pd.DataFrame({"label": spec.label, "busy_seconds": seconds}),
    )


def test_equal_time_gives_as_many_epochs_as_fit() -> None:
    runs = [
        run("unet", [3, 1, 1]),
        run("unet", [1, 1, 1], seed=1),
        run("csdg", [4, 4, 4]),
        run("maxstyle", [9e3]),
        run("advbias", [0.001]),
        run("randconv", [1], finished=False),
        run("prior", []),
    ]
    planned = comparison.equal_time(runs, 0.5)
    assert [(s.method, s.seed, s.epochs) for s in planned] == [
        ("unet", 0, 30),
        ("unet", 1, 30),  # all runs of a method get the same
        ("csdg", 0, 7),
        ("maxstyle", 0, 1),  # at least one
        ("advbias", 0, 100),  # at most five times as many as with equal steps
    ]
    assert planned[0] == runs[0].spec.model_copy(update={"epochs": 30})  # an ordinary run


def test_the_usual_budget_gives_quick_methods_more_epochs_and_slow_ones_fewer() -> None:
    runs = [
        run("csdg", [6.0] * 20),
        run("unet", [1.0] * 30, epochs=90),  # it stopped by itself
        run("maxstyle", [12.0] * 20),
        run("prior", []),
    ]
    assert comparison.usual_budget(runs) == pytest.approx(6.0 * 20 / 60)
    assert comparison.usual_budget([run("prior", [])]) == 0.0
    planned = comparison.equal_time(runs, comparison.usual_budget(runs))
    assert {spec.label: spec.epochs for spec in planned} == {"CSDG": 20, "U-Net": 120, "MaxStyle": 10}
    assert {spec.patience for spec in planned} == {None}


def test_equal_time_may_be_run_with_fewer_seeds() -> None:
    runs = [run("unet", [1.0], seed=seed) for seed in (4, 2, 9)]
    assert [spec.seed for spec in comparison.equal_time(runs, 1.0, seeds=2)] == [4, 2]
    assert comparison.equal_time([run("prior", [])], 0.0) == []
    assert comparison.equal_time(runs, 1.0, labels=["another"]) == []
    assert len(comparison.equal_time(runs, 1.0, labels=["U-Net"])) == len(comparison.equal_time(runs, 1.0))


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_is_no_budget(minutes: float) -> None:
    with pytest.raises(StudyError, match="no budget"):
        comparison.equal_time([run("unet", [1.0])], minutes)


def scores(values: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        ("A", "B", False, seed, f"case{n}", "dice", value, label)
        for label, column in values.items()
        for n, value in enumerate(column)
        for seed in range(3)
    ]
    names = ["source", "target", "in_domain", "seed", "case", "metric", "value", "label"]
    return pd.DataFrame(rows, columns=names)


SCORED = scores(
    {
        "Prior": [0.1, 0.2, 0.1, 0.2],
        "SAM point (oracle)": [0.9, 0.9, 0.9, 0.9],
        "U-Net": [0.6, 0.7, 0.6, 0.7],
        "CSDG": [0.65, 0.65, 0.65, 0.68],
    }
)


def test_the_best_is_no_oracle_and_oracles_stand_last() -> None:
    summary = summarise(SCORED)
    assert comparison.best_label(summary) == "CSDG"
    order = comparison.rank_labels(summary)
    assert order == ["CSDG", "U-Net", "Prior", "SAM point (oracle)"]
    assert comparison.rank_labels(summary, metric="assd")[0] == "Prior"  # there less is better


def test_the_answer_names_who_cannot_be_told_apart() -> None:
    summary = summarise(SCORED)
    ahead = compare(SCORED, [("CSDG", other) for other in ("Prior", "U-Net", "SAM point (oracle)")])
    said = comparison.say_best(summary, ahead)
    assert said.startswith("**CSDG has the best mean**: Dice (%) 65.8 (")
    assert said.endswith(" out of domain. It is not distinguishable from U-Net.")
    alone = comparison.say_best(summary, ahead[ahead["second"] == "Prior"])
    assert alone.endswith(" It is better than the 1 other method.")
    assert comparison.say_best(pd.DataFrame(), ahead).startswith("There is no answer yet")


def test_gains_are_told_with_their_sign_and_interval() -> None:
    found = compare(SCORED, [("CSDG", "Prior"), ("CSDG", "U-Net")])
    gains = comparison.say_gains(found)
    assert gains.startswith("Out of domain, in Dice (%): CSDG is better than Prior: +50.8 (+42.7 to")
    assert gains.endswith("; CSDG is not distinguishable from U-Net: +0.8 (-7.3 to +8.8).")
    assert "worse than Prior" in comparison.say_gains(
        compare(SCORED.assign(metric="assd"), [("CSDG", "Prior")])
    )
    assert "not known yet" in comparison.say_gains(found[found["in_domain"]])


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "CSDG is better than U-Net: +0.0."),
        ("worse", "CSDG is worse than U-Net"),
        ("equivalent", "CSDG is equivalent to U-Net"),
        ("better by less than the margin", "CSDG is better than U-Net by less than the margin: +0.0"),
        ("worse by less than the margin", "CSDG is worse than U-Net by less than the margin: +0.0"),
        ("cannot tell", "CSDG is not distinguishable from U-Net"),
    ],
)
def test_every_verdict_has_its_words(verdict: str, words: str) -> None:
    row = {"first": "CSDG", "second": "U-Net", "in_domain": False, "mean": 0.0, "low": np.nan, "high": np.nan}
    assert words in comparison.say_gains(pd.DataFrame([row | {"verdict": verdict}]))


def test_the_best_may_lose_on_the_cases_of_both_and_may_be_alone() -> None:
    summary = summarise(SCORED)
    ahead = compare(SCORED, [("CSDG", other) for other in ("Prior", "U-Net")])
    reversed_ = ahead.assign(verdict=["better", "better", "worse", "worse"])
    assert comparison.say_best(summary, reversed_).endswith(
        "On the cases that both have scored it is worse than U-Net."
    )
    alone = comparison.say_best(summary, ahead[:0])
    assert alone.startswith("**CSDG is the only one**")
    both = comparison.say_best(summary, ahead.assign(verdict="better"))
    assert both.endswith("It is better than each of the 2 other methods.")


def test_both_tables_stand_side_by_side() -> None:
    steps, time = summarise(SCORED), summarise(scores({"U-Net": [0.8, 0.9], "CSDG": [0.5, 0.6]}))
    frame = comparison.steps_vs_time(steps, time, runs=[run("unet", [1.0], epochs=7)]).frame
    assert list(frame["method"]) == ["U-Net", "CSDG"]
    assert frame.loc[0, "epochs in equal time"] == "7"
    assert frame.loc[0, "Dice (%), equal steps"].startswith("65.0 (")
    assert frame.loc[1, "Dice (%), equal time"].startswith("55.0 (")
    assert comparison.steps_vs_time(steps, pd.DataFrame(), runs=[]).frame.empty


def test_the_budget_is_said_with_the_epochs_it_gave() -> None:
    said = comparison.say_budget(0.5, [run("unet", [1.0], epochs=30), run("csdg", [1.0], epochs=7)])
    assert said.startswith(
        "Each training has 0.50 minutes of one core. That is 7 epochs for CSDG and 30 for U-Net, the least and the most."
    )
    alone = comparison.say_budget(0.5, [run("unet", [1.0], epochs=1)])
    assert "That is 1 epoch for each method." in alone
    assert "cannot be planned" in comparison.say_budget(0.5, [])


def test_methods_are_set_beside_a_control_target_by_target() -> None:
    moved = SCORED.assign(target=["B" if n // 3 % 2 else "C" for n in range(len(SCORED))])
    moved = moved.assign(
        value=moved["value"].where((moved["label"] != "CSDG") | (moved["target"] != "B"), 0.0)
    )
    beside = comparison.margins_over_control(moved)
    assert (beside.loc[0, "label"], beside.loc[0, "target"]) == ("CSDG", "B")
    assert beside.loc[0, "ahead"] == pytest.approx(-0.2)
    assert beside["ahead"].is_monotonic_increasing
    assert comparison.say_behind(beside) == "Behind Prior in the mean at a target: CSDG at B."
    far = comparison.margins_over_control(moved.assign(metric="hd95"))  # there more is worse
    assert "U-Net at every target" in comparison.say_behind(far)
    assert "No method is behind Prior" in comparison.say_behind(beside[beside["ahead"] > 0])
    assert "No method has been compared" in comparison.say_behind(comparison.margins_over_control(SCORED[:0]))


def costed(label: str, training: float, memory: float, *, finished: bool = True, parameters: int = 0) -> Any:
    minutes = {"training": training, "scoring": 0.5}
    info = {"minutes": minutes, "peak_memory": {"process_mib": memory}, "trained_parameters": parameters}
    info |= {
        "epochs": int(10 * training),
        "ceiling": 0.99,
        "stopped": "budget" if training > 3 else "plateau",
    }
    tool = label if label == "nnU-Net v2" else None
    return SimpleNamespace(
        spec=SimpleNamespace(label=label, epochs=20, tool=tool), finished=finished, info=info
    )


def test_costs_stand_beside_scores_one_row_per_method() -> None:
    runs = [
        costed("U-Net", 1.0, 1024, parameters=1234567),
        costed("CSDG", 4.0, 3072),
        costed("U-Net", 2.0, 2048, parameters=1234567),
    ]
    summary = pd.DataFrame(
        [("U-Net", True, 0.74), ("U-Net", False, 0.42)], columns=["label", "in_domain", "mean"]
    )
    frame = comparison.cost_table([*runs, costed("MaxStyle", 9, 9, finished=False)], summary).frame.set_index(
        "method"
    )
    assert list(frame.index) == ["U-Net", "CSDG"]
    assert frame.loc["U-Net"].tolist() == [
        *("1,234,567", "10 to 20", "2 of 2 to the plateau", "99.0"),
        *("1.5", "0.5", "2.0", "74.0", "42.0"),
    ]
    assert frame.loc["CSDG", ["epochs", "trained"]].tolist() == ["40", "0 of 1 to the plateau"]
    assert frame.loc["CSDG"].tolist()[-2:] == ["", ""]


def test_what_the_training_of_another_tool_took_is_left_open() -> None:
    frame = comparison.cost_table([costed("nnU-Net v2", 0.0, 1024)], pd.DataFrame()).frame
    assert frame[["trained parameters", "epochs", "training (min)", "memory (GiB)"]].to_numpy().tolist() == [
        [""] * 4
    ]
    assert frame["scoring (min)"].tolist() == ["0.5"]


def test_no_finished_run_gives_an_empty_table() -> None:
    assert comparison.cost_table([costed("CSDG", 1, 1, finished=False)], pd.DataFrame()).frame.empty


def test_a_run_records_how_many_numbers_were_trained(tiny_task: tuple[Path, Path], tmp_path: Path) -> None:
    where: dict[str, Any] = {"manifest": tiny_task[0], "data_root": tiny_task[1], "source": "A"}
    small = {"unet_width": 4, "unet_size": 32, "epochs": 1, "split": "70_10_20", "train_slices": "all"}
    done = execute_run(make_spec(**where, method="maxstyle", **small), tmp_path, progress=False)
    assert done.info["trained_parameters"] == sum(
        p.numel() for p in METHODS["maxstyle"].load()(1, 4, 32, 0).parameters()
    )
    prior = execute_run(make_spec(**where, method="prior", split="70_10_20"), tmp_path, progress=False)
    assert prior.info["trained_parameters"] == 0
    costs = comparison.cost_table([done, prior], pd.DataFrame()).frame
    assert costs[["method", "epochs", "trained", "ceiling"]].to_numpy().tolist() == [
        ["MaxStyle", "1", "fixed length", "100.0"],
        ["Prior", "none", "", ""],
    ]


def test_every_method_says_what_differs_from_its_paper() -> None:
    specs = [
        make_spec(manifest=".", data_root=".", source="A", **choice) for choice in METHOD_CHOICES.values()
    ]
    frame = comparison.departure_table(specs).frame.set_index("method")
    assert any(name.startswith("U-Net, U-Net + light aug., U-Net + nnU-Net aug.") for name in frame.index)
    assert frame.loc["Prior", "paper"] == "this study"
    assert frame.loc["CSDG", "paper"] == "csdg"
    assert "EfficientNet" in frame.loc["CSDG", "what differs"]
    assert frame.loc["MaxStyle", "what differs"].endswith(".")


COILS = {
    "A": "without endorectal coil",
    "C": "without endorectal coil",
    "B": "with endorectal coil",
    "E": "with endorectal coil",
}


def test_sites_are_grouped_by_the_coil_of_the_manifest() -> None:
    manifest = load_manifest("phantom_prostate")
    grouped = comparison.group_by_coil(SimpleNamespace(manifest=manifest))  # type: ignore[arg-type]
    assert list(grouped) == ["A", "C", "D", "B", "E", "F"]
    assert [name for name, coil in grouped.items() if coil == COILS["B"]] == ["B", "E", "F"]
    abdomen = SimpleNamespace(manifest=load_manifest("phantom_abdomen"))
    assert comparison.group_by_coil(abdomen) == {}  # type: ignore[arg-type]


def test_what_coils_share_is_told_in_numbers_whichever_way_they_go() -> None:
    cells = [[0.9, 0.8, 0.5, 0.4], [0.2, 0.3, 0.9, 0.87]]
    matrix = pd.DataFrame(cells, index=["A", "B"], columns=list("ACBE"))
    assert comparison.say_coils(matrix, COILS, "DeSAM-B") == (
        "DeSAM-B, Dice (%): trained without endorectal coil (A) it scores 80 at other sites without endorectal coil "
        "and 40 to 50 at the rest; trained with endorectal coil (B) it scores 87 at other sites with endorectal coil "
        "and 20 to 30 at the rest."
    )
    turned = comparison.say_coils(matrix.loc[["A"], ["A", "C"]], COILS, "DeSAM-B")
    assert turned == "" == comparison.say_coils(matrix, {}, "DeSAM-B")


def test_a_list_of_scores_has_the_mean_elsewhere_first_and_leaves_out_what_lacks_one() -> None:
    columns = ["label", "in_domain", "mean", "low", "high"]
    rows = [("U-Net", True, 0.8, 0.7, 0.9), ("U-Net", False, 0.5, 0.4, 0.6), ("SAM", False, 0.3, 0.2, 0.4)]
    rows += [("DeSAM", True, 0.7, np.nan, np.nan), ("DeSAM", False, 0.6, np.nan, np.nan)]
    text = comparison.list_scores(pd.DataFrame(rows, columns=columns), ["U-Net", "SAM", "DeSAM"])
    assert text.splitlines() == [
        "- **50** U-Net: Dice (%) at other hospitals (40 to 60); 80 at the source",
        "- **60** DeSAM: Dice (%) at other hospitals; 70 at the source",
    ]
    assert "No method" in comparison.list_scores(pd.DataFrame(columns=columns), ["U-Net"])
