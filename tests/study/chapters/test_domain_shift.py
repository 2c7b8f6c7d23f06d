"""A band of grey levels: the counts it is fitted on, the band itself, and what happens to it at the next hospital."""

from types import SimpleNamespace

import numpy as np

from desam_lite.study.chapters.domain_shift import (
    Band,
    Histogram,
    band_dice,
    band_matrix,
    describe,
    draw_histograms,
    draw_histograms_alt,
    fit_band,
    histogram,
    histograms,
    median,
    share_brighter,
)


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
    counts = histogram(images, labels)
    assert counts.organ.sum() == 1 and counts.organ[200] == 1
    assert counts.rest.sum() == 15 and counts.rest[10] == 15


def test_no_band_is_better_than_the_fitted_one() -> None:
    fitted = band_dice(HOME, fit_band(HOME))
    tried = [band_dice(HOME, Band(low, high)) for low in range(0, 256, 7) for high in range(low + 1, 257, 7)]
    assert fitted >= max(tried)
    assert fitted > 0.9


def test_a_band_does_not_travel_where_grey_levels_change() -> None:
    matrix = band_matrix({"home": HOME, "away": AWAY})
    assert matrix.loc["home", "home"] > 0.9 and matrix.loc["home", "away"] < 0.3


def test_an_organ_alone_is_found_whole_and_an_empty_count_is_no_fault() -> None:
    nothing = np.zeros(256, np.int64)
    assert band_dice(Histogram(hill(100), nothing), fit_band(Histogram(hill(100), nothing))) == 1
    assert share_brighter(Histogram(nothing, nothing)) == 0


def test_brightness_is_told_in_words_and_numbers() -> None:
    table = describe({"home": HOME, "away": AWAY})
    assert median(HOME.organ) == 150
    assert table["organ brighter"].tolist() == ["100%", "0%"]
    said = draw_histograms_alt({"Home": HOME}, "gland")
    assert "Home: median 150 in the gland and 60 around it" in said
    assert len(draw_histograms({"Home": HOME, "Away": AWAY}, "gland", "#e69f00").axes) == 2


def test_the_cases_of_a_domain_are_added_up() -> None:
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[0, 4, 4] = 1
    case = SimpleNamespace(images=np.full((1, 8, 8), 7, np.uint8), labels=labels)
    task = SimpleNamespace(
        manifest=SimpleNamespace(domains={"A": None}),
        cases=lambda _: ["1", "2"],
        slices=SimpleNamespace(load=lambda *_: case),
    )
    assert histograms(task)["A"].organ[7] == 2  # type: ignore[arg-type]
