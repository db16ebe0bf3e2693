"""Events of a job are followed while their file grows, and a cohort's runs are listed with their state."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from job_files import (
    make_run_folder,
    until,
)

from LungSegmentationLib.jobs.events import (
    Cancelled,
    Epoch,
    Event,
    Failed,
    Finished,
    Log,
    Progress,
    Started,
)
from LungSegmentationLib.jobs.following import FileFollower, PipeFollower, follow_events, wait_for_events
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.listing import JobStatus, job_state, lines_from_end, list_jobs
from LungSegmentationLib.jobs.lock import LOCK_FILE, LockHolder, host_name


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path)


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
