"""The layouts of real data sets, written small: what the tests of importing start from."""

from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from small_task import image_data, label_data, save, save_case

from desam_lite.data.importers.run import ImportSummary, import_data

SERIES = "1.2.826.0.1.3680043.8.498.1"
GREYS = np.array([0, 63, 126, 189, 252], np.uint8)
PLANES, ROWS, COLUMNS = 6, 10, 12


def bring(layout: str, source: Path, out: Path, **options: bool) -> ImportSummary:
    return import_data(layout, source, out, progress=False, **options)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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
