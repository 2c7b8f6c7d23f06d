"""Makes the recorded results of what `gpu.sh` brought back, and writes the README of the benchmarks anew.

    python benchmarks/gpu_results.py benchmarks/out/gpu.json
    python benchmarks/gpu_results.py first/gpu.json second/gpu.json   # what the second measured replaces the first's

A run on a card becomes `results/NAME-cuda.json`, one for each benchmark that gave rows, and `results/gpu-cuda.json` for steps and
tests. A rehearsal's numbers say nothing: `rehearsal.json` keeps which steps passed, and where.
"""

import json
import sys
from pathlib import Path
from typing import Any

import readme

from desam_lite.utils.files import write_json
from desam_lite.utils.provenance import code_version

HERE = Path(__file__).resolve().parent


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(
            "give the gpu.json that gpu.sh wrote: python benchmarks/gpu_results.py benchmarks/out/gpu.json"
        )
    sessions = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:]]
    for path in keep(join(sessions), HERE):
        print(f"written: {path}")
    readme.main()


def join(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one ``gpu.json`` of several: all steps in their order, the last tests, the last record of each name.

    A record that one of an earlier session had before it holds that one's rows as ``earlier``, with the code they are of.
    """
    records: dict[str, dict[str, Any]] = {}
    for session in sessions:
        for name, record in session["records"].items():
            if record["rows"]:
                before = records.get(name)
                past = (
                    [*before.get("earlier", []), {k: before[k] for k in ("code", "rows")}] if before else []
                )
                records[name] = {**record, "earlier": past} if past else record
    return {
        **sessions[-1],
        "seconds": sum(session["seconds"] for session in sessions),
        "steps": [
            step for session in sessions for step in session["steps"] if step["outcome"] != "not begun"
        ],
        "tests": next((session["tests"] for session in reversed(sessions) if session["tests"]), []),
        "records": records,
    }


def keep(content: dict[str, Any], folder: Path) -> list[Path]:
    """Write the results of a ``gpu.json`` below the folder of the benchmarks; returns their paths.

    Raises:
        SystemExit: No benchmark has a row.
    """
    records = content["records"]
    if not records:
        raise SystemExit("no step measured anything: read gpu.log, mend what it names, and run gpu.sh again.")
    for record in records.values():
        if not record["code"][
            "commit"
        ]:  # the card's machine had files, but no repository: this is the one they came from
            record["code"] |= code_version()
    first = next(iter(records.values()))
    session = {
        **{key: first[key] for key in ("device", "libraries", "code", "quick")},
        **{key: content[key] for key in ("machine", "seconds", "tests")},
        "steps": [
            {key: step[key] for key in ("name", "outcome", "seconds", "limit")} for step in content["steps"]
        ],
    }
    results = {folder / readme.REHEARSAL: session}
    if not content["quick"]:
        whole = {**records, f"gpu-{content['device']}": session}
        results = {folder / "results" / f"{name}.json": record for name, record in whole.items()}
    for path, record in results.items():
        write_json(path, record)
    return list(results)


if __name__ == "__main__":
    main()
