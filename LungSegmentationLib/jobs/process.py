"""Starting a job so that it outlives the caller, asking it to stop, and ending it with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from LungSegmentationLib.errors import StorageError, UsageError
from LungSegmentationLib.jobs.following import EventFollower, FileFollower, PipeFollower
from LungSegmentationLib.jobs.identity import ProcessIdentity, identify
from LungSegmentationLib.jobs.lock import read_lock
from LungSegmentationLib.jobs.python import job_environment, real_python
from LungSegmentationLib.jobs.stopping import write_stop_file

MODULE = "LungSegmentationLib"
JOB_VARIABLE = "LUNGSEG_JOB"
"""Environment variable that marks the processes of one job, also those whose parents are gone."""

GRACE_S = 5.0
_LOOK_EVERY_S = 0.05


@dataclass
class JobHandle:
    """A job that this process started.

    Parameters
    ----------
    process
        The child; a launcher where Python is one.
    identity
        Its pid and start; None if it ended before that could be asked.
    command
        What was run.
    mark
        Value of ``LUNGSEG_JOB`` in the job's environment.
    log
        File of everything that the job prints; None where it goes to the pipe or nowhere.
    """

    process: subprocess.Popen[bytes]
    identity: ProcessIdentity | None
    command: tuple[str, ...]
    mark: str
    log: Path | None = None
    events: EventFollower | None = field(default=None)
    """Follows what the job prints, from the log or the pipe; None where neither was asked for."""

    @property
    def pid(self) -> int:
        """Number of the child."""
        return self.process.pid

    def is_running(self) -> bool:
        """Whether the child still runs."""
        return self.process.poll() is None

    def exit_code(self) -> int | None:
        """Return the exit code (:class:`LungSegmentationLib.errors.ExitCode`), None while it runs."""
        return self.process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit code; raises :class:`subprocess.TimeoutExpired`."""
        return self.process.wait(timeout_s)

    def request_stop(self) -> None:
        """Ask the job to stop; on Windows use the ``stop`` file of its run folder."""
        request_stop(self.pid)

    def terminate(self, grace_s: float = GRACE_S, *, folder: Path | None = None) -> TreeEnd:
        """End the job and all its children, see :func:`terminate_tree`."""
        created = self.identity.created if self.identity is not None else None
        ended = terminate_tree(self.pid, created=created, mark=self.mark, folder=folder, grace_s=grace_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)
        return ended


@dataclass(frozen=True)
class TreeEnd:
    """How the processes of a tree ended: by themselves after being asked, by force, or not at all."""

    ended: tuple[int, ...] = ()
    killed: tuple[int, ...] = ()
    survived: tuple[int, ...] = ()


def start_job(
    arguments: Sequence[str],
    *,
    python: Path | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    detach: bool = True,
    env: Mapping[str, str] | None = None,
) -> JobHandle:
    """Run ``python -m LungSegmentationLib <arguments> --events`` in the background.

    Parameters
    ----------
    arguments
        Command and its options, for example ``["train", "/data/cohort", "--run", "first"]``.
    python
        Python to use; None for :func:`real_python`.
    cwd
        Folder to run in; None for the caller's.
    log
        File to which everything that the job prints is appended.
    detach
        Whether the job outlives this process. Without a log a detached job's output goes nowhere (a job with a
        run folder still writes ``events.jsonl`` there); an attached one's goes to a pipe.
    env
        Variables to begin with, see :func:`job_environment`.

    Raises
    ------
    UsageError
        If Python cannot be started or the folder does not exist.
    StorageError
        If the log cannot be written.
    """
    executable = real_python() if python is None else python
    command = [str(executable), "-m", MODULE, *map(str, arguments)]
    if "--events" not in command:
        command.append("--events")
    mark = uuid.uuid4().hex
    environment = {**job_environment(env, python=executable), JOB_VARIABLE: mark}
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        # No console of its own, and Ctrl-C in ours does not reach it; it lives on when we end.
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    elif detach:
        options["start_new_session"] = True
    with contextlib.ExitStack() as stack:
        output: int | IO[bytes] = subprocess.DEVNULL if detach else subprocess.PIPE
        if log is not None:
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(log.open("ab"))
            except OSError as error:
                raise StorageError(f"{log} cannot be written: {error.strerror}.", "Choose another folder.") from error
            offset = log.stat().st_size
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=environment,
                **options,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{executable} cannot be started in {cwd or Path.cwd()}: {error}.", "Check the path of Python."
            ) from error
    events: EventFollower | None = None
    if log is not None:
        events = FileFollower(log, from_offset=offset)
    elif process.stdout is not None:
        events = PipeFollower(process.stdout)
    return JobHandle(process, identify(process.pid), tuple(command), mark, log, events)


