"""One progress bar for the whole package, as text: widgets render as nothing in the built book."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(items: Iterable[T], text: str, *, total: int | None = None, enabled: bool = True) -> Iterator[T]:
    """Yield the items while a bar on standard error counts them; ``total`` where they cannot tell how many they are."""
    yield from tqdm(items, desc=text, total=total, disable=not enabled, ascii=True, mininterval=0.5)
