"""Running a notebook as a batch job, and checking that the pages of a book are what their sources say.

papermill runs the cells. What it lets pass is refused here, before anything runs: a notebook without a cell of parameters, a
parameter the notebook does not have, a value of another type.
"""

import ast
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from desam_lite.data.manifest import did_you_mean
from desam_lite.study.plans import project_root
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file, write_text

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

PAGE_LIMIT = 2_000_000
"""Largest executed notebook that becomes a page, in bytes."""

_TAG = "parameters"
_INJECTED = "injected-parameters"  # the tag of the cell that papermill adds
_TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "list[str]": (list[str], "a list of texts, as [A, B]"),
    "list[int]": (list[int], "a list of whole numbers, as [0, 1]"),
    "list[float]": (list[float], "a list of numbers, as [0.5, 1]"),
}
_METADATA = "desam_lite"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def execute_notebook(
    source: Path | str, out: Path | str, parameters: Mapping[str, Any] | None = None, *, progress: bool = True
) -> Path:
    """Run a notebook from top to bottom and write the executed copy, whole or not at all.

    The copy's metadata hold, under ``desam_lite``, the SHA-256 of the source and the parameters that were
    passed. The kernel works in the root of the repository, so that relative paths mean the same in every notebook.

    Args:
        source: The notebook; its cell tagged ``parameters`` holds ``name: type = literal`` lines.
        out: Where the executed copy goes.
        parameters: Values that replace the literals.
        progress: Whether to show a bar and what the cells print on standard error.

    Returns:
        ``out`` as a path.

    Raises:
        StudyError: The notebook or a parameter is at fault, or a cell failed; then ``out`` is left as it was, and the copy with
            the error is beside it under the name ``<name>.failed.ipynb``.
    """
    # Imported here, for they take seconds, and the plan only reads parameters.
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    class OwnKernel(AsyncKernelManager):
        """This interpreter's kernel: a "python3" on JUPYTER_PATH or in the home folder may be another's."""

        kernel_spec = KernelSpec(**get_kernel_dict())

    source, out, values = Path(source), Path(out), dict(parameters or {})
    _check_parameters(source, values)
    failed = out.with_name(f"{out.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / out.name
        try:
            papermill.execute_notebook(
                str(source),
                str(copy),
                parameters=values,
                kernel_name="python3",
                kernel_manager_class=OwnKernel,
                language="python",
                cwd=str(project_root(source)),
                progress_bar=progress,
                stderr_file=sys.stderr if progress else None,
            )
        except PapermillExecutionError as error:
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copy, failed)
            raise StudyError(
                f"notebook {source} stopped: {_explain(error)} The copy with the error is {failed}."
            ) from error
        except DeadKernelError as error:
            raise StudyError(
                f"the kernel of notebook {source} died (out of memory?): run it with less work, for instance profile=smoke."
            ) from error
        page = read_notebook(copy)
    page["metadata"][_METADATA] = {"source_sha256": sha256_file(source), "parameters": values}
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = _join_streams(cell["outputs"])
        if _INJECTED in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append(
                "remove-input"
            )  # the page shows the parameters it was made with elsewhere
    write_text(out, json.dumps(page, indent=1, ensure_ascii=False) + "\n")
    return out


def read_parameters(source: Path | str) -> dict[str, tuple[str, Any]]:
    """Return what a notebook can be given: name -> (type, default), in the order of its cell of parameters.

    Raises:
        StudyError: There is no such notebook, it cannot be read, it has no cell tagged ``parameters``, or that cell holds
            anything but ``name: type = literal`` lines.
    """
    source = Path(source)
    tagged = [cell for cell in read_notebook(source)["cells"] if _TAG in cell["metadata"].get("tags", [])]
    cells = [cell for cell in tagged if cell["cell_type"] == "code"]
    if len(tagged) != 1 or not cells:
        raise StudyError(
            f"notebook {source} has {len(cells) or 'no'} code cells tagged '{_TAG}': tag the one that holds its literals."
        )
    try:
        return dict(_parse_declaration(line) for line in ast.parse("".join(cells[0]["source"])).body)
    except (SyntaxError, ValueError) as error:
        raise StudyError(
            f"the cell tagged '{_TAG}' of notebook {source} must hold only lines like 'seeds: list[int] = []' ({error})."
        ) from error


