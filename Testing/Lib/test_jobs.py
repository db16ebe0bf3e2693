"""Jobs with real processes: starting, following, stopping, ending whole trees, and the list of a cohort's runs."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from LungSegmentationLib.errors import BadInputError, CancelledError, StorageError, UsageError
from LungSegmentationLib.jobs import python as python_module
from LungSegmentationLib.jobs.events import (
    Cancelled,
    Epoch,
    Event,
    EventReporter,
    Failed,
    Finished,
    Log,
    Progress,
    Reporter,
    Started,
    parse_event,
)
from LungSegmentationLib.jobs.following import FileFollower, PipeFollower, follow_events, wait_for_events
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.listing import JobStatus, job_state, lines_from_end, list_jobs
from LungSegmentationLib.jobs.lock import LOCK_FILE, LockHolder, host_name, read_lock
from LungSegmentationLib.jobs.process import JobHandle, request_stop, start_job, terminate_tree
from LungSegmentationLib.jobs.python import is_other_python, job_environment, real_python
from LungSegmentationLib.jobs.running import run_command
from LungSegmentationLib.jobs.stopping import STOP_FILE, StopRequest

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


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cohort é 患者" / "runs" / "run 1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def started() -> Iterator[list[JobHandle]]:
    """Jobs that are ended after the test, whatever happened."""
    jobs: list[JobHandle] = []
    yield jobs
    for job in jobs:
        job.terminate(grace_s=0)
        assert not job.is_running()


def wrapper(folder: Path, body: str, name: str = "python") -> Path:
    """A program that stands in the place of Python and gets its arguments."""
    file = folder / name
    file.write_text("#!/bin/sh\n" + body, encoding="utf-8")
    file.chmod(0o755)
    return file


@pytest.fixture
def job_python(tmp_path: Path) -> Path:
    """A Python whose ``-m LungSegmentationLib`` is the small job above."""
    tools = tmp_path / "tools ü"
    tools.mkdir()
    script = tools / "job.py"
    script.write_text(JOB, encoding="utf-8")
    # $1 $2 are -m LungSegmentationLib; kept at the end, so that the process looks as a real one does.
    return wrapper(tools, f'exec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$3" "$4" -m "$2"\n')


@pytest.fixture
def launcher(tmp_path: Path, job_python: Path) -> Path:
    """A launcher as PythonSlicer is one: a process of its own with the real Python below it."""
    return wrapper(tmp_path, f'{shlex.quote(str(job_python))} "$@"\nexit $?\n', "launcher")


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


# Stopping


def test_a_stop_file_stops_and_is_taken_away(tmp_path: Path) -> None:
    now = [0.0]
    with StopRequest(tmp_path, clock=lambda: now[0]) as stop:
        assert not stop.requested()
        stop.check()
        (tmp_path / STOP_FILE).touch()
        assert not stop.requested()  # looked for at most twice a second
        now[0] = 0.5
        assert stop.requested()
        assert "stop" in stop.reason
        with pytest.raises(CancelledError):
            stop.check()
    assert not (tmp_path / STOP_FILE).exists()


def test_a_stop_file_for_an_earlier_process_is_removed(tmp_path: Path) -> None:
    (tmp_path / STOP_FILE).write_text("1\n")
    with StopRequest(tmp_path) as stop:
        assert not stop.requested()
        assert not (tmp_path / STOP_FILE).exists()


def test_an_old_stop_file_that_names_nobody_is_removed_and_a_new_one_is_meant(tmp_path: Path) -> None:
    file = tmp_path / STOP_FILE
    file.touch()
    os.utime(file, (1e9, 1e9))
    with StopRequest(tmp_path) as stop:
        assert not stop.requested()
    file.touch()
    with StopRequest(tmp_path) as stop:
        assert stop.requested()


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_stop_and_are_given_back(name: str) -> None:
    number = signal.Signals[name]
    given = signal.getsignal(number)
    # Under nohup SIGHUP is ignored, and StopRequest leaves it so; here its usual way is wanted.
    before = signal.SIG_DFL if given == signal.SIG_IGN else given
    signal.signal(number, before)
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
            assert stop.requested()
            assert name in stop.reason
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, given)


@posix
def test_a_second_interrupt_interrupts_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_the_file_alone_works(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def work() -> None:
        with StopRequest(tmp_path) as stop:
            seen.append(signal.getsignal(signal.SIGINT) is before)
            (tmp_path / STOP_FILE).touch()
            seen.append(stop.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert seen == [True, True]


def test_asking_to_stop_names_the_process_that_holds_the_run(tmp_path: Path) -> None:
    me = identify()
    assert me is not None
    request_stop(tmp_path)
    assert (tmp_path / STOP_FILE).read_bytes() == b""
    holder = LockHolder(me.pid, me.created, me.mark, host_name(), "2026-11-01T00:00:00+00:00")
    (tmp_path / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(holder)))
    request_stop(tmp_path)
    assert int((tmp_path / STOP_FILE).read_text()) == os.getpid()
    with pytest.raises(StorageError, match="cannot be asked to stop"):
        request_stop(tmp_path / "gone")


# Starting


@posix
@pytest.mark.parametrize("by", ["file", "SIGTERM", "SIGINT", "handle"])
def test_a_job_stops_cleanly(by: str, run_folder: Path, job_python: Path, started: list[JobHandle]) -> None:
    job = start_job([str(run_folder), "plain"], python=job_python)
    started.append(job)
    follower = FileFollower(run_folder / "events.jsonl")
    events = begun(job, follower)
    assert job_state(run_folder).status is JobStatus.RUNNING
    if by == "file":
        request_stop(run_folder)
    elif by == "handle":
        job.request_stop()
    else:
        os.kill(job.pid, signal.Signals[by])
    events += wait_for_events(follower, job.is_running, every_s=0.02)
    assert job.wait(30) == 4
    assert [event.event for event in events[-2:]] == ["cancelled", "finished"]
    assert not (run_folder / STOP_FILE).exists()
    assert not (run_folder / LOCK_FILE).exists()
    assert job_state(run_folder).status is JobStatus.CANCELLED


@posix
def test_a_stop_reaches_the_job_behind_a_launcher(run_folder: Path, launcher: Path, started: list[JobHandle]) -> None:
    job = start_job([str(run_folder), "plain"], python=launcher)
    started.append(job)
    begun(job, FileFollower(run_folder / "events.jsonl"))
    state = job_state(run_folder)
    assert state.pid != job.pid
    job.request_stop()
    assert job.wait(30) == 4


@posix
def test_ending_the_tree_of_a_launcher_takes_everything_below_it(
    run_folder: Path, launcher: Path, started: list[JobHandle]
) -> None:
    job = start_job([str(run_folder), "child"], python=launcher)
    started.append(job)
    events = begun(job, FileFollower(run_folder / "events.jsonl"))
    real = job_state(run_folder).pid
    assert real is not None
    tree = {job.pid, real, child_of(events)}
    assert len(tree) == 3
    end = job.terminate(grace_s=20)
    assert tree <= {*end.ended, *end.killed}
    assert end.survived == ()
    assert gone(*tree)
    assert job_state(run_folder).status is JobStatus.CANCELLED  # it was asked first


@posix
def test_a_job_whose_launcher_was_killed_is_still_found(
    run_folder: Path, launcher: Path, started: list[JobHandle]
) -> None:
    job = start_job([str(run_folder), "child"], python=launcher)
    started.append(job)
    events = begun(job, FileFollower(run_folder / "events.jsonl"))
    real = job_state(run_folder).pid
    assert real is not None
    os.kill(job.pid, signal.SIGKILL)
    job.wait(30)
    assert not gone(real)
    job.terminate(grace_s=0)
    assert gone(real, child_of(events))


@posix
def test_who_does_not_listen_is_killed_with_its_children(
    tmp_path: Path, run_folder: Path, job_python: Path, started: list[JobHandle]
) -> None:
    job = start_job([str(run_folder), "deaf child"], python=job_python, log=tmp_path / "log")
    started.append(job)
    text = str(until((tmp_path / "log").read_text, "the job's word"))
    child = int(text.rsplit(maxsplit=1)[-1])
    end = terminate_tree(job.pid, grace_s=0.2)
    assert set(end.killed) == {job.pid, child}
    assert gone(child)
    assert job.wait(30) == -signal.SIGKILL


@posix
def test_a_run_found_again_after_a_restart_can_be_ended(
    run_folder: Path, launcher: Path, started: list[JobHandle]
) -> None:
    job = start_job([str(run_folder), "child"], python=launcher)
    started.append(job)
    events = begun(job, FileFollower(run_folder / "events.jsonl"))
    (state,) = list_jobs(run_folder.parents[1])  # all that a new window knows
    assert state.pid is not None
    end = terminate_tree(state.pid, created=state.pid_created, folder=run_folder, grace_s=20)
    assert end.survived == ()
    assert gone(state.pid, child_of(events))


def test_a_reused_pid_is_never_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = identify(process.pid)
        assert identity is not None
        end = terminate_tree(process.pid, created=identity.created - 100, grace_s=0)
        assert (end.ended, end.killed, end.survived) == ((), (), ())
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(30) == 0
    assert terminate_tree(process.pid, created=identity.created, grace_s=0).killed == ()


@pytest.mark.parametrize("whose", ["own", "parent", "init", "zero", "negative"])
def test_this_program_and_what_is_above_it_is_never_ended(whose: str) -> None:
    pid = {"own": os.getpid(), "parent": os.getppid(), "init": 1, "zero": 0, "negative": -1}[whose]
    with pytest.raises(UsageError):
        terminate_tree(pid, grace_s=0)


@posix
def test_a_killed_job_is_interrupted_and_its_run_can_be_taken_again(
    run_folder: Path, job_python: Path, started: list[JobHandle]
) -> None:
    for _ in range(2):
        job = start_job([str(run_folder), "plain"], python=job_python)
        started.append(job)
        follower = FileFollower(run_folder / "events.jsonl")
        begun(job, follower)
        until(lambda pid=job.pid: (lock := read_lock(run_folder)) and lock.pid == pid, "the lock")
        os.kill(job.pid, signal.SIGKILL)
        job.wait(30)
        state = job_state(run_folder)
        assert state.status is JobStatus.INTERRUPTED
        assert state.progress is not None


@posix
def test_a_second_trainer_of_a_run_is_refused(
    tmp_path: Path, run_folder: Path, job_python: Path, started: list[JobHandle]
) -> None:
    first = start_job([str(run_folder), "plain"], python=job_python)
    started.append(first)
    begun(first, FileFollower(run_folder / "events.jsonl"))
    second = start_job([str(run_folder), "plain"], python=job_python, log=tmp_path / "log")
    started.append(second)
    assert second.wait(30) != 0
    assert f"is being trained by process {first.pid} since" in (tmp_path / "log").read_text(encoding="utf-8")
    assert first.is_running()


@posix
def test_a_detached_job_outlives_its_caller(run_folder: Path, job_python: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from LungSegmentationLib.jobs.process import start_job\n"
        "print(start_job([sys.argv[1], 'plain'], python=Path(sys.argv[2])).pid)"
    )
    caller = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(run_folder), str(job_python)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    pid = int(caller.stdout)
    try:
        follower = FileFollower(run_folder / "events.jsonl")
        until(lambda: any(isinstance(event, Progress) for event in follower.poll()), "progress")
        assert os.getsid(pid) == pid  # Ctrl-C and the end of the caller's terminal do not reach it
        request_stop(run_folder)
        until(lambda: job_state(run_folder).status is JobStatus.CANCELLED, "the end")
    finally:
        terminate_tree(pid, grace_s=0)


@posix
def test_the_pipe_of_an_attached_job_gives_its_events(
    run_folder: Path, job_python: Path, started: list[JobHandle]
) -> None:
    job = start_job([str(run_folder), "plain"], python=job_python, detach=False)
    started.append(job)
    assert job.events is not None
    events: list[Event] = []
    until(lambda: events.extend(job.events.poll()) or len(events) > 1, "events")  # type: ignore[union-attr, func-returns-value]
    job.request_stop()
    events += wait_for_events(job.events, job.is_running, every_s=0.02)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)


@posix
def test_the_arguments_arrive_as_they_are(tmp_path: Path, started: list[JobHandle]) -> None:
    odd = ["train", "a b", "é 患者", "$(x)", "'", '"', "*"]
    python = wrapper(tmp_path, 'printf "%s\\n" "$@"\n')
    job = start_job(odd, python=python, log=tmp_path / "ü" / "log.txt", cwd=tmp_path)
    started.append(job)
    assert job.wait(30) == 0
    lines = (tmp_path / "ü" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert lines == ["-m", "LungSegmentationLib", *odd, "--events"]


@posix
def test_output_that_is_no_utf8_and_no_event_is_text(tmp_path: Path, started: list[JobHandle]) -> None:
    line = Log(message="inside").to_line().decode().strip()
    python = wrapper(
        tmp_path, f"printf 'caf\\351 \\377\\n50%%|####'; printf '%s\\n' {shlex.quote(line)}; printf 'end'\n"
    )
    for log in (None, tmp_path / "log"):
        job = start_job(["train"], python=python, log=log, detach=False)
        started.append(job)
        assert job.events is not None
        events = list(wait_for_events(job.events, job.is_running, every_s=0.02))
        assert [event.message for event in events if isinstance(event, Log)] == ["inside"]
        assert job.events.text().splitlines()[:2] == ["caf� �", "50%|####"]


def test_a_python_or_a_folder_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be started"):
        start_job(["train"], python=tmp_path / "no python")
    with pytest.raises(UsageError, match="cannot be started"):
        start_job(["train"], cwd=tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        start_job(["train"], log=tmp_path / "file" / "log")


# The frame around a command


def events_of(folder: Path) -> list[Event | None]:
    return [parse_event(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("events", [False, True])
def test_a_command_with_a_run_folder_writes_its_events_there_and_gives_the_folder_back(
    run_folder: Path, events: bool
) -> None:
    folder = run_folder / "new"

    def work(reporter: Reporter) -> None:
        assert job_state(folder).status is JobStatus.RUNNING
        reporter.progress("training", 1, 1)

    assert run_command("train", work, run_folder=folder, events=events) == 0
    assert [event.event for event in events_of(folder) if event] == ["started", "progress", "finished"]
    assert [file.name for file in folder.iterdir()] == ["events.jsonl"]
    assert job_state(folder).status is JobStatus.FINISHED


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (BadInputError("x"), 3, JobStatus.FAILED),
        (MemoryError(), 5, JobStatus.FAILED),
        (ZeroDivisionError(), 1, JobStatus.FAILED),
        (CancelledError("x"), 4, JobStatus.CANCELLED),
        (KeyboardInterrupt(), 4, JobStatus.CANCELLED),
    ],
)
def test_each_error_ends_in_its_exit_code_and_in_the_events(
    run_folder: Path, error: BaseException, code: int, status: JobStatus
) -> None:
    def work(reporter: Reporter) -> None:
        raise error

    assert run_command("train", work, run_folder=run_folder) == code
    state = job_state(run_folder)
    assert (state.status, state.exit_code) == (status, code)
    assert not (run_folder / LOCK_FILE).exists()


def test_a_refused_command_leaves_the_events_of_the_run_alone(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    def never(reporter: Reporter) -> None:
        raise AssertionError

    def work(reporter: Reporter) -> None:
        codes.append(run_command("train", never, run_folder=run_folder))

    assert run_command("train", work, run_folder=run_folder) == 0
    assert codes == [3]
    assert [event.event for event in events_of(run_folder) if event] == ["started", "finished"]
    assert "is being trained by process" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run_command("train", lambda _: None, run_folder=tmp_path / "file") == 3
    assert f"{tmp_path / 'file'} cannot be made" in capsys.readouterr().err


# Python and environment


def test_an_ordinary_python_runs_its_own_jobs() -> None:
    assert real_python() == Path(sys.executable)


@posix
def test_behind_a_launcher_the_real_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = wrapper(tmp_path, "exit 1\n", "PythonSlicer")
    real = tmp_path / "python-real"
    real.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(launcher))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(python_module, "_running_executable", lambda: tmp_path / "SlicerApp-real")
    assert real_python() == real
    monkeypatch.setattr(python_module, "_running_executable", lambda: real)
    assert real_python() == real
    real.unlink()
    monkeypatch.setattr(python_module, "_running_executable", lambda: None)
    monkeypatch.delattr(sys, "_base_executable")
    assert real_python() == launcher


@posix
def test_a_launcher_in_a_virtual_environment_keeps_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    inside = tmp_path / "bin" / "python"
    inside.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(wrapper(tmp_path, "exit 1\n", "python-launcher")))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert real_python() == inside


SLICER = {
    "SLICER_HOME": "/slicer",
    "PYTHONHOME": "/slicer/lib/Python",
    "PYTHONPATH": "/slicer/bin/Python",
    "LD_LIBRARY_PATH": "/slicer/lib",
    "QT_PLUGIN_PATH": "/slicer/plugins",
    "PYTHONIOENCODING": "latin-1",
    "PATH": "/usr/bin",
    "HOME": "/home/é",
}


def test_the_environment_of_slicers_own_python_is_kept() -> None:
    environment = job_environment(SLICER, python=real_python())
    assert environment["PYTHONHOME"] == "/slicer/lib/Python"
    assert environment["LD_LIBRARY_PATH"] == "/slicer/lib"
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/slicer/bin/Python"]
    assert environment["PYTHONUTF8"] == "1"
    assert "PYTHONIOENCODING" not in environment


def test_another_python_gets_nothing_of_slicers(tmp_path: Path) -> None:
    assert is_other_python(tmp_path / "python")
    environment = job_environment(SLICER, python=tmp_path / "python")
    assert environment == {
        "SLICER_HOME": "/slicer", "PATH": "/usr/bin", "HOME": "/home/é",
        "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def test_a_users_own_library_path_is_kept_outside_slicer(tmp_path: Path) -> None:
    environment = job_environment({"LD_LIBRARY_PATH": "/opt/cuda"}, python=tmp_path / "python")
    assert environment["LD_LIBRARY_PATH"] == "/opt/cuda"


def test_an_installed_library_does_not_leak_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_module, "_LIBRARY_ROOT", Path("/venv/lib/site-packages"))
    assert "PYTHONPATH" not in job_environment({})


def test_the_library_is_found_from_any_folder(tmp_path: Path) -> None:
    code = "import LungSegmentationLib, sys; print(LungSegmentationLib.__file__, sys.flags.utf8_mode, sep='\\n')"
    done = subprocess.run(
        [str(real_python()), "-c", code],
        cwd=tmp_path, env=job_environment({"PATH": os.environ["PATH"]}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(ROOT / "LungSegmentationLib" / "__init__.py"), "1"]


# Following


def test_a_follower_gives_whole_lines_of_a_file_that_grows(tmp_path: Path) -> None:
    file = tmp_path / "événements.jsonl"
    follower = follow_events(file)
    assert follower.poll() == []
    lines = [Log(message=f"{number} 患").to_line() for number in range(3)]
    with file.open("ab", buffering=0) as stream:
        stream.write(lines[0] + lines[1][:30])
        assert [event.event for event in follower.poll()] == ["log"]
        assert follower.poll() == []
        stream.write(lines[1][30:] + lines[2][:-1])
        assert len(follower.poll()) == 1
        stream.write(b"\n")
        assert len(follower.poll()) == 1
        assert follower.poll() == []


def test_a_follower_begins_again_when_the_file_shrank_or_was_replaced(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    follower = FileFollower(file)
    file.write_bytes(Log(message="a" * 100).to_line() + b"half")
    assert len(follower.poll()) == 1
    file.write_bytes(Log(message="b").to_line())
    (event,) = follower.poll()
    assert isinstance(event, Log)
    assert event.message == "b"
    beside = tmp_path / "new"
    beside.write_bytes(Log(message="c").to_line() * 5)
    beside.replace(file)
    assert len(follower.poll()) == 5
    file.unlink()
    assert follower.poll() == []


def test_a_follower_goes_on_where_another_stopped(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(Log(message="a").to_line() + Log(message="b").to_line()[:-5])
    first = FileFollower(file)
    assert len(first.poll()) == 1
    file.write_bytes(Log(message="a").to_line() + Log(message="b").to_line())
    (event,) = FileFollower(file, from_offset=first.offset).poll()
    assert isinstance(event, Log)
    assert event.message == "b"


def test_a_follower_takes_a_bounded_bite_and_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"".join(Log(message=str(number)).to_line() for number in range(9000)))
    follower = FileFollower(file)
    first = follower.poll()
    assert 0 < len(first) < 9000
    events = [*first, *wait_for_events(follower, lambda: False)]
    assert [event.message for event in events if isinstance(event, Log)] == [str(number) for number in range(9000)]


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with file.open("wb") as stream:
        stream.truncate(20 * 1024 * 1024)  # zeros
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n" + Log(message="after").to_line())
    follower = FileFollower(file)
    events = list(wait_for_events(follower, lambda: False))
    assert [event.event for event in events] == ["log"]
    assert "left out" in follower.text()


def test_a_pipe_that_a_grandchild_holds_open_does_not_keep_the_reader() -> None:
    read, write = os.pipe()
    follower = PipeFollower(os.fdopen(read, "rb", buffering=0))
    os.write(write, Log(message="a").to_line())
    assert [event.event for event in wait_for_events(follower, lambda: False)] == ["log"]
    assert not follower.at_end
    os.write(write, b'{"v":1,"event":"log","message":"last, no end of line"}')
    os.close(write)
    until(lambda: not follower._thread.is_alive(), "the end of the pipe")
    (event,) = follower.poll()
    assert isinstance(event, Log)
    assert follower.at_end


# Listing


def write_events(folder: Path, *events: Event) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.jsonl").open("ab") as stream:
        stream.write(b"".join(event.to_line() for event in events))


def start_of(pid: int = 2**22 + 1, host: str | None = None, **more: object) -> Started:
    return Started(command="train", pid=pid, pid_created=1.0, host=host or host_name(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("events", "status", "exit_code", "message"),
    [
        ([Finished(exit_code=0)], JobStatus.FINISHED, 0, ""),
        ([Cancelled(message="by hand"), Finished(exit_code=4)], JobStatus.CANCELLED, 4, "by hand"),
        ([Cancelled(message="by hand")], JobStatus.CANCELLED, None, "by hand"),
        ([Failed(kind="storage", message="Full.", hint="Free.", exit_code=3), Finished(exit_code=3)],
         JobStatus.FAILED, 3, "Full. Free."),
        ([Failed(kind="fault", message="Oh.", exit_code=1)], JobStatus.FAILED, 1, "Oh."),
        ([Finished(exit_code=1)], JobStatus.FAILED, 1, ""),
        ([], JobStatus.INTERRUPTED, None, ""),
        ([Finished(exit_code=0), start_of()], JobStatus.INTERRUPTED, None, ""),
        ([Failed(kind="x", message="m"), start_of(), Finished(exit_code=0)], JobStatus.FINISHED, 0, ""),
        ([Finished(exit_code=0), start_of(host="elsewhere")], JobStatus.UNKNOWN, None, ""),
    ],
)  # fmt: skip
def test_the_state_of_a_run_is_that_of_its_latest_job(
    tmp_path: Path, events: list[Event], status: JobStatus, exit_code: int | None, message: str
) -> None:
    write_events(tmp_path, start_of(), Progress(stage="t", done=1, total=2), *events)
    state = job_state(tmp_path)
    assert (state.status, state.exit_code, state.message) == (status, exit_code, message)


def test_a_resumed_run_keeps_its_last_epoch_until_it_has_a_new_one(tmp_path: Path) -> None:
    write_events(tmp_path, start_of(), Epoch(epoch=3, epochs=9, mean_dice=0.5, best_mean_dice=0.75), start_of())
    state = job_state(tmp_path)
    assert state.epoch is not None
    assert (state.epoch.epoch, state.best_mean_dice, state.progress) == (3, 0.75, None)


def test_a_running_job_without_a_lock_is_found_by_its_process(tmp_path: Path) -> None:
    me = identify()
    assert me is not None
    write_events(tmp_path, Started(command="convert", pid=me.pid, pid_created=me.created, host=host_name()))
    assert job_state(tmp_path).status is JobStatus.RUNNING
    # so many words that the begin is out of sight
    write_events(tmp_path, *[Log(message="x" * 10_000)] * 150)
    assert job_state(tmp_path).status is JobStatus.RUNNING


def test_a_new_process_that_said_nothing_yet_is_running(tmp_path: Path) -> None:
    me = identify()
    assert me is not None
    write_events(tmp_path, start_of(), Finished(exit_code=0))
    later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat(timespec="seconds")
    holder = LockHolder(me.pid, me.created, me.mark, host_name(), later)
    (tmp_path / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(holder)))
    state = job_state(tmp_path)
    assert (state.status, state.pid) == (JobStatus.RUNNING, os.getpid())
    (tmp_path / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(dataclasses.replace(holder, host="elsewhere"))))
    assert job_state(tmp_path).status is JobStatus.FINISHED


def test_a_cohort_lists_its_runs_the_latest_first(tmp_path: Path) -> None:
    assert list_jobs(tmp_path) == []
    now = datetime.now(UTC)
    for number, name in enumerate(["c", "ä b", "患者"]):
        write_events(tmp_path / "runs" / name, Started(command="train", pid=1, time=now + timedelta(hours=number)))
    (tmp_path / "runs" / "nothing").mkdir()
    (tmp_path / "runs" / "file").touch()
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "events.jsonl").write_bytes(b"\xff\x00 no events")
    jobs = list_jobs(tmp_path)
    assert [job.run for job in jobs] == ["患者", "ä b", "c", "broken"]
    assert jobs[-1].status is JobStatus.UNKNOWN


def test_the_end_of_a_huge_file_is_read_and_not_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path, start_of())
    file = tmp_path / "events.jsonl"
    with file.open("r+b") as stream:
        stream.truncate(2 * 1024**3)  # a hole: takes no room on the disk
        stream.seek(0, os.SEEK_END)
        stream.write(b"\n" + Epoch(epoch=7, epochs=9, best_mean_dice=0.5).to_line() + Finished(exit_code=0).to_line())
    read = [0]
    plain_open = Path.open

    def counting(path: Path, *arguments: object, **options: object) -> object:
        stream = plain_open(path, *arguments, **options)  # type: ignore[call-overload]
        if path == file:
            plain_read = stream.read

            class Counting(io.BufferedReader):
                def read(self, size: int | None = -1) -> bytes:
                    data: bytes = plain_read(size)
                    read[0] += len(data)
                    return data

            return Counting(stream.raw)
        return stream

    monkeypatch.setattr(Path, "open", counting)
    state = job_state(tmp_path)
    assert (state.status, state.best_mean_dice) == (JobStatus.FINISHED, 0.5)
    assert 0 < read[0] < 2 * 1024**2


@pytest.mark.parametrize("size", [0, 1, 10, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 200_000])
def test_lines_from_the_end_are_the_lines_backwards(tmp_path: Path, size: int) -> None:
    file = tmp_path / "text"
    data = b"\n".join(str(number).encode() for number in range(size // 5)) + b"\n"
    file.write_bytes(data)
    assert list(lines_from_end(file)) == data.split(b"\n")[::-1]
    assert list(lines_from_end(tmp_path / "none")) == []


def test_reporter_and_stop_request_work_together(tmp_path: Path) -> None:
    with (
        StopRequest(tmp_path) as stop,
        EventReporter(file=tmp_path / "events.jsonl", cancelled=stop.requested) as reporter,
    ):
        reporter.check_cancelled()
        stop.request()
        with pytest.raises(CancelledError):
            reporter.check_cancelled()
    assert parse_event((tmp_path / "events.jsonl").read_bytes()) is None
