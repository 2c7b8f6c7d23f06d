"""Tables that are slow to make of a run: kept in its directory under the hash of what they are made from, and in a kept study."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from desam_lite.study.kept import DERIVED, find_kept, read_table
from desam_lite.study.run import Run
from desam_lite.utils.files import atomic_path, digest


def cached_table(
    run: Run, kind: str, made_from: Mapping[str, Any], make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """Return the table of a run that `made_from` (all that changes it but the run; content by its hash) names.

    It is read from the run's directory or a kept study, or else made and written whole.
    """
    key = digest({**made_from, "kind": kind, "run": run.name})
    path = run.directory / DERIVED / kind / f"{key}.csv"
    if not path.exists() and run.is_kept and (kept := find_kept(run.directory.parents[1])):
        table = kept.derived(kind, key)
        if table is not None:
            return table
    if not path.exists():
        made = make()
        with atomic_path(path) as temporary:
            made.to_csv(temporary, index=False)
    return read_table(path)
