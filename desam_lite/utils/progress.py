"""One progress bar for the whole package, as text: widgets render as nothing in the built book."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(
    items: Iterable[T], description: str, *, total: int | None = None, enabled: bool = True
) -> Iterator[T]:
    """Iterate over ``items`` with a text progress bar on standard error.

    Args:
        items: What to go through.
        description: What is being done, shown before the bar.
        total: Number of items where ``items`` cannot tell.
        enabled: Whether to show anything.

    Yields:
        The items, unchanged.
    """
    yield from tqdm(items, desc=description, total=total, disable=not enabled, ascii=True, mininterval=0.5)
