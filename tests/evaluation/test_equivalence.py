"""Averages of a repetition are held against the kept ones: shown equal, shown different, or neither."""

import numpy as np
import pandas as pd
import pytest
from repeated_study import repeat_methods, simulate_methods, to_metrics

from desam_lite.evaluation.equivalence import (
    EVERY,
    check_averages,
    check_verdicts,
    pair_cases,
    run_averages,
    seed_scatter,
)

TRAINED = [0.01, 0.02, 0.03, 0.05]


@pytest.fixture
def kept() -> pd.DataFrame:
    return to_metrics(simulate_methods(np.random.default_rng(0), [0.0, 0.02]))


def shifted(metrics: pd.DataFrame, label: str, amount: float) -> pd.DataFrame:
    return metrics.assign(dice=metrics["dice"] + amount * (metrics["label"] == label))


def outcomes(checks: pd.DataFrame, label: str) -> set[str]:
    return set(checks[checks["label"] == label]["outcome"])


def test_differences_are_paired_by_run_and_case_and_averaged_by_target(kept: pd.DataFrame) -> None:
    new = kept[(kept["run"] == "method 1 0")].sample(frac=1, random_state=0)
    new = new.assign(dice=new["dice"] + np.where(new["target"] == 1, 0.3, 0.0))
    differences = run_averages(pair_cases(new, kept)).set_index("in_domain")["value"]
    assert differences.to_dict() == pytest.approx({True: 0.0, False: 0.1})  # one of three targets moved


def test_scatter_is_that_of_seeds_within_a_source() -> None:
    rows = [
        ("t", "U-Net", "p", True, s, r, 0.1 * s + 0.02 * r) for s in "12" for r in range(3) for s in [int(s)]
    ]
    averages = pd.DataFrame(
        rows, columns=["task", "label", "protocol", "in_domain", "source", "run", "value"]
    )
    (row,) = seed_scatter(averages).to_dict("records")
    assert row == {"scatter": pytest.approx(0.02), "freedom": 4}


def test_a_method_with_a_single_seed_borrows_the_scatter_of_the_others(kept: pd.DataFrame) -> None:
    single = kept[(kept["label"] == "method 0") | (kept["seed"] == 0)]
    assert seed_scatter(run_averages(single))["scatter"].tolist() == [0.0] * 4


def test_equal_runs_agree_to_the_last_digit(kept: pd.DataFrame) -> None:
    checks = check_averages(kept, kept)
    assert set(checks["outcome"]) == {"agrees"} and set(checks["label"]) == {"method 0", "method 1", EVERY}
    assert (checks["difference"] == 0).all() and (checks["half"] == 0).all()


def test_three_points_in_every_case_differ_in_a_single_run_too(kept: pd.DataFrame) -> None:
    for new in (kept, kept[kept["run"] == "method 1 0"]):
        checks = check_averages(shifted(new, "method 1", 0.03), kept)
        moved = checks[checks["label"] == "method 1"]
        assert set(moved["outcome"]) == {"differs"} and moved["even"].all()


def test_a_method_that_is_not_trained_may_not_move_by_the_margin(kept: pd.DataFrame) -> None:
    new = shifted(kept[kept["run"] == "method 0 0"], "method 0", 0.0)
    new["dice"] += 0.05 * np.resize([1, 0], len(new))  # uneven: half of the cases by five points
    assert outcomes(check_averages(new, kept), "method 0") == {"differs"}


def test_a_single_run_as_far_as_another_seed_cannot_be_told_and_more_runs_are_named(
    kept: pd.DataFrame,
) -> None:
    rng = np.random.default_rng(1)
    new = kept[kept["run"] == "method 1 0"]
    new = new.assign(dice=new["dice"] + 0.03 + rng.normal(0, 0.04, len(new)))
    checks = check_averages(new, kept)
    assert outcomes(checks, "method 1") == {"cannot tell"} and (checks["more"] >= 1).all()


def test_a_single_run_of_a_study_with_a_single_seed_tells_nothing() -> None:
    kept = to_metrics(simulate_methods(np.random.default_rng(0), [0.02]), slice(1))
    new = kept.assign(dice=kept["dice"] + 0.001)
    (row, _) = check_averages(new, kept).to_dict("records")
    assert row["outcome"] == "cannot tell" and np.isinf(row["half"]) and row["more"] == 1


def test_runs_that_scatter_as_seeds_do_not_differ_but_need_more_of_them_to_tell() -> None:
    rng = np.random.default_rng(2)
    methods = simulate_methods(rng, [0.01, 0.05])
    checks = check_averages(to_metrics(repeat_methods(rng, methods, 1.0)), to_metrics(methods))
    assert "differs" not in set(checks["outcome"])
    half = checks.groupby("label")["half"].min()
    assert half["method 0"] < 0.02 < half["method 1"] and outcomes(checks, "method 1") == {"cannot tell"}
    untold = checks[checks["outcome"] == "cannot tell"]
    assert (untold["more"] > 0).all() and (checks[checks["outcome"] == "agrees"]["more"] == 0).all()


def test_verdicts_are_made_again_with_the_repeated_runs_in_place(kept: pd.DataFrame) -> None:
    same = check_verdicts(kept, kept)
    assert (same["before"] == same["after"]).all() and not same["reversed"].any()
    worse = check_verdicts(shifted(kept, "method 1", -0.3), kept)
    (away,) = worse[~worse["in_domain"]].to_dict("records")
    assert away["repeated"] == pytest.approx(away["kept"] + 0.3) and away["after"] == "better"
    few = shifted(kept[kept["run"] == "method 1 0"], "method 1", -0.12)
    (away,) = (rows := check_verdicts(few, kept))[~rows["in_domain"]].to_dict("records")
    assert away["repeated"] == pytest.approx(away["kept"] + 0.12 / 12)  # one of twelve runs of the average
