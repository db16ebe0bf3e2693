"""One process a run folder: a living one is protected, a dead one's lock is taken over by exactly one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from LungSegmentationLib.errors import BadInputError, StorageError
from LungSegmentationLib.jobs import lock as lock_module
from LungSegmentationLib.jobs.identity import ProcessIdentity, identify
from LungSegmentationLib.jobs.lock import LOCK_FILE, LockedError, LockHolder, RunLock, host_name, read_lock

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

HOLD = """
import sys
from pathlib import Path
from LungSegmentationLib.jobs.lock import LockedError, RunLock
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunLock(Path(sys.argv[1])):
        print("won", flush=True)
        sys.stdin.readline()
except LockedError as error:
    print("refused", error, flush=True)
"""


def holder_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        env={**ENVIRONMENT, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def write_lock(folder: Path, **changes: object) -> LockHolder:
    me = identify()
    assert me is not None
    mine = LockHolder(me.pid, me.created, me.mark, host_name(), "2026-11-01T10:00:00+00:00")
    holder = dataclasses.replace(mine, **changes)  # type: ignore[arg-type]
    (folder / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(holder)), encoding="utf-8")
    return holder


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lock_names_this_process_and_goes_away_at_the_end(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        holder = read_lock(tmp_path)
        assert holder is not None
        assert (holder.pid, holder.host) == (os.getpid(), host_name())
        assert holder.is_alive()
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_goes_away_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    assert read_lock(tmp_path) is None


@pytest.mark.parametrize("name", ["run", "läufe é (1)", "患者 データ", 'a\'b "c"'])
def test_a_living_process_is_protected_and_named_with_the_cure(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    process = holder_process(folder)
    with process:
        tell(process)
        assert hear(process) == "won\n"
        with pytest.raises(LockedError) as caught, RunLock(folder):
            pass
        assert isinstance(caught.value, BadInputError)
        assert f"{folder} is being trained by process {process.pid} since " in str(caught.value)
        assert "stop it or choose another --run" in str(caught.value).lower()
        tell(process)
        assert process.wait(30) == 0
    with RunLock(folder):
        pass


def test_force_does_not_take_the_lock_of_a_living_process_of_this_computer(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(LockedError), RunLock(tmp_path, force=True):
        pass


def test_work_inside_a_job_may_ask_for_the_lock_that_the_job_holds(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with RunLock(tmp_path, nested=True):
            pass
        holder = read_lock(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()
    with RunLock(tmp_path, nested=True):
        assert read_lock(tmp_path) is not None
    assert read_lock(tmp_path) is None


def test_other_work_than_training_is_refused_in_its_own_words(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(LockedError) as caught:
        RunLock(tmp_path, doing="is being converted", cure="Wait for it.").acquire()
    assert f"is being converted by process {os.getpid()} since" in str(caught.value)
    assert str(caught.value).endswith("Wait for it.")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with holder_process(tmp_path) as process:
        tell(process)
        assert hear(process) == "won\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert (tmp_path / LOCK_FILE).exists()
    with RunLock(tmp_path):
        holder = read_lock(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()


@pytest.mark.skipif(sys.platform == "win32", reason="zombies are POSIX")
def test_a_killed_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    with holder_process(tmp_path) as process:
        tell(process)
        assert hear(process) == "won\n"
        process.send_signal(signal.SIGKILL)
        assert hear(process) == ""  # its pipe is closed, it is not reaped
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with RunLock(tmp_path):
            pass


def test_a_reused_pid_is_not_the_holder(tmp_path: Path) -> None:
    me = identify()
    assert me is not None
    write_lock(tmp_path, created=me.created - 3600, mark="")
    with RunLock(tmp_path):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="marks of processes are read on Linux")
def test_setting_the_clock_does_not_make_a_living_process_look_dead(tmp_path: Path) -> None:
    me = identify()
    assert me is not None
    assert me.mark
    write_lock(tmp_path, created=me.created - 3600)
    with pytest.raises(LockedError), RunLock(tmp_path):
        pass
    write_lock(tmp_path, mark=me.mark + "1")  # same clock, but another start: another boot, another process
    with RunLock(tmp_path):
        pass


def test_only_one_of_many_takes_over_a_dead_lock(tmp_path: Path) -> None:
    for _ in range(3):
        write_lock(tmp_path, pid=ended_pid(), created=1.0, mark="")
        processes = [holder_process(tmp_path) for _ in range(5)]
        for process in processes:
            tell(process)
        answers = [hear(process).split()[0] for process in processes]
        assert sorted(answers) == ["refused"] * 4 + ["won"]
        for process, answer in zip(processes, answers, strict=True):
            if answer == "won":
                tell(process)
            process.communicate(timeout=30)
        assert read_lock(tmp_path) is None


COUNT = """
import sys, os
from pathlib import Path
from LungSegmentationLib.jobs.lock import LockedError, RunLock
folder, inside = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(150):
    try:
        with RunLock(folder):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            inside.unlink()
    except LockedError:
        pass
