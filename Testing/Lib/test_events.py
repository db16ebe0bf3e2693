"""Events: what is written is strict JSON that reads back, reading never raises, and writing survives its reader."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from LungSegmentationLib.errors import BadInputError, CancelledError, StorageError
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
    Result,
    RichReporter,
    SilentReporter,
    Started,
    TeeReporter,
    Warning_,
    parse_event,
)

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES: list[Event] = [
    Started(command="train", pid=1, pid_created=2.5, host="h", software_version="0.1", run="/r", total={"cases": 3}),
    Progress(stage="lesen – 読む", done=1, total=None, eta_s=3.5, message="é"),
    Epoch(epoch=1, epochs=2, train_loss=0.5, val_loss=0.25, dice={"heart": None, "gtv": 0.5}, mean_dice=0.5, lr=1e-4),
    Warning_(message="two planes", subject="P1"),
    Log(message="x", level="debug"),
    Result(paths={"model": "/a b/ü"}, summary={"n": 3, "list": [1, None, {"a": "b"}]}),
    Failed(kind="fault", message="m", hint="h", exit_code=1, traceback="T\n"),
    Cancelled(message="stopped"),
    Finished(seconds=1.5, exit_code=4),
]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def written(stream: io.BytesIO) -> list[Event]:
    events = [parse_event(line) for line in stream.getvalue().splitlines()]
    assert all(event is not None for event in events)
    return [event for event in events if event is not None]


def progress_of(stream: io.BytesIO, stage: str = "s") -> list[int]:
    return [event.done for event in written(stream) if isinstance(event, Progress) and event.stage == stage]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.event)
def test_every_event_reads_back_as_it_was_written(event: Event) -> None:
    line = event.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_event(line) == event
    assert parse_event(line.decode()) == event


@given(st.text(), st.dictionaries(st.text(max_size=5), st.floats() | st.text(max_size=5) | st.none(), max_size=4))
def test_any_text_and_any_number_becomes_one_ascii_line_of_strict_json(
    message: str, summary: dict[str, object]
) -> None:
    for event in (Warning_(message=message), Result.model_validate({"paths": {"a": message}, "summary": summary})):
        line = event.to_line()
        assert line.isascii()
        assert line.count(b"\n") == 1

        def refuse(name: str) -> None:
            raise AssertionError(name)

        json.loads(line, parse_constant=refuse)
        assert parse_event(line) == event


def test_not_a_number_and_infinity_become_null() -> None:
    event = Epoch(epoch=1, epochs=1, train_loss=float("nan"), val_loss=float("inf"), dice={"a": float("-inf")})
    read = json.loads(event.to_line())
    assert read["train_loss"] is None
    assert read["val_loss"] is None
    assert read["dice"] == {"a": None}


def test_numpy_values_paths_and_undecodable_file_names_can_be_said() -> None:
    stream = io.BytesIO()
    EventReporter(stream).result(
        {"model": Path("/data/\udce9")}, {"voxels": np.int64(7), "mean": np.float32(0.5), "counts": np.arange(3)}
    )
    (event,) = written(stream)
    assert isinstance(event, Result)
    assert event.paths["model"].startswith("/data/")
    assert event.summary == {"voxels": 7, "mean": 0.5, "counts": [0, 1, 2]}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "no json",
        "{",
        "[]",
        "3",
        "null",
        '{"v":1,"event":"progress","stage":"a","do',
        '{"v":1,"event":"from_the_future"}',
        '{"v":2,"event":"log","message":"later schema"}',
        '{"v":1,"event":"progress","stage":"a","done":"many"}',
        '{"v":1}',
        '{"event":{"a":1}}',
        "{" * 100_000,
        '{"a":' * 100_000,
        '{"v":1,"event":"log","message":' + "9" * 5000 + "}",
        b"\xff\xfe\x00",
        b'{"v":1,"event":"lo\xff","message":"x"}',
    ],
    ids=lambda line: repr(line[:24]),
)
def test_what_is_no_event_is_none_and_never_an_error(line: str | bytes) -> None:
    assert parse_event(line) is None


@given(st.binary(max_size=200))
def test_reading_never_raises(line: bytes) -> None:
    parse_event(line)
    parse_event(b'{"v":1,"event":"log","message":"' + line)


def test_half_of_any_event_is_no_event() -> None:
    for event in EXAMPLES:
        line = event.to_line().rstrip()
        assert all(parse_event(line[:cut]) is None for cut in range(len(line)))


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    event = parse_event(b'{"v":1,"time":"2026-11-01T12:00:00Z","event":"log","message":"caf\xe9"}')
    assert isinstance(event, Log)
    assert event.message == "caf�"


def test_fields_of_a_later_version_are_ignored() -> None:
    event = parse_event('{"v":1,"time":"2026-11-01T12:00:00Z","event":"log","message":"a","colour":"red"}')
    assert isinstance(event, Log)


def test_progress_is_written_at_most_five_times_a_second_but_first_and_last_always() -> None:
    clock, stream = FakeClock(), io.BytesIO()
    reporter = EventReporter(stream, clock=clock)
    for done in range(1, 1001):  # ten seconds
        clock.now = 100 + done / 100
        reporter.progress("s", done, 1000)
    said = progress_of(stream)
    assert said[0] == 1
    assert said[-1] == 1000
    assert 45 <= len(said) <= 52
    gaps = [later - earlier for earlier, later in itertools.pairwise(said[:-1])]
    assert min(gaps) >= 20  # steps of 10 ms


def test_stages_do_not_take_each_others_turn() -> None:
    stream = io.BytesIO()
    reporter = EventReporter(stream, clock=FakeClock())
    for stage in ("a", "b", "c"):
        reporter.progress(stage, 1, 9)
    assert [progress_of(stream, stage) for stage in ("a", "b", "c")] == [[1], [1], [1]]


def test_the_last_step_is_said_once_in_each_pass() -> None:
    clock, stream = FakeClock(), io.BytesIO()
    reporter = EventReporter(stream, clock=clock)
    for _ in range(2):
        for done in (1, 2, 3, 3, 3):
            clock.now += 0.01
            reporter.progress("s", done, 3)
        clock.now += 1
    assert progress_of(stream) == [1, 3, 1, 3]


def test_where_a_stopped_stage_came_to_is_said_before_the_end() -> None:
    clock, stream = FakeClock(), io.BytesIO()
    reporter = EventReporter(stream, clock=clock)
    for done in range(1, 8):
        reporter.progress("s", done, 100)
    reporter.cancelled()
    assert progress_of(stream) == [1, 7]
    assert isinstance(written(stream)[-1], Cancelled)


def test_time_left_follows_the_speed() -> None:
    clock, stream = FakeClock(), io.BytesIO()
    reporter = EventReporter(stream, clock=clock)
    for done in range(1, 6):
        clock.now += 2.0
        reporter.progress("s", done, 10)
    last = written(stream)[-1]
    assert isinstance(last, Progress)
    assert last.eta_s == pytest.approx(10.0)  # five steps of two seconds


def test_time_left_forgets_steps_that_were_done_already() -> None:
    clock, stream = FakeClock(), io.BytesIO()
    reporter = EventReporter(stream, clock=clock)
    for done in range(1, 501):  # found done: a thousandth of a second each
        clock.now += 0.001
        reporter.progress("s", done, 700)
    for done in range(501, 601):
        clock.now += 1.0
        reporter.progress("s", done, 700)
    last = written(stream)[-1]
    assert isinstance(last, Progress)
    assert last.eta_s == pytest.approx(100.0, rel=0.02)


def test_time_left_is_unknown_at_the_first_step_and_without_a_total() -> None:
    stream = io.BytesIO()
    reporter = EventReporter(stream, clock=FakeClock())
    reporter.progress("s", 1, 10)
    reporter.progress("t", 1, None)
    assert [event.eta_s for event in written(stream) if isinstance(event, Progress)] == [None, None]


def test_the_file_gets_the_same_lines_as_the_stream(tmp_path: Path) -> None:
    stream, file = io.BytesIO(), tmp_path / "läufe 患者" / "run 1" / "events.jsonl"
    with EventReporter(stream, file) as reporter:
        reporter.warning("careful", "P1")
        reporter.finished()
    assert file.read_bytes() == stream.getvalue()


def test_text_streams_and_missing_streams_work() -> None:
    text = io.StringIO()
    EventReporter(text).log("a")
    assert isinstance(parse_event(text.getvalue()), Log)
    EventReporter(None).log("a")


def test_a_line_left_half_written_by_a_killed_job_does_not_spoil_the_next(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(Log(message="whole").to_line() + b'{"v":1,"event":"prog')
    with EventReporter(file=file) as reporter:
        reporter.log("after")
    events = [parse_event(line) for line in file.read_bytes().splitlines()]
    assert [event.message for event in events if isinstance(event, Log)] == ["whole", "after"]


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventReporter(file=file) as reporter:
        threads = [
            threading.Thread(target=lambda n=n: [reporter.log(f"{n} " + "x" * 5000) for _ in range(50)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = [parse_event(line) for line in file.read_bytes().splitlines()]
    assert len(events) == 200
    assert None not in events


def test_a_reader_that_goes_away_does_not_stop_a_job_that_writes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    code = (
        "import sys; from pathlib import Path; from LungSegmentationLib.jobs.events import EventReporter\n"
        "reporter = EventReporter(sys.stdout, Path(sys.argv[1]))\n"
        "reporter.log('first'); sys.stdin.readline()\n"
        "for number in range(2000): reporter.log(f'{number} ' + 'x' * 200); reporter.check_cancelled()\n"
        "reporter.finished()\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert job.stdin is not None
    assert job.stdout is not None
    assert job.stderr is not None
    with job:
        assert isinstance(parse_event(job.stdout.readline()), Log)
        job.stdout.close()
        job.stdin.write(b"\n")
        job.stdin.close()
        assert job.wait(60) == 0
        assert job.stderr.read() == b""
    lines = file.read_bytes().splitlines()
    assert len(lines) == 2002
    assert isinstance(parse_event(lines[-1]), Finished)


def test_a_job_without_a_file_is_cancelled_when_nobody_reads_any_more() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as stream:
        reporter = EventReporter(stream)
        reporter.log("a")
        reporter.check_cancelled()
        os.close(read)
        reporter.log("b")
        with pytest.raises(CancelledError, match="went away"):
            reporter.check_cancelled()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes that do not block are POSIX")
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_every_line() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    received = bytearray()

    def drain() -> None:
        while data := os.read(read, 1000):
            received.extend(data)

    thread = threading.Thread(target=drain)
    with os.fdopen(write, "wb", buffering=0) as stream:
        reporter = EventReporter(stream)
        reporter.log("x" * 60_000)
        thread.start()
        for _ in range(5):
            reporter.log("x" * 60_000)
    thread.join(30)
    os.close(read)
    assert [parse_event(line) is not None for line in bytes(received).splitlines()] == [True] * 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_ours_and_the_end_can_still_be_said() -> None:
    stream = io.BytesIO()
    with EventReporter(stream, Path("/dev/full")) as reporter:
        with pytest.raises(StorageError, match="/dev/full") as caught:
            reporter.log("a")
        reporter.failed(caught.value)
        reporter.finished(3)
    assert [event.event for event in written(stream)] == ["failed", "finished"]


def test_a_folder_that_is_a_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(StorageError, match=r"events\.jsonl cannot be written"):
        EventReporter(file=tmp_path / "run" / "events.jsonl")


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (BadInputError("A is broken.", "Mend A."), "bad_input", 3),
        (MemoryError(), "out_of_memory", 5),
        (OSError(28, "No space left on device", "/d"), "storage", 3),
        (KeyboardInterrupt(), "cancelled", 4),
        (ZeroDivisionError("division by zero"), "fault", 1),
    ],
)
def test_an_error_becomes_kind_sentence_cure_and_exit_code(error: BaseException, kind: str, exit_code: int) -> None:
    event = Failed.from_error(error)
    assert (event.kind, event.exit_code) == (kind, exit_code)
    assert event.message
    assert (event.traceback is not None) == (kind == "fault")


def test_the_best_mean_dice_is_remembered() -> None:
    stream = io.BytesIO()
    reporter = EventReporter(stream)
    for epoch, mean in enumerate((0.5, 0.7, float("nan"), None, 0.6), start=1):
        reporter.epoch(epoch, 5, mean_dice=mean)
    assert [event.best_mean_dice for event in written(stream) if isinstance(event, Epoch)] == [0.5, 0.7, 0.7, 0.7, 0.7]


def test_a_resumed_training_can_say_what_was_best_before() -> None:
    stream = io.BytesIO()
    EventReporter(stream).epoch(7, 9, mean_dice=0.6, best_mean_dice=0.9)
    (event,) = written(stream)
    assert isinstance(event, Epoch)
    assert event.best_mean_dice == 0.9


def test_a_tee_tells_everyone_and_asks_everyone_whether_to_stop() -> None:
    one, two = io.BytesIO(), io.BytesIO()
    asked = [False]
    tee = TeeReporter(EventReporter(one), EventReporter(two, cancelled=lambda: asked[0]))
    tee.progress("s", 1, 2)
    tee.check_cancelled()
    assert one.getvalue() == two.getvalue() != b""
    asked[0] = True
    with pytest.raises(CancelledError):
        tee.check_cancelled()


def test_the_silent_reporter_is_a_reporter_and_still_stops() -> None:
    reporter: Reporter = SilentReporter(cancelled=lambda: True)
    reporter.progress("s", 1, 1)
    reporter.result({"a": Path("b")})
    with pytest.raises(CancelledError):
        reporter.check_cancelled()


def show_everything(reporter: RichReporter) -> None:
    with reporter:
        reporter.progress("reading [/bold]", 1, 3)
        reporter.warning("[red]P1[/red] has no heart", "[case] 日本")
        reporter.progress("reading [/bold]", 3, 3)
        reporter.epoch(
            1, 2, train_loss=0.5, val_loss=float("nan"), dice={"right lung": 0.91, "heart": None}, mean_dice=0.91
        )
        reporter.result({"model": "/m[0]"})
        reporter.failed(BadInputError("A is broken.", "Mend A."))
        reporter.finished(3)


def test_people_see_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    show_everything(RichReporter(stream))
    text = stream.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "reading [/bold]: 1/3"
    assert "Warning: [case] 日本: [red]P1[/red] has no heart" in lines
    assert "  Dice: right lung 0.910, heart –" in lines
    assert lines[-2:] == ["Error: A is broken.", "Mend A."]


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    clock, stream = FakeClock(), io.StringIO()
    reporter = RichReporter(stream, clock=clock)
    for done in range(1, 101):
        clock.now += 1.0
        reporter.progress("s", done, 100)
    assert 9 <= len(stream.getvalue().splitlines()) <= 12
    assert stream.getvalue().splitlines()[-1] == "s: 100/100"


def test_people_see_bars_warnings_and_dice_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    show_everything(RichReporter(stream))
    text = stream.getvalue()
    for part in ("reading [/bold]", "[case] 日本: [red]P1[/red] has no heart", "3/3", "right lung", "0.910", "Mend A."):
        assert part in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_plain_lines_survive_a_narrow_encoding_and_a_closed_stream() -> None:
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii")
    RichReporter(narrow).warning("患者 é")
    assert b"Warning: ?? ?" in raw.getvalue()
    narrow.close()
    RichReporter(io.StringIO()).log("x", "error")
    closed = io.StringIO()
    reporter = RichReporter(closed)
    closed.close()
    reporter.warning("nobody reads this")


def test_the_package_of_jobs_needs_neither_numpy_nor_rich_nor_torch_to_be_imported() -> None:
    code = (
        "import sys, LungSegmentationLib.jobs.process, LungSegmentationLib.jobs.listing\n"
        "print([m for m in ('numpy', 'rich', 'torch', 'SimpleITK', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
