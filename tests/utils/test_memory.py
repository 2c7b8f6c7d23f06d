"""Freed memory stays inside the context, comes back after it, and no number changes."""

import resource
import subprocess
import sys

import pytest
import torch

from desam_lite.utils.memory import keep_freed_memory

MANY = 16 * 2**20  # float32: 64 MiB, above what glibc keeps by itself
ROUNDS, WARM = 4, 8
# In a process of its own, for nobody knows what another's heap holds. As in a training, tensors of several sizes are alive
# at once, and the first rounds find the places that all later ones take.
COUNT = f"""
import psutil, resource, torch
from desam_lite.utils.memory import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        alive = [torch.ones({MANY} * part // 4) for part in (3, 4, 5)]
        del alive
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return psutil.Process().memory_info().rss

print(faults({ROUNDS}))
before = held()
with keep_freed_memory():
    with keep_freed_memory():
        faults({WARM})
    print(faults({ROUNDS}))  # the inner one has given nothing back
    print(held() - before)
print(held() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the page faults of glibc")
def test_large_tensors_are_made_of_the_pages_of_those_before() -> None:
    told = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True).stdout
    usual, kept, inside, after = map(int, told.split())
    alive = 3 * MANY * 4
    assert usual > 0.9 * ROUNDS * alive / resource.getpagesize()
    assert kept < 0.01 * usual
    assert inside > 0.9 * alive
    assert after < 0.1 * alive  # handed back


def test_what_is_computed_stays_and_so_do_errors() -> None:
    with pytest.raises(RuntimeError, match="ours"), keep_freed_memory():
        assert torch.ones(MANY).sum() == MANY
        raise RuntimeError("ours")


def test_another_c_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("desam_lite.utils.memory.ctypes.CDLL", lambda name: object())
    with keep_freed_memory():
        assert torch.ones(3).sum() == 3
