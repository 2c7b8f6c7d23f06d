"""Tables are checked against numbers worked out by hand on frames small enough for that."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desam_lite.evaluation import statistics as results
from desam_lite.utils.errors import StudyError


def rows(*entries: tuple[str, str, str, int, str, float]) -> pd.DataFrame:
    """Scores of (label, source, target, seed, case, value)."""
    frame = pd.DataFrame(entries, columns=["label", "source", "target", "seed", "case", "value"])
    return frame.assign(in_domain=frame["source"] == frame["target"], metric="dice")[results.COLUMNS]


def metrics(dice: float = 0.5, **changed: object) -> dict[str, object]:
    """One row as `Run.metrics` gives it."""
    row = {"run": "r", "task": "t", "source": "A", "target": "B", "in_domain": False, "method": "unet"}
    row |= {
        "label": "U-Net",
        "variant": None,
        "prompt_mode": None,
        "backbone": None,
        "weights": None,
        "seed": 0,
    }
    row |= {
        "case": "1",
        "organ": "prostate",
        "protocol": "whole_volume",
        "dice": dice,
        "hd95": 9.0,
        "hd": 9.0,
    }
    return row | {"assd": 3.0, "reference_voxels": 5, "predicted_voxels": 5} | changed


UNEVEN = rows(
    # Source A: target B has one case, target C three. Source B: target A only. Two seeds of A on B.
    ("U-Net", "A", "B", 0, "1", 0.2),
    ("U-Net", "A", "B", 1, "1", 0.4),
    ("U-Net", "A", "C", 0, "1", 0.6),
    ("U-Net", "A", "C", 0, "2", 0.7),
    ("U-Net", "A", "C", 0, "3", 0.8),
    ("U-Net", "B", "C", 0, "1", 0.1),
    ("U-Net", "B", "C", 0, "2", 0.1),
    ("U-Net", "B", "C", 0, "3", 0.1),
)


def test_scores_average_the_organs_of_a_case_and_keep_one_protocol() -> None:
    frame = pd.DataFrame(
        [
            metrics(0.4, organ="liver"),
            metrics(0.8, organ="spleen"),
            metrics(0.1, organ="liver", protocol="published"),
        ]
    )
    assert results.scores(frame)["value"].tolist() == pytest.approx([0.6])
    assert results.scores(frame, organ="spleen")["value"].tolist() == [0.8]
    assert results.scores(frame, protocol="published")["value"].tolist() == [0.1]


def test_an_organ_without_a_number_does_not_count() -> None:
    frame = pd.DataFrame([metrics(np.nan, organ="liver"), metrics(0.8, organ="spleen")])
    assert results.scores(frame)["value"].tolist() == [0.8]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"metric": "dise"}, "metric 'dise'"),
        ({"protocol": "mine"}, "protocol 'mine'"),
        ({"organ": "liver"}, "organ 'liver'"),
    ],
)
def test_an_unknown_choice_is_named(arguments: dict[str, str], named: str) -> None:
    with pytest.raises(StudyError, match=f"{named}.*choose from"):
        results.scores(pd.DataFrame([metrics()]), **arguments)


def test_two_runs_under_one_label_are_not_mixed() -> None:
    frame = pd.DataFrame([metrics(0.5, run="one"), metrics(0.7, run="two")])
    with pytest.raises(StudyError, match="two different runs are called 'U-Net'"):
        results.scores(frame)


def test_no_runs_give_empty_tables_rather_than_failures() -> None:
    empty = results.scores(pd.DataFrame())
    assert results.summarise(empty).empty
    assert results.score_matrix(empty, "U-Net", ["A"], ["A", "B"]).isna().all(axis=None)
    assert results.compare(empty, [("U-Net", "Prior")])["mean"].isna().all()


def test_matrix_cells_are_means_over_cases_then_seeds() -> None:
    matrix = results.score_matrix(UNEVEN, "U-Net", ["A", "B", "C"], ["A", "B", "C"])
    assert matrix.loc["A", "B"] == pytest.approx(0.3)
    assert matrix.loc["A", "C"] == pytest.approx(0.7)
    assert matrix.loc["B", "C"] == pytest.approx(0.1)
    assert matrix.loc["C"].isna().all()
    assert np.isnan(matrix.loc["A", "A"])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("sources", ((0.3 + 0.7) / 2 + 0.1) / 2),
        ("targets", (0.3 + (0.7 + 0.1) / 2) / 2),
        ("cases", (0.3 * 1 + 0.7 * 3 + 0.1 * 3) / 7),
    ],
)
def test_each_averaging_rule_weighs_as_it_says(rule: results.Rule, expected: float) -> None:
    table = results.summarise(UNEVEN, rule=rule, draws=10)
    assert table["mean"].tolist() == pytest.approx([expected])
    assert table[["sources", "targets", "seeds", "cases"]].iloc[0].tolist() == [2, 2, 2, 4]


def test_unknown_averaging_rule_is_named() -> None:
    with pytest.raises(StudyError, match="averaging rule 'median'"):
        results.summarise(UNEVEN, rule="median")  # type: ignore[arg-type]


def test_spread_over_seeds_and_cases_by_hand() -> None:
    frame = rows(
        ("U-Net", "A", "B", 0, "1", 0.2),
        ("U-Net", "A", "B", 0, "2", 0.4),
        ("U-Net", "A", "B", 1, "1", 0.4),
        ("U-Net", "A", "B", 1, "2", 0.8),
    )
    row = results.summarise(frame, draws=10).iloc[0]
    assert row["seed_sd"] == pytest.approx(np.std([0.3, 0.6], ddof=1))
    assert row["case_sd"] == pytest.approx(np.std([0.3, 0.6], ddof=1))


def test_in_and_out_of_domain_are_kept_apart() -> None:
    frame = pd.concat([UNEVEN, rows(("U-Net", "A", "A", 0, "1", 0.9))])
    table = results.summarise(frame, draws=10).set_index("in_domain")
    assert table.loc[True, "mean"] == pytest.approx(0.9)
    assert np.isnan(table.loc[True, "low"])  # one case says nothing about other cases
    assert np.isnan(table.loc[True, "seed_sd"])


def test_one_case_per_target_gives_no_interval() -> None:
    frame = rows(("U-Net", "A", "B", 0, "1", 0.2), ("U-Net", "A", "C", 0, "1", 0.8))
    row = results.summarise(frame, draws=10).iloc[0]
    assert row["mean"] == pytest.approx(0.5)
    assert np.isnan(row["low"]) and np.isnan(row["high"])


def test_interval_is_repeatable_and_holds_the_mean() -> None:
    one, two = (results.summarise(UNEVEN, draws=200, seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert one["low"].item() < one["mean"].item() < one["high"].item()


def test_interval_of_one_cell_is_the_bootstrap_of_its_cases() -> None:
    values = np.linspace(0, 1, 40)
    frame = rows(*[("U-Net", "A", "B", 0, str(case), value) for case, value in enumerate(values)])
    row = results.summarise(frame, ["label", "source", "target"], draws=4000).iloc[0]
    half_width = 1.96 * values.std() / np.sqrt(40)  # the normal approximation
    assert row["low"] == pytest.approx(0.5 - half_width, abs=0.01)
    assert row["high"] == pytest.approx(0.5 + half_width, abs=0.01)


def test_seeds_widen_the_interval() -> None:
    same = [("U-Net", "A", "B", seed, str(case), case / 10) for seed in range(3) for case in range(10)]
    apart = [(*row[:5], row[5] + row[3] / 5) for row in same]
    widths = [np.ptp(results.summarise(rows(*x))[["low", "high"]].to_numpy()) for x in (same, apart)]
    assert widths[1] > 1.2 * widths[0]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.sampled_from(list(results.RULES)))
def test_average_lies_between_the_scores_and_inside_its_bootstrap(
    values: list[float], rule: results.Rule
) -> None:
    frame = rows(*[("U-Net", "AB"[n % 2], "CD"[n // 2 % 2], n % 3, str(n), v) for n, v in enumerate(values)])
    row = results.summarise(frame, rule=rule, draws=50).iloc[0]
    assert min(values) - 1e-9 <= row["mean"] <= max(values) + 1e-9
    assert min(values) - 1e-9 <= row["low"] <= row["high"] <= max(values) + 1e-9


def test_comparison_pairs_by_source_seed_and_case() -> None:
    frame = rows(
        ("DeSAM-B", "A", "B", 0, "1", 0.6),
        ("U-Net", "A", "B", 0, "1", 0.5),
        ("DeSAM-B", "A", "B", 0, "2", 0.5),
        ("U-Net", "A", "B", 0, "2", 0.1),
        ("DeSAM-B", "A", "B", 0, "3", 0.2),
        ("U-Net", "A", "B", 0, "3", 0.3),
        ("U-Net", "A", "B", 0, "4", 0.0),  # without a partner
        ("DeSAM-B", "A", "B", 1, "1", 1.0),  # another seed is no partner either
    )
    table = results.compare(frame, [("DeSAM-B", "U-Net")]).set_index("in_domain")
    assert table.loc[False, "mean"] == pytest.approx((0.1 + 0.4 - 0.1) / 3)
    assert table.loc[False, "cases"] == 3
    assert table.loc[False, "won"] == pytest.approx(2 / 3)
    assert np.isnan(table.loc[True, "mean"])


def test_p_value_uses_one_number_per_case_and_holm_corrects_it() -> None:
    def method(label: str, gain: float) -> list[tuple[str, str, str, int, str, float]]:
        return [(label, "A", "B", seed, str(c), c / 20 + gain) for seed in range(5) for c in range(8)]

    frame = rows(*method("U-Net", 0), *method("DeSAM-B", 0.1), *method("DeSAM-P", 0.2), *method("Same", 0))
    pairs = [("DeSAM-B", "U-Net"), ("DeSAM-P", "U-Net"), ("Same", "U-Net")]
    table = results.compare(frame, pairs, draws=10)
    out = table[~table["in_domain"]]
    assert out["p"].tolist()[:2] == pytest.approx([2 / 2**8] * 2)  # eight cases of one sign, not forty
    assert out["p_holm"].tolist()[:2] == pytest.approx([4 / 2**8] * 2)
    assert np.isnan(out["p"].iloc[2])


def test_holm_never_orders_p_values_anew() -> None:
    corrected = results.holm(np.array([0.04, np.nan, 0.01, 0.03]))
    np.testing.assert_allclose(corrected, [0.06, np.nan, 0.03, 0.06])


def test_cases_are_picked_by_rule() -> None:
    frame = rows(
        *[
            ("U-Net", "A", "B", 0, name, value)
            for name, value in zip("abcd", [0.5, 0.1, 0.9, 0.1], strict=True)
        ]
    )
    assert results.pick_case(frame, "worst")["case"] == "b"  # the first of the two that are equally bad
    assert results.pick_case(frame, "median")["value"] == 0.1
    assert results.pick_case(frame, "best")["case"] == "c"


def test_worst_distance_is_the_largest() -> None:
    frame = rows(("U-Net", "A", "B", 0, "a", 3.0), ("U-Net", "A", "B", 0, "b", 8.0)).assign(metric="hd95")
    assert results.pick_case(frame, "worst")["case"] == "b"


def test_nothing_to_pick_from_is_said() -> None:
    with pytest.raises(StudyError, match="no scored case"):
        results.pick_case(results.scores(pd.DataFrame()), "worst")
    with pytest.raises(StudyError, match="case rule 'nicest'"):
        results.pick_case(UNEVEN, "nicest")  # type: ignore[arg-type]


def test_the_case_two_methods_differ_on_most_may_favour_either() -> None:
    scores = rows(
        ("one", "A", "B", 0, "1", 0.9),
        ("two", "A", "B", 0, "1", 0.8),
        ("one", "A", "B", 0, "2", 0.2),
        ("two", "A", "B", 0, "2", 0.6),
        ("two", "A", "B", 0, "3", 0.0),
    )
    row = results.most_different(scores, "one", "two")
    assert (row["case"], round(row["value"], 6)) == ("2", -0.4)
    assert results.most_different(scores, "two", "one")["case"] == "2"


def test_methods_without_a_common_case_cannot_differ() -> None:
    with pytest.raises(StudyError, match="'one' and 'three' have no scored case in common"):
        results.most_different(rows(("one", "A", "B", 0, "1", 0.9)), "one", "three")
