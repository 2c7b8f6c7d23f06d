import csv
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from small_task import LPS, image_data, label_data, save, save_case

from desam_lite.archives import unpack
from desam_lite.errors import StudyError
from desam_lite.importing import ImportSummary, import_data
from desam_lite.index import build_index, list_faults
from desam_lite.manifest import load_manifest
from desam_lite.volumes import load_case

SERIES = "1.2.826.0.1.3680043.8.498.1"
GREYS = np.array([0, 63, 126, 189, 252], np.uint8)
PLANES, ROWS, COLUMNS = 6, 10, 12


def bring(layout: str, source: Path, out: Path, **options: bool) -> ImportSummary:
    return import_data(layout, source, out, progress=False, **options)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- making the layouts ---------------------------------------------------------------------------------------------


def write_slice(path: Path, pixels: np.ndarray, position: list[float], **changes: object) -> None:
    """One DICOM file as a scanner writes it: pixels (rows, columns) int16, axial, position in mm LPS."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    item = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    item.SOPClassUID, item.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    item.SeriesInstanceUID, item.Modality = SERIES, "MR"
    item.Rows, item.Columns = pixels.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    item.ImageOrientationPatient, item.PixelSpacing = [1, 0, 0, 0, 1, 0], [1.5, 1.25]  # rows, columns
    item.ImagePositionPatient = position
    item.PixelData = pixels.astype("<i2").tobytes()
    for key, value in changes.items():
        setattr(item, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    item.save_as(path, enforce_file_format=True)


def write_picture(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey.astype(np.uint8)).save(path)


def organs() -> np.ndarray:
    """(Z, H, W) with all four organs, alike under no flip or exchange of axes."""
    labels = np.zeros((PLANES, ROWS, COLUMNS), np.uint8)
    labels[1:5, 2:5, 1:6], labels[2, 6:8, 2:4], labels[3, 6:9, 8:11], labels[4:, 1:3, 9:11] = 1, 2, 3, 4
    return labels


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, (PLANES, ROWS, COLUMNS)).astype(np.int16)


def write_chaos_mr(source: Path, case: str = "7", image: np.ndarray | None = None, step: float = 7.7) -> Path:
    """T2-SPIR as CHAOS has it: names count from the head down, pictures named like their slices."""
    image, labels = volume() if image is None else image, organs()
    base = source / "Train_Sets" / "MR" / case / "T2SPIR"
    for z in range(PLANES):
        name = f"IMG-0004-{PLANES - z:05}"
        write_slice(base / "DICOM_anon" / f"{name}.dcm", image[z], [-30.0, -20.0, 100.0 + step * z])
        write_picture(base / "Ground" / f"{name}.png", GREYS[labels[z]])
    return base


def write_chaos_ct(source: Path, case: str = "3") -> Path:
    """CT as CHAOS has it: names ``i0012,0000b`` and ``liver_GT_012``; stored values 1024 above Hounsfield units."""
    base = source / "Train_Sets" / "CT" / case
    for z in range(PLANES):
        number = PLANES - 1 - z
        place = [-30.0, -20.0, 3.0 * z]
        name = f"i{number:04},0000b.dcm"
        write_slice(base / "DICOM_anon" / name, volume()[z], place, RescaleSlope=1, RescaleIntercept=-1024)
        write_picture(base / "Ground" / f"liver_GT_{number:03}.png", (organs()[z] == 1) * 255)
    return base


def write_saml(source: Path) -> None:
    for seed, site in enumerate(["RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK"]):
        save_case(source / site, f"Case{seed:02}", seed)
    odd = source / "BMC" / "Case01_segmentation.nii.gz"
    odd.rename(odd.with_name("Case01_Segmentation.nii.gz"))  # the collection spells it both ways


def write_nnunet(source: Path) -> None:
    rows = ["patientid,center"]
    for seed, (case, center) in enumerate([("p01", "A-ISBI"), ("p02", "F-HK"), ("p03", "North Ward 2")]):
        save(source / "Task12" / "imagesTr" / f"{case}_0000.nii.gz", image_data(seed))
        save(source / "Task12" / "labelsTr" / f"{case}.nii.gz", label_data())
        rows.append(f"{case},{center}")
    (source / "Task12" / "prostate_patientid.csv").write_text("\n".join(rows))


def write_btcv(source: Path) -> None:
    for number in (1, 2):
        labels = np.zeros(image_data().shape, np.uint8)
        labels[np.unravel_index(range(14), labels.shape)] = range(14)
        save(source / "Training" / "img" / f"img{number:04}.nii.gz", image_data(number))
        save(source / "Training" / "label" / f"label{number:04}.nii.gz", labels)


# --- what each layout becomes ---------------------------------------------------------------------------------------


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


def test_chaos_mr_lies_as_scanned_with_each_organ_on_its_slice(tmp_path: Path) -> None:
    write_chaos_mr(tmp_path / "in")
    assert bring("chaos", tmp_path / "in", tmp_path / "out").cases == {"MR": 1}
    row = {"domain": "MR", "case": "7", "image": "MR/7.nii.gz", "label": "MR/7_segmentation.nii.gz"}
    case = load_case(load_manifest("abdomen"), tmp_path / "out", row)
    assert np.array_equal(case.image, volume()) and np.array_equal(case.labels, organs())
    assert case.geometry.spacing == pytest.approx((7.7, 1.5, 1.25))
    assert case.geometry.affine[:3, 3] == pytest.approx([30.0, 20.0, 100.0])  # RAS+


def test_chaos_ct_is_in_hounsfield_units_with_its_liver(tmp_path: Path) -> None:
    write_chaos_ct(tmp_path / "in")
    assert bring("chaos", tmp_path / "in", tmp_path / "out").cases == {"CT_liver": 1}
    image, label = (
        nib.load(tmp_path / "out" / "CT_liver" / f"3{end}.nii.gz") for end in ("", "_segmentation")
    )
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.asanyarray(image.dataobj).transpose(2, 1, 0), volume() - 1024)
    assert np.array_equal(np.asanyarray(label.dataobj).transpose(2, 1, 0), organs() == 1)


def test_names_of_dicom_files_do_not_matter_only_their_places(tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    names = [path.stem for path in sorted((base / "DICOM_anon").iterdir())]
    for folder, end in (("DICOM_anon", "dcm"), ("Ground", "png")):
        for number, name in enumerate(names):
            (base / folder / f"{name}.{end}").rename(base / folder / f"x{(number * 5) % 6}-{name}.{end}")
    bring("chaos", tmp_path / "in", tmp_path / "out")
    image = np.asanyarray(nib.load(tmp_path / "out" / "MR" / "7.nii.gz").dataobj)
    label = np.asanyarray(nib.load(tmp_path / "out" / "MR" / "7_segmentation.nii.gz").dataobj)
    assert np.array_equal(image.transpose(2, 1, 0), volume())
    assert np.array_equal(label.transpose(2, 1, 0), organs())


def test_tilted_sagittal_series_keeps_its_place_in_the_patient(tmp_path: Path) -> None:
    base = tmp_path / "in" / "MR" / "1" / "T2SPIR"
    turn = np.array([0.0, 0.8, 0.6])
    orientation = [*turn, 0.0, 0.6, -0.8]  # rows run back and up, columns back and down
    normal = np.cross(orientation[:3], orientation[3:])
    for z in range(PLANES):
        place = (np.array([5.0, 6.0, 7.0]) + 4.0 * z * normal).tolist()
        write_slice(base / "DICOM_anon" / f"{z}.dcm", volume()[z], place, ImageOrientationPatient=orientation)
        write_picture(base / "Ground" / f"{z}.png", GREYS[organs()[z]])
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()
    image = nib.load(tmp_path / "out" / "MR" / "1.nii.gz")
    column, row, z = 11, 3, 2
    lps = (
        np.array([5.0, 6.0, 7.0])
        + 1.25 * column * turn
        + 1.5 * row * np.array(orientation[3:])
        + 4.0 * z * normal
    )
    assert (image.affine @ [column, row, z, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-4)
    assert np.asanyarray(image.dataobj)[column, row, z] == volume()[z, row, column]


def test_real_scan_survives_the_way_through_chaos_files(realdata: Path, tmp_path: Path) -> None:
    manifest = load_manifest("abdomen")
    row = {
        "domain": "MR",
        "case": "Case20",
        "image": "MR/Case20.nii.gz",
        "label": "MR/Case20_segmentation.nii.gz",
    }
    real = load_case(manifest, realdata / "abdomen", row)
    base = tmp_path / "in" / "MR" / "20" / "T2SPIR"
    for z, (pixels, labels) in enumerate(zip(real.image, real.labels, strict=True)):
        name = f"IMG-0001-{len(real.image) - z:05}"
        write_slice(base / "DICOM_anon" / f"{name}.dcm", pixels, [0, 0, 7.7 * z], PixelSpacing=[1.25, 1.25])
        write_picture(base / "Ground" / f"{name}.png", GREYS[labels])
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()
    again = load_case(
        manifest, tmp_path / "out", {**row, "image": "MR/20.nii.gz", "label": "MR/20_segmentation.nii.gz"}
    )
    assert np.array_equal(again.image, real.image) and np.array_equal(again.labels, real.labels)
    assert again.geometry.spacing == pytest.approx(real.geometry.spacing)


def test_real_promise12_folders_are_sites_d_and_e(realdata: Path, tmp_path: Path) -> None:
    summary = bring("saml", realdata / "prostate", tmp_path)
    assert summary.cases == {"D": 13, "E": 12} and summary.faults == ()
    first, imported = realdata / "prostate" / "UCL" / "Case01.nii.gz", tmp_path / "D" / "Case01.nii.gz"
    assert imported.read_bytes() == first.read_bytes()


# --- resuming, linking, unpacking -----------------------------------------------------------------------------------


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


def test_lost_file_or_index_is_made_again(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    bring("saml", tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "A" / "Case00_segmentation.nii.gz").unlink()
    assert bring("saml", tmp_path / "in", tmp_path / "out").made == 1
    (tmp_path / "out" / "import.csv").write_text("cut of")
    assert bring("saml", tmp_path / "in", tmp_path / "out").made == 6


def test_interrupted_import_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_btcv(tmp_path / "in")
    import desam_lite.layouts as layouts

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


def test_half_unpacked_archive_is_not_unpacked_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    unpack(archive, tmp_path / "there", progress=False)
    (tmp_path / "there" / "HK" / "Case05.nii.gz").unlink()
    opened: list[str] = []
    original = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile,
        "open",
        lambda self, m, *a, **k: opened.append(m.filename) or original(self, m, *a, **k),
    )
    unpack(archive, tmp_path / "there", progress=False)
    assert opened == ["HK/Case05.nii.gz"]


# --- bad input ------------------------------------------------------------------------------------------------------


def double(base: Path) -> None:
    write_slice(base / "DICOM_anon" / "IMG-0004-99999.dcm", volume()[2], [-30.0, -20.0, 100.0 + 7.7 * 2])


def lose(base: Path) -> None:
    (base / "DICOM_anon" / "IMG-0004-00003.dcm").unlink()
    (base / "Ground" / "IMG-0004-00003.png").unlink()


def second_series(base: Path) -> None:
    for z in (20, 21):
        write_slice(
            base / "DICOM_anon" / f"b{z}.dcm",
            volume()[0],
            [-30, -20, 7.7 * z],
            SeriesInstanceUID=SERIES + ".9",
        )


def other_grid(base: Path) -> None:
    write_slice(base / "DICOM_anon" / "IMG-0004-00001.dcm", volume()[0][:5], [-30.0, -20.0, 138.5])


def no_place(base: Path) -> None:
    path = base / "DICOM_anon" / "IMG-0004-00001.dcm"
    item = pydicom.dcmread(path)
    del item.ImagePositionPatient
    item.save_as(path)


def cut_slice(base: Path) -> None:
    path = base / "DICOM_anon" / "IMG-0004-00001.dcm"
    path.write_bytes(path.read_bytes()[:-100])


def text_slice(base: Path) -> None:
    (base / "DICOM_anon" / "IMG-0004-00001.dcm").write_text("no scan")


def no_slices(base: Path) -> None:
    for path in (base / "DICOM_anon").iterdir():
        path.unlink()


def lose_picture(base: Path) -> None:
    (base / "Ground" / "IMG-0004-00003.png").unlink()


def rename_picture(base: Path) -> None:
    (base / "Ground" / "IMG-0004-00003.png").rename(base / "Ground" / "other.png")


def small_picture(base: Path) -> None:
    write_picture(base / "Ground" / "IMG-0004-00003.png", np.zeros((4, 4)))


def unknown_grey(base: Path) -> None:
    write_picture(base / "Ground" / "IMG-0004-00003.png", np.full((ROWS, COLUMNS), 90))


def broken_picture(base: Path) -> None:
    (base / "Ground" / "IMG-0004-00003.png").write_bytes(b"\x89PNG cut")


def no_ground(base: Path) -> None:
    (base / "Ground").rename(base / "Elsewhere")


CHAOS_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "slice twice": (double, r"holds a slice twice \(.* lie at one place\): remove one"),
    "slice missing": (lose, r"lacks a slice: .* lie 15.4 mm apart, the others 7.7 mm"),
    "two series": (second_series, r"holds 2 DICOM series: keep one series per folder"),
    "slice of another grid": (other_grid, r"has another grid than"),
    "slice without a place": (no_place, r"lacks ImagePositionPatient, so its place is unknown"),
    "slice cut": (cut_slice, r"the pixels of .*IMG-0004-00001.dcm cannot be read"),
    "slice that is text": (text_slice, r"IMG-0004-00001.dcm is not a DICOM file"),
    "no slice": (no_slices, r"holds no DICOM slice with an image"),
    "picture missing": (lose_picture, r"holds 5 label pictures for 6 slices"),
    "picture named otherwise": (rename_picture, r"no label picture for slice IMG-0004-00003.dcm"),
    "picture of another size": (small_picture, r"is \(4, 4\) pixels but its slice \(10, 12\)"),
    "unknown grey": (unknown_grey, r"holds the grey value 90, which stands for no organ"),
    "picture broken": (broken_picture, r"IMG-0004-00003.png cannot be read"),
    "no pictures": (no_ground, r"has no folder Ground"),
}


@pytest.mark.parametrize("name", CHAOS_FAULTS)
def test_broken_chaos_case_is_named_and_stops_no_other(name: str, tmp_path: Path) -> None:
    breaker, sentence = CHAOS_FAULTS[name]
    breaker(write_chaos_mr(tmp_path / "in", "7"))
    write_chaos_mr(tmp_path / "in", "8", volume(8))
    summary = bring("chaos", tmp_path / "in", tmp_path / "out")
    assert summary.cases == {"MR": 1} and len(summary.faults) == 1
    with pytest.raises(StudyError, match=sentence):
        raise StudyError(summary.faults[0])
    assert files(tmp_path / "out") == ["MR/8.nii.gz", "MR/8_segmentation.nii.gz", "import.csv"]


def test_files_that_are_no_slices_are_passed_over(tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    (base / "DICOM_anon" / "readme.txt").write_text("hello")
    assert bring("chaos", tmp_path / "in", tmp_path / "out").faults == ()


def test_series_anonymised_into_one_series_per_slice_is_one(tmp_path: Path) -> None:
    base = write_chaos_mr(tmp_path / "in")
    for path in (base / "DICOM_anon").iterdir():
        item = pydicom.dcmread(path)
        item.SeriesInstanceUID = generate_uid()
        item.save_as(path)
    assert bring("chaos", tmp_path / "in", tmp_path / "out").cases == {"MR": 1}


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
