"""The case table of a task: which cases there are, what they are like, and all that is wrong with them."""

import re
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.data.cases import pair_faults, to_organ_ids
from desam_lite.data.manifest import Manifest
from desam_lite.data.nifti import Scan, read_image, read_label
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import digest, write_text
from desam_lite.utils.progress import track

INDEX_VERSION = 2
_MISSING = ""
_DIGITS = re.compile(r"(\d+)")
_HU_WARNING = (
    "image: Hounsfield units expected (the manifest gives a window), but all values lie in 0..255: "
    "was it exported as 8-bit?"
)


def build_index(
    manifest: Manifest, root: Path | str, *, cache: Path | None = None, progress: bool = True
) -> pd.DataFrame:
    """Find and check every case of a task.

    Args:
        manifest: The task.
        root: Folder that its patterns start from.
        cache: CSV file that remembers sound cases by path, size and modification time, so that unchanged
            files are not read again. It is made when missing and ignored when damaged.
        progress: Whether to show a progress bar.

    Returns:
        One row per case, by domain in the manifest's order and case in natural order: ``domain``, ``case``,
        ``patient``, ``image`` and ``label`` (relative to ``root``), ``bytes`` (of both), ``image_sha256``,
        ``label_sha256``, ``shape`` and ``spacing`` (text ``ZxHxW``; mm), ``orientation``, ``organs`` that are
        there, ``voxels_<organ>`` each, ``warning``, ``fault`` ("" when sound). A domain without any case has one row,
        without a case but with the fault.

    Raises:
        StudyError: ``root`` is no folder, or holds nothing of the task at all. One bad case never raises.
    """
    root = Path(root)
    found = {domain: find_cases(manifest, root, domain) for domain in manifest.domains}
    _require_something(manifest, root, found)
    known = _read_cache(cache)
    pairs = [(domain, case) for domain, cases in found.items() for case in cases]
    rows = []
    for domain, case in track(pairs, f"checking {manifest.name}", enabled=progress):
        files = found[domain][case]
        stamp = _stamp(manifest, root, domain, files)
        rows.append(known.get(stamp) or {**_inspect(manifest, root, domain, case, files), "stamp": stamp})
    rows += [_empty_domain(manifest, domain) for domain, cases in found.items() if not cases]
    _add_faults_between_cases(manifest, rows)
    order = {domain: number for number, domain in enumerate(manifest.domains)}
    rows.sort(key=lambda row: (order[str(row["domain"])], natural(str(row["case"]))))
    index = pd.DataFrame(rows, columns=[*_columns(manifest), "stamp"])
    _write_cache(cache, index)
    return index.drop(columns="stamp")


def require_sound(index: pd.DataFrame) -> None:
    """Raise when any case of an index is at fault.

    Raises:
        StudyError: Lists every fault, a line each.
    """
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
    """Return 16 hexadecimal digits that name the data: cases and what their files hold, not where they lie."""
    columns = ["domain", "case", "image_sha256", "label_sha256"]
    return digest(sorted([str(value) for value in row] for row in index[columns].to_numpy()))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts ``Case2`` before ``Case10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(text) if part]


def find_cases(manifest: Manifest, root: Path, domain: str) -> dict[str, dict[str, list[Path]]]:
    """Find the files of a domain.

    Args:
        manifest: The task.
        root: Folder that its patterns start from.
        domain: Which domain.

    Returns:
        case -> ``{"image": paths, "label": paths}``, paths relative to ``root``; one each where all is well.
    """
    labels = _match(manifest.pattern(domain, "label"), root)
    images = _match(manifest.pattern(domain, "image"), root)
    taken = {path for paths in labels.values() for path in paths}  # "{case}.nii.gz" fits the label files too
    cases: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"image": [], "label": []})
    for case, paths in images.items():
        if own := [path for path in paths if path not in taken]:
            cases[case]["image"] = own
    for case, paths in labels.items():
        cases[case]["label"] = paths
    return dict(cases)


