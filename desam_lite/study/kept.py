"""The kept study: finished runs in a few files of open formats, and run directories made of them again.

Its folder holds ``runs.csv.gz`` (a row per run: its ``run.json``), ``metrics.csv.gz``, ``history.csv.gz`` and
``splits.csv.gz`` (the rows of all runs, with a column ``run``), of few runs ``masks/RUN.npz`` (``TARGET/CASE`` -> organ ids
``(Z, H, W)`` uint8) and ``models/RUN.safetensors`` (in half precision, with the card ``RUN.json``), and ``sha256sums.txt``.
"""

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load_file, save_file

from desam_lite.data.manifest import load_manifest
from desam_lite.evaluation.scoring import prediction_path, read_prediction
from desam_lite.methods.run_spec import RunSpec, make_spec
from desam_lite.training.method import CARD, TENSORS
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path, sha256_file, write_json, write_text

LIMIT = 30_000_000
"""Largest kept study, in bytes."""
MARK = "kept"
"""File in a run directory that was made from a kept study: that study's folder."""
MASKS_KEPT = "masks.npz"
"""File in such a directory: the masks that were kept of the run."""
SHOWN = "shown"
"""Folder in a run directory with an empty file ``TARGET/CASE`` for each prediction that a page has asked for."""
_TABLES = {"metrics": "metrics.csv", "history": "history.csv", "splits": "split.csv"}
_NAMES = ("run", "target", "case", "organ", "part")
_TEXTS = ("run", "task", "label", "method_module", "device", "started", "stopped", "masks", "finished")
_SUMS = "sha256sums.txt"
DO_ANEW = "do it anew with 'desam-lite reproduce --workspace results/anew'"


def kept_folder(workspace: Path | str) -> Path:
    """Return where the kept study of a workspace is, if it has one; that of ``results`` is in the repository."""
    return Path(workspace) / "published"


def find_kept(workspace: Path | str) -> "KeptStudy | None":
    """Return the kept study of a workspace, or None."""
    folder = kept_folder(workspace)
    return read_kept(folder) if (folder / _SUMS).is_file() else None


