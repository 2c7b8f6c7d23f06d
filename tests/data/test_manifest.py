from pathlib import Path

import pytest
import yaml
from small_task import description, write_manifest

from desam_lite.data.manifest import (
    PALETTE,
    Domain,
    Intensity,
    Manifest,
    Organ,
    list_manifests,
    load_manifest,
)
from desam_lite.utils.errors import StudyError

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "data_manifests").glob("*.yaml"))

# name of the case -> (changes to a sound manifest, what the sentence must say)
WRONG_VALUES: dict[str, tuple[dict[str, object], str]] = {
    "misspelt key": ({"orgns": []}, r"unknown key 'orgns' \(did you mean 'organs'\?\)"),
    "misspelt key of a domain": (
        {"domains": {"A": {"title": "A", "vendr": "X"}}},
        r"unknown key 'domains.A.vendr' \(did you mean 'vendor'\?\)",
    ),
    "misspelt key of an organ": (
        {"organs": [{"name": "gland", "label": 1, "colour": "#000000"}]},
        r"unknown key 'organs.0.colour' \(did you mean 'color'\?\)",
    ),
    "misspelt key of an intensity": ({"intensity": {"windows": [0, 1]}}, "unknown key 'intensity.windows'"),
    "no title": ({"title": None}, "title"),
    "no organs": ({"organs": []}, "organs"),
    "no domains": ({"domains": {}}, "domains"),
    "label 0": ({"organs": [{"name": "gland", "label": 0}]}, "greater than or equal to 1"),
    "label is text": ({"organs": [{"name": "gland", "label": "1"}]}, "organs.0.label"),
    "one organ name twice": (
        {"organs": [{"name": "x", "label": 1}, {"name": "x", "label": 2}]},
        "organ name 'x' is there twice",
    ),
    "one label twice": (
        {"organs": [{"name": "x", "label": 1}, {"name": "y", "label": 1}]},
        "organ label '1' is there twice",
    ),
    "one colour twice": (
        {"organs": [{"name": n, "label": i, "color": "#E69f00"} for i, n in enumerate("xy", 1)]},
        "organ colour '#e69f00' is there twice",
    ),
    "domain with a space": ({"domains": {"North ward": {"title": "N"}}}, "no spaces"),
    "label below zero": ({"organs": [{"name": "x", "label": -2}]}, "greater than or equal to 1"),
    "window upside down": ({"intensity": {"window": [275, -125]}}, "must be below"),
    "window of one value": ({"intensity": {"window": [5, 5]}}, "must be below"),
    "window without end": ({"intensity": {"window": [0, float("inf")]}}, "finite number"),
    "name that is a path": ({"name": "../x"}, "name"),
    "pattern with a backslash": ({"image": "{domain}\\{case}.nii.gz"}, "no backslash"),
    "code of no concept": ({"organs": [{"name": "x", "label": 1, "snomed": "T-62000"}]}, "organs.0.snomed"),
    "side of no code": ({"organs": [{"name": "x", "label": 1, "snomed": "left"}]}, "organs.0.snomed"),
    "no colour": ({"organs": [{"name": "x", "label": 1, "color": "orange"}]}, "organs.0.color"),
    "pattern without {case}": ({"image": "{domain}/scan.nii.gz"}, "lacks {case}"),
    "pattern with another placeholder": ({"image": "{site}/{case}.nii.gz"}, "only {domain} and {case} exist"),
    "pattern that leaves the root": ({"image": "../{case}.nii.gz"}, "must stay below the data root"),
    "absolute pattern": ({"label": "/data/{case}.nii.gz"}, "must stay below the data root"),
    "pattern of another format": ({"image": "{domain}/{case}.mha"}, "must end in .nii or .nii.gz"),
    "one pattern for both": ({"label": "{domain}/{case}.nii.gz"}, "one pattern for images and labels"),
    "domain that is a path": ({"domains": {"../A": {"title": "A"}}}, "may hold letters, digits"),
    "domain read as a truth value": ({"domains": {False: {"title": "no"}}}, "write the name in quotes"),
    "percentiles and a window": (
        {"intensity": {"percentiles": [0, 99], "window": [0, 1]}},
        "either 'percentiles' or 'window'",
    ),
    "neither percentiles nor a window": ({"intensity": {}}, "either 'percentiles' or 'window'"),
    "percentiles upside down": ({"intensity": {"percentiles": [99, 1]}}, "must be below"),
    "percentile over 100": ({"intensity": {"percentiles": [0, 101]}}, "between 0 and 100"),
    "label mapped to nothing": (
        {"domains": {"A": {"title": "A", "label_map": {3: 9}}}},
        r"maps labels to \[9\], which no organ has",
    ),
    "label mapped below zero": (
        {"domains": {"A": {"title": "A", "label_map": {3: -1}}}},
        r"maps labels to \[-1\]",
    ),
    "patient is no expression": ({"patient": "(sub"}, "not a regular expression"),
    "patient without a group": ({"patient": "sub"}, "needs a group"),
}

