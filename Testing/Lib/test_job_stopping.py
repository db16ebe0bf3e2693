"""How a job is asked to stop, and how a command ends: its events, its exit code, its run folder."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from job_files import (
    make_run_folder,
    posix,
)

from LungSegmentationLib.errors import BadInputError, CancelledError, StorageError
from LungSegmentationLib.jobs.events import (
    Event,
    EventReporter,
    Reporter,
    parse_event,
)
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.listing import JobStatus, job_state
from LungSegmentationLib.jobs.lock import LOCK_FILE, LockHolder, host_name
from LungSegmentationLib.jobs.process import request_stop
from LungSegmentationLib.jobs.running import run_command
from LungSegmentationLib.jobs.stopping import STOP_FILE, StopRequest


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path)


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
