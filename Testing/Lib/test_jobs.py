"""Jobs with real processes: started, stopped, ended as whole trees, found again."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_files import (
    ROOT,
    begun,
    child_of,
    ended,
    gone,
    make_job_python,
    make_launcher,
    make_run_folder,
    posix,
    until,
    wrapper,
)

from LungSegmentationLib.errors import StorageError, UsageError
from LungSegmentationLib.jobs.events import (
    Event,
    Finished,
    Log,
    Progress,
    Started,
)
from LungSegmentationLib.jobs.following import FileFollower, wait_for_events
from LungSegmentationLib.jobs.identity import identify
from LungSegmentationLib.jobs.listing import JobStatus, job_state, list_jobs
from LungSegmentationLib.jobs.lock import LOCK_FILE, read_lock
from LungSegmentationLib.jobs.process import JobHandle, request_stop, start_job, terminate_tree
from LungSegmentationLib.jobs.stopping import STOP_FILE


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run_folder(tmp_path)


@pytest.fixture
def started() -> Iterator[list[JobHandle]]:
    """Jobs that are ended after the test, whatever happened."""
    yield from ended([])


@pytest.fixture
def job_python(tmp_path: Path) -> Path:
    return make_job_python(tmp_path)


@pytest.fixture
def launcher(tmp_path: Path, job_python: Path) -> Path:
    return make_launcher(tmp_path, job_python)


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
