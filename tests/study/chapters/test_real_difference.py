"""What decides whether a difference is real: laws of tests and of small studies, and sentences that follow the numbers."""

import numpy as np
import pandas as pd
import pytest
from notebook_code import definitions

from desam_lite.evaluation import statistics
from desam_lite.study.chapters import real_difference
from desam_lite.utils.errors import StudyError

PAIR = ("DeSAM-B", "U-Net")
PAGE = definitions("real_difference")


def scores(effect: float = 0.1, seeds: int = 3, cases: int = 6, noise: float = 0.02) -> pd.DataFrame:
    """Two methods and a control at two sources and three targets; the first is better by ``effect``."""
    rng = np.random.default_rng(0)
    rows = [
        (
            label,
            source,
            target,
            source == target,
            seed,
            f"{target}{case}",
            "dice",
            base + rng.normal(0, noise),
        )
        for label, base in (("Prior", 0.4), ("U-Net", 0.5), ("DeSAM-B", 0.5 + effect))
        for source in "AB"
        for target in "ABC"
        for seed in range(seeds)
        for case in range(cases)
    ]
    return pd.DataFrame(rows, columns=statistics.COLUMNS)


def test_every_pair_of_learners_is_compared_once_and_the_control_is_none() -> None:
    assert real_difference.pairs_of(scores()) == [PAIR]
    many = pd.concat([scores(cases=1).query("label == 'U-Net'").assign(label=name) for name in "abcdefg"])
    assert real_difference.pairs_of(many) == [("g", other) for other in "fedcba"]
    with pytest.raises(StudyError, match="two trained methods"):
        real_difference.pairs_of(scores().query("label != 'U-Net'"))


def test_only_targets_are_compared_and_each_patient_counts_once() -> None:
    away = real_difference.differences_away(scores(), *PAIR)
    assert not away["in_domain"].any()
    assert len(real_difference.per_patient(away)) == 3 * 6
    with pytest.raises(StudyError, match="no scored case in common"):
        real_difference.differences_away(scores(), "DeSAM-B", "SAMed")


def test_tests_find_what_is_there_and_correction_never_lowers_a_p() -> None:
    table = real_difference.significance(scores(), [PAIR, ("U-Net", "Prior")])
    for name in real_difference.TESTS:
        assert (table[name] < 0.01).all()
        assert (table[f"{name}_holm"] >= table[name]).all()


def test_the_permutation_test_flips_signs() -> None:
    values = np.array([1.0, 2.0, 4.0, 0.5])
    assert real_difference.p_value(values, "permutation") == pytest.approx(
        2 / 16
    )  # all and none of them flipped
    assert real_difference.p_value(-values, "permutation") == pytest.approx(2 / 16)
    assert (
        0 < real_difference.p_value(np.full(40, 0.1), "permutation") < 0.001
    )  # a share of draws is never nothing


@pytest.mark.parametrize("values", [np.array([]), np.array([0.2]), np.zeros(5)])
def test_a_test_without_information_has_no_p(values: np.ndarray) -> None:
    assert all(np.isnan(real_difference.p_value(values, name)) for name in real_difference.TESTS)


def test_the_largest_small_study_is_the_whole() -> None:
    away = real_difference.differences_away(scores(), *PAIR)
    whole = statistics.summarise(away.assign(label="d"), ["label"])["mean"].item()
    np.testing.assert_allclose(real_difference.small_studies(away, seeds=3, cases=6, draws=5), whole)
    small = real_difference.small_studies(away, seeds=1, cases=2, draws=200)
    assert small.mean() == pytest.approx(whole, abs=0.01) and small.std() > 0


def test_a_clear_winner_never_flips_and_a_draw_does() -> None:
    clear, draw = (real_difference.flips(scores(effect), [PAIR], draws=200) for effect in (0.3, 0.0))
    assert clear["half_cases"].item() == 0
    assert draw["half_cases"].item() > 0.05


def test_intervals_shrink_with_seeds_and_with_cases() -> None:
    sizes = PAGE.interval_widths(real_difference.differences_away(scores(noise=0.1), *PAIR)).set_index(
        ["seeds", "cases"]
    )
    width = sizes["width"]
    assert set(width.index.get_level_values("cases")) == {1, 2, 4, 6}
    assert width[1, 1] > width[1, 6] > width[3, 6]


def test_power_grows_with_patients_and_false_alarms_do_not() -> None:
    values = np.random.default_rng(3).normal(0.05, 0.1, 30)
    frame = PAGE.study_power(values, [6, 40], draws=200)
    assert frame["power"].iloc[1] > frame["power"].iloc[0] + 0.2
    assert (frame["false_alarms"] < 0.12).all()


def test_the_ballot_hides_the_names_and_keeps_the_sign() -> None:
    away = real_difference.differences_away(scores(0.3), *PAIR)
    for seed in range(4):
        slip = real_difference.ballot(away, PAIR, seed=seed)
        x_is_better = real_difference.unmask(PAIR, seed=seed)["X"] == PAIR[0]
        assert ((slip["mean"] > 0) == x_is_better).all()
        assert not slip.astype(str).isin(PAIR).any().any()
    assert {real_difference.unmask(PAIR, seed=seed)["X"] for seed in range(8)} == set(PAIR)


def test_the_answer_follows_the_numbers() -> None:
    for effect, verdict in ((0.3, "Every difference is"), (0.0, "No difference was seen")):
        table = real_difference.significance(scores(effect), [PAIR])
        said = real_difference.say_difference(table, real_difference.flips(scores(effect), [PAIR], draws=50))
        assert verdict in said and "DeSAM-B against U-Net" in said
    assert "no answer yet" in real_difference.say_difference(table.iloc[:0], pd.DataFrame())


def test_figures_say_what_they_draw() -> None:
    away = real_difference.differences_away(scores(), *PAIR)
    sizes = PAGE.interval_widths(away, draws=50)
    assert len(real_difference.draw_widths(sizes).axes[0].lines) == 3
    assert "with 3 seeds and 6 cases" in real_difference.draw_widths_alt(sizes)
    studies, whole = {"a\nminus b": np.array([0.1, -0.1])}, {"a\nminus b": 0.05}
    assert [text.get_text() for text in real_difference.draw_studies(studies, whole).axes[0].texts] == ["50%"]
    assert "a minus b +5.0, small studies -10.0 to +10.0, 50% with the other winner" in (
        real_difference.draw_studies_alt(studies, whole)
    )
    powers = {
        "a minus b": pd.DataFrame({"patients": [6, 10], "power": [0.4, 0.9], "false_alarms": [0.0, 0.1]})
    }
    real_difference.draw_power(powers)
    assert (
        "a minus b 40% with 6 patients, 90% with 10, false alarms at most 10%"
        in real_difference.draw_power_alt(powers)
    )
