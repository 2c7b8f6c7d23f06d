"""What the chapters that teach have in common: code shown from the package, what a page took, what may be concluded from it."""

import datetime
import inspect
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pandas as pd

from desam_lite.study.report.sentences import Table

if TYPE_CHECKING:
    from desam_lite.data.tasks import Task


class Code:
    """The source of functions or classes of this package, as a page shows it: what is taught is what runs.

    Args:
        parts: Functions, methods or classes.
    """

    def __init__(self, *parts: Any):
        self.text = "\n".join(textwrap.dedent(inspect.getsource(part)) for part in parts)

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}```"

    def __repr__(self) -> str:
        return self.text


def say_seconds(began: float) -> str:
    """Say how long a page without training took.

    Args:
        began: ``time.perf_counter()`` at its start.
    """
    return f"The page trains nothing; it took {time.perf_counter() - began:.0f} seconds here."


def say_caveats(task: "Task", backbone: str = "", weights: str = "") -> str:
    """Say what keeps the numbers of a page from being set beside the paper's.

    Args:
        task: Whose scans are looked at.
        backbone: Of the model that looks at them; "" for none.
        weights: Its weights.
    """
    from desam_lite.methods.run_spec import make_spec
    from desam_lite.study.report.sentences import say_caveats as said

    if not backbone:
        return said(task, [])
    looked = {"manifest": task.root, "data_root": task.root, "source": next(iter(task.manifest.domains))}
    return said(task, [make_spec(method="sam_zero_shot", backbone=backbone, weights=weights, **looked)])


def provenance(profile: str, task: "Task | None" = None, weights: str = "") -> Table:
    """Return where the numbers of a page without runs come from.

    Args:
        profile: The profile it was made with.
        task: Whose scans it shows; None for a page without scans.
        weights: Of the encoder it asks; "" for none.
    """
    from desam_lite.utils.provenance import code_version, library_versions

    code = code_version()
    commit = (code["commit"] or "no commit known")[:10] + (", with changes" if code["dirty"] else "")
    rows = {"profile": profile, "code": f"desam-lite {code['version']}, {commit}"}
    if task is not None:
        rows |= {"task": f"{task.manifest.title} ({task.manifest.licence})", "data": task.data_hash}
    rows |= {"encoder weights": weights} if weights else {}
    rows["libraries"] = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    rows["page made on"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Table(pd.DataFrame(list(rows.items())), kind="provenance", headings=False)