def _match(pattern: str, root: Path) -> dict[str, list[Path]]:
    """Return case -> the files below ``root`` that fit; ``.nii``, ``.nii.gz`` and ``.NII.GZ`` are the same to a pattern."""
    stem = pattern.removesuffix(".gz").removesuffix(".nii")
    pieces = stem.split("{case}")
    expression = (
        re.escape(pieces[0])
        + r"(?P<case>[^/]+)"
        + r"(?P=case)".join(re.escape(piece) for piece in pieces[1:])
    )
    compiled = re.compile(expression + r"\.(?i:nii(\.gz)?)")
    escaped = "*".join(re.sub(r"([*?[])", r"[\1]", piece) for piece in pieces)
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.glob(escaped + ".[nN][iI][iI]*")):
        relative = path.relative_to(root)
        fits = compiled.fullmatch(relative.as_posix())
        if fits and not relative.name.startswith("."):  # half-written files are hidden
            found[fits["case"]].append(relative)
    return found


def _require_something(manifest: Manifest, root: Path, found: dict[str, Any]) -> None:
    advice = f" To get the data: {' '.join(manifest.obtain.split())}" if manifest.obtain else ""
    if not root.is_dir():
        raise StudyError(
            f"there is no data folder {root} for task {manifest.name!r}: give the right one.{advice}"
        )
    if not any(found.values()):
        looked = manifest.pattern(next(iter(manifest.domains)), "image")
        raise StudyError(
            f"no case of {manifest.name!r} below {root} (looked for {looked}, found {_first_files(root)}): "
            f"give the right folder or correct the pattern.{advice}"
        )


