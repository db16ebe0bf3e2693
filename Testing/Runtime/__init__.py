"""Runs the Slicer module without the Slicer application: real MRML from slicer-core, real widgets from PySide6.

Import it as ``Runtime``, with the folder ``Testing`` on the path (pytest sees to it). ``start()`` puts the modules
``slicer``, ``qt`` and ``ctk`` in place, once in a process. What it offers is held against ``slicer_api.json``, the
names of a real Slicer 5.8; what that has not, raises.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .requirements import missing

if TYPE_CHECKING:
    from .session import Runtime

__all__ = ["missing", "start"]

_running: Runtime | None = None


def start() -> Runtime:
    """Return the runtime of this process, started at the first call.

    Raises
    ------
    RuntimeError
        If the machine lacks what ``missing()`` names.
    """
    global _running  # noqa: PLW0603  Qt, VTK and Slicer are once in a process, and so is this
    if _running is None:
        reason = missing()
        if reason or "qt" in sys.modules:
            raise RuntimeError(reason or "another copy of the runtime, or Slicer itself, runs in this process")
        from .session import Runtime

        _running = Runtime()
    return _running
