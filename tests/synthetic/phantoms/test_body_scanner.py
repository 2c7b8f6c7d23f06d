"""CT and fat-suppressed MRI of one abdomen: what each tissue looks like, and what either machine adds."""

from dataclasses import replace

import numpy as np
import pytest

from desam_lite.synthetic.phantoms import ABDOMEN_SITES, make_case
from desam_lite.synthetic.phantoms.abdomen import draw_abdomen
from desam_lite.synthetic.phantoms.body_scanner import WINDOW, BodyScanner, expose_body
from desam_lite.synthetic.phantoms.tissues import ABDOMEN_TISSUES
from desam_lite.synthetic.phantoms.trunk import IDS

CT, MR = (ABDOMEN_SITES[name].scanner for name in ("CT", "MR"))
CLEAN = {"noise": 0.0, "bias": 0.0, "surface": 0.0, "blur": 0.0, "streak": 0.0, "ghost": 0.0, "gibbs": 0.0}
HEALTHY = replace(draw_abdomen(np.random.default_rng(0)), iron=1.0, steatosis=0.0)
SHAPE, STEP, THICK = (6, 40, 32), 2.0, 5.0


def axes(shape: tuple[int, ...] = SHAPE, step: float = STEP, middle: float = 0.0) -> tuple[np.ndarray, ...]:
    z, y, x = (
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * s
        for n, s in zip(shape, (THICK, step, step), strict=True)
    )
    return (x + np.float32(middle))[None, None, :], y[None, :, None], z[:, None, None]


def picture(
    tissue: np.ndarray | str,
    scanner: object,
    *,
    patient=HEALTHY,
    seed: int = 0,
    middle: float = 0.0,
    **changes: float,
) -> np.ndarray:
    """Expose a tissue map ``SHAPE``, or one tissue everywhere, by a clean scanner with some settings changed."""
    assert isinstance(scanner, BodyScanner)
    if isinstance(tissue, str):
        tissue = np.full(SHAPE, IDS[tissue], np.uint8)
    here = axes(middle=middle)
    chosen = replace(scanner, **{**CLEAN, **changes})
    return expose_body(tissue, patient, chosen, here, here, np.random.default_rng(seed))


def hounsfield(tissue: str, **changes: object) -> float:
    low, high = WINDOW
    return float(low + (high - low) * picture(tissue, CT, **changes).mean())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tissue", ["liver", "spleen", "muscle", "fat", "bile", "renal cortex", "air", "cortical bone"]
)
@pytest.mark.parametrize("enhancement", [0.0, 0.5, 1.0])
def test_a_ct_shows_hounsfield_units_with_its_contrast_medium(tissue: str, enhancement: float) -> None:
    properties = ABDOMEN_TISSUES[tissue]
    expected = properties.hounsfield + enhancement * properties.uptake
    assert hounsfield(tissue, enhancement=enhancement) == pytest.approx(expected, abs=4)


def test_units_are_those_a_radiologist_expects_in_the_portal_venous_phase() -> None:
    seen = {name: hounsfield(name) for name in ABDOMEN_TISSUES}
    assert seen["lung"] < -700 < seen["fat"] < -80 < 0 < seen["bile"] < 20 < seen["muscle"] < 80
    assert 90 < seen["liver"] < seen["spleen"] < 130 < seen["renal cortex"] < 250 < seen["cortical bone"]


def test_an_mri_shows_the_signal_of_a_spin_echo() -> None:
    def signal(name: str) -> float:
        properties = ABDOMEN_TISSUES[name]
        return (
            properties.density
            * (1 - np.exp(-MR.repetition / properties.t1[0]))
            * np.exp(-MR.echo / properties.t2[0])
        )

    measured = [picture(name, MR).mean() for name in ("liver", "spleen", "renal cortex", "muscle")]
    expected = [signal(name) for name in ("liver", "spleen", "renal cortex", "muscle")]
    np.testing.assert_allclose(np.array(measured) / measured[0], np.array(expected) / expected[0], rtol=0.03)


def test_in_t2_spir_fluid_is_white_fat_dark_and_the_liver_darker_than_spleen_and_kidney() -> None:
    seen = {name: picture(name, MR).mean() for name in ABDOMEN_TISSUES}
    assert seen["spinal fluid"] > 1.1 * seen["renal cortex"]
    assert 1.5 < seen["spleen"] / seen["liver"] < 3.5
    assert seen["fat"] < 0.6 * seen["liver"] and seen["muscle"] < seen["liver"]
    assert max(seen["gas"], seen["lung"], seen["table"], seen["air"]) < 0.1


