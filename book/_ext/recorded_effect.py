"""The role ``effect``: what `benchmarks/public_code.py` recorded of one way of the public code, or that it has not been measured.

``{effect}`selection` `` gives a difference on the targets with its interval and verdict, ``{effect}`choice desam_p` `` one on
the source's validation cases, ``{effect}`recipe mask_loss` `` a setting of what was trained, ``{effect}`facts` `` seeds, sizes
and machine.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from desam_lite.study.report.sentences import count, format_interval

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
MISSING = "not measured"


def say_effect(name: str, folder: Path = RESULTS) -> str:
    """Return what the first record of a folder says under a name of the role."""
    path = next(iter(sorted(folder.glob("public_code-*.json"))), None)
    if path is None:
        return MISSING
    record = json.loads(path.read_text(encoding="utf-8"))
    if name == "facts":
        size = record["size"]
        return (
            f"{record['device']}; {count(size['cases'], 'case')} of the source, {size['targets']} of each other hospital; "
            f"up to {count(len(size['seeds']), 'seed')}"
        )
    kind, _, key = name.rpartition(" ")
    if kind == "recipe":
        return str(record["recipe"][key])
    table, key = (record["choice"], key) if kind == "choice" else (record["effects"], name)
    row = next((row for row in table if row["name"] == key), None)
    if row is None:
        return MISSING
    text = format_interval(row, spec="+.1f")
    return f"{text}, {count(row['seeds'], 'seed')}, {count(row['cases'], 'case')}: {row['verdict']}"


class Effect(SphinxRole):
    """Puts the text where the role stands."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text."""
        return [nodes.Text(say_effect(self.text))], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the role known."""
    app.add_role("effect", Effect())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
