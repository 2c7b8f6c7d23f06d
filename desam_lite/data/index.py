"""The case table of a task: which cases there are, what they are like, and all that is wrong with them."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.data.cases import CaseVolume, check_pair, in_slices_frame
from desam_lite.data.geometry import to_slices
from desam_lite.data.manifest import Manifest
from desam_lite.data.nifti import Scan, read_image, read_label
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest, write_text
from desam_lite.utils.progress import track

Row = dict[str, Any]
Files = dict[str, list[Path]]  # "image" and "label" -> files of a case
Keep = Callable[[Row, CaseVolume], object]

INDEX_VERSION = 4
_DIGITS = re.compile(r"(\d+)")
_HU_WARNING = (
    "image: Hounsfield units expected (the manifest gives a window), but all values lie in 0..255: "
    "was it exported as 8-bit?"
)


def build_index(
    manifest: Manifest,
    root: Path | str,
    *,
    cache: Path | None = None,
    keep: Keep | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Find and check every case of a task; each file is opened once.

    Args:
        manifest: The task.
        root: Folder that its patterns start from.
        cache: JSON file that remembers sound cases by path, size and modification time, so that unchanged files are not read
            again. It is made when missing and ignored when damaged.
        keep: Gets the row and the volume of each sound case that is read, so that nobody has to read it again.
        progress: Whether to show a progress bar.

    Returns:
        One row per case, by domain in the manifest's order and case in natural order: ``domain``, ``case``, ``patient``,
        ``image`` and ``label`` (relative to ``root``), ``bytes`` (of both), ``image_sha256``, ``label_sha256``, ``recipe`` (names
        what a synthetic case was made by; else ""), ``shape`` and ``spacing`` (text ``ZxHxW``; mm), ``orientation``, ``organs``
        that are there, ``voxels_<organ>`` each, ``warning``, ``fault`` ("" when sound). A domain without any case has one row,
        without a case but with the fault.

    Raises:
        StudyError: ``root`` is no folder, or holds nothing of the task at all. One bad case never raises.
    """
    root = Path(root)
    cases = {domain: find_cases(manifest, root, domain) for domain in manifest.domains}
    _require_something(manifest, root, cases)
    remembered = _read_cache(cache)
    pairs = [(domain, case) for domain in cases for case in sorted(cases[domain], key=natural)]
    rows = {domain: [] if cases[domain] else [_empty_row(manifest, domain)] for domain in cases}
    for domain, case in track(pairs, f"checking {manifest.name}", enabled=progress):
        files = cases[domain][case]
        stamp = _state_of_files(manifest, root, domain, files)
        row = remembered.get(stamp) or _inspect(manifest, root, domain, case, files, keep)
        rows[domain].append({**row, "stamp": stamp})
    in_order = [row for domain in rows.values() for row in domain]
    _add_faults_between_cases(manifest, in_order)
    _write_cache(cache, in_order)
    return pd.DataFrame(in_order, columns=_columns(manifest))


def require_sound(index: pd.DataFrame) -> None:
    """Raise a StudyError that lists every fault of an index, a line each, if there is any."""
    faults = list_faults(index)
    if faults:
        raise StudyError("\n".join([f"{len(faults)} fault(s) in the data, nothing was started:", *faults]))


def list_faults(index: pd.DataFrame, column: str = "fault") -> list[str]:
    """Return ``domain/case: what is wrong`` for every row with a fault (or, by ``column``, a warning)."""
    bad = index[index[column] != ""]
    return [
        f"{domain}/{case or '*'}: {text}"
        for domain, case, text in zip(bad["domain"], bad["case"], bad[column], strict=True)
    ]


def index_hash(index: pd.DataFrame) -> str:
    """Return 16 hexadecimal digits that name the data: cases and what they hold (`content_of`), not where they lie."""
    rows = [{str(key): str(value) for key, value in row.items()} for row in index.to_dict("records")]
    return data_hash([row["domain"], row["case"], *content_of(row)] for row in rows)


def data_hash(cases: Iterable[Sequence[str]]) -> str:
    """Return the name of data, from domain, case and content (`content_of`) of every case."""
    return digest(sorted(map(list, cases)))


def content_of(row: Mapping[str, Any]) -> list[str]:
    """Return what names the content of a case, from its row: what made it, or else its files' bytes.

    A synthetic case is named by its recipe because its bytes are those of the machine's zlib and arithmetic.
    """
    return [row["recipe"]] if row["recipe"] else [row["image_sha256"], row["label_sha256"]]


def read_sidecar(image: Path) -> tuple[dict[str, Any], list[str]]:
    """Return by what a synthetic case was made and the hashes of its two files; both empty where nothing beside it says so."""
    try:
        record = json.loads(image.with_name(f"{image.name.partition('.')[0]}.json").read_text())
        return dict(record["recipe"]), list(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, []


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts ``Case2`` before ``Case10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(text) if part]