def test_fat_suppression_fails_towards_the_edge_and_ct_knows_none() -> None:
    middle, edge = (picture("fat", MR, middle=at).mean() for at in (0.0, 190.0))
    full = picture("fat", MR, suppression=0.0).mean()
    assert middle < 0.15 * full < 0.25 * full < edge < full
    assert hounsfield("fat", suppression=0.0) == hounsfield("fat", suppression=1.0)
    assert picture("spleen", MR, suppression=0.0).mean() == pytest.approx(
        picture("spleen", MR).mean(), rel=1e-6
    )


def test_iron_darkens_the_liver_in_an_mri_alone_and_fat_in_a_ct() -> None:
    iron, fatty = replace(HEALTHY, iron=0.5), replace(HEALTHY, steatosis=1.0)
    assert picture("liver", MR, patient=iron).mean() < 0.3 * picture("liver", MR).mean()
    assert picture("spleen", MR, patient=iron).mean() < 0.6 * picture("spleen", MR).mean()
    assert picture("muscle", MR, patient=iron).mean() == picture("muscle", MR).mean()
    assert hounsfield("liver", patient=iron) == hounsfield("liver")
    assert hounsfield("liver", patient=fatty) == pytest.approx(hounsfield("liver") - 45, abs=0.1)


@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_noise_of_a_ct_has_the_spread_it_says_whatever_its_grain(grain: float) -> None:
    measured = picture("bile", CT, noise=0.05, grain=grain) - picture("bile", CT)
    assert (measured.mean(), measured.std()) == (pytest.approx(0, abs=0.004), pytest.approx(0.05, rel=0.06))
    neighbours = np.corrcoef(measured[:, :, 1:].ravel(), measured[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.6 if grain else abs(neighbours) < 0.05


def test_noise_of_an_mri_is_that_of_a_magnitude() -> None:
    assert picture("air", MR, noise=0.05).mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.03)
    assert picture("air", MR, noise=0.05).min() >= 0


def test_coils_see_the_surface_best_and_bias_is_smooth() -> None:
    here = picture("bile", MR, surface=1.0)[2:4]
    assert here[:, :4].mean() > 1.02 * here[:, 18:22].mean()
    assert picture("bile", MR, middle=160.0, surface=1.0).mean() > 1.4 * here.mean()
    uneven = np.log(picture("bile", MR, bias=0.4) / picture("bile", MR))
    assert uneven.std() > 0.02
    assert np.abs(np.diff(uneven, axis=2)).max() < 0.05


def test_streaks_run_along_x() -> None:
    measured = picture("bile", CT, streak=0.1) - picture("bile", CT)
    assert measured.std(axis=1).mean() > 5 * measured.std(axis=2).mean()
    assert 0.02 < measured.std() < 0.2


def test_ghosts_lie_a_quarter_of_the_picture_away_along_y() -> None:
    block = np.full(SHAPE, IDS["air"], np.uint8)
    block[:, 16:20, 10:20] = IDS["bile"]
    measured = picture(block, MR, ghost=0.2)
    for away in (-10, 10):
        ghost = measured[:, 16 + away : 20 + away, 10:20]
        np.testing.assert_allclose(ghost, 0.1 * measured[:, 16:20, 10:20], atol=1e-5)
    assert measured[:, :, 24:].max() == 0


def test_between_the_modalities_lies_their_mixture() -> None:
    half = replace(MR, modality=0.5, enhancement=CT.enhancement)  # type: ignore[type-var]
    mixed = picture("spleen", half)
    ends = [picture("spleen", half, modality=m) for m in (0.0, 1.0)]
    np.testing.assert_allclose(mixed, (ends[0] + ends[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("name", ["CT", "MR"])
def test_what_is_stored_can_be_prepared_as_the_manifest_says(name: str) -> None:
    case = make_case(ABDOMEN_SITES[name], np.random.default_rng(5), matrix=48)
    body, outside = case.image[case.label > 0], np.median(case.image[:, :3])
    if name == "CT":
        assert outside < -900 and -50 < np.median(body[: body.size // 2]) < 250
    else:
        assert case.image.min() >= 0 and outside < 60 and case.image.max() > 1000
    assert case.image.dtype == np.int16


def test_slabs_and_fields_of_view_differ_between_machines_and_patients() -> None:
    seen = {
        name: [make_case(site, np.random.default_rng(seed), matrix=8) for seed in range(6)]
        for name, site in ABDOMEN_SITES.items()
    }
    for name, cases in seen.items():
        views = [case.scanner.field_of_view for case in cases]
        assert np.std(views) > 15, name
        assert len({case.label.shape[0] for case in cases}) > 2, name
    assert {case.spacing[0] for case in seen["CT"]} == {5.0} and {case.spacing[0] for case in seen["MR"]} == {
        7.7
    }
