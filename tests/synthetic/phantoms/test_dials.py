"""Dials: each moves one factor of the shift between two hospitals, over one and the same patient."""

from dataclasses import fields, replace

import numpy as np
import pytest

from desam_lite.synthetic.phantoms import (
    ABDOMEN_SITES,
    PROSTATE_SITES,
    Case,
    Site,
    dial_names,
    dialled,
    make_case,
)
from desam_lite.synthetic.phantoms.dials import jitter
from desam_lite.utils.errors import StudyError

A, B = PROSTATE_SITES["A"], PROSTATE_SITES["B"]
CT, MR = ABDOMEN_SITES["CT"], ABDOMEN_SITES["MR"]
PAIRS = {"prostate": (A, B), "abdomen": (CT, MR), "back": (MR, CT)}
ALL = [(pair, dial) for pair, (first, _) in PAIRS.items() for dial in dial_names(first)]
ANATOMY = ("balloon", "field_of_view", "resolution")  # dials that the grid or the patient depends on


def draw(site: Site, seed: int = 4, matrix: int = 32) -> Case:
    return make_case(site, np.random.default_rng(seed), matrix=matrix)


def test_the_factors_of_the_shift_are_dials() -> None:
    common = {"contrast", "noise", "bias", "coil", "resolution", "field_of_view", "artefact"}
    assert set(dial_names(A)) == {*common, "balloon"}
    assert set(dial_names(CT)) == set(dial_names(MR)) == common


@pytest.mark.parametrize("site", [A, CT])
def test_every_setting_has_one_dial(site: Site) -> None:
    moved = [name for names in site.scanner.DIALS.values() for name in names]
    assert sorted(moved) == sorted(f.name for f in fields(site.scanner))


@pytest.mark.parametrize(("pair", "dial"), ALL)
def test_a_dial_moves_its_own_settings_and_no_other(pair: str, dial: str) -> None:
    first, second = PAIRS[pair]
    half = dialled(first, second, {dial: 0.5})
    for field in fields(first.scanner):
        start, end, measured = (getattr(s.scanner, field.name) for s in (first, second, half))
        own = field.name in first.scanner.DIALS.get(dial, ())
        assert measured == pytest.approx((start + end) / 2) if own else measured == start
    assert half.hounsfield is first.hounsfield
    if first.balloon is not None:
        assert half.balloon == (0.5 if dial == "balloon" else first.balloon)


@pytest.mark.parametrize("pair", PAIRS)
def test_all_dials_at_one_are_the_other_hospital_and_at_zero_the_first(pair: str) -> None:
    first, second = PAIRS[pair]
    names = dial_names(first)
    full = dialled(first, second, dict.fromkeys(names, 1.0))
    assert full == replace(second, hounsfield=first.hounsfield)
    assert dialled(first, second, dict.fromkeys(names, 0.0)) == dialled(first, second, {}) == first


@pytest.mark.parametrize("pair", ["prostate", "abdomen"])
def test_all_dials_at_zero_are_the_first_case_bit_for_bit(pair: str) -> None:
    first, second = PAIRS[pair]
    plain, zero = draw(first), draw(dialled(first, second, dict.fromkeys(dial_names(first), 0.0)))
    assert plain.scanner == zero.scanner and plain.patient == zero.patient
    assert np.array_equal(plain.image, zero.image) and np.array_equal(plain.label, zero.label)


@pytest.mark.parametrize(("pair", "dial"), [(p, d) for p, d in ALL if d not in ANATOMY and p != "back"])
def test_a_dial_of_the_scanner_leaves_the_anatomy(pair: str, dial: str) -> None:
    first, second = PAIRS[pair]
    before, after = draw(first), draw(dialled(first, second, {dial: 1.0}))
    assert before.patient == after.patient
    assert np.array_equal(before.label, after.label)
    assert not np.array_equal(before.image, after.image)


@pytest.mark.parametrize("pair", ["prostate", "abdomen"])
@pytest.mark.parametrize("dial", ["resolution", "field_of_view"])
def test_a_dial_of_the_grid_shows_the_same_organs_on_other_voxels(pair: str, dial: str) -> None:
    first, second = PAIRS[pair]
    before, after = draw(first, matrix=96), draw(dialled(first, second, {dial: 1.0}), matrix=96)
    assert before.patient == after.patient
    assert before.spacing != after.spacing or before.label.shape != after.label.shape
    for organ in (2,) if pair == "abdomen" else (1,):  # the right kidney: whole in both
        volumes = [(case.label == organ).sum() * np.prod(case.spacing) for case in (before, after)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05)


def test_the_balloon_fills_up_in_one_patient() -> None:
    cases = [draw(dialled(A, B, {"balloon": part})) for part in (0.0, 0.5, 1.0)]
    radii = [case.patient.balloon for case in cases]
    assert radii[0] == 0 and radii[2] == pytest.approx(2 * radii[1])
    assert len({case.patient.seed for case in cases}) == 1
    depths = [case.patient.gland[1] / case.patient.gland[0] for case in cases]
    assert depths[0] > depths[1] > depths[2]


def test_full_contrast_reads_as_the_other_machine_in_the_window_of_the_first() -> None:
    """CT's window applied to an MRI's contrast in Hounsfield units is the grey scale of the MRI."""
    moved = draw(dialled(CT, MR, dict.fromkeys(dial_names(CT), 1.0)))
    plain = draw(MR)
    grey = (moved.image + 125.0) / 400
    inside = plain.image > 0.3 * 1500
    scale = np.median(plain.image[inside] / grey[inside])
    np.testing.assert_allclose(grey[inside] * scale, plain.image[inside], atol=0.01 * 1500)


@pytest.mark.parametrize(
    ("dials", "sentence"),
    [
        ({"colour": 1}, "no dial 'colour': choose from contrast, noise.*balloon"),
        ({"noise": 1.5}, "dial 'noise' cannot be at 1.5: a dial goes from 0 to 1"),
        ({"noise": -0.1}, "dial 'noise' cannot be at -0.1"),
        ({"noise": float("nan")}, "dial 'noise' cannot be at nan"),
    ],
)
def test_wrong_dials_are_one_sentence(dials: dict[str, float], sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence):
        dialled(A, B, dials)


def test_tasks_are_not_mixed_and_an_abdomen_has_no_balloon() -> None:
    with pytest.raises(StudyError, match="two sites of one task"):
        dialled(A, CT, {"noise": 1})
    with pytest.raises(StudyError, match="no dial 'balloon'"):
        dialled(CT, MR, {"balloon": 1})


@pytest.mark.parametrize("site", [B, MR])
def test_a_scanner_set_up_again_differs_a_little_in_what_varies(site: Site) -> None:
    several = [jitter(site.scanner, np.random.default_rng(seed)) for seed in range(50)]
    for field in fields(site.scanner):
        ratios = np.array([getattr(s, field.name) for s in several]) / (
            getattr(site.scanner, field.name) or 1
        )
        fixed = field.name in site.scanner.FIXED or getattr(site.scanner, field.name) == 0
        assert ratios.std() == (0 if fixed else pytest.approx(0.06, rel=0.4)), field.name
