"""Checkpoints: whole or the one before, whatever happens while they are written; read without running code."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from LungSegmentationLib.cohort.paths import RunPaths
from LungSegmentationLib.errors import BadInputError, StorageError
from LungSegmentationLib.training import checkpoint as module
from LungSegmentationLib.training.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    load_checkpoint,
    load_latest,
    prune_checkpoints,
    remove_partial_files,
    save_checkpoint,
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")


def example(epoch: int = 1) -> Checkpoint:
    return Checkpoint(
        config={"epochs": 3},
        identity={"network": "small"},
        processes=1,
        epoch=epoch,
        step=2,
        loss_sum=0.5,
        loss_weight=8.0,
        parts=1,
        seconds=1.5,
        epoch_seconds=0.5,
        best={"epoch": 1, "value": 0.25, "score": None},
        network={"weight": torch.full((64, 64), float(epoch))},
        optimizer={"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        schedule={"best": float("inf")},
        scaler={},
        average=None,
        stopping={"bad": 0},
        history={"epochs": []},
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", example())
    loaded = load_checkpoint(tmp_path / "last.pt")
    for item in fields(Checkpoint):
        if item.name not in {"network", "optimizer"}:
            assert getattr(loaded, item.name) == getattr(example(), item.name)
    assert torch.equal(loaded.network["weight"], torch.ones(64, 64))
    assert loaded.optimizer["param_groups"] == [{"lr": 1e-4, "params": [0]}]


def _in_a_child(work: Callable[[], None]) -> int:
    """Run something in a fork; return the signal that ended it, 0 if it came to its end, −1 if it raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent's test must not run twice
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    return -1 if os.WEXITSTATUS(status) else 0


def _kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs_fork
@pytest.mark.parametrize("moment", [*range(1, 12), "flush", "rename", "renamed"])
def test_killed_at_any_moment_of_a_save_a_whole_checkpoint_stays(tmp_path: Path, moment: int | str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, example(epoch=1))

    def work() -> None:
        writes = 0
        write, rename, flush = module._Sink.write, Path.replace, os.fsync

        def counted(self: Any, data: bytes) -> int:
            nonlocal writes
            writes += 1
            if writes == moment:
                write(self, data[: len(data) // 2])
                self._stream.flush()
                _kill_me()
            return write(self, data)

        def flushed(descriptor: int) -> None:
            if moment == "flush":
                _kill_me()
            flush(descriptor)

        def renamed(self: Path, target: Path) -> Path:
            if moment == "rename":
                _kill_me()
            result = rename(self, target)
            if moment == "renamed":
                _kill_me()
            return result

        module._Sink.write = counted  # type: ignore[method-assign]
        Path.replace = renamed  # type: ignore[method-assign,assignment]
        os.fsync = flushed  # type: ignore[assignment]
        save_checkpoint(path, example(epoch=2))

    ended = _in_a_child(work)
    loaded = load_checkpoint(path)
    finished = ended == 0 or moment == "renamed"
    assert ended in {0, signal.SIGKILL}
    assert loaded.epoch == (2 if finished else 1)
    assert bool((loaded.network["weight"] == loaded.epoch).all())
    if isinstance(moment, int) and moment <= 3:
        assert ended == signal.SIGKILL, "a save has more than three writes"


@needs_fork
def test_what_a_killed_save_left_behind_is_removed_at_the_next_start(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    save_checkpoint(run.checkpoint, example())

    def work() -> None:
        module.torch.save = lambda *_: _kill_me()  # type: ignore[assignment]
        save_checkpoint(run.checkpoint, example())

    assert _in_a_child(work) == signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial_files(run)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_full_disk_is_said_and_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, example(epoch=1))
    writes = 0

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, data: bytes) -> int:
            nonlocal writes
            writes += 1
            if writes > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.stream.write(data))

        def flush(self) -> None:
            self.stream.flush()

    sink = module._Sink
    monkeypatch.setattr(module, "_Sink", lambda stream: sink(Full(stream)))  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="disk is full"):
        save_checkpoint(path, example(epoch=2))
    assert load_checkpoint(path).epoch == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("was_run",))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"schema": 1, "config": Evil()}, tmp_path / "last.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("last.pt", "plain.pt"):
        with pytest.raises(BadInputError, match="damaged, or no checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_a_cut_off_checkpoint_is_refused_with_the_cure(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, example())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInputError, match="epoch_") as caught:
        load_checkpoint(path)
    assert "last.pt" in caught.value.message


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def test_whichever_byte_is_flipped_what_is_read_is_what_was_written_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    small = replace(example(), network={"weight": torch.arange(6.0)})
    save_checkpoint(path, small)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint(path)
        except BadInputError:
            refused += 1
        else:
            assert all(same(getattr(loaded, item.name), getattr(small, item.name)) for item in fields(Checkpoint)), (
                place
            )
    assert refused > 100


def test_a_damaged_last_checkpoint_gives_way_to_the_latest_whole_one(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    for epoch in (10, 20, 30):
        save_checkpoint(run.epoch_checkpoint(epoch), example(epoch))
    save_checkpoint(run.checkpoint, example(33))
    assert [load_latest(run)[0].epoch, load_latest(run)[1]] == [33, ""]

    for path in (run.checkpoint, run.epoch_checkpoint(30)):
        content = bytearray(path.read_bytes())
        place = content.index(torch.full((4,), float(load_checkpoint(path).epoch)).numpy().tobytes())
        content[place] ^= 1
        path.write_bytes(content)
    found, sentence = load_latest(run)
    assert found.epoch == 20
    assert "last.pt is damaged" in sentence
    assert "epoch_0030.pt is damaged" in sentence
    assert "epoch_0020.pt" in sentence

    prune_checkpoints(run, 0)
    with pytest.raises(DamagedCheckpointError, match="no older checkpoint"):
        load_latest(run)
    assert run.checkpoint.exists()


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for content in ({"weight": torch.zeros(2)}, torch.zeros(3), {"schema": 1}, {"schema": "1"}):
        torch.save(content, path)
        with pytest.raises(BadInputError, match="no checkpoint"):
            load_checkpoint(path)
    torch.save({"schema": 2}, path)
    with pytest.raises(BadInputError, match="newer"):
        load_checkpoint(path)
    with pytest.raises(BadInputError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(BadInputError):
        load_checkpoint(tmp_path)


def test_the_oldest_kept_checkpoints_are_pruned(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    for epoch in (10, 20, 30, 40):
        save_checkpoint(run.epoch_checkpoint(epoch), example(epoch))
    save_checkpoint(run.checkpoint, example())
    prune_checkpoints(run, 2)
    assert [path.name for path in run.epoch_checkpoints()] == ["epoch_0030.pt", "epoch_0040.pt"]
    assert run.checkpoint.exists()
    prune_checkpoints(run, 0)
    assert run.epoch_checkpoints() == ()


def test_a_path_of_any_letters_will_do(tmp_path: Path) -> None:
    path = tmp_path / "Köhler 肺 Ω" / "last.pt"
    save_checkpoint(path, replace(example(), identity={"cohort": "肺"}))
    assert load_checkpoint(path).identity == {"cohort": "肺"}
