"""What every method is and what it cost, beside what it gave: tables for the page that compares them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from desam_lite.methods import method_class
from desam_lite.study.report.sentences import Table
from desam_lite.study.report.style import UNITS

if TYPE_CHECKING:
    from desam_lite.methods.run_spec import RunSpec
    from desam_lite.study.run import Run


def costs(runs: "Sequence[Run]", summary: pd.DataFrame, *, metric: str = "dice") -> Table:
    """Return trained parameters, epochs, minutes and peak memory per run of each method beside its scores.

    Args:
        runs: Those that are not finished are left out.
        summary: Of `results.summarise` by label and in_domain.
        metric: What it is a summary of.

    Returns:
        One row per method, in the order of the runs: minutes are means over its runs, memory is the largest of the process.
    """
    title, factor = UNITS[metric]
    scores = {(str(row["label"]), bool(row["in_domain"])): row["mean"] for row in summary.to_dict("records")}
    finished = [run for run in runs if run.finished]
    rows = []
    for label in dict.fromkeys(run.spec.label for run in finished):
        own = [run for run in finished if run.spec.label == label]
        infos = [run.info for run in own]
        minutes = [info["minutes"] for info in infos]
        row = {"method": label, "trained parameters": f"{max(_parameters(info) for info in infos):,}"}
        row["epochs"] = str(own[0].spec.epochs or "none")
        for part in ("training", "scoring"):
            row[f"{part} (min)"] = f"{sum(m[part] for m in minutes) / len(minutes):.1f}"
        row["memory (GiB)"] = f"{max(info['peak_memory']['process_mib'] for info in infos) / 1024:.1f}"
        for name, inside in (("in", True), ("out of", False)):
            value = scores.get((label, inside))
            row[f"{title} {name} domain"] = "" if value is None or pd.isna(value) else f"{value * factor:.1f}"
        rows.append(row)
    return Table(pd.DataFrame(rows))


def _parameters(info: dict[str, int]) -> int:
    return info.get("trained_parameters", 0)


def what_differs(specs: "Sequence[RunSpec]") -> Table:
    """Return what the methods of these runs say of themselves: paper, source of the defaults, differences from the original."""
    labels: dict[str, list[str]] = {}
    for spec in specs:
        known = labels.setdefault(spec.method, [])
        known += [spec.label] if spec.label not in known else []
    rows = []
    for name, shown in labels.items():
        kind = method_class(name)
        differs = ". ".join(sentence[:1].upper() + sentence[1:] for sentence in kind.differs)
        rows.append(
            {
                "method": ", ".join(shown),
                "paper": kind.paper or "this study",
                "defaults from": kind.defaults_from,
                "what differs": f"{differs}." if differs else "",
            }
        )
    return Table(pd.DataFrame(rows))
