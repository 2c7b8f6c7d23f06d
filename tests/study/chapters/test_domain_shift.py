"""A band of grey levels: the counts it is fitted on, the band itself, and what happens to it at the next hospital."""

import numpy as np
from notebook_code import definitions

from desam_lite.study.chapters.domain_shift import (
    Band,
    Histogram,
    band_dice,
    draw_histograms,
    draw_histograms_alt,
    fit_band,
    median,
)

PAGE = definitions("domain_shift")


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
    tried = [band_dice(HOME, Band(low, high)) for low in range(0, 256, 7) for high in range(low + 1, 257, 7)]
    assert fitted >= max(tried)
    assert fitted > 0.9


def test_a_band_does_not_travel_where_grey_levels_change() -> None:
    band = fit_band(HOME)
    assert band_dice(HOME, band) > 0.9 and band_dice(AWAY, band) < 0.3


def test_an_organ_alone_is_found_whole_and_an_empty_count_is_no_fault() -> None:
    nothing = np.zeros(256, np.int64)
    assert band_dice(Histogram(hill(100), nothing), fit_band(Histogram(hill(100), nothing))) == 1
    assert PAGE.share_brighter(Histogram(nothing, nothing)) == 0


def test_brightness_is_told_in_words_and_numbers() -> None:
    assert median(HOME.organ) == 150
    assert [round(PAGE.share_brighter(counts), 2) for counts in (HOME, AWAY)] == [1, 0]
    said = draw_histograms_alt({"Home": HOME}, "gland")
    assert "Home: median 150 in the gland and 60 around it" in said
    assert len(draw_histograms({"Home": HOME, "Away": AWAY}, "gland", "#e69f00").axes) == 2