class KeptStudy:
    """A kept study on disk.

    Args:
        folder: Where it is.

    Raises:
        StudyError: A file is missing or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._sums = _read_sums(folder)
        rows = self._read("runs", str).to_dict("records")
        self._infos = {str(row["run"]): _parse_row(row) for row in rows}
        self._tables = {name: self._read(name, dict.fromkeys(_NAMES, str)) for name in _TABLES}
        self._rows = {name: dict(iter(table.groupby("run"))) for name, table in self._tables.items()}
        self._runs = {name: (str(info["task"]), _spec_of(info)) for name, info in self._infos.items()}

    def __contains__(self, name: object) -> bool:
        """Whether a run of this name is kept."""
        return name in self._infos

    @property
    def names(self) -> list[str]:
        """The names of its runs."""
        return list(self._infos)

    @property
    def specs(self) -> list[RunSpec]:
        """The specifications of its runs, in the order of `names`."""
        return [spec for _, spec in self._runs.values()]

    def info(self, name: str) -> dict[str, Any]:
        """Return the content of ``run.json`` of a run, with the time when it was ``finished``.

        Raises:
            StudyError: It is not kept.
        """
        if name not in self:
            raise StudyError(f"run {name} is not kept in {self.folder}: {DO_ANEW}.")
        return dict(self._infos[name])

    def metrics(self) -> pd.DataFrame:
        """Return the scores of all runs, with the columns of `desam_lite.study.run.collect_metrics`."""
        return identify_rows(self._tables["metrics"], self._runs)

    def history(self) -> pd.DataFrame:
        """Return the epochs of all runs, with the columns of `desam_lite.study.run.collect_history`."""
        return identify_rows(self._tables["history"], self._runs)

    def restore(self, name: str, directory: Path) -> None:
        """Make the directory of a run, ``done`` last; what an unfinished one left there goes.

        Raises:
            StudyError: The run is not kept, or one of its files is damaged.
        """
        info = self.info(name)
        shutil.rmtree(directory / "predictions", ignore_errors=True)
        for table, file in _TABLES.items():
            if name in self._rows[table]:
                rows = self._rows[table][name].drop(columns="run")
                rows = rows.dropna(axis="columns", how="all") if table == "history" else rows
                with atomic_path(directory / file) as temporary:
                    rows.to_csv(temporary, index=False)
        places = {
            f"masks/{name}.npz": MASKS_KEPT,
            f"models/{name}.safetensors": TENSORS,
            f"models/{name}.json": CARD,
        }
        for source, target in places.items():
            if source in self._sums:
                with atomic_path(directory / target) as temporary:
                    shutil.copyfile(self._path(source), temporary)
        write_text(directory / MARK, f"{self.folder}\n")
        finished = info.pop("finished")
        write_json(directory / "run.json", info)
        write_text(directory / "done", f"{finished}\n")

    def _path(self, name: str) -> Path:
        """Return a file of the study, once its content is what was kept."""
        path = self.folder / name
        if not path.is_file() or sha256_file(path) != self._sums.get(name):
            raise StudyError(
                f"{path} is not what was kept: get it back with 'git checkout -- {self.folder}'."
            )
        return path

    def _read(self, name: str, kinds: Any) -> pd.DataFrame:
        return pd.read_csv(self._path(f"{name}.csv.gz"), dtype=kinds)


def read_kept(folder: Path | str) -> KeptStudy:
    """Read a kept study; one that has not changed is read once per process.

    Raises:
        StudyError: There is none, or a file is missing or damaged.
    """
    sums = Path(folder).resolve() / _SUMS
    if not sums.is_file():
        raise StudyError(f"there is no kept study in {folder}: 'desam-lite keep' writes one.")
    return _read_as_of(sums.parent, sums.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_as_of(folder: Path, _mtime_ns: int) -> KeptStudy:
    return KeptStudy(folder)


def identify_rows(frame: pd.DataFrame, runs: Mapping[str, tuple[str, RunSpec]]) -> pd.DataFrame:
    """Return rows about runs (column ``run``) with the columns that say which runs these are.

    Args:
        frame: One row or more of each run.
        runs: Name -> task and specification.
    """
    names = ("source", "method", "label", "variant", "prompt_mode", "backbone", "weights", "seed")
    columns: dict[str, Any] = {
        "run": frame["run"],
        "task": frame["run"].map({n: task for n, (task, _) in runs.items()}),
    }
    for field in names:
        columns[field] = frame["run"].map({name: getattr(spec, field) for name, (_, spec) in runs.items()})
    if "target" in frame:
        columns["in_domain"] = frame["target"] == columns["source"]
    return frame.drop(columns="run").assign(**columns)


def write_kept(directories: Sequence[Path], folder: Path, models: Collection[str]) -> pd.DataFrame:
    """Write finished runs as a kept study, in place of the one in the folder; equal runs give equal bytes.

    Masks are kept of what pages have asked for. Of runs on others' scans nothing is kept but scores.

    Args:
        directories: Of the runs.
        folder: Where the study goes.
        models: Names of the runs whose models are kept.

    Returns:
        What weighs how much: ``part``, ``files``, ``bytes``.

    Raises:
        StudyError: A run is not finished, or all is larger than `LIMIT`; then the folder is left as it was.
    """
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    directories = sorted(set(directories), key=lambda directory: directory.name)
    infos = {directory.name: _read_info(directory) for directory in directories}
    _write_table(pd.DataFrame([_format_row(info) for info in infos.values()]), new / "runs.csv.gz")
    for table, file in _TABLES.items():
        paths = {
            directory.name: directory / file for directory in directories if (directory / file).is_file()
        }
        frames = [
            pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str)).assign(run=name)
            for name, path in paths.items()
        ]
        _write_table(pd.concat(frames) if frames else pd.DataFrame(columns=["run"]), new / f"{table}.csv.gz")
    for directory in directories:
        if load_manifest(infos[directory.name]["files"]["manifest"]).synthetic:
            _keep_masks(directory, new / "masks")
            if directory.name in models and (directory / TENSORS).is_file():
                _keep_model(directory, new / "models")
    files = sorted(path for path in new.rglob("*") if path.is_file())
    write_text(new / _SUMS, "".join(f"{sha256_file(path)}  {path.relative_to(new)}\n" for path in files))
    sizes: Counter[str] = Counter()
    for path in files:
        sizes[path.relative_to(new).parts[0]] += path.stat().st_size
    weights = pd.DataFrame(
        [
            (part, sum(path.relative_to(new).parts[0] == part for path in files), size)
            for part, size in sizes.items()
        ],
        columns=["part", "files", "bytes"],
    )
    if weights["bytes"].sum() > LIMIT:
        shutil.rmtree(new)
        raise StudyError(
            f"{weights['bytes'].sum() / 1e6:.0f} MB are more than the {LIMIT / 1e6:.0f} MB that may be kept: keep fewer models "
            f"or masks.\n{weights.to_string(index=False)}"
        )
    write_text(new / "README.md", _describe(infos, weights))
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return weights


def _keep_masks(directory: Path, folder: Path) -> None:
    shown = directory / SHOWN
    places = sorted(mark.relative_to(shown).parts for mark in shown.glob("*/*"))
    masks = {
        f"{target}/{case}": read_prediction(prediction_path(directory, target, case))
        for target, case in places
    }
    if masks:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / f"{directory.name}.npz", allow_pickle=False, **masks)


def _keep_model(directory: Path, folder: Path) -> None:
    """Keep a model in half precision, but for tensors with numbers that this cannot hold."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: _halved(tensor) for name, tensor in load_file(directory / TENSORS).items()},
        folder / f"{directory.name}.safetensors",
    )
    shutil.copyfile(directory / CARD, folder / f"{directory.name}.json")


