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


def test_only_targets_are_compared() -> None:
    away = real_difference.differences_away(scores(), *PAIR)
    assert not away["in_domain"].any()
    with pytest.raises(StudyError, match="no scored case in common"):
        real_difference.differences_away(scores(), "DeSAM-B", "SAMed")


def test_the_table_has_the_verdict_of_the_rule() -> None:
    table = PAGE.away_from_home(scores(), [PAIR, ("U-Net", "Prior")])
    assert list(table["verdict"]) == ["better", "better"] and "in_domain" not in table
    assert PAGE.away_from_home(scores(seeds=1), [PAIR])["verdict"].item() == "cannot tell"


@pytest.mark.parametrize("values", [np.array([]), np.array([0.2]), np.zeros(5)])
def test_a_test_without_information_has_no_p(values: np.ndarray) -> None:
    assert np.isnan(PAGE.wilcoxon_p(values))


def test_holm_never_orders_p_values_anew() -> None:
    corrected = PAGE.holm(np.array([0.04, np.nan, 0.01, 0.03]))
    np.testing.assert_allclose(corrected, [0.06, np.nan, 0.03, 0.06])


def frame_of(cube: statistics.Cube) -> pd.DataFrame:
    rows = [
        ("A", f"T{site}", seed, str(case), value)
        for (_, site, seed, case), value in np.ndenumerate(cube.values)
    ]
    return pd.DataFrame(rows, columns=["source", "target", "seed", "case", "value"])


def test_spreads_of_a_simulated_study_are_found_again() -> None:
    rng = np.random.default_rng(0)
    truth = real_difference.Spreads(0.06, 0.1, 0.02)
    cube = real_difference.simulate_study(rng, truth, seeds=60, patients=60)
    estimated = real_difference.estimate_spreads(frame_of(cube))
    np.testing.assert_allclose(estimated, truth, rtol=0.2)
    alone = real_difference.simulate_study(rng, truth, seeds=1, patients=6)
    assert real_difference.estimate_spreads(frame_of(alone)) is None
    assert "assumed" in real_difference.say_spreads(None, PAIR)
    assert real_difference.say_spreads(truth, PAIR).endswith(
        "6.0 over seeds, 10.0 over patients, 2.0 of the rest"
    )


def test_a_study_without_seed_spread_has_none() -> None:
    cube = real_difference.simulate_study(
        np.random.default_rng(1), real_difference.Spreads(0.0, 0.1, 0.0), seeds=3, patients=8, effect=0.2
    )
    assert real_difference.estimate_spreads(frame_of(cube)).seed == pytest.approx(0, abs=1e-9)
    assert np.ptp(cube.values, axis=2).max() == pytest.approx(0)


def test_the_largest_small_study_is_the_whole() -> None:
    away = real_difference.differences_away(scores(), *PAIR)
    whole = statistics.summarise(away.assign(label="d"), ["label"])["mean"].item()
    np.testing.assert_allclose(PAGE.small_studies(away, seeds=3, cases=6, draws=5), whole)
    small = PAGE.small_studies(away, seeds=1, cases=2, draws=200)
    assert small.mean() == pytest.approx(whole, abs=0.01) and small.std() > 0


def test_a_clear_winner_never_flips_and_a_draw_does() -> None:
    clear, draw = (PAGE.flips(scores(effect), [PAIR], draws=200)[0] for effect in (0.3, 0.0))
    assert clear["half_cases"].item() == 0
    assert draw["half_cases"].item() > 0.05


def test_intervals_shrink_with_seeds_and_with_patients() -> None:
    width = PAGE.interval_widths(real_difference.Spreads(0.03, 0.08, 0.05)).set_index(["seeds", "cases"])[
        "width"
    ]
    assert width[3, 5] > width[5, 5] > width[10, 5] > width[10, 80]


