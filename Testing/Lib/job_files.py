"""A small job with real processes, and programs that stand in the place of Python, for tests of jobs."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from LungSegmentationLib.jobs.events import Event, Log, Progress
from LungSegmentationLib.jobs.following import FileFollower
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.process import JobHandle

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="shell scripts and signals are POSIX")

JOB = """
import os, subprocess, sys, time
from pathlib import Path
from LungSegmentationLib.errors import CancelledError
from LungSegmentationLib.jobs.events import EventReporter, Started
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.lock import RunLock, host_name
from LungSegmentationLib.jobs.running import run_command
from LungSegmentationLib.jobs.stopping import StopRequest

folder, way = Path(sys.argv[1]), sys.argv[2]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) if "child" in way else None
if "deaf" in way:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf now", child.pid if child else 0, flush=True)
    while True:
        time.sleep(600)
with RunLock(folder), StopRequest(folder) as stop, EventReporter(sys.stdout, folder / "events.jsonl",
                                                                cancelled=stop.requested) as reporter:
    me = identify()
    reporter.started(Started(command="train", pid=me.pid, pid_created=me.created, host=host_name(), run=str(folder)))
    if child:
        reporter.log(f"child {child.pid}")
    try:
        for step in range(1, 100_000):
            reporter.progress("training", step, 100_000)
            reporter.check_cancelled()
            time.sleep(0.01)
    except CancelledError as error:
        reporter.cancelled(error.message)
        reporter.finished(4)
        if child:
            child.kill()
        sys.exit(4)
"""


def until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> object:
    """Wait for a condition; the only place where a test waits."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        threading.Event().wait(0.02)
    return value


def gone(*pids: int) -> bool:
    return all(identify(pid) is None for pid in pids)


def wrapper(folder: Path, body: str, name: str = "python") -> Path:
    """A program that stands in the place of Python and gets its arguments."""
    file = folder / name
    file.write_text("#!/bin/sh\n" + body, encoding="utf-8")
    file.chmod(0o755)
    return file


def begun(job: JobHandle, follower: FileFollower) -> list[Event]:
    events: list[Event] = []

    def heard() -> bool:
        assert job.is_running(), job.events.text() if job.events else ""
        events.extend(follower.poll())
        return any(isinstance(event, Progress) for event in events)

    until(heard, "the first progress")
    return events


def child_of(events: list[Event]) -> int:
    return next(int(event.message.split()[1]) for event in events if isinstance(event, Log))


def make_run_folder(root: Path) -> Path:
    folder = root / "cohort é 患者" / "runs" / "run 1"
    folder.mkdir(parents=True)
    return folder


def make_job_python(root: Path) -> Path:
    """Make a Python whose ``-m LungSegmentationLib`` is the small job of this file."""
    tools = root / "tools ü"
    tools.mkdir()
    script = tools / "job.py"
    script.write_text(JOB, encoding="utf-8")
    # $1 $2 are -m LungSegmentationLib; kept at the end, so that the process looks as a real one does.
    return wrapper(tools, f'exec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$3" "$4" -m "$2"\n')


def make_launcher(root: Path, job_python: Path) -> Path:
    """Make a launcher as PythonSlicer is one: a process of its own with the real Python below it."""
    return wrapper(root, f'{shlex.quote(str(job_python))} "$@"\nexit $?\n', "launcher")


def ended(jobs: list[JobHandle]) -> Iterator[list[JobHandle]]:
    """Give a list, and end the jobs in it afterwards."""
    yield jobs
    for job in jobs:
        job.terminate(grace_s=0)
        assert not job.is_running()
