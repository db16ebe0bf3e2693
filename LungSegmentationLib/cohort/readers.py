"""Preparations that replace slices and trainings that read them keep out of each other's way.

Each side first takes its own lock and then looks at the other's, so that of two that start in the same moment at least
one sees the other: a training holds its run folder, a preparation that replaces or removes slices holds ``runs``.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from LungSegmentationLib.jobs.lock import LOCK_FILE, LockedError, RunLock, living_holder
from LungSegmentationLib.storage import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from LungSegmentationLib.cohort.paths import CohortPaths

__all__ = ["replacing_slices", "wait_for_slices"]

WAIT_S = 2.0
"""A preparation that finds a training gives way at once: one that stays longer is at work."""


@contextlib.contextmanager
def replacing_slices(paths: CohortPaths, names: Sequence[str]) -> Iterator[None]:
    """Hold the slices of these cases while they are made anew or removed; a training that begins meanwhile is refused.

    Raises
    ------
    LockedError
        If a training runs, which would learn from old and new slices in turn, or fail. Nothing was changed then.
    """
    if not names:
        yield
        return
    with storage_errors(paths.runs):
        paths.runs.mkdir(exist_ok=True)
    with RunLock(paths.runs, doing="is closed to trainings", cure="Wait until it is done.", forcible=False):
        for folder in sorted(paths.runs.iterdir()):
            holder = living_holder(folder) if folder.is_dir() else None
            if holder is not None:
                where, gone = "", ""
                if not holder.is_here:
                    where = f" on the computer {holder.host}"
                    gone = f" If that computer is gone, delete {folder / LOCK_FILE}."
                raise LockedError(
                    f"The run {folder.name} is being trained by process {holder.pid}{where} since {holder.since}, "
                    f"and {len(names)} cached case(s) that it may read would be made anew or removed, "
                    f"the first: {names[0]}.",
                    f"Wait until it is done, or stop it.{gone} Nothing was changed.",
                )
        yield


def wait_for_slices(paths: CohortPaths, *, force: bool = False) -> None:
    """Return when nobody replaces slices; for who holds a run folder already, and has read no slice yet.

    Parameters
    ----------
    paths
        The cohort.
    force
        Go on although another computer seems to replace them.

    Raises
    ------
    LockedError
        If slices are being made anew.
    """
    until = time.monotonic() + WAIT_S
    while (holder := living_holder(paths.runs)) is not None and not (force and not holder.is_here):
        if time.monotonic() > until:
            where = "" if holder.is_here else f" on the computer {holder.host}"
            raise LockedError(
                f"Slices of {paths.root} are being made anew by process {holder.pid}{where} since {holder.since}.",
                "Wait until the preparation is done." + ("" if holder.is_here else " If it is gone, use --force."),
            )
        time.sleep(0.02)
