"""Tables that are slow to make and are no runs: kept on disk under the hash of what they are made from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.utils.files import atomic_path, digest

_TEXTS = ("label", "source", "target", "case", "organ", "dial", "kind")


def cached_table(
    folder: Path | str, made_from: Mapping[str, Any], make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """Return the table that `made_from` (all that changes it; content by its hash) names: read, or else made and written whole.

    Columns that hold names are texts even where they look like numbers.
    """
    path = Path(folder) / f"{digest(dict(made_from))}.csv"
    if not path.exists():
        made = make()
        with atomic_path(path) as temporary:
            made.to_csv(temporary, index=False)
    return pd.read_csv(path, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=True)
