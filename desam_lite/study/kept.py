"""The kept study: finished runs in a few files of open formats, and run directories made of them again.

Its folder holds ``runs.csv.gz`` (a row per run: its ``run.json``), ``metrics.csv.gz``, ``history.csv.gz`` and
``splits.csv.gz`` (the rows of all runs, with a column ``run``), of few runs ``masks/RUN.npz`` (``TARGET/CASE`` -> organ ids
``(Z, H, W)`` uint8) and ``models/RUN.safetensors`` (in half precision, with the card ``RUN.json``), and ``sha256sums.txt``.
"""

import gzip
import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
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
from desam_lite.study.plans import kept_folder
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
_NAME_COLUMNS = dict.fromkeys(
    ("run", "key", "label", "source", "target", "case", "organ", "part", "dial", "kind"), str
)
"""Columns that hold names, which are texts even where they look like numbers."""
_TEXTS = ("run", "task", "label", "method_module", "device", "started", "stopped", "masks", "finished")
_SUMS = "sha256sums.txt"
DERIVED = "derived"
"""Folder in a run directory with the tables ``KIND/KEY.csv`` that pages have made of the run (`study.report.cache`)."""
DO_ANEW = "do it anew with 'desam-lite reproduce --workspace results/anew'"


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
        self._tables = {name: self._read(name) for name in _TABLES}
        self._rows = {name: dict(iter(table.groupby("run"))) for name, table in self._tables.items()}
        self._derived: dict[str, dict[Any, pd.DataFrame]] = {}
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

    def derived(self, kind: str, key: str) -> pd.DataFrame | None:
        """Return a table that a page made of a run, or None where it was not kept."""
        if kind not in self._derived:
            name = f"{DERIVED}/{kind}"
            table = self._read(name) if f"{name}.csv.gz" in self._sums else pd.DataFrame(columns=["key"])
            self._derived[kind] = dict(iter(table.groupby("key", sort=False)))
        rows = self._derived[kind].get(key)
        return None if rows is None else rows.drop(columns="key").reset_index(drop=True)

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

    def _read(self, name: str, kinds: Any = _NAME_COLUMNS) -> pd.DataFrame:
        return read_table(self._path(f"{name}.csv.gz"), kinds)


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


def read_table(path: Path, kinds: Any = _NAME_COLUMNS) -> pd.DataFrame:
    """Read a table whose columns of names are texts."""
    return pd.read_csv(path, dtype=kinds)


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


def write_kept(directories: Iterable[Path], folder: Path, models: Collection[str]) -> pd.DataFrame:
    """Write finished runs as a kept study, in place of the one in the folder; equal runs give equal bytes.

    Masks are kept of what pages have asked for. Of runs on others' scans neither masks nor models are kept.

    Args:
        directories: Of the runs.
        folder: Where the study goes.
        models: Names of the runs whose models are kept.

    Returns:
        What weighs how much: ``part``, ``files``, ``bytes``.

    Raises:
        StudyError: A run is not finished, or all is larger than `LIMIT`; then the folder is left as it was.
    """
    runs = {directory.name: directory for directory in sorted(directories, key=lambda path: path.name)}
    infos = {name: _read_info(directory) for name, directory in runs.items()}
    synthetic = {name for name, info in infos.items() if load_manifest(info["files"]["manifest"]).synthetic}
    for name in infos.keys() - synthetic:  # where others' scans lay is nobody's business
        infos[name]["files"]["data_root"] = f"data/{infos[name]['task']}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        _write_table(pd.DataFrame([_format_row(info) for info in infos.values()]), new / "runs.csv.gz")
        for table, file in _TABLES.items():
            paths = {name: directory / file for name, directory in runs.items()}
            digits = "%.6g" if table == "metrics" else None  # from seconds in a history runs are planned
            _write_table(_join_tables(paths, "run"), new / f"{table}.csv.gz", digits)
        derived = [path for place in runs.values() for path in sorted(place.glob(f"{DERIVED}/*/*.csv"))]
        for kind in sorted({path.parent.name for path in derived}):
            paths = {path.stem: path for path in derived if path.parent.name == kind}
            _write_table(_join_tables(paths, "key"), new / DERIVED / f"{kind}.csv.gz", "%.5g")
        for name, directory in runs.items():
            if name in synthetic:
                _keep_masks(directory, new / "masks")
            if name in synthetic and name in models:
                _keep_model(directory, new / "models")
        files = sorted(path for path in new.rglob("*") if path.is_file())
        write_text(new / _SUMS, "".join(f"{sha256_file(path)}  {path.relative_to(new)}\n" for path in files))
        parts = pd.DataFrame([(path.relative_to(new).parts[0], path.stat().st_size) for path in files])
        weights = parts.groupby(0)[1].agg(["count", "sum"]).reset_index()
        weights.columns = pd.Index(["part", "files", "bytes"])
        if (total := weights["bytes"].sum()) > LIMIT:
            raise StudyError(
                f"{total / 1e6:.1f} MB are more than the {LIMIT / 1e6:.1f} MB that may be kept: keep fewer models or runs.\n"
                f"{weights.to_string(index=False)}"
            )
        write_text(new / "README.md", _kept_readme(infos, weights))
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        new.rename(folder)
    return weights