def _first_files(root: Path) -> str:
    """Name a few files of a folder, for the reader to compare with a pattern."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = sorted(path.relative_to(root).as_posix() for path in islice(files, 3))
    return ", ".join(names) or "no file at all"


def _columns(manifest: Manifest) -> list[str]:
    facts = ["domain", "case", "patient", "image", "label", "bytes", "image_sha256", "label_sha256"]
    voxels = [f"voxels_{organ.name}" for organ in manifest.organs]
    return [*facts, "shape", "spacing", "orientation", "organs", *voxels, "warning", "fault"]


def _empty_row(manifest: Manifest, domain: str, case: str, fault: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_columns(manifest), _MISSING)
    counts = {"bytes": 0, **{f"voxels_{organ.name}": 0 for organ in manifest.organs}}
    return {**row, **counts, "domain": domain, "case": case, "fault": fault, "stamp": ""}


def _empty_domain(manifest: Manifest, domain: str) -> dict[str, Any]:
    looked = " or ".join(manifest.pattern(domain, kind) for kind in ("image", "label"))
    fault = f"no file fits its pattern ({looked}): get this domain's data, or take it out of the manifest."
    return _empty_row(manifest, domain, "", fault)


def _inspect(
    manifest: Manifest, root: Path, domain: str, case: str, files: dict[str, list[Path]]
) -> dict[str, Any]:
    """Return the row of one case, with all its faults."""
    row = _empty_row(manifest, domain, case, "")
    row["patient"] = _patient(manifest, case)
    row.update({kind: paths[0].as_posix() for kind, paths in files.items() if paths})
    faults, warnings = [], []
    scans: dict[str, Scan] = {}
    for kind, reader in (("image", read_image), ("label", read_label)):
        try:
            scans[kind] = reader(root / _only(files[kind], kind, manifest.pattern(domain, kind), case))
        except StudyError as error:
            faults.append(str(error))
        else:
            row[f"{kind}_sha256"] = scans[kind].sha256
            row["bytes"] += scans[kind].bytes
            warnings += [f"{kind}: {warning}." for warning in scans[kind].warnings]
    if "image" in scans:
        warnings += _describe(manifest, domain, scans["image"], row)
    if len(scans) == 2:
        faults += pair_faults(manifest, domain, scans["image"], scans["label"], root / str(row["label"]))
        organs, _ = to_organ_ids(scans["label"].data, manifest, domain)
        for number, organ in enumerate(manifest.organs, start=1):
            row[f"voxels_{organ.name}"] = int((organs == number).sum())
        row["organs"] = ", ".join(organ.name for organ in manifest.organs if row[f"voxels_{organ.name}"])
    return {**row, "fault": " ".join(faults), "warning": " ".join(warnings)}


def _only(paths: list[Path], kind: str, pattern: str, case: str) -> Path:
    """Return the one file of a case, or say that there is none or more than one."""
    if not paths:
        wanted = pattern.replace("{case}", case)
        raise StudyError(f"has no {kind}: add {wanted}, or take the case out of the folder.")
    if len(paths) > 1:
        names = " and ".join(path.as_posix() for path in paths)
        raise StudyError(f"has two {kind} files ({names}): remove one.")
    return paths[0]


def _describe(manifest: Manifest, domain: str, image: Scan, row: dict[str, Any]) -> list[str]:
    """Fill in what the image tells, and return what is odd about its values."""
    geometry = image.geometry
    row["shape"] = "x".join(map(str, geometry.slices_shape))
    row["spacing"] = "x".join(f"{side:.4g}" for side in geometry.spacing)
    row["orientation"] = geometry.orientation
    window = (manifest.domain(domain).intensity or manifest.intensity).window
    eight_bit = window is not None and image.data.min() >= 0 and image.data.max() <= 255
    return [_HU_WARNING] if eight_bit else []


def _patient(manifest: Manifest, case: str) -> str:
    found = re.search(manifest.patient, case) if manifest.patient else None
    return found.group(1) or case if found else case


def _add_faults_between_cases(manifest: Manifest, rows: list[dict[str, Any]]) -> None:
    """Add the faults that show between cases: each would put one person into training and testing."""
    first: dict[str, str] = {}
    homes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        name, sha256 = f"{row['domain']}/{row['case']}", str(row["image_sha256"])
        if sha256 and sha256 in first:
            _append_fault(row, f"is the same scan as {first[sha256]}, bit by bit: remove one of the two.")
        elif sha256:
            first[sha256] = name
        if row["case"]:
            homes[str(row["patient"])].add(str(row["domain"]))
    names = {(str(row["domain"]), str(row["case"])) for row in rows}
    for row in rows:
        if second := _second_label(row, names):
            _append_fault(row, f"Is it a second label of case {second}? Then bring all organs into one file.")
        others = sorted(homes[str(row["patient"])] - {str(row["domain"])}) if row["case"] else []
        if manifest.unique_patients and others:
            _append_fault(
                row, f"patient {row['patient']!r} is in domain {', '.join(others)} too: keep one of them."
            )


def _second_label(row: dict[str, Any], names: set[tuple[str, str]]) -> str:
    """Return the case that an image without a label may be a further label of: it is named like the case, and more."""
    if not row["image"] or row["label"]:
        return ""
    longer = [
        case for home, case in names if home == row["domain"] and str(row["case"]).startswith(f"{case}_")
    ]
    return max(longer, key=len, default="")


def _append_fault(row: dict[str, Any], fault: str) -> None:
    row["fault"] = f"{row['fault']} {fault}".strip()


def _stamp(manifest: Manifest, root: Path, domain: str, files: dict[str, list[Path]]) -> str:
    """Name the state of a case's files without reading them; "" when they cannot even be looked at."""
    try:
        states = [
            [kind, path.as_posix(), (state := (root / path).stat()).st_size, state.st_mtime_ns]
            for kind in ("image", "label")
            for path in files[kind]
        ]
    except OSError:
        return ""
    rules = [manifest.preparation(domain), manifest.patient]
    return digest([INDEX_VERSION, str(root.resolve()), domain, states, rules])


def _read_cache(cache: Path | None) -> dict[str, dict[str, Any]]:
    """Return stamp -> row of the sound cases that are remembered; faulty ones are always looked at again."""
    if cache is None or not cache.is_file():
        return {}
    try:
        table = pd.read_csv(cache, dtype=str, keep_default_na=False)
        numbers = [column for column in table if column == "bytes" or str(column).startswith("voxels_")]
        table = table.astype(dict.fromkeys(numbers, "int64"))
        rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
        return {str(row["stamp"]): row for row in rows if row["stamp"] and not row["fault"]}
    except (ValueError, KeyError, OSError):
        return {}


def _write_cache(cache: Path | None, index: pd.DataFrame) -> None:
    """Remember an index; a file that says the same already is left alone, for others may be reading it."""
    if cache is None:
        return
    text = index.to_csv(index=False)
    if not cache.is_file() or cache.read_bytes() != text.encode():
        write_text(cache, text)
