"""Synthetic tasks on disk: files are what was drawn, sites differ as described, broken and surplus files are seen to."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from small_task import description

from desam_lite.data.geometry import to_slices
from desam_lite.data.index import build_index, index_hash
from desam_lite.data.manifest import load_manifest
from desam_lite.data.nifti import read_image, read_label
from desam_lite.synthetic.phantoms import (
    PROSTATE_SITES,
    Case,
    Site,
    make_case,
    make_task,
    making,
    planned_hash,
)
from desam_lite.synthetic.phantoms.cases import MATRIX
from desam_lite.synthetic.phantoms.pelvis import Patient
from desam_lite.utils.errors import StudyError

A = PROSTATE_SITES["A"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One case of each of the six sites, seed 0."""
    out = tmp_path_factory.mktemp("phantoms")
    make_task("phantom_prostate", out, cases=1, progress=False)
    return out


def record(folder: Path, domain: str, case: str = "Case00") -> dict:
    content: dict = json.loads((folder / domain / f"{case}.json").read_text())
    return content


def test_files_are_what_was_drawn_in_the_frame_of_the_patient(made: Path) -> None:
    stream = np.random.SeedSequence(0, spawn_key=(0, list(PROSTATE_SITES).index("C"), 0))
    case = make_case(PROSTATE_SITES["C"], np.random.default_rng(stream))
    image, label = (
        read_image(made / "C" / "Case00.nii.gz"),
        read_label(made / "C" / "Case00_segmentation.nii.gz"),
    )
    assert image.geometry.orientation == label.geometry.orientation == "LPS"
    assert image.geometry.spacing == pytest.approx(case.spacing)
    np.testing.assert_array_equal(to_slices(image.data, image.geometry), case.image)
    np.testing.assert_array_equal(to_slices(label.data, label.geometry), case.label)


def around_gland(folder: Path, domain: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey levels as parts of the gland's median, and every voxel's place and the gland's extent in mm RAS."""
    image = nib.load(folder / domain / "Case00.nii.gz")
    label = nib.load(folder / domain / "Case00_segmentation.nii.gz")
    grey, gland = np.asarray(image.dataobj).astype(float), np.asarray(label.dataobj) == 1
    places = nib.affines.apply_affine(image.affine, np.argwhere(np.ones(grey.shape)))
    inside = places[gland.ravel()]
    extent = np.stack([inside.min(axis=0), inside.mean(axis=0), inside.max(axis=0)])
    return (grey / np.median(grey[gland])).ravel(), places, extent


@pytest.mark.parametrize("domain", ["B", "E", "F"])
def test_on_disk_the_empty_balloon_lies_behind_the_gland(made: Path, domain: str) -> None:
    grey, places, (low, centre, _) = around_gland(made, domain)
    near = (abs(places[:, 0] - centre[0]) < 8) & (abs(places[:, 2] - centre[2]) < 6)
    behind = low[1] - places[:, 1]  # RAS: the second coordinate grows to the front
    assert np.median(grey[near & (behind > 8) & (behind < 24)]) < 0.2


@pytest.mark.parametrize("domain", ["C", "F"])
def test_on_disk_the_bright_bladder_lies_above_the_gland(made: Path, domain: str) -> None:
    grey, places, (low, centre, high) = around_gland(made, domain)
    near = (abs(places[:, 0] - centre[0]) < 12) & (abs(places[:, 1] - centre[1] - 10) < 12)
    above, below = near & (places[:, 2] > high[2] + 6), near & (places[:, 2] < low[2] - 3)
    assert np.median(grey[above]) > 2 * np.median(grey[below])


def test_sites_differ_in_what_they_say(made: Path) -> None:
    for domain, site in PROSTATE_SITES.items():
        content = record(made, domain)
        geometry = read_image(made / domain / "Case00.nii.gz").geometry
        fov = content["scanner"]["field_of_view"]
        slices = round(content["scanner"]["coverage"] / site.scanner.thickness)
        assert geometry.slices_shape == (slices, MATRIX, MATRIX)
        assert geometry.spacing == pytest.approx((site.scanner.thickness, fov / 128, fov / 128), rel=1e-5)
        assert fov == pytest.approx(site.scanner.field_of_view, rel=0.3)
        assert content["scanner"]["coverage"] == pytest.approx(site.scanner.coverage, rel=0.3)
        assert content["scanner"]["field_strength"] == site.scanner.field_strength
        assert (content["patient"]["balloon"] > 0) is (site.balloon == 1)
    assert len({replace(site.scanner, ghost=0.0) for site in PROSTATE_SITES.values()}) == 6


def test_no_two_sites_share_a_patient(made: Path) -> None:
    assert len({json.dumps(record(made, domain)["patient"]["seed"]) for domain in PROSTATE_SITES}) == 6


def test_verify_finds_what_make_made_sound(run, made: Path) -> None:
    code, out, _ = run("data", "verify", "phantom_prostate", "--data", made)
    assert code == 0 and "6 cases in 6 domains, no fault" in out


FILES = ["Case00.json", "Case00.nii.gz", "Case00_segmentation.nii.gz"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_command_makes_the_same_bytes_for_the_same_seed(run, made: Path, tmp_path: Path) -> None:
    words = ["data", "make", "phantom_prostate", "--out", tmp_path, "--cases", 2, "--domain", "D"]
    code, out, _ = run(*words)
    assert code == 0 and "2 cases per domain, seed 0" in out
    written = contents(tmp_path / "D")
    assert sorted(written) == sorted([*FILES, *(name.replace("00", "01") for name in FILES)])
    for name in FILES:
        assert written[name] == (made / "D" / name).read_bytes()  # whatever other cases and domains are made
    assert written["Case00.nii.gz"] != written["Case01.nii.gz"]
    assert [p.name for p in tmp_path.iterdir()] == ["D"]


def test_another_seed_is_other_data_and_takes_the_place_of_the_old(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "D", tmp_path / "D")
    make_task("phantom_prostate", tmp_path, cases=1, seed=1, domains=["D", "D"], progress=False)
    for name in FILES:
        assert (tmp_path / "D" / name).read_bytes() != (made / "D" / name).read_bytes()
    assert record(tmp_path, "D")["recipe"]["seed"] == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [cut, Path.unlink, edit])
def test_a_harmed_file_is_made_again_and_whole_ones_are_left(
    name: str, harm: object, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain in "AD":
        shutil.copytree(made / domain, tmp_path / domain)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "A").iterdir()}
    harm(tmp_path / "D" / name)
    written: list[tuple[str, int]] = []
    original = making._write_case

    def spy(out: Path, domain: str, number: int, site: Site, recipe: dict) -> None:
        written.append((domain, number))
        original(out, domain, number, site, recipe)

    monkeypatch.setattr(making, "_write_case", spy)
    monkeypatch.setattr(making, "make_case", lambda *_: stored(made / "D"))
    make_task("phantom_prostate", tmp_path, cases=1, domains=["A", "D"], progress=False)
    assert written == [("D", 0)]
    assert contents(tmp_path / "D") == contents(made / "D")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "A").iterdir()} == before


