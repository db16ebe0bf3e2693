"""Freed memory: kept for the next step where the C library can, handed back otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from LungSegmentationLib.training.memory import keep_freed_memory, release_freed_memory
import ctypes, resource
if not keep_freed_memory({keep}):
    print("not here"); sys.exit()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
size = 64 * 2**20
def use():
    block = library.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    library.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, text=True, check=True, timeout=60
    )
    if "not here" in done.stdout:
        pytest.skip("this system has no GNU C library")
    return int(done.stdout)


def test_a_block_that_was_freed_costs_no_new_pages_when_memory_is_kept() -> None:
    kept, given_back = faults(keep=True), faults(keep=False)
    # 64 MiB are 16,384 pages of 4 KiB, or 128 of 2 MiB.
    assert kept < 20
    assert given_back >= 4 * 32
