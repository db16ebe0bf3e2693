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

# Blocks that are never touched take no memory; the end of the heap says whether they were handed back.
LARGE = """
import ctypes, sys
from LungSegmentationLib.training.memory import keep_freed_memory
if not keep_freed_memory({keep}):
    print("not here"); sys.exit()
library = ctypes.CDLL(None)
library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
before = library.sbrk(0)
blocks = [library.malloc(ctypes.c_size_t(1 << 30)) for _ in range(3)]
for block in reversed(blocks):
    library.free(block)
print((library.sbrk(0) - before) >> 30)
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


@pytest.mark.parametrize(("keep", "gibibytes"), [(True, 3), (False, 0)])
def test_however_much_is_freed_at_once_it_is_kept(keep: bool, gibibytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE.format(keep=keep)], capture_output=True, text=True, check=True, timeout=60
    )
    if "not here" in done.stdout:
        pytest.skip("this system has no GNU C library")
    assert int(done.stdout) == gibibytes