def _halved(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if tensor.dtype != np.float32 or np.abs(tensor).max(initial=0) > np.finfo(np.float16).max:
        return tensor
    return tensor.astype(np.float16)


def _read_info(directory: Path) -> dict[str, Any]:
    try:
        finished = (directory / "done").read_text().strip()
        return {**json.loads((directory / "run.json").read_text()), "finished": finished}
    except (OSError, ValueError) as error:
        raise StudyError(
            f"'{directory}' is no finished run: do it first, as with 'desam-lite reproduce'."
        ) from error


def _format_row(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a run: texts as they are, the rest as JSON."""
    return {
        key: info[key] if key in _TEXTS else json.dumps(info[key], sort_keys=True) for key in sorted(info)
    }


def _parse_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    given = {str(key): value for key, value in row.items() if not pd.isna(value)}
    return {key: value if key in _TEXTS else json.loads(value) for key, value in given.items()}


def _spec_of(info: Mapping[str, Any]) -> RunSpec:
    return make_spec(**info["identity"]["settings"], **info["files"])


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table with numbers of six digits, its bytes named by its content alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode())


def _read_sums(folder: Path) -> dict[str, str]:
    lines = (folder / _SUMS).read_text().splitlines()
    return {name: hashed for hashed, _, name in (line.partition("  ") for line in lines)}


def _describe(infos: Mapping[str, Mapping[str, Any]], weights: pd.DataFrame) -> str:
    """Return the README of a kept study."""
    commits = sorted({str((info["code"].get("commit") or "no commit")[:10]) for info in infos.values()})
    days = sorted(info["finished"][:10] for info in infos.values())
    licences = sorted({load_manifest(info["files"]["manifest"]).licence for info in infos.values()})
    rows = "\n".join(f"| `{row.part}` | {row.files} | {row.bytes:,} |" for row in weights.itertuples())
    return f"""# The kept study

{len(infos)} runs, finished from {days[0]} to {days[-1]} by the code of commit {", ".join(commits)}. Written by `desam-lite keep`;
`desam_lite/study/kept.py` says what each file is, `sha256sum -c {_SUMS}` checks all. Runs on others' scans are scores alone.

| part | files | bytes |
|---|---|---|
{rows}

Licence of the scans: {"; ".join(licences)}.
"""
