"""The folder layouts people really have, each as a function that lists its cases.

It opens no scan; it returns the cases and a sentence for all that it could not understand.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from desam_lite.data.dicom import Series, read_header, read_series
from desam_lite.data.geometry import Array
from desam_lite.data.importers.label_images import read_label_images
from desam_lite.data.importers.pairing import SUFFIX, case_stem, find_scans, pair_files, safe_name
from desam_lite.data.manifest import did_you_mean
from desam_lite.data.nifti import read_label, write_volume
from desam_lite.data.segmentations import read_segmentation, segment_names
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import walk

_Thing = TypeVar("_Thing")
Place = Callable[[Path, Path], None]  # brings a file that stays as it is to its new name


@dataclass(frozen=True)
class Item:
    """One case to import."""

    domain: str  # name of its domain
    case: str  # its id
    image: Path  # where its scan is: a NIfTI file, or a folder of DICOM slices
    label: Path  # where its label is: a NIfTI file, or a folder of images
    # called as ``write(item, image_path, label_path, place)``; makes both files
    write: "Callable[[Item, Path, Path, Place], None]"
    ids: str = ""  # what the ids of its domain's labels are, where the files tell

    def sources(self) -> list[Path]:
        """Return the files that the case is made from."""
        return [
            file
            for path in (self.image, self.label)
            for file in (filter(Path.is_file, walk(path)) if path.is_dir() else [path])
        ]


Cases = tuple[list[Item], list[str]]  # with a sentence for each fault

# Names of the six prostate sites in the prepared collections -> domain of data_manifests/prostate.yaml.
_SITE_DOMAINS = {
    **dict.fromkeys(("runmc", "a-isbi"), "A"),
    **dict.fromkeys(("bmc", "b-isbi", "b-isbi_1.5"), "B"),
    **dict.fromkeys(("hcrudb", "i2cvb", "c-i2cvb"), "C"),
    **dict.fromkeys(("ucl", "d-ucl"), "D"),
    **dict.fromkeys(("bidmc", "e-bidmc"), "E"),
    **dict.fromkeys(("hk", "f-hk"), "F"),
}
# Label ids of data_manifests/abdomen.yaml: 1 liver, 2 right kidney, 3 left kidney, 4 spleen.
_BTCV_IDS = {6: 1, 2: 2, 3: 3, 1: 4, **dict.fromkeys((0, 4, 5, *range(7, 14)), 0)}
_CHAOS_MR_IDS = {range(55, 71): 1, range(110, 136): 2, range(175, 201): 3, range(240, 256): 4}
_CHAOS_CT_IDS = {range(1, 256): 1}


def find_folders(source: Path) -> Cases:
    """List one folder per domain, with images and labels told apart by their names or their folders' names."""
    domains = _subfolders(source)
    _require_apart((folder.name for folder in domains), safe_name)
    return _joined(_paired(folder, folder.name) for folder in domains)


def find_saml(source: Path) -> Cases:
    """List the prepared prostate collection: a folder per site, each case with its ``_segmentation``."""
    folders = sorted({path.parent for path in find_scans(source)})
    sites = {folder: _SITE_DOMAINS.get(folder.name.lower()) for folder in folders}
    items, faults = _joined(_paired(folder, site) for folder, site in sites.items() if site)
    return items, faults + [
        f"folder {folder} is none of the six prostate sites: rename it, or import the layout 'folders'."
        for folder, site in sites.items()
        if not site
    ]


def _joined(parts: Iterable[Cases]) -> Cases:
    items, faults = [], []
    for part_items, part_faults in parts:
        items += part_items
        faults += part_faults
    return items, faults


def _require_apart(hospitals: Iterable[str], domain: Callable[[str], str]) -> None:
    """Refuse two names that would become one domain, unless both are names of one known site."""
    for name, group in _grouped(sorted(set(hospitals)), domain).items():
        if len(group) > 1 and not all(hospital.lower() in _SITE_DOMAINS for hospital in group):
            hospitals = " and ".join(map(repr, group))
            raise StudyError(f"{hospitals} would both be domain {name}: rename one, so that they stay apart.")