def request_stop(target: Path | int) -> None:
    """Ask a job to stop cleanly: finish the step, save, say ``cancelled``, exit code 4.

    Parameters
    ----------
    target
        The run folder (writes the ``stop`` file there: works on every system and for jobs of other computers),
        or a pid (sends SIGTERM, past a launcher to the process that it launched).

    Raises
    ------
    StorageError
        If the run folder cannot be written.
    UsageError
        If a pid is given on Windows, where signals end a process at once.
    """
    if isinstance(target, Path):
        holder = read_lock(target)
        alive = holder is not None and holder.is_alive() is not False
        try:
            write_stop_file(target, holder.pid if holder is not None and alive else None)
        except OSError as error:
            raise StorageError(
                f"The job in {target} cannot be asked to stop: {error.strerror}.", "End its process instead."
            ) from error
        return
    if sys.platform == "win32":
        raise UsageError("On Windows a job is asked to stop by its run folder, not by its pid.")
    with contextlib.suppress(psutil.NoSuchProcess):
        _ask(_tree(psutil.Process(target)))


def terminate_tree(
    pid: int,
    *,
    created: float | None = None,
    mark: str | None = None,
    folder: Path | None = None,
    grace_s: float = GRACE_S,
) -> TreeEnd:
    """End a process and everything below it: ask, wait, kill what is left.

    Parameters
    ----------
    pid
        The root of the tree.
    created
        When the process that is meant was created (s since 1970); a later process of the same pid is left alone.
    mark
        Value of ``LUNGSEG_JOB``: finds processes of the job whose parents are gone, too.
    folder
        Run folder of the job, to ask it by the ``stop`` file too; the only way to ask on Windows.
    grace_s
        Seconds between asking and killing.

    Raises
    ------
    UsageError
        If the tree holds the calling process.
    """
    known: dict[int, psutil.Process] = {}
    identity = identify(pid)
    if identity is not None and (created is None or identity.is_same(ProcessIdentity(pid, created))):
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            known = {process.pid: process for process in _tree(root)}
    known.update({process.pid: process for process in _marked(mark)})
    if pid <= 1 or os.getpid() in known:
        raise UsageError(f"Process {pid} cannot be ended: it is this program, or above it.")

    if folder is not None and known:
        with contextlib.suppress(StorageError):  # a full disk or a vanished folder is no reason to let it live
            request_stop(folder)
    if sys.platform != "win32":
        _ask(known.values())
    deadline = time.monotonic() + grace_s
    # Looked at and not waited for: waiting would take a child's exit code away from whoever started it.
    deadline = time.monotonic() + grace_s
    while _still_alive(known) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    killed: set[int] = set()
    # A tree may grow while it is felled: look again until nothing is left.
    deadline = time.monotonic() + GRACE_S
    while (alive := _still_alive(known, mark)) and time.monotonic() < deadline:
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
                killed.add(process.pid)
        time.sleep(_LOOK_EVERY_S)
    survived = {process.pid for process in alive}
    return TreeEnd(
        ended=tuple(sorted(known.keys() - killed - survived)),
        killed=tuple(sorted(killed - survived)),
        survived=tuple(sorted(survived)),
    )


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [root]


def _marked(mark: str | None) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    if mark is None:
        return found
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # processes of others, and those that end meanwhile
            if process.environ().get(JOB_VARIABLE) == mark:
                found.append(process)
    return found


def _still_alive(known: dict[int, psutil.Process], mark: str | None = None) -> list[psutil.Process]:
    """Return who of the tree lives; children born meanwhile are added to ``known``."""
    for process in [*known.values(), *_marked(mark)]:
        for member in [process, *_tree(process)]:
            known.setdefault(member.pid, member)
    return [process for process in known.values() if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        # is_running compares the creation time, so that a reused pid is nobody of ours.
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ask(processes: Iterable[psutil.Process]) -> None:
    """Send SIGTERM to those that understand it as a question: the job itself, not its launcher, not its workers."""
    ours: list[psutil.Process] = []
    everyone = list(processes)
    for process in everyone:
        with contextlib.suppress(psutil.Error):
            if MODULE in process.cmdline():
                ours.append(process)
    inner = [process for process in ours if not _launches_one_of(process, ours)]
    for process in inner or everyone[:1]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(signal.SIGTERM)


def _launches_one_of(process: psutil.Process, others: Sequence[psutil.Process]) -> bool:
    """Whether a process only launched another: same module, another executable."""
    with contextlib.suppress(psutil.Error):
        executable = process.exe()
        return any(child in others and child.exe() != executable for child in process.children())
    return False
