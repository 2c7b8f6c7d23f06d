"""One dial at a time: the same new patients, nobody trained on them, tables that are made once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from notebook_code import definitions
from saved_model import bright_model

from desam_lite.data.manifest import load_manifest
from desam_lite.methods.run_spec import make_spec
from desam_lite.study.chapters import which_shift_hurts
from desam_lite.study.chapters.which_shift_hurts import ALL_DIALS, Shift
from desam_lite.study.report.slice_examples import largest_slice
from desam_lite.study.report.widgets import MOST_WIDGET_BYTES, pack_masks
from desam_lite.study.run import Run
from desam_lite.synthetic import phantoms
from desam_lite.utils.errors import StudyError


@pytest.fixture(autouse=True)
def small_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        which_shift_hurts, "make_case", lambda site, rng: phantoms.make_case(site, rng, matrix=32)
    )


@pytest.fixture
def shift() -> Shift:
    task: Any = SimpleNamespace(manifest=load_manifest("phantom_prostate"))
    return which_shift_hurts.open_shift(task, "A", "B")


def run_at(source: str, directory: Path) -> Run:
    spec = make_spec(manifest="phantom_prostate", data_root="none", source=source, method="prior")
    return Run(spec, "phantom_prostate", directory)


def test_dials_lead_to_another_hospital_of_a_synthetic_task(shift: Shift) -> None:
    assert (shift.source, shift.target) == ("A", "B") and "balloon" in shift.dials
    for source, target in (("A", "C"), ("B", "F")):  # the same anatomy, and the echo time farthest away
        chosen = which_shift_hurts.open_shift(shift.task, source)
        assert chosen.target == target and "balloon" not in chosen.dials and "contrast" in chosen.dials
    with pytest.raises(StudyError, match="both are A"):
        which_shift_hurts.open_shift(shift.task, "A", "A")
    with pytest.raises(StudyError, match="only a synthetic scanner has dials"):
        which_shift_hurts.open_shift(SimpleNamespace(manifest=load_manifest("prostate")), "A")  # type: ignore[arg-type]


def test_all_dials_make_the_other_hospital(shift: Shift) -> None:
    assert shift.turned({ALL_DIALS: 1.0}) == shift.sites[1]
    assert shift.turned({}) == shift.sites[0]
    with pytest.raises(StudyError, match="there is no dial 'colour'"):
        shift.turned({"colour": 1.0})


def test_a_patient_is_the_same_whatever_the_dial_of_the_scanner(shift: Shift) -> None:
    plain, noisy = which_shift_hurts.scan(shift, 0, {}), which_shift_hurts.scan(shift, 0, {"noise": 1.0})
    assert np.array_equal(plain.labels, noisy.labels) and not np.array_equal(plain.images, noisy.images)
    assert plain.images.dtype == np.uint8 and plain.labels.max() == 1
    assert not np.array_equal(plain.labels, which_shift_hurts.scan(shift, 1, {}).labels)


def test_each_setting_is_scored_once_and_the_start_is_shared(
    shift: Shift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned, real = [], which_shift_hurts.scan
    monkeypatch.setattr(Run, "load_model", lambda _: bright_model(name="unet"))
    monkeypatch.setattr(which_shift_hurts, "scan", lambda *a: scanned.append(a[2]) or real(*a))  # type: ignore[func-returns-value]
    how: dict[str, Any] = {"dials": ["noise", ALL_DIALS], "progress": False}
    first = which_shift_hurts.turn_dials([run_at("A", tmp_path)], shift, (0.0, 1.0), 1, **how)
    assert scanned == [{}, {"noise": 1.0}, {ALL_DIALS: 1.0}]
    again = which_shift_hurts.turn_dials([run_at("A", tmp_path)], shift, (0.0, 1.0), 1, **how)
    assert len(scanned) == 3
    pd.testing.assert_frame_equal(first, again)
    starts = first[first["position"] == 0]
    assert starts["dial"].tolist() == ["noise", ALL_DIALS] and starts["dice"].nunique() == 1


def test_the_turned_dial_holds_every_setting_once_and_leaves_out_what_was_not_kept(
    shift: Shift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(run: Run) -> Any:
        if run.directory.name == "gone":
            raise StudyError("the model was not kept.")
        return bright_model(name="unet")

    monkeypatch.setattr(Run, "load_model", load)
    spec = make_spec(manifest="phantom_prostate", data_root="none", source="A", method="unet")
    other = make_spec(manifest="phantom_prostate", data_root="none", source="A", method="desam")
    runs = [run_at("A", tmp_path / "prior")]
    runs += [Run(each, "phantom_prostate", tmp_path / name) for each, name in ((spec, "a"), (other, "gone"))]
    widget = which_shift_hurts.turn_a_dial(runs, shift, (0.0, 0.5, 1.0), dials=["noise", ALL_DIALS])
    data, (model,) = widget.data, widget.data["models"]
    assert model["name"] == "U-Net" and data["dials"] == ["noise", "all dials"]
    assert data["positions"] == [0.0, 0.5, 1.0] and len(data["images"]) == len(model["dice"]) == 5
    place = 4  # all dials at 1
    scanned = which_shift_hurts.scan(shift, 0, {ALL_DIALS: 1.0})
    z = largest_slice(scanned.labels)
    mask = list(bright_model(name="unet").predictor.predict(scanned.images, None))[z].labels == 1
    reference = scanned.labels[z] == 1
    assert model["dice"][place] == round(200 * (mask & reference).sum() / (mask.sum() + reference.sum()))
    assert model["masks"][place] == pack_masks(mask[None]) and len(set(data["images"])) == 5
    assert len(widget.html()) < MOST_WIDGET_BYTES
    monkeypatch.setattr(Run, "load_model", None)  # the table is read again
    assert which_shift_hurts.turn_a_dial(runs[:2], shift, (0.5, 1.0), dials=["noise", ALL_DIALS]).data == data


def test_models_of_another_hospital_are_refused(shift: Shift, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="was trained at B: dials start from A"):
        which_shift_hurts.turn_dials([run_at("B", tmp_path)], shift, (0.0,), 1)


def test_a_wrong_position_is_refused_before_anything_is_scanned(shift: Shift, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="from 0 to 1"):
        which_shift_hurts.turn_dials([run_at("A", tmp_path)], shift, (0.0, 3.0), 1, dials=["noise"])


def test_losses_are_paired_by_patient() -> None:
    rows = [
        {
            "label": "U-Net",
            "source": "A",
            "target": "B",
            "in_domain": False,
            "seed": 0,
            "case": f"P{p}",
            "dial": "noise",
        }
        | {"position": part, "organ": "gland", "dice": 0.9 - 0.1 * p - 0.2 * part}
        for p in range(3)
        for part in (0.0, 0.5, 1.0)
    ]
    lost = definitions("which_shift_hurts").changes_by_dial(pd.DataFrame(rows))
    assert lost["value"].to_numpy() == pytest.approx([-0.2] * 3)


def test_the_table_tells_both_ends_of_every_dial(shift: Shift) -> None:
    table = which_shift_hurts.dial_table(shift).frame
    assert list(table["dial"]) == [name.replace("_", " ") for name in shift.dials]
    noise = table.set_index("dial").loc["noise"].iloc[0]
    assert noise == "noise 0.1 to 0.22"


def test_images_start_with_the_source_and_end_with_all_dials(shift: Shift) -> None:
    titles = [example.title for example in which_shift_hurts.show_dials(shift, 0, ["noise", ALL_DIALS])]
    assert titles == ["as A", "noise", "all dials"]


def test_sliders_hold_every_dial_and_a_move_changes_the_picture(shift: Shift) -> None:
    box = which_shift_hurts.sliders(shift, {"prostate": "#e69f00"})
    names = [getattr(child, "description", "") for child in box.children]
    assert names[2:-1] == [name.replace("_", " ") for name in shift.dials]
    before, after = (
        which_shift_hurts.slider_picture(shift, {"prostate": "#e69f00"}, 0, {"noise": part})
        for part in (0.0, 1.0)
    )
    assert "as A" in before.alt and "noise 1" in after.alt


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [
        (-0.9, -0.1, "**The noise**"),
        (-0.9, 0.1, "**Cannot tell"),
        (-0.01, 0.01, "**No dial of appearance was shown to lower Dice**"),
        (0.1, 0.2, "**No dial of appearance was shown to lower Dice**"),  # the reverse
        (np.nan, np.nan, "**Cannot tell"),  # one seed
    ],
)
def test_the_worst_dial_is_that_of_the_trained_methods(low: float, high: float, start: str) -> None:
    rows = [
        ("U-Net", "noise", -0.1),
        ("U-Net", "field_of_view", -0.3),
        ("U-Net", ALL_DIALS, -0.5),
        ("Prior", "noise", -0.9),
    ]
    lost = pd.DataFrame(rows, columns=["label", "dial", "mean"]).assign(low=low, high=high)
    said = which_shift_hurts.say_dials(lost, "A", "B")
    assert (
        said.startswith(start)
        and "by -10 for U-Net. Of the dials that move or reshape the organ, the field of view changes it most: -30"
        in said
        and "With all dials turned it changes by -50 for U-Net." in said
    )
