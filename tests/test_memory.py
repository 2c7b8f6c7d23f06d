"""Freed memory stays inside the context, comes back after it, and no number changes."""

import resource
import sys

import pytest
import torch

from desam_lite.memory import keep_freed_memory

MANY = 16 * 2**20  # float32: 64 MiB, above what glibc keeps by itself
ROUNDS = 4


def _faults() -> int:
    """Pages that the system had to make while large tensors came and went."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        torch.ones(MANY)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the page faults of glibc")
def test_large_tensors_are_made_of_the_pages_of_those_before() -> None:
    pages = MANY * 4 / resource.getpagesize()
    usual = _faults()
    with keep_freed_memory():
        torch.ones(MANY)
        kept = _faults()
    assert usual > 0.5 * ROUNDS * pages
    assert kept < 0.1 * usual
    assert _faults() > 0.5 * ROUNDS * pages  # as before


def test_what_is_computed_stays_and_so_do_errors() -> None:
    with pytest.raises(RuntimeError, match="ours"), keep_freed_memory():
        assert torch.ones(MANY).sum() == MANY
        raise RuntimeError("ours")


def test_another_c_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("desam_lite.memory.ctypes.CDLL", lambda name: object())
    with keep_freed_memory():
        assert torch.ones(3).sum() == 3
