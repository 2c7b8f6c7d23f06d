"""Copies of the notebooks for a class: the same cells, with the solutions taken out."""

import json
from pathlib import Path
from typing import Any

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_text

_SOLUTION = "solution-"  # how the ids of cells with solutions begin


def _emptied(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell as it is or, in place of a solution, an empty one of the same kind, to be filled in."""
    if not cell["id"].startswith(_SOLUTION):
        return cell
    source = "# Your answer:" if cell["cell_type"] == "code" else "*Your answer:*"
    return {**cell, "id": cell["id"].replace(_SOLUTION, "answer-", 1), "metadata": {}, "source": source}


def write_student_copies(notebooks: Path | str, out: Path | str) -> list[Path]:
    """Write every notebook of a folder to another folder, without its solutions."""
    notebooks, out = Path(notebooks), Path(out)
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise StudyError(f"there is no notebook in {notebooks}: name their folder with --notebooks.")
    if out.resolve() == notebooks.resolve():
        raise StudyError(f"{out} holds the notebooks themselves: name another folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    for source in sources:
        notebook = json.loads(source.read_text(encoding="utf-8"))
        notebook["cells"] = [_emptied(cell) for cell in notebook["cells"]]
        write_text(out / source.name, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return [out / source.name for source in sources]