# name of the case -> (text of the file, what the sentence must say)
WRONG_TEXTS: dict[str, tuple[str, str]] = {
    "indented by a tab": ("name: tiny\norgans:\n\t- {name: x, label: 1}", "is not plain YAML .*'\\\\t'"),
    "only a word": ("tiny", "is not a mapping"),
    "anchors that multiply": ("a: &a [1, 2]\nb: *a", "unknown key 'a'"),
    "bad YAML": ("name: [tiny\ntitle: x", "is not plain YAML"),
    "empty file": ("", "is not a mapping"),
    "a list": ("- 1\n- 2", "is not a mapping"),
    "one domain twice": (
        "name: tiny\ntitle: t\norgans: [{name: x, label: 1}]\ndomains:\n  A: {title: a}\n  A: {title: b}",
        "key 'A' is there twice",
    ),
    "nested too deep": ("[" * 5000, "is not plain YAML"),
    "two documents": ("name: a\n---\nname: b", "is not plain YAML"),
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_manifest_is_sound_and_named_as_its_file(path: Path) -> None:
    manifest = load_manifest(path)
    assert manifest.name == path.stem
    assert manifest.obtain and manifest.citation and manifest.licence


def test_facts_of_the_six_sites_are_those_of_the_published_table() -> None:
    domains = load_manifest(REPOSITORY / "data_manifests" / "prostate.yaml").domains
    assert [domain.cases for domain in domains.values()] == [30, 30, 19, 13, 12, 12]
    assert [domain.vendor for domain in domains.values()] == [
        "Siemens",
        "Philips",
        "Siemens",
        "Siemens",
        "GE",
        "Siemens",
    ]


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_value_is_named(case: str, tmp_path: Path) -> None:
    changes, sentence = WRONG_VALUES[case]
    path = write_manifest(tmp_path / "tiny.yaml", **changes)
    with pytest.raises(StudyError, match=sentence) as caught:
        load_manifest(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("case", WRONG_TEXTS)
def test_wrong_text_is_named(case: str, tmp_path: Path) -> None:
    text, sentence = WRONG_TEXTS[case]
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(StudyError, match=sentence) as caught:
        load_manifest(tmp_path / "tiny.yaml")
    assert "tiny.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system"])
def test_python_in_yaml_is_refused_and_never_run(tag: str, tmp_path: Path) -> None:
    trace = tmp_path / "was_run"
    (tmp_path / "tiny.yaml").write_text(f"name: {tag} ['touch {trace}']")
    with pytest.raises(StudyError, match="is not plain YAML"):
        load_manifest(tmp_path / "tiny.yaml")
    assert not trace.exists()


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_bytes(b"\xff\xfe\x00\x80" * 10)
    with pytest.raises(StudyError, match=r"tiny\.yaml cannot be read"):
        load_manifest(tmp_path / "tiny.yaml")


def test_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("a: 1\n" * 300_000)
    with pytest.raises(StudyError, match="over 1 MB"):
        load_manifest(tmp_path / "tiny.yaml")


def test_manifest_is_found_by_name_below_the_working_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_manifest("prostate").name == "prostate"
    (tmp_path / "data_manifests").mkdir()
    write_manifest(tmp_path / "data_manifests" / "prostate.yaml")
    assert load_manifest("prostate").name == "tiny"
    assert list_manifests()["prostate"].parent == tmp_path / "data_manifests"


