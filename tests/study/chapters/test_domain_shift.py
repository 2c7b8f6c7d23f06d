"""A band of intensities: the counts it is fitted on, the band itself, and what happens to it at the next hospital."""

import numpy as np
import pandas as pd
import pytest
from notebook_code import definitions

from desam_lite.study.chapters.domain_shift import draw_histograms, median, say_bands

PAGE = definitions("domain_shift")
Histogram, pool, fit_band, band_dice = PAGE.Histogram, PAGE.pool, PAGE.fit_band, PAGE.band_dice


def hill(centre: int, count: int = 1000) -> np.ndarray:
    levels = np.arange(256)
    return np.rint(count * np.exp(-(((levels - centre) / 15) ** 2) / 2)).astype(np.int64)


HOME = Histogram(hill(150), hill(60, 3000))
AWAY = Histogram(hill(90), hill(200, 3000))


def test_only_slices_with_organ_and_the_middle_of_the_picture_count() -> None:
    images = np.full((2, 8, 8), 10, np.uint8)
    labels = np.zeros((2, 8, 8), np.uint8)
    images[0, 3, 3], labels[0, 3, 3] = 200, 1
    images[0, 0, 0] = 99  # at the edge
    images[1] = 50  # without organ
    counts = PAGE.histogram(images, labels)
    assert counts.organ.sum() == 1 and counts.organ[200] == 1
    assert counts.rest.sum() == 15 and counts.rest[10] == 15


def test_no_band_is_better_than_the_fitted_one() -> None:
    fitted = band_dice(HOME, fit_band(HOME))
    tried = [band_dice(HOME, (low, high)) for low in range(0, 256, 7) for high in range(low + 1, 257, 7)]
    assert fitted >= max(tried)
    assert fitted > 0.9


def test_a_band_does_not_travel_where_grey_levels_change() -> None:
    band = fit_band(HOME)
    assert band_dice(HOME, band) > 0.9 and band_dice(AWAY, band) < 0.3


def test_a_band_is_not_scored_at_home_on_a_patient_it_was_fitted_on() -> None:
    patients = {"X": [HOME, AWAY], "Y": [AWAY]}
    scores = PAGE.score_bands(patients).set_index(["source", "target", "patient"])
    assert scores.loc[("X", "X", 0), "dice"] == band_dice(HOME, fit_band(AWAY))
    assert scores.loc[("X", "Y", 0), "dice"] == band_dice(AWAY, fit_band(pool([HOME, AWAY])))
    assert np.isnan(scores.loc[("Y", "Y", 0), "dice"])  # nothing is left to fit on
    share = HOME.organ.sum() / (HOME.organ.sum() + HOME.rest.sum())
    assert scores.loc[("X", "X", 0), "filled"] == pytest.approx(2 * share / (1 + share))


def banded(home: float, away: float, filled: float, patients: int = 4, wobble: float = 0.001) -> pd.DataFrame:
    rows = [
        {"source": s, "target": t, "patient": p, "filled": filled}
        | {"dice": (home if s == t else away) + wobble * (-1) ** p * (s == t)}
        for s in "XY"
        for t in "XY"
        for p in range(patients)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("home", "away", "filled", "verdict", "beside"),
    [
        (0.5, 0.3, 0.2, "Intensities do", "better than the filled window"),
        (0.5, 0.3, 0.4, "Intensities do", "worse than the filled window"),
        (0.3, 0.3, 0.3, "Not the intensities", "equivalent to the filled window"),
        (0.2, 0.3, 0.4, "Not the intensities", "worse than"),  # the reverse
    ],
)
def test_the_verdict_on_bands_can_fail(
    home: float, away: float, filled: float, verdict: str, beside: str
) -> None:
    told = say_bands(banded(home, away, filled))
    assert told.startswith(f"**{verdict}") and beside in told and "(n = 8 patients)" in told


def test_few_or_scattered_patients_give_no_verdict_on_bands() -> None:
    assert say_bands(banded(0.5, 0.4, 0.3, wobble=0.5)).startswith("**Cannot tell")
    alone = banded(0.5, 0.4, 0.3, patients=1)
    assert say_bands(alone[alone["target"] == "X"]).startswith("**Cannot tell")
    assert "no answer yet" in say_bands(alone[(alone["source"] == "X") & (alone["target"] == "X")])


def test_an_organ_alone_is_found_whole_and_an_empty_count_is_no_fault() -> None:
    nothing = np.zeros(256, np.int64)
    assert band_dice(Histogram(hill(100), nothing), fit_band(Histogram(hill(100), nothing))) == 1
    assert PAGE.share_brighter(Histogram(nothing, nothing)) == 0


def test_brightness_is_told_in_words_and_numbers() -> None:
    assert median(HOME.organ) == 150
    assert [round(PAGE.share_brighter(counts), 2) for counts in (HOME, AWAY)] == [1, 0]
    both = {"Home": HOME, "Away": AWAY}
    drawn = draw_histograms(both, {name: fit_band(own) for name, own in both.items()}, "gland", "#e69f00")
    assert "Home: median 150 in the gland and 60 around it" in drawn.alt
    assert len(drawn.figure.axes) == 2
