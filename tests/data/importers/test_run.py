"""NIfTI layouts, linking, resuming and zip archives; DICOM is in test_dicom.py."""

import csv
import gzip
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from layout_files import (
    bring,
    files,
    write_btcv,
    write_nnunet,
    write_saml,
)
from small_task import LPS, image_data, label_data, save, save_case, write_manifest

from desam_lite.data.index import build_index, list_faults
from desam_lite.data.manifest import load_manifest
from desam_lite.utils.errors import StudyError


def test_saml_sites_become_the_domains_of_the_prostate_manifest(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    summary = bring("saml", tmp_path / "in", tmp_path / "out")
    assert summary.cases == dict.fromkeys("ABCDEF", 1) and summary.made == 6 and summary.faults == ()
    assert files(tmp_path / "out" / "B") == ["Case01.nii.gz", "Case01_segmentation.nii.gz"]
    index = build_index(load_manifest("prostate"), tmp_path / "out", progress=False)
    assert list_faults(index) == [] and len(index) == 6


def test_both_labels_of_a_saml_gland_count_as_one(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    labels = label_data()
    labels[5] *= 2
    save(tmp_path / "in" / "RUNMC" / "Case00_segmentation.nii.gz", labels)
    bring("saml", tmp_path / "in", tmp_path / "out")
    index = build_index(load_manifest("prostate"), tmp_path / "out", progress=False)
    assert index["voxels_prostate"][0] == (labels > 0).sum() and list_faults(index) == []


def test_nnunet_cases_go_to_the_centers_of_the_table(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "in")
    summary = bring("nnunet", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"A": 1, "F": 1, "North-Ward-2": 1} and summary.faults == ()
    assert nib.load(tmp_path / "out" / "F" / "p02.nii.gz").shape == image_data().shape


def test_btcv_organs_get_the_ids_of_the_abdomen_manifest(tmp_path: Path) -> None:
    write_btcv(tmp_path / "in")
    assert bring("btcv", tmp_path / "in", tmp_path / "out").cases == {"CT": 2}
    label = np.asanyarray(nib.load(tmp_path / "out" / "CT" / "img0001_segmentation.nii.gz").dataobj)
    expected = {6: 1, 2: 2, 3: 3, 1: 4}
    assert label[np.unravel_index(range(14), label.shape)].tolist() == [expected.get(i, 0) for i in range(14)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("{d}/p1.nii.gz", "{d}/p1_segmentation.nii.gz"),
        ("{d}/p1.nii", "{d}/p1-Label.nii"),
        ("{d}/p1_image.nii.gz", "{d}/p1_mask.nii.gz"),
        ("{d}/images/p1.nii.gz", "{d}/labels/p1.nii.gz"),
        ("{d}/imagesTr/p1_0000.nii.gz", "{d}/labelsTr/p1.nii.gz"),
        ("{d}/p1/image.nii.gz", "{d}/p1/seg.nii.gz"),
        ("{d}/p1/image.nii.gz", "{d}/p1/masks/mask.nii.gz"),
    ],
)
def test_folder_per_domain_is_understood(image: str, label: str, tmp_path: Path) -> None:
    for seed, domain in enumerate(["North", "South"]):
        save(tmp_path / "in" / image.format(d=domain), image_data(seed))
        save(tmp_path / "in" / label.format(d=domain), label_data())
    summary = bring("folders", tmp_path / "in", tmp_path / "out")
    assert summary.faults == () and summary.cases == {"North": 1, "South": 1}
    names = [
        "North/p1.nii.gz",
        "North/p1_segmentation.nii.gz",
        "South/p1.nii.gz",
        "South/p1_segmentation.nii.gz",
    ]
    assert files(tmp_path / "out") == sorted([*names, "import.csv"])
    assert np.array_equal(np.asanyarray(nib.load(tmp_path / "out" / names[2]).dataobj), image_data(1))


def test_names_in_any_script_stay_apart(tmp_path: Path) -> None:
    for domain in ("東京 病院", "大阪 病院"):
        for number, patient in enumerate(["患者 01", "患者 02"]):
            save(tmp_path / "in" / domain / f"{patient}.NII.GZ".lower(), image_data(number))
            save(tmp_path / "in" / domain / f"{patient}_mask.nii", label_data())
    for path in (tmp_path / "in").rglob("*.nii.gz"):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    summary = bring("folders", tmp_path / "in", tmp_path / "out")
    assert summary.faults == () and summary.cases == {"大阪-病院": 2, "東京-病院": 2}
    assert files(tmp_path / "out" / "東京-病院")[:2] == ["患者-01.nii.gz", "患者-01_segmentation.nii.gz"]
    domains = {name: {"title": name} for name in summary.cases}
    index = build_index(
        load_manifest(write_manifest(tmp_path / "m.yaml", domains=domains)), tmp_path / "out", progress=False
    )
    assert len(index) == 4 and not [fault for fault in list_faults(index) if "voxel by voxel" not in fault]


def test_real_promise12_folders_are_sites_d_and_e(realdata: Path, tmp_path: Path) -> None:
    summary = bring("saml", realdata / "prostate", tmp_path)
    assert summary.cases == {"D": 13, "E": 12} and summary.faults == ()
    first, imported = realdata / "prostate" / "UCL" / "Case01.nii.gz", tmp_path / "D" / "Case01.nii.gz"
    assert imported.read_bytes() == first.read_bytes()


def test_unchanged_files_are_linked_and_copied_on_request(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    original = tmp_path / "in" / "UCL" / "Case03.nii.gz"
    mode = stat.S_IMODE(original.stat().st_mode)
    bring("saml", tmp_path / "in", tmp_path / "linked")
    bring("saml", tmp_path / "in", tmp_path / "copied", copy=True)
    assert (tmp_path / "linked" / "D" / "Case03.nii.gz").samefile(original)
    assert not (tmp_path / "copied" / "D" / "Case03.nii.gz").samefile(original)
    assert stat.S_IMODE(original.stat().st_mode) == mode


def test_second_import_makes_nothing_and_a_changed_case_is_made_again_alone(tmp_path: Path) -> None:
    write_btcv(tmp_path / "in")
    bring("btcv", tmp_path / "in", tmp_path / "out")
    assert bring("btcv", tmp_path / "in", tmp_path / "out").made == 0
    save(
        tmp_path / "in" / "Training" / "label" / "label0002.nii.gz", np.full(image_data().shape, 6, np.uint8)
    )
    again = bring("btcv", tmp_path / "in", tmp_path / "out")
    assert again.made == 1 and again.cases == {"CT": 2}
    assert np.asanyarray(nib.load(tmp_path / "out" / "CT" / "img0002_segmentation.nii.gz").dataobj).min() == 1


def test_what_the_source_has_no_longer_or_has_at_fault_by_now_is_removed(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    write_btcv(tmp_path / "btcv")
    out = tmp_path / "out"
    bring("saml", tmp_path / "in", out)
    bring("btcv", tmp_path / "btcv", out)
    for path in (tmp_path / "in" / "HK").iterdir():
        path.unlink()
    (tmp_path / "in" / "UCL" / "Case03_segmentation.nii.gz").unlink()
    summary = bring("saml", tmp_path / "in", out)
    assert summary.withdrawn == ("D/Case03", "F/Case05") and len(summary.faults) == 1
    assert summary.cases == {"A": 1, "B": 1, "C": 1, "CT": 2, "E": 1}  # of the other source, all stays
    assert files(out / "F") == files(out / "D") == []
    with (out / "import.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert bring("saml", tmp_path / "in", out).withdrawn == ()


def test_nothing_outside_the_import_is_removed_whatever_its_index_says(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    bring("saml", tmp_path / "in", tmp_path / "out")
    precious = save(tmp_path / "elsewhere" / "Case05.nii.gz", image_data())
    index = tmp_path / "out" / "import.csv"
    index.write_text(index.read_text().replace("F,Case05", "../elsewhere,Case05"))
    bring("saml", tmp_path / "in", tmp_path / "out")
    assert precious.exists()


@pytest.mark.parametrize(
    ("layout", "writer"), [("saml", write_saml), ("nnunet", write_nnunet), ("btcv", write_btcv)]
)
def test_any_order_of_files_gives_the_same_import(
    layout: str, writer: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer(tmp_path / "in")
    plain, imports = Path.iterdir, []
    for seed in range(6):
        rng = np.random.default_rng(seed)

        def shuffled(folder: Path, rng: np.random.Generator = rng) -> Iterator[Path]:
            paths = sorted(plain(folder))
            return iter([paths[n] for n in rng.permutation(len(paths))])

        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", shuffled)
            bring(layout, tmp_path / "in", tmp_path / f"out{seed}")
        out = tmp_path / f"out{seed}"
        imports.append({name: (out / name).read_bytes() for name in files(out)})
    assert len(imports[0]) > 4 and all(each == imports[0] for each in imports)


def test_renumbered_labels_keep_the_header_of_the_label(tmp_path: Path) -> None:
    write_btcv(tmp_path / "in")
    path = tmp_path / "in" / "Training" / "label" / "label0001.nii.gz"
    image = nib.load(path)
    image.set_sform(image.affine, code=2)
    image.set_qform(image.affine, code=0)
    image.header.set_xyzt_units("unknown")
    nib.save(image, path)
    bring("btcv", tmp_path / "in", tmp_path / "out")
    before = nib.load(path).header
    after = nib.load(tmp_path / "out" / "CT" / "img0001_segmentation.nii.gz").header
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_lost_file_or_index_is_made_again(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    bring("saml", tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "A" / "Case00_segmentation.nii.gz").unlink()
    assert bring("saml", tmp_path / "in", tmp_path / "out").made == 1
    (tmp_path / "out" / "import.csv").write_text("cut of")
    assert bring("saml", tmp_path / "in", tmp_path / "out").made == 6


def test_interrupted_import_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_btcv(tmp_path / "in")
    import desam_lite.data.importers.layouts as layouts

    original, calls = layouts.write_volume, []

    def stop_at_second(path: Path, *rest: object) -> None:
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(path, *rest)

    monkeypatch.setattr(layouts, "write_volume", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        bring("btcv", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "CT" / "img0002_segmentation.nii.gz").exists()
    assert bring("btcv", tmp_path / "in", tmp_path / "out").made == 1
    assert calls == [f"img000{number}_segmentation.nii.gz" for number in (1, 2, 2)]


def test_index_lists_what_came_from_where(tmp_path: Path) -> None:
    write_btcv(tmp_path / "in")
    bring("btcv", tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "import.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["img0001", "img0002"]
    assert rows[0]["image"] == "CT/img0001.nii.gz"
    assert rows[0]["source_label"].endswith("Training/label/label0001.nii.gz")
    assert all(len(row["image_sha256"]) == len(row["label_sha256"]) == 64 for row in rows)


def no_label(source: Path) -> None:
    (source / "Task12" / "labelsTr" / "p02.nii.gz").unlink()


def no_row(source: Path) -> None:
    table = source / "Task12" / "prostate_patientid.csv"
    table.write_text(table.read_text().replace("p02,F-HK", ""))


@pytest.mark.parametrize(
    ("breaker", "sentence"),
    [(no_label, "p02_0000.nii.gz has no label"), (no_row, "has no row for case p02: add its center")],
)
def test_broken_nnunet_case_is_named(breaker: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    write_nnunet(tmp_path / "in")
    breaker(tmp_path / "in")
    summary = bring("nnunet", tmp_path / "in", tmp_path / "out")
    assert sum(summary.cases.values()) == 2 and len(summary.faults) == 1 and sentence in summary.faults[0]


def test_nnunet_without_its_table_or_folder_is_refused(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "in")
    (tmp_path / "in" / "Task12" / "prostate_patientid.csv").write_text("case,site\np01,A")
    with pytest.raises(StudyError, match="holds no table with the columns patientid and center"):
        bring("nnunet", tmp_path / "in", tmp_path / "out")
    with pytest.raises(StudyError, match="holds 0 folders imagesTr"):
        bring("nnunet", tmp_path / "in" / "Task12" / "labelsTr", tmp_path / "out")


def test_what_folders_hold_beside_pairs_is_named(tmp_path: Path) -> None:
    for domain in ("North", "South"):
        save_case(tmp_path / "in" / domain, "ok", seed=3)
    (tmp_path / "in" / "North" / "lonely.nii.gz").write_bytes(b"x")
    (tmp_path / "in" / "North" / "orphan_seg.nii.gz").write_bytes(b"x")
    (tmp_path / "in" / "South" / "ok_mask.nii.gz").write_bytes(b"x")
    summary = bring("folders", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"North": 1}
    told = " ".join(summary.faults)
    assert "lonely.nii.gz has no label" in told and "orphan_seg.nii.gz has no image" in told
    assert "case ok of domain South has several files" in told


def test_unknown_site_of_the_prostate_collection_is_named(tmp_path: Path) -> None:
    save_case(tmp_path / "in" / "UCLA", "Case00", seed=0)
    assert (
        "UCLA is none of the six prostate sites" in bring("saml", tmp_path / "in", tmp_path / "out").faults[0]
    )


def test_two_cases_of_one_name_are_both_left_out(tmp_path: Path) -> None:
    save_case(tmp_path / "in" / "HCRUDB", "Case00", seed=0)
    save_case(tmp_path / "in" / "I2CVB", "Case00", seed=1)
    save_case(tmp_path / "in" / "UCL", "Case00", seed=2)
    summary = bring("saml", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"D": 1} and len(summary.faults) == 2
    assert all("C/Case00" in fault and "one of two cases of that name" in fault for fault in summary.faults)


def test_btcv_label_of_another_set_is_named(tmp_path: Path) -> None:
    write_btcv(tmp_path / "in")
    save(tmp_path / "in" / "Training" / "label" / "label0001.nii.gz", label_data(label=77))
    (tmp_path / "in" / "Training" / "label" / "label0002.nii.gz").unlink()
    faults = bring("btcv", tmp_path / "in", tmp_path / "out").faults
    assert "img0002.nii.gz has no label0002.nii.gz" in faults[0]
    assert "CT/img0001: " in faults[1] and "ids that BTCV does not have ([77])" in faults[1]


def twice(path: Path) -> None:
    save(path.with_name(path.name.removesuffix(".gz")), image_data(5))


def test_second_file_of_a_case_or_one_that_belongs_to_none_is_named(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "nnunet")
    for name in ("imagesTr/p01_0000.nii.gz", "labelsTr/p02.nii.gz"):
        twice(tmp_path / "nnunet" / "Task12" / name)
    save(tmp_path / "nnunet" / "Task12" / "imagesTr" / "p03.nii.gz", image_data())
    save(tmp_path / "nnunet" / "Task12" / "labelsTr" / "p09.nii.gz", label_data())
    summary = bring("nnunet", tmp_path / "nnunet", tmp_path / "out")
    told = " ".join(summary.faults)
    assert summary.cases == {"North-Ward-2": 1} and len(summary.faults) == 5
    assert "one of two cases of that name" in told and "p02.nii and " in told
    assert "p03.nii.gz has no channel in its name" in told and "p09.nii.gz has no image" in told
    write_btcv(tmp_path / "btcv")
    save(tmp_path / "btcv" / "preprocessed" / "img0001.nii.gz", image_data(9))
    summary = bring("btcv", tmp_path / "btcv", tmp_path / "out2")
    assert summary.cases == {"CT": 1} and "case img0001 has several files" in summary.faults[0]


@pytest.mark.parametrize(("first", "second"), [("North 1", "North-1"), ("Zürich", "Zu\u0308rich")])
def test_two_hospitals_that_would_get_one_name_are_refused(first: str, second: str, tmp_path: Path) -> None:
    save_case(tmp_path / "folders" / first, "a", 1)
    save_case(tmp_path / "folders" / second, "b", 2)
    write_nnunet(tmp_path / "nnunet")
    table = tmp_path / "nnunet" / "Task12" / "prostate_patientid.csv"
    table.write_text(f"patientid,center\np01,{first}\np02,{second}\np03,HK\n", encoding="utf-8")
    for layout in ("folders", "nnunet"):
        with pytest.raises(StudyError, match=f"'{first}' and '{second}'|'{second}' and '{first}'"):
            bring(layout, tmp_path / layout, tmp_path / "out")


def test_two_names_of_one_prostate_site_are_one_domain(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "in")
    table = tmp_path / "in" / "Task12" / "prostate_patientid.csv"
    table.write_text("patientid,center\np01,A-ISBI\np02,RUNMC\np03, a-isbi \np03,a-isbi\n")
    assert bring("nnunet", tmp_path / "in", tmp_path / "out").cases == {"A": 3}
    table.write_text("patientid,center\np01,A-ISBI\np02,X\np03,X\np01.nii.gz,HK\n")
    with pytest.raises(StudyError, match="gives case p01 two centers, 'A-ISBI' and 'HK': keep one"):
        bring("nnunet", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("layout", "writer"), [("saml", write_saml), ("nnunet", write_nnunet), ("btcv", write_btcv)]
)
def test_links_to_folders_are_followed_and_those_that_lead_nowhere_told(
    layout: str, writer: Callable[[Path], None], tmp_path: Path
) -> None:
    writer(tmp_path / "plain")
    (tmp_path / "linked").mkdir()
    for folder in (tmp_path / "plain").iterdir():
        (tmp_path / "linked" / folder.name).symlink_to(folder)
    (tmp_path / "plain" / folder.name / "around").symlink_to(tmp_path / "linked" / folder.name)
    expected = bring(layout, tmp_path / "plain", tmp_path / "a").cases
    assert bring(layout, tmp_path / "linked", tmp_path / "b").cases == expected
    (tmp_path / "linked" / "gone").symlink_to(tmp_path / "nowhere")
    faults = bring(layout, tmp_path / "linked", tmp_path / "b").faults
    assert len(faults) == 1 and "linked/gone is a link that leads nowhere" in faults[0]


@pytest.mark.parametrize("name", ["c1.nii", "c1.nii.gz", "c1.NII.GZ"])
@pytest.mark.parametrize("packed", [True, False])
def test_file_is_packed_once_whatever_it_is_called(name: str, packed: bool, tmp_path: Path) -> None:
    raw = nib.Nifti1Image(image_data(), LPS).to_bytes()
    save(tmp_path / "in" / "N" / "c1_segmentation.nii.gz", label_data())
    (tmp_path / "in" / "N" / name).write_bytes(gzip.compress(raw) if packed else raw)
    assert bring("folders", tmp_path / "in", tmp_path / "out").cases == {"N": 1}
    assert gzip.decompress((tmp_path / "out" / "N" / "c1.nii.gz").read_bytes()) == raw


def test_dangling_link_is_named(tmp_path: Path) -> None:
    save(tmp_path / "in" / "UCL" / "Case00_segmentation.nii.gz", label_data(), LPS)
    (tmp_path / "in" / "UCL" / "Case00.nii.gz").symlink_to("nowhere.nii.gz")
    assert "does not exist (a dangling link?)" in bring("saml", tmp_path / "in", tmp_path / "out").faults[0]


@pytest.mark.parametrize(
    ("layout", "source", "out", "sentence"),
    [
        ("sampl", "in", "out", "no layout 'sampl': did you mean 'saml'"),
        ("saml", "nowhere", "out", "there is no .*nowhere: check the path"),
        ("saml", "empty", "out", "no case of the layout 'saml' below"),
        ("btcv", "in", "out", "no case of the layout 'btcv' below"),
        ("saml", "in", "in/out", "lies in the source"),
        ("saml", "in", "in", "lies in the source"),
    ],
)
def test_wrong_arguments_are_named(layout: str, source: str, out: str, sentence: str, tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match=sentence):
        bring(layout, tmp_path / source, tmp_path / out)


def zip_folder(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*")):
            target.write(path, path.relative_to(folder))
        target.writestr("__MACOSX/RUNMC/._Case00.nii.gz", b"resource fork")
    return archive


def test_zip_archive_is_imported_and_leaves_no_second_copy(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    summary = bring("saml", archive, tmp_path / "out")
    assert summary.cases == dict.fromkeys("ABCDEF", 1) and summary.faults == ()
    assert not (tmp_path / "out" / ".unpacked").exists() and len(files(tmp_path / "out")) == 13
    assert bring("saml", archive, tmp_path / "out").made == 0


@pytest.mark.parametrize(
    "name", ["../evil.nii.gz", "/evil.nii.gz", "a/../../evil.nii.gz", "..\\evil.nii.gz", "C:\\evil.nii"]
)
def test_zip_member_that_leaves_the_folder_stops_everything(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("RUNMC/Case00.nii.gz", b"fine")
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    with pytest.raises(StudyError, match=r"bad.zip holds .* a path that leaves the folder: do not use"):
        bring("saml", tmp_path / "bad.zip", tmp_path / "deep" / "out")
    assert files(tmp_path) == ["bad.zip"]


def test_zip_member_that_is_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("RUNMC/Case00.nii.gz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(StudyError, match="a link or a path that leaves"):
        bring("saml", tmp_path / "bad.zip", tmp_path / "out")


@pytest.mark.parametrize("content", [b"no zip at all", b"PK\x03\x04 cut"])
def test_damaged_zip_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(StudyError, match=r"bad.zip is no whole zip archive .* download it again"):
        bring("saml", tmp_path / "bad.zip", tmp_path / "out")


def test_zip_that_does_not_fit_on_the_disk_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StudyError, match=r"saml.zip unpacks to .* GB but .* make room"):
        bring("saml", archive, tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_zip_with_a_password_is_named(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    content = bytearray(archive.read_bytes())
    for header in (
        b"PK\x03\x04",
        b"PK\x01\x02",
    ):  # set the flag "encrypted" in every local and central header
        start = content.find(header)
        while start >= 0:
            content[start + (6 if header[2] == 3 else 8)] |= 1
            start = content.find(header, start + 4)
    archive.write_bytes(bytes(content))
    with pytest.raises(StudyError, match=r"saml.zip cannot be unpacked .*: unpack it by hand"):
        bring("saml", archive, tmp_path / "out")


def test_an_archive_that_was_half_unpacked_is_unpacked_anew(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    half = tmp_path / "out" / ".unpacked" / "HK" / "Case05.nii.gz"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    assert bring("saml", archive, tmp_path / "out").cases == dict.fromkeys("ABCDEF", 1)
    assert not half.exists()


def test_an_archive_with_a_faulty_case_is_kept_unpacked_for_a_look(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    (tmp_path / "in" / "HK" / "Case05_segmentation.nii.gz").unlink()
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    first = bring("saml", archive, tmp_path / "out")
    assert (tmp_path / "out" / ".unpacked" / "HK" / "Case05.nii.gz").exists() and len(first.faults) == 1
    assert first.made == 5 and bring("saml", archive, tmp_path / "out").made == 0