def check_executed(folder: Path | str, sources: Iterable[Path | str]) -> list[str]:
    """List what is wrong with the executed copies that become pages.

    Args:
        folder: Where the copies are, under the names of their sources.
        sources: The notebooks.

    Returns:
        One sentence per fault (missing, stale, holds an error, too large); empty when all is well.
    """
    return [
        fault for source in map(Path, sources) for fault in _page_faults(Path(folder) / source.name, source)
    ]


def _page_faults(page: Path, source: Path) -> list[str]:
    again = f"run 'desam-lite execute {source} --out {page}'."
    if not page.exists():
        return [f"{page} is missing: {again}"]
    try:
        notebook = read_notebook(page)
    except StudyError as error:
        return [str(error)]
    faults = []
    if notebook["metadata"].get(_METADATA, {}).get("source_sha256") != sha256_file(source):
        faults.append(f"{page} was made from another version of {source}: {again}")
    for number, cell in enumerate(notebook["cells"], start=1):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                faults.append(
                    f"{page} holds an error in cell {number} ({output['ename']}): correct {source} and {again}"
                )
    if (size := page.stat().st_size) > PAGE_LIMIT:
        faults.append(
            f"{page} has {size / 1e6:.1f} MB, over the limit of {PAGE_LIMIT / 1e6:.0f} MB: show less in {source}."
        )
    return faults


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook as JSON, which takes no library of Jupyter's.

    Raises:
        StudyError: There is none, or it is no notebook of format 4.
    """
    if not path.is_file():
        raise StudyError(f"there is no notebook {path}: check the path.")
    try:
        notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        needed = [(cell["cell_type"], cell["source"], cell["metadata"]) for cell in notebook["cells"]]
        if notebook["nbformat"] != 4 or not isinstance(notebook["metadata"], dict):
            raise ValueError(f"format {notebook['nbformat']}, {len(needed)} cells")
    except (ValueError, TypeError, KeyError) as error:
        raise StudyError(
            f"{path} is not a notebook ({type(error).__name__}: {error}): give an .ipynb file of format 4."
        ) from error
    return notebook


def _parse_declaration(line: ast.stmt) -> tuple[str, tuple[str, Any]]:
    """Return name, type and default of one line of the cell of parameters, or raise ValueError."""
    if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
        raise ValueError(f"line {line.lineno} is none")
    annotation = ast.unparse(line.annotation)
    if annotation not in _TYPES:
        raise ValueError(f"line {line.lineno} has the type {annotation}; use {', '.join(_TYPES)}")
    return line.target.id, (annotation, ast.literal_eval(line.value))


def _check_parameters(source: Path, values: Mapping[str, Any]) -> None:
    declared = read_parameters(source)
    for name, value in values.items():
        if name not in declared:
            hint = did_you_mean(name, declared)
            raise StudyError(
                f"notebook {source} has no parameter '{name}': {hint}choose from {', '.join(declared)}."
            )
        kind, words = _TYPES[declared[name][0]]
        try:
            # Strict, so that the text "3" is no number; a whole number is still good where any number is.
            TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            raise StudyError(
                f"parameter '{name}' of notebook {source} is {words}, not {value!r}: pass it so."
            ) from error


def _explain(error: "PapermillExecutionError") -> str:
    """Say in one sentence what stopped a cell; a `StudyError` already is such a sentence."""
    text = " ".join(_ANSI.sub("", str(error.evalue)).split())
    if error.ename == StudyError.__name__:
        return text
    return f"{error.ename} in cell {error.cell_index + 1}: {text}."


def _join_streams(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join what was printed piece by piece, and keep of progress bars what a terminal would still show."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream":
            output["text"] = "".join(output["text"])
            if joined and joined[-1].get("name") == output["name"]:
                joined[-1]["text"] += output["text"]
                continue
        joined.append(output)
    for output in joined:
        if output["output_type"] == "stream":
            lines = (line.rstrip("\r").rpartition("\r")[2] for line in output["text"].split("\n"))
            output["text"] = "\n".join(lines)
    return joined