def find_cases(manifest: Manifest, root: Path, domain: str) -> dict[str, Files]:
    """Find the files of a domain below a folder: case -> paths of image and label, relative to it; one each where all is well."""
    images, labels = (_match(manifest.pattern(domain, kind), root) for kind in ("image", "label"))
    taken = {path for paths in labels.values() for path in paths}  # "{case}.nii.gz" fits the label files too
    cases: dict[str, Files] = defaultdict(lambda: {"image": [], "label": []})
    for case, paths in images.items():
        if own := [path for path in paths if path not in taken]:
            cases[case]["image"] = own
    for case, paths in labels.items():
        cases[case]["label"] = paths
    return dict(cases)


def _match(pattern: str, root: Path) -> dict[str, list[Path]]:
    """Return case -> the files below ``root`` that fit; ``.nii``, ``.nii.gz`` and ``.NII.GZ`` are the same to a pattern."""
    first, *others = pattern.removesuffix(".gz").removesuffix(".nii").split("{case}")
    expression = re.escape(first) + "(?P<case>[^/]+)" + "(?P=case)".join(map(re.escape, others))
    compiled = re.compile(expression + r"\.(?i:nii(\.gz)?)")
    escaped = "*".join(re.sub(r"([*?[])", r"[\1]", piece) for piece in (first, *others))
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.glob(escaped + ".[nN][iI][iI]*")):
        relative = path.relative_to(root)
        match = compiled.fullmatch(relative.as_posix())
        if match and not relative.name.startswith("."):  # half-written files are hidden
            files[match["case"]].append(relative)
    return files


def _require_something(manifest: Manifest, root: Path, cases: dict[str, Any]) -> None:
    advice = f" To get the data: {' '.join(manifest.obtain.split())}" if manifest.obtain else ""
    if not root.is_dir():
        raise StudyError(
            f"there is no data folder {root} for task {manifest.name!r}: give the right one.{advice}"
        )
    if not any(cases.values()):
        pattern = manifest.pattern(next(iter(manifest.domains)), "image")
        files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        names = sorted(path.relative_to(root).as_posix() for path in islice(files, 3))
        raise StudyError(
            f"no case of {manifest.name!r} below {root} (looked for {pattern}, found {', '.join(names) or 'no file at all'}): "
            f"give the right folder or correct the pattern.{advice}"
        )


def _columns(manifest: Manifest) -> list[str]:
    facts = ["domain", "case", "patient", "image", "label", "bytes", "image_sha256", "label_sha256", "recipe"]
    voxels = [f"voxels_{organ.name}" for organ in manifest.organs]
    return [*facts, "shape", "spacing", "orientation", "organs", *voxels, "warning", "fault"]


def _empty_row(manifest: Manifest, domain: str, case: str = "") -> Row:
    """Return the row of a case that nothing is known of yet, or the row of a domain without cases."""
    counts = {"bytes": 0, **{f"voxels_{organ.name}": 0 for organ in manifest.organs}}
    blank = dict.fromkeys([*_columns(manifest), "voxels", "stamp"], "")
    patterns = " or ".join(manifest.pattern(domain, kind) for kind in ("image", "label"))
    fault = f"no file fits its pattern ({patterns}): get this domain's data, or take it out of the manifest."
    return {**blank, **counts, "domain": domain, "case": case, "fault": "" if case else fault}


def _inspect(manifest: Manifest, root: Path, domain: str, case: str, files: Files, keep: Keep | None) -> Row:
    """Return the row of one case, with all its faults."""
    row = _empty_row(manifest, domain, case)
    row["patient"], warnings = _patient(manifest, case)
    faults: list[str] = []
    scans: dict[str, Scan] = {}
    for kind, reader in (("image", read_image), ("label", read_label)):
        row[kind] = files[kind][0].as_posix() if files[kind] else ""
        try:
            _require_single(files[kind], kind, manifest.pattern(domain, kind), case)
            scan = scans[kind] = reader(root / files[kind][0])
        except StudyError as error:
            faults.append(str(error))
        else:
            row[f"{kind}_sha256"], row["bytes"] = scan.sha256, row["bytes"] + scan.bytes
            warnings += [f"{kind}: {warning}." for warning in scan.warnings]
    if "image" in scans:
        warnings += _describe(manifest, domain, scans["image"], row)
    if len(scans) == 2:
        recipe, hashes = read_sidecar(root / row["image"])
        row["recipe"] = digest(recipe) if hashes == [row["image_sha256"], row["label_sha256"]] else ""
        organs, wrong = check_pair(manifest, domain, scans["image"], scans["label"], root / row["label"])
        faults += wrong
        for number, organ in enumerate(manifest.organs, start=1):
            row[f"voxels_{organ.name}"] = int((organs == number).sum())
        row["organs"] = ", ".join(organ.name for organ in manifest.organs if row[f"voxels_{organ.name}"])
        if keep and not faults:
            keep(row, in_slices_frame(domain, case, scans["image"], organs))
    return {**row, "fault": " ".join(faults), "warning": " ".join(warnings)}