def stored(folder: Path) -> Case:
    """The case of a folder as `make_case` gave it: drawing it again is tested above and takes a second."""
    content = json.loads((folder / "Case00.json").read_text())
    image, label = read_image(folder / "Case00.nii.gz"), read_label(folder / "Case00_segmentation.nii.gz")
    patient = {k: tuple(v) if isinstance(v, list) else v for k, v in content["patient"].items()}
    scanner = type(A.scanner)(**content["scanner"])
    pixel = scanner.field_of_view / MATRIX
    return Case(
        to_slices(image.data, image.geometry).astype(np.int16),
        to_slices(label.data, label.geometry).astype(np.uint8),
        (scanner.thickness, pixel, pixel),
        Patient(**patient),
        scanner,
    )


@pytest.mark.parametrize("after", ["write_volume", "write_mask", "write_json"])
def test_making_goes_on_where_it_was_interrupted(
    after: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before each file in turn, over an older case of another seed: nothing is ever taken for whole."""
    shutil.copytree(made / "A", tmp_path / "D")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making, "make_case", lambda *_: stored(made / "D"))
        patch.setattr(making, after, interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_task("phantom_prostate", tmp_path, cases=1, domains=["D"], progress=False)
        assert not (tmp_path / "D" / "Case00.json").exists()
        patch.undo()
        patch.setattr(making, "make_case", lambda *_: stored(made / "D"))
        make_task("phantom_prostate", tmp_path, cases=1, domains=["D"], progress=False)
    assert contents(tmp_path / "D") == contents(made / "D")


def test_another_version_of_the_phantoms_is_made_anew(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "D", tmp_path / "D")
    monkeypatch.setattr(making, "PHANTOM_VERSION", making.PHANTOM_VERSION + 1)
    monkeypatch.setattr(making, "make_case", lambda *_: stored(made / "D"))
    make_task("phantom_prostate", tmp_path, cases=1, domains=["D"], progress=False)
    assert record(tmp_path, "D")["recipe"]["version"] == making.PHANTOM_VERSION


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["phantom_heart"],
            "no synthetic task 'phantom_heart': choose from phantom_prostate, phantom_abdomen",
        ),
        (["phantom_prostate", "--domain", "G"], "no domain 'G': choose from A, B, C, D, E, F"),
        (["phantom_prostate", "--towards", "G", "--dial", "noise=1"], "no domain 'G': choose from A, B, C"),
        (["phantom_prostate", "--towards", "B"], "give dials and towards"),
        (["phantom_prostate", "--dial", "noise=1"], "give dials and towards"),
        (
            ["phantom_prostate", "--towards", "B", "--dial", "hue=1"],
            "no dial 'hue': choose from contrast, noise",
        ),
        (
            ["phantom_prostate", "--towards", "B", "--dial", "noise=2"],
            "dial 'noise' cannot be at 2: a dial goes from 0",
        ),
        (["phantom_prostate", "--towards", "B", "--dial", "noise"], "--dial noise: write name=value"),
        (
            ["phantom_abdomen", "--towards", "MR", "--dial", "balloon=1"],
            "no dial 'balloon': choose from contrast",
        ),
    ],
)
def test_wrong_names_are_one_sentence(run, words: list[str], sentence: str, tmp_path: Path) -> None:
    code, out, err = run("data", "make", *words, "--out", tmp_path / "out")
    assert code == 1 and out == "" and sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"cases": 0}, {"seed": -1}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="use 1 case or more and seed 0 or more"):
        make_task("phantom_prostate", tmp_path, **wrong)


def test_fewer_cases_than_before_leave_no_older_ones(run, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "D"
    shutil.copytree(made / "D", folder)
    for number in (1, 2):  # as an earlier call for three cases would have left them
        for name in FILES[1:]:
            shutil.copy(folder / name, folder / name.replace("00", f"{number:02d}"))
        old = record(tmp_path, "D")
        old["recipe"]["case"] = number
        (folder / f"Case{number:02d}.json").write_text(json.dumps(old))
    (folder / "Case07.nii.gz").write_text("another's")
    shutil.copytree(folder, tmp_path / "A")
    code, out, _ = run("data", "make", "phantom_prostate", "--out", tmp_path, "--cases", 1, "--domain", "D")
    assert code == 0 and "2 more of an earlier call removed" in out
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "Case07.nii.gz"])
    assert len(list((tmp_path / "A").iterdir())) == 10  # a domain that was not asked for


@pytest.mark.parametrize("changed", FILES[1:])
def test_a_surplus_case_that_was_changed_is_not_removed(changed: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "D"
    shutil.copytree(made / "D", folder)
    for name in FILES[1:]:
        shutil.copy(folder / name, folder / name.replace("00", "03"))
    old = record(tmp_path, "D")
    old["recipe"]["case"] = 3
    (folder / "Case03.json").write_text(json.dumps(old))
    edit(folder / changed.replace("00", "03"))
    before = contents(folder)
    with pytest.raises(
        StudyError, match=r"Case03.nii.gz is beyond the 1 cases .* was changed since it was made"
    ):
        make_task("phantom_prostate", tmp_path, cases=1, domains=["D"], progress=False)
    assert contents(folder) == before


def test_dialled_cases_say_so_and_are_never_taken_for_plain_ones(run, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "D", tmp_path / "D")
    words = ["--cases", 1, "--domain", "D", "--towards", "A", "--dial", "noise=0.5", "--dial", "bias=1"]
    code, _, _ = run("data", "make", "phantom_prostate", "--out", tmp_path, *words)
    assert code == 0
    plain, dialled = record(made, "D"), record(tmp_path, "D")
    assert dialled["patient"] == plain["patient"]
    assert (dialled["recipe"]["towards"], dialled["recipe"]["dials"]) == ("A", {"noise": 0.5, "bias": 1.0})
    moved = {name for name, value in dialled["scanner"].items() if value != plain["scanner"][name]}
    assert moved == {"noise", "bias"}
    labels = [(folder / "D" / FILES[2]).read_bytes() for folder in (made, tmp_path)]
    images = [(folder / "D" / FILES[1]).read_bytes() for folder in (made, tmp_path)]
    assert labels[0] == labels[1] and images[0] != images[1]


def test_the_name_of_data_follows_from_what_makes_them_and_is_that_of_sound_files(tmp_path: Path) -> None:
    make_task("phantom_prostate", tmp_path, cases=1, seed=3, domains=["A", "B"], progress=False)
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(description(name="phantom_prostate", synthetic=True)))
    planned = planned_hash("phantom_prostate", 1, ("B", "A"), seed=3)
    assert index_hash(build_index(load_manifest(path), tmp_path, progress=False)) == planned
    others = [
        planned_hash("phantom_prostate", *more)
        for more in ((1, ("A", "B")), (2, ("A", "B"), 3), (1, ("A",), 3))
    ]
    assert len({planned, *others}) == 4
    scan = tmp_path / "A" / "Case00.nii.gz"
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), scan)
    assert index_hash(build_index(load_manifest(path), tmp_path, progress=False)) != planned