def _join_tables(paths: Mapping[str, Path], column: str) -> pd.DataFrame:
    """Return the tables that are there below each other, with the name of each in a column."""
    frames = [read_table(path).assign(**{column: name}) for name, path in paths.items() if path.is_file()]
    return pd.concat(frames) if frames else pd.DataFrame(columns=[column])


def _keep_masks(directory: Path, folder: Path) -> None:
    places = sorted(mark.relative_to(directory / SHOWN).parts for mark in directory.glob(f"{SHOWN}/*/*"))
    masks = {
        f"{home}/{case}": read_prediction(prediction_path(directory, home, case)) for home, case in places
    }
    if masks:
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / f"{directory.name}.npz", allow_pickle=False, **masks)


def _keep_model(directory: Path, folder: Path) -> None:
    """Keep a model in half precision, but for tensors with numbers that this cannot hold."""
    folder.mkdir(exist_ok=True)
    if (directory / TENSORS).is_file():  # else it has none
        tensors = {name: _halved(tensor) for name, tensor in load_file(directory / TENSORS).items()}
        save_file(tensors, folder / f"{directory.name}.safetensors")
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


def _write_table(frame: pd.DataFrame, path: Path, digits: str | None = None) -> None:
    """Write a table, with numbers of so many digits; equal tables give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = frame.to_csv(index=False, float_format=digits, lineterminator="\n")
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode())


def _read_sums(folder: Path) -> dict[str, str]:
    lines = (folder / _SUMS).read_text().splitlines()
    return {name: hashed for hashed, _, name in (line.partition("  ") for line in lines)}


def _kept_readme(infos: Mapping[str, Mapping[str, Any]], weights: pd.DataFrame) -> str:
    """Return the README of a kept study."""
    commits = sorted({str((info["code"].get("commit") or "no commit")[:10]) for info in infos.values()})
    days = sorted(info["finished"][:10] for info in infos.values())
    days = list(dict.fromkeys((days[0], days[-1])))
    licences = sorted({load_manifest(info["files"]["manifest"]).licence for info in infos.values()})
    rows = "\n".join(f"| `{row.part}` | {row.files} | {row.bytes:,} |" for row in weights.itertuples())
    return f"""# The kept study

{len(infos)} runs, finished {" to ".join(days)}, of commit {", ".join(commits)}; written by `desam-lite keep`.
`desam_lite/study/kept.py` says what each file is, `sha256sum -c {_SUMS}` checks all. Runs on others' scans are scores alone.

| part | files | bytes |
|---|---|---|
{rows}

Licence of the scans: {"; ".join(licences)}
"""