def _require_single(paths: list[Path], kind: str, pattern: str, case: str) -> None:
    if not paths:
        path = pattern.replace("{case}", case)
        raise StudyError(f"has no {kind}: add {path}, or take the case out of the folder.")
    if len(paths) > 1:
        names = " and ".join(path.as_posix() for path in paths)
        raise StudyError(f"has two {kind} files ({names}): remove one.")


def _describe(manifest: Manifest, domain: str, image: Scan, row: Row) -> list[str]:
    """Fill in what the image tells, and return what is odd about its values."""
    row["shape"] = "x".join(map(str, image.geometry.slices_shape))
    row["spacing"] = "x".join(f"{side:.4g}" for side in image.geometry.spacing)
    row["orientation"] = image.geometry.orientation
    row["voxels"] = hashlib.sha256(to_slices(image.data, image.geometry).tobytes()).hexdigest()
    window = (manifest.domain(domain).intensity or manifest.intensity).window
    eight_bit = window is not None and image.data.min() >= 0 and image.data.max() <= 255
    return [_HU_WARNING] if eight_bit else []


def _patient(manifest: Manifest, case: str) -> tuple[str, list[str]]:
    """Return a case's patient, and a warning where its name does not tell it."""
    match = re.search(manifest.patient, case) if manifest.patient else None
    if (match and match.group(1)) or not manifest.patient:
        return (match.group(1) if match else case), []
    return case, [f"its name does not fit 'patient: {manifest.patient}': it counts as a patient of its own."]


def _add_faults_between_cases(manifest: Manifest, rows: list[Row]) -> None:
    """Add the faults that show between cases: each would put one person into training and testing."""
    first: dict[str, str] = {}
    homes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        name, voxels = f"{row['domain']}/{row['case']}", str(row["voxels"])  # of equal bytes or packed anew
        if voxels and voxels in first:
            _append_fault(row, f"is the same scan as {first[voxels]}, voxel by voxel: remove one of the two.")
        elif voxels:
            first[voxels] = name
        if row["case"]:
            homes[str(row["patient"])].add(str(row["domain"]))
    present = [row for row in rows if row["case"]]
    if all(_patient(manifest, str(row["case"]))[1] for row in present):
        fault = f"'patient: {manifest.patient}' fits no case of the task: correct it, or take it out."
        _append_fault(present[0], fault)
    names = {(str(row["domain"]), str(row["case"])) for row in rows}
    for row in rows:
        if second := _second_label(row, names):
            _append_fault(row, f"Is it a second label of case {second}? Then bring all organs into one file.")
        others = sorted(homes[str(row["patient"])] - {str(row["domain"])}) if row["case"] else []
        if manifest.unique_patients and others:
            _append_fault(
                row, f"patient {row['patient']!r} is in domain {', '.join(others)} too: keep one of them."
            )


def _second_label(row: Row, names: set[tuple[str, str]]) -> str:
    """Return the case that an image without a label may be a further label of: it is named like the case, and more."""
    if not row["image"] or row["label"]:
        return ""
    longer = [
        case for home, case in names if home == row["domain"] and str(row["case"]).startswith(f"{case}_")
    ]
    return max(longer, key=len, default="")


def _append_fault(row: Row, fault: str) -> None:
    row["fault"] = f"{row['fault']} {fault}".strip()


def _state_of_files(manifest: Manifest, root: Path, domain: str, files: Files) -> str:
    """Name the state of a case's files without reading them; "" when they cannot even be looked at."""
    paths = [(kind, path) for kind in ("image", "label") for path in files[kind]]
    try:
        states = [(root / path).stat() for _, path in paths]
    except OSError:
        return ""
    sizes = [(state.st_size, state.st_mtime_ns) for state in states]
    named = [[kind, path.as_posix(), *size] for (kind, path), size in zip(paths, sizes, strict=True)]
    rules = [manifest.preparation(domain), manifest.patient]
    return digest([INDEX_VERSION, str(root.resolve()), domain, named, rules])


def _read_cache(cache: Path | None) -> dict[str, Row]:
    """Return stamp -> row of the sound cases that are remembered; faulty ones are always looked at again."""
    try:
        rows = json.loads(cache.read_bytes()) if cache else []
        return {row["stamp"]: row for row in rows if row["stamp"] and not row["fault"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_cache(cache: Path | None, rows: list[Row]) -> None:
    """Remember an index; a file that holds the same already is left alone, for others may be reading it."""
    text = json.dumps(rows, indent=1)
    if cache and not (cache.is_file() and cache.read_bytes() == text.encode()):
        write_text(cache, text)