def _grouped(things: Iterable[_Thing], key: Callable[[_Thing], str]) -> dict[str, list[_Thing]]:
    """Return key -> all that have it: a dictionary of single things would keep the last of two."""
    groups: dict[str, list[_Thing]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return groups


def _several(case: str, paths: list[Path]) -> str:
    return f"case {case} has several files for one thing ({' and '.join(map(str, paths))}): keep one."


def find_nnunet(source: Path) -> Cases:
    """List ``imagesTr`` and ``labelsTr``, and a table ``patientid,center`` that tells each case's domain."""
    folders = _folders(source, "imagesTr")
    if len(folders) != 1:
        raise StudyError(
            f"{source} holds {len(folders)} folders imagesTr, not one: give the folder of one data set."
        )
    base = folders[0].parent
    centers, table = _read_centers(base)
    _require_apart(centers.values(), _domain)
    labels = _grouped(find_scans(base / "labelsTr"), case_stem)
    items, faults, cases = [], [], set()
    for image in find_scans(folders[0]):
        case, _, channel = case_stem(image).rpartition("_")
        if re.fullmatch(r"\d{4}", channel) and channel != "0000":
            continue  # further channels; the first is the scan
        cases.add(case if channel == "0000" else case_stem(image))
        if channel != "0000":
            faults.append(f"{image} has no channel in its name: call it {case_stem(image)}_0000.nii.gz.")
        elif case not in labels:
            faults.append(f"{image} has no label labelsTr/{case}.nii.gz: add it, or take the case out.")
        elif len(labels[case]) > 1:
            faults.append(_several(case, labels[case]))
        elif case not in centers:
            faults.append(f"table {table} has no row for case {case}: add its center.")
        else:
            items.append(Item(_domain(centers[case]), safe_name(case), image, labels[case][0], _place_both))
    orphans = [paths[0] for case, paths in labels.items() if case not in cases]
    faults += [f"label {path} has no image: add it, or take the label out." for path in orphans]
    return items, faults


def find_btcv(source: Path) -> Cases:
    """List ``img0001.nii.gz`` with ``label0001.nii.gz``, in whatever folders; one domain ``CT``."""
    names = _grouped(find_scans(source), lambda path: case_stem(path).lower())
    numbers = sorted({match[1] for name in names if (match := re.fullmatch(r"(?:img|label)(\d{4})", name))})
    items, faults = [], []
    for number in numbers:
        images, labels = names[f"img{number}"], names[f"label{number}"]
        if several := [paths for paths in (images, labels) if len(paths) > 1]:
            faults += [_several(f"img{number}", paths) for paths in several]
        elif images and labels:
            items.append(Item("CT", f"img{number}", images[0], labels[0], _place_and_renumber))
        else:
            other = f"label{number}" if images else f"img{number}"
            faults.append(f"{[*images, *labels][0]} has no {other}.nii.gz: add it, or take it out.")
    return items, faults


def find_chaos(source: Path) -> Cases:
    """List CHAOS's DICOM series with their label images.

    Domain ``MR`` gets the T2-SPIR series with four organs; the CT series, where only the liver is labelled, go to a domain
    ``CT_liver`` of their own. T1-DUAL series are passed over.
    """
    items: list[Item] = []
    faults: list[str] = []
    for folder in _folders(source, "DICOM_anon"):
        parent, label = folder.parent, folder.parent / "Ground"
        if parent.name.upper() == "T2SPIR":
            domain, case, ids = "MR", parent.parent.name, _CHAOS_MR_IDS
        elif parent.parent.name.upper() == "CT":
            domain, case, ids = "CT_liver", parent.name, _CHAOS_CT_IDS
        else:
            continue
        if not label.is_dir():
            faults.append(
                f"{parent} has no folder Ground: its labels were not published (test cases), so take it out."
            )
            continue
        write = partial(_convert_dicom, read=partial(read_label_images, ids=ids))
        items.append(Item(domain, safe_name(case), folder, label, write))
    return items, faults


def find_dicom(source: Path) -> Cases:
    """List a folder per hospital, in it one per patient, in that a DICOM Segmentation with the series it refers to."""
    hospitals = _subfolders(source)
    _require_apart((folder.name for folder in hospitals), safe_name)
    return _joined(_hospital(folder) for folder in hospitals)


def _hospital(folder: Path) -> Cases:
    """List the patients of a hospital; one number means one organ in all of them."""
    items, faults = [], []
    homes: dict[int, tuple[str, str]] = {}  # number -> a patient, and what the number means there
    if not (patients := _subfolders(folder)):
        faults.append(f"{folder} holds no folder per patient: make one for each.")
    for patient in patients:
        try:
            mask, series, names = _find_segmentation(patient)
            for number, name in names.items():
                home, other = homes.setdefault(number, (patient.name, name))
                if name.casefold() != other.casefold():
                    raise StudyError(
                        f"{mask} calls segment {number} {name!r}, but the one of {home} calls it {other!r}: number them alike."
                    )
        except StudyError as error:
            faults.append(str(error))
        else:
            write = partial(_convert_dicom, read=read_segmentation, series=series)
            items.append(Item(safe_name(folder.name), safe_name(patient.name), patient, mask, write))
    ids = ", ".join(f"{number} {name}" for number, (_, name) in sorted(homes.items()))
    return [replace(item, ids=ids) for item in items], faults


def _find_segmentation(patient: Path) -> tuple[Path, str, dict[int, str]]:
    """Return a patient's Segmentation, the UID of the series it refers to, and number -> name of its segments."""
    headers = {path: header for path in walk(patient) if path.is_file() and (header := read_header(path))}
    masks = [path for path, header in headers.items() if header.get("Modality") == "SEG"]
    if len(masks) != 1:
        contours = [path for path, header in headers.items() if header.get("Modality") == "RTSTRUCT"]
        if contours and not masks:
            raise StudyError(
                f"{contours[0]} holds contours (RTSTRUCT), which cannot be imported: convert them to a DICOM Segmentation or to "
                "NIfTI, for instance with 3D Slicer or 'plastimatch convert'."
            )
        raise StudyError(f"{patient} holds {len(masks)} DICOM Segmentations, not one: keep one per patient.")
    header = headers[masks[0]]
    series = str((header.get("ReferencedSeriesSequence") or [{}])[0].get("SeriesInstanceUID", ""))
    if series not in {str(each.get("SeriesInstanceUID")) for each in headers.values()}:
        raise StudyError(f"{masks[0]} refers to a series that is not in {patient}: export both into it.")
    return masks[0], series, segment_names(header)


LAYOUTS: dict[str, Callable[[Path], Cases]] = {
    "saml": find_saml,
    "nnunet": find_nnunet,
    "chaos": find_chaos,
    "btcv": find_btcv,
    "dicom": find_dicom,
    "folders": find_folders,
}


def find_layout(name: str) -> Callable[[Path], Cases]:
    """Return the function that lists the cases of a layout; a StudyError says that there is none of this name."""
    if name not in LAYOUTS:
        hint = did_you_mean(name, LAYOUTS)
        raise StudyError(f"there is no layout {name!r}: {hint}choose from {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _folders(source: Path, name: str) -> list[Path]:
    return [path for path in walk(source) if path.name == name and path.is_dir()]


def _domain(center: str) -> str:
    return _SITE_DOMAINS.get(center.strip().lower(), safe_name(center.strip()))


def _paired(folder: Path, domain: str) -> Cases:
    pairs, faults = pair_files(folder, domain)
    return [Item(safe_name(domain), case, image, label, _place_both) for case, image, label in pairs], faults


def _read_centers(folder: Path) -> tuple[dict[str, str], Path]:
    """Return case -> center from the first table below a folder that has both columns, and the table's path."""
    for table in (path for path in walk(folder) if path.suffix.lower() == ".csv"):
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                rows = [
                    {(key or "").strip().lower(): value or "" for key, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        except (UnicodeDecodeError, csv.Error):
            continue
        if rows and {"patientid", "center"} <= rows[0].keys():
            centers: dict[str, str] = {}
            for row in rows:
                case = SUFFIX.sub("", row["patientid"].strip()).removesuffix("_0000")
                center = row["center"].strip()
                if center and centers.setdefault(case, center) != center:
                    raise StudyError(
                        f"table {table} gives case {case} two centers, {centers[case]!r} and {center!r}: keep one."
                    )
            return centers, table
    raise StudyError(
        f"{folder} holds no table with the columns patientid and center: add one (CSV) that names each case's site."
    )


def _place_both(item: Item, image: Path, label: Path, place: Place) -> None:
    place(item.image, image)
    place(item.label, label)


def _place_and_renumber(item: Item, image: Path, label: Path, place: Place) -> None:
    """Bring a BTCV case: its scan as it is, its thirteen organs as the four of the task."""
    scan = read_label(item.label)
    present = np.unique(scan.data).tolist()
    if unknown := [value for value in present if value not in _BTCV_IDS]:
        raise StudyError(
            f"label {item.label} holds ids that BTCV does not have ({unknown[:5]}): is it of another set?"
        )
    renumbered = np.zeros(scan.data.shape, np.uint8)
    for value in present:
        renumbered[scan.data == value] = _BTCV_IDS[value]
    place(item.image, image)
    write_volume(label, renumbered, scan.geometry.affine, scan.header)


def _convert_dicom(
    item: Item,
    image: Path,
    label: Path,
    _place: Place,
    *,
    read: Callable[[Path, Series], Array],
    series: str | None = None,
) -> None:
    volume = read_series(item.image, series)
    labels = read(item.label, volume)
    write_volume(image, volume.data, volume.geometry.affine)
    write_volume(label, labels, volume.geometry.affine)