def test_unknown_manifest_name_brings_a_suggestion() -> None:
    with pytest.raises(StudyError, match="no manifest 'prostat': did you mean 'prostate'"):
        load_manifest("prostat")


def test_unknown_domain_brings_a_suggestion() -> None:
    manifest = load_manifest("promise12_small")
    with pytest.raises(StudyError, match=r"no domain 'BIDCM': did you mean 'BIDMC'.* UCL, BIDMC"):
        manifest.domain("BIDCM")


def test_pattern_of_a_domain_replaces_that_of_the_task() -> None:
    domains = {"A": {"title": "A", "image": "scans/{domain}_{case}.nii"}, "B": {"title": "B"}}
    manifest = Manifest.model_validate(description(domains=domains))
    assert manifest.pattern("A", "image") == "scans/A_{case}.nii"
    assert manifest.pattern("B", "image") == "B/{case}.nii.gz"


def test_colours_left_out_are_none_of_those_chosen() -> None:
    organs = [
        {"name": "a", "label": 1},
        {"name": "b", "label": 2, "color": PALETTE[0]},
        {"name": "c", "label": 3},
    ]
    manifest = Manifest.model_validate(description(organs=organs))
    assert [organ.color for organ in manifest.organs] == [PALETTE[1], PALETTE[0], PALETTE[2]]


def test_manifest_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "tiny.yaml")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_manifest(path).name == "tiny"


def test_organs_without_a_colour_get_distinct_ones() -> None:
    organs = [{"name": f"organ {n}", "label": n} for n in range(1, 5)]
    manifest = Manifest.model_validate(description(organs=organs))
    assert [organ.color for organ in manifest.organs] == list(PALETTE[:4])


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"title": "Another title", "citation": "X", "obtain": "Y"}, True),
        ({"organs": [{"name": "gland", "label": 1, "color": "#123456"}]}, True),
        ({"organs": [{"name": "gland", "label": 2}]}, False),
        ({"image": "{domain}/{case}_T2.nii.gz"}, False),
        ({"intensity": {"window": [-125, 275]}}, False),
        ({"patient": "^(.*)_"}, False),
        ({"domains": {"A": {"title": "x", "vendor": "y"}, "B": {"title": "z"}}}, True),
        ({"domains": {"A": {"title": "x", "label_map": {2: 1}}, "B": {"title": "z"}}}, False),
    ],
)
def test_content_hash_changes_exactly_when_results_would(changes: dict[str, object], same: bool) -> None:
    before, after = (Manifest.model_validate(description(**values)) for values in ({}, changes))
    assert (before.content_hash() == after.content_hash()) is same


def test_manifest_survives_yaml(tmp_path: Path) -> None:
    manifest = load_manifest("abdomen")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True)))
    assert load_manifest(tmp_path / "again.yaml") == manifest


def readme_example() -> str:
    page = (REPOSITORY / "data_manifests" / "README.md").read_text()
    return page.split("```yaml\n")[1].split("```")[0]


def test_example_of_the_readme_is_a_valid_manifest(tmp_path: Path) -> None:
    (tmp_path / "heart.yaml").write_text(readme_example())
    manifest = load_manifest(tmp_path / "heart.yaml")
    assert list(manifest.domains) == ["North", "South", "CT"]
    assert manifest.domains["South"].label_map == {3: 2, 4: 0}


def test_example_of_the_readme_shows_every_key() -> None:
    example = yaml.safe_load(readme_example())
    assert set(example) == set(Manifest.model_fields)
    assert {key for domain in example["domains"].values() for key in domain} == set(Domain.model_fields)
    assert {key for organ in example["organs"] for key in organ} == set(Organ.model_fields)


def test_readme_lists_every_key_and_every_shipped_manifest() -> None:
    page = (REPOSITORY / "data_manifests" / "README.md").read_text()
    keys = [key for model in (Manifest, Domain, Organ, Intensity) for key in model.model_fields]
    assert [name for name in [*keys, *(path.stem for path in SHIPPED)] if f"`{name}" not in page] == []
