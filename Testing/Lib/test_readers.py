"""A preparation that replaces slices and a training that reads them never work at the same time, whoever is first."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from prepared_files import add_case, new_cohort
from training_files import TINY, Recorder

from LungSegmentationLib.cohort import readers
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.readers import replacing_slices, wait_for_slices
from LungSegmentationLib.cohort.splits import Split, write_splits
from LungSegmentationLib.jobs.events import Progress, SilentReporter
from LungSegmentationLib.jobs.listing import list_jobs
from LungSegmentationLib.jobs.lock import LOCK_FILE, LockedError, LockHolder, RunLock, host_name
from LungSegmentationLib.training import command
from LungSegmentationLib.training.command import plan_training, train

SETTINGS = (*TINY, "epochs=1")


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    paths = new_cohort(tmp_path / "Kohorte é 患者")
    for number, name in enumerate(("a", "b", "c")):
        add_case(paths, name, seed=number)
    write_splits(paths, Split(("a", "b"), ("c",), ()))
    prepare(paths.root, PreparationOptions(slice_size=32))
    return paths


def test_a_training_that_begins_while_slices_are_made_anew_is_refused(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "WAIT_S", 0.0)
    refused: list[str] = []

    class Starter(SilentReporter):
        def emit(self, event: object) -> None:
            if isinstance(event, Progress) and event.done == 1:
                with pytest.raises(LockedError, match=rf"made anew by process {os.getpid()} .*Wait") as caught:
                    train(plan_training(cohort.root, "early", settings=SETTINGS), Recorder())
                refused.append(str(caught.value))

    prepare(cohort.root, PreparationOptions(slice_size=48), Starter())
    assert len(refused) == 1
    train(plan_training(cohort.root, "late", settings=SETTINGS), Recorder())


def test_a_preparation_that_finds_a_training_gives_way_and_the_training_goes_on(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training has its lock and no slice yet: the moment in which neither knew of the other."""

    def between(*arguments: Any, **options: Any) -> None:
        with pytest.raises(LockedError, match=r"first.*Nothing was changed"):
            prepare(cohort.root, PreparationOptions(slice_size=48))
        wait_for_slices(*arguments, **options)

    monkeypatch.setattr(command, "wait_for_slices", between)
    heard = Recorder()
    train(plan_training(cohort.root, "first", settings=SETTINGS), heard)
    assert len(heard.epochs) == 1


def test_while_a_preparation_only_adds_cases_a_training_begins(cohort: CohortPaths) -> None:
    begun: list[int] = []

    class Starter(SilentReporter):
        def emit(self, event: object) -> None:
            if isinstance(event, Progress) and event.stage == "prepare" and not begun:
                begun.append(1)
                train(plan_training(cohort.root, "beside", settings=SETTINGS), Recorder())

    add_case(cohort, "new", seed=9)
    prepare(cohort.root, None, Starter())
    assert begun


def test_of_two_that_start_in_the_same_moment_never_both_go_on(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "WAIT_S", 0.1)

    def begin(both: threading.Barrier, inside: list[str], name: str, work: Any) -> None:
        both.wait()
        try:
            with work:
                if name == "training":
                    wait_for_slices(cohort)
                inside.append(name)
                both.wait()
        except LockedError:
            both.wait()

    for number in range(12):
        run = cohort.run(f"run {number}").folder
        run.mkdir(parents=True)
        both, inside = threading.Barrier(2, timeout=30), list[str]()
        threads = [
            threading.Thread(target=begin, args=(both, inside, name, work))
            for name, work in (("preparation", replacing_slices(cohort, ["a"])), ("training", RunLock(run)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(inside) <= 1
        assert not both.broken


def test_a_preparation_on_another_computer_is_believed_unless_forced(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "WAIT_S", 0.0)
    elsewhere = LockHolder(4711, 1.0, "", "another-computer", "2026-01-01T00:00:00+00:00")
    monkeypatch.setattr(readers, "living_holder", lambda folder: elsewhere if folder == cohort.runs else None)
    with pytest.raises(LockedError, match=r"4711 on the computer another-computer.*--force"):
        wait_for_slices(cohort)
    wait_for_slices(cohort, force=True)


@pytest.mark.parametrize("held", [".", "runs", "runs/first"])
def test_a_preparation_that_another_computer_keeps_from_work_says_the_way_out(cohort: CohortPaths, held: str) -> None:
    """There is no --force: whoever knows that the other computer is gone deletes its lock."""
    folder = cohort.root / held
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK_FILE
    elsewhere = LockHolder(4711, 1.0, "", "another-computer", "2026-01-01T00:00:00+00:00")
    lock.write_text(json.dumps(asdict(elsewhere)), encoding="ascii")
    with pytest.raises(LockedError, match="another-computer") as caught:
        prepare(cohort.root, PreparationOptions(slice_size=48))
    assert f"delete {lock.resolve()}" in str(caught.value).replace(str(lock), str(lock.resolve()))
    assert "--force" not in str(caught.value)
    lock.unlink()
    assert prepare(cohort.root, PreparationOptions(slice_size=48)).count("prepared") == 3


def test_what_a_killed_preparation_left_keeps_nobody_from_work_and_is_no_job(cohort: CohortPaths) -> None:
    gone = LockHolder(2**22 + 1, 1.0, "", host_name(), "2026-01-01T00:00:00+00:00")
    for folder in (cohort.root, cohort.runs):
        folder.mkdir(exist_ok=True)
        (folder / LOCK_FILE).write_text(json.dumps(asdict(gone)), encoding="ascii")
    assert list_jobs(cohort.root) == []
    train(plan_training(cohort.root, "first", settings=SETTINGS), Recorder())
    assert prepare(cohort.root, PreparationOptions(slice_size=48)).count("prepared") == 3
    assert not (cohort.runs / LOCK_FILE).exists()