def test_a_p_that_forgets_the_seeds_raises_false_alarms_and_the_rule_does_not() -> None:
    rates = PAGE.calling_rates(real_difference.Spreads(0.03, 0.08, 0.05), [0.0, 0.1], 0.02)
    none, large = rates[rates["effect"] == 0], rates[rates["effect"] > 0]
    assert (none["p"] > 0.12).all() and (none["rule"] < 0.1).all()
    assert large["rule"].iloc[-1] > large["rule"].iloc[0] + 0.2
    told = real_difference.say_alarms(none)
    assert told.startswith("False alarms") and "with 5 seeds" in told
    without = PAGE.calling_rates(real_difference.Spreads(0.0, 0.08, 0.05), [0.0], 0.02)
    assert (without["p"] < 0.12).all()  # the demonstration fails where seeds do not matter


def test_the_ballot_hides_the_names_and_keeps_the_sign() -> None:
    away = real_difference.differences_away(scores(0.3), *PAIR)
    for seed in range(4):
        slip = real_difference.ballot(away, PAIR, seed=seed)
        x_is_better = real_difference.unmask(PAIR, seed=seed)["X"] == PAIR[0]
        assert ((slip["mean"] > 0) == x_is_better).all()
        assert not slip.astype(str).isin(PAIR).any().any()
    assert {real_difference.unmask(PAIR, seed=seed)["X"] for seed in range(8)} == set(PAIR)


@pytest.mark.parametrize(("effect", "seeds"), [(0.3, 3), (-0.3, 3), (0.3, 1)])
def test_a_vote_for_the_verdict_of_all_runs_is_right(effect: float, seeds: int) -> None:
    frame = scores(effect, seeds, noise=0.01)
    table = PAGE.away_from_home(frame, [PAIR, PAIR[::-1]])
    widget = real_difference.vote(frame, table, cases=4, studies=2)
    studies = widget.data["studies"]
    assert len(studies) == len(widget.table.frame) == 4
    for study, row in zip(studies, widget.table.frame.to_dict("records"), strict=True):
        winner = PAIR[0] if effect > 0 else PAIR[1]
        assert study["right"] == ("none" if seeds == 1 else next(x for x in "XY" if study[x] == winner))
        assert len(study["values"]) == 4 and study["told"] == row["verdict of all runs"]
        assert (np.mean(study["values"]) > 0) == (study["X"] == winner)
    assert len({study["X"] for study in studies}) == 2 or len({study["told"] for study in studies}) == 2


def test_the_answer_follows_the_numbers() -> None:
    for effect, seeds, verdict in (
        (0.3, 3, "1 of 1 comparison out of domain is decided"),
        (0.0, 2, "None of 1 comparison out of domain is decided"),
        (0.3, 1, "One seed cannot tell"),
    ):
        frame = scores(effect, seeds, noise=0.1)
        table = PAGE.away_from_home(frame, [PAIR])
        answer = real_difference.say_difference(table, PAGE.flips(frame, [PAIR], draws=50)[0])
        assert verdict in answer and "DeSAM-B against U-Net" in answer
    assert "no answer yet" in real_difference.say_difference(table.iloc[:0], pd.DataFrame())


def test_figures_say_what_they_draw() -> None:
    sizes = PAGE.interval_widths(real_difference.ASSUMED, studies=3)
    widths = real_difference.draw_widths(sizes)
    assert len(widths.figure.axes[0].lines) == 3
    ends = sizes.set_index(["seeds", "cases"])["width"] * 100
    assert f"10 seeds {ends[10, 5]:.3g} to {ends[10, 80]:.3g}" in widths.alt
    studies, whole = {"a\nminus b": np.array([0.1, -0.1])}, {"a\nminus b": 0.05}
    drawn = real_difference.draw_studies(studies, whole)
    assert [text.get_text() for text in drawn.figure.axes[0].texts] == ["50%"]
    assert "a minus b all seeds and cases: 5, 50%; dots of a minus b: -10 to 10." in drawn.alt
    rates = pd.DataFrame({"seeds": [2, 2], "effect": [0.0, 6.0], "p": [0.2, 0.9], "rule": [0.05, 0.5]})
    called = real_difference.draw_rates(rates)
    assert len(called.figure.axes[0].lines) == 3
    assert "2 seeds: p below 0.05, models taken as fixed 20 to 90, the decision rule 5 to 50." in called.alt
