"""Memory that a training on the CPU frees is kept for its next step, not handed back to the system and asked for anew.

The GNU C library gives each large block back at once. A step of a network takes and frees gigabytes of them, and the
system has to clear every page again: about an eighth of the step's time.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Final

__all__ = ["keep_freed_memory", "release_freed_memory"]

# malloc.h of the GNU C library
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_NEVER: Final = -1
_DEFAULT_TRIM_THRESHOLD: Final = 128 * 1024
_DEFAULT_MMAP_MAX: Final = 65536


@cache
def _gnu_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


def keep_freed_memory(keep: bool = True) -> bool:
    """Keep freed memory in the process, or (``False``) hand it back as usual; for the whole process, from now on.

    It costs about a quarter more memory at the peak. Large blocks come from one area then, so that the kernel sees the
    process grow to its peak once and stay there.

    Returns
    -------
    bool
        Whether that is possible here: Linux with the GNU C library.

    References
    ----------
    mallopt(3): ``M_MMAP_MAX``, ``M_TRIM_THRESHOLD``.
    """
    library = _gnu_library()
    if library is None:
        return False
    maps, threshold = (0, _NEVER) if keep else (_DEFAULT_MMAP_MAX, _DEFAULT_TRIM_THRESHOLD)
    return bool(library.mallopt(_M_MMAP_MAX, maps)) and bool(library.mallopt(_M_TRIM_THRESHOLD, threshold))


def release_freed_memory() -> None:
    """Hand back what is free now, for example before a step is tried again in smaller parts."""
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)