"""


def test_taking_and_giving_back_in_a_hurry_never_lets_two_in(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(folder), str(tmp_path / "inside")],
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b'{"pid": "x"}', b"\xff\xfe", b'{"pid": 1}', b"{}" * 5000]
)
def test_a_lock_that_says_nothing_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    assert read_lock(tmp_path) is None
    with RunLock(tmp_path):
        holder = read_lock(tmp_path)
        assert holder is not None
        assert holder.pid == os.getpid()


def test_a_lock_of_another_computer_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_lock(tmp_path, host="another-computer")
    with pytest.raises(LockedError, match=r"another-computer.*--force"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path, force=True):
        pass


def test_a_lock_of_another_computer_ends_when_nothing_was_written_for_a_day(tmp_path: Path) -> None:
    write_lock(tmp_path, host="another-computer")
    long_ago = time.time() - lock_module.STALE_AFTER_S - 60
    os.utime(tmp_path / LOCK_FILE, (long_ago, long_ago))
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(LockedError), RunLock(tmp_path):
        pass
    os.utime(tmp_path / "events.jsonl", (long_ago, long_ago))
    with RunLock(tmp_path):
        pass


def test_giving_back_leaves_the_lock_of_who_took_it_meanwhile(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    other = write_lock(tmp_path, pid=1, created=1.0, mark="")
    lock.release()
    assert read_lock(tmp_path) == other
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")
def test_a_forked_child_does_not_give_back_its_parents_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from LungSegmentationLib.jobs.lock import RunLock, read_lock\n"
        "folder = Path(sys.argv[1]); lock = RunLock(folder); lock.acquire(); child = os.fork()\n"
        "if child == 0:\n    lock.release(); os._exit(0)\n"
        "os.waitpid(child, 0); assert read_lock(folder).pid == os.getpid()\n"
        "lock.release(); assert read_lock(folder) is None\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=ENVIRONMENT)


def test_a_missing_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"lock\.json cannot be written"), RunLock(tmp_path / "gone"):
        pass


def test_file_systems_without_locks_still_protect_the_living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with RunLock(tmp_path), pytest.raises(LockedError), RunLock(tmp_path):
        pass
    assert read_lock(tmp_path) is None


def test_no_process_has_a_pid_that_cannot_be() -> None:
    assert identify(0) is None
    assert identify(-5) is None
    assert identify(2**40) is None
    assert not ProcessIdentity(ended_pid(), 1.0).is_alive()


def test_a_process_of_which_the_system_tells_nothing_is_taken_for_living(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(process: psutil.Process) -> float:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "create_time", denied)
    assert ProcessIdentity(os.getpid(), 12345.0).is_alive()
    assert not ProcessIdentity(ended_pid(), 12345.0).is_alive()
