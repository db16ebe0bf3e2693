"""A preparation that is stopped, killed, short of disk, or beside a training: whole cases, and a sentence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from prepared_files import SMALL, Listener, add_case, four_patients, new_cohort, stamps_of, states_of

from LungSegmentationLib.cohort.cache import cached_cases, open_case, open_split
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, Prepared, _prepare_one, prepare
from LungSegmentationLib.cohort.splits import read_split
from LungSegmentationLib.errors import BadInputError, CancelledError, LungSegError, StorageError, UsageError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.lock import LockedError, RunLock, read_lock
from LungSegmentationLib.volumes import read_array


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    return four_patients(tmp_path / "Kohorte é 患者 x")


def test_a_case_that_is_gone_or_fails_leaves_the_cache(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    shutil.rmtree(cohort.case("P0").folder)
    cohort.case("P1").ct.write_bytes(b"no volume")
    heard = Listener()
    done = prepare(cohort.root, SMALL, heard)
    assert cached_cases(cohort) == ("P2", "P3")
    assert not list(cohort.cache.glob("P0*")) + list(cohort.cache.glob("P1*"))
    assert done.count("failed") == 1
    assert any(event.subject == "P1" and "ct.nii.gz" in event.message for event in heard.warned)
    named = next(part for part in ("train", "val", "test") if {"P0", "P1"} & set(read_split(cohort, part)))
    with pytest.raises(BadInputError, match="not in the cache"):
        open_split(cohort, named)


def test_the_disk_need_is_told_before_anything_is_done(cohort: CohortPaths) -> None:
    heard = Listener()
    prepare(cohort.root, SMALL, heard)
    assert "of disk" in heard.logged[0]
    assert heard.progressed[0].done == 0
    assert "of disk" in heard.progressed[0].message


def test_too_little_free_disk_is_refused_before_anything_is_written(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - the shape of shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    before = cohort.cohort.read_bytes()
    with pytest.raises(StorageError, match=r"needs .* but only"):
        prepare(cohort.root, SMALL)
    assert not cohort.cache.exists()
    assert cohort.cohort.read_bytes() == before


def test_a_disk_that_fills_up_on_the_way_ends_the_work_with_a_sentence(
    cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: object, array: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("LungSegmentationLib.cohort.slicing.np.save", full)
    with pytest.raises(StorageError, match="disk is full"):
        prepare(cohort.root, SMALL)
    assert cached_cases(cohort) == ()
    assert not list(cohort.cache.iterdir())


def test_a_stop_keeps_what_is_finished_and_the_next_call_completes_it(cohort: CohortPaths) -> None:
    with pytest.raises(CancelledError):
        prepare(cohort.root, SMALL, Listener(stop_after=2))
    finished = cached_cases(cohort)
    assert 0 < len(finished) < 4
    states = states_of(cohort)
    assert {name for name, state in states.items() if state == "kept"} == set(finished)


def test_killed_at_any_moment_no_partial_case_is_seen_and_the_next_call_completes_it(cohort: CohortPaths) -> None:
    for number in range(20):
        add_case(cohort, f"K{number:02d}", shape=(12, 64, 64), seed=number)
    command = [
        sys.executable,
        "-m",
        "LungSegmentationLib",
        "prepare",
        str(cohort.root),
        "--slice-size",
        "256",
        "--events",
    ]
    for wanted in (1, 5, 9):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += '"stage":"prepare"' in line
            if seen > wanted:
                break
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        process.communicate()
        for name in cached_cases(cohort):
            case = open_case(cohort, name)
            assert case.ct.shape == case.structures.shape == case.record.shape
    done = prepare(cohort.root)
    assert done.count("failed") == 0
    assert len(cached_cases(cohort)) == 24
    assert not list(cohort.cache.glob(".partial-*"))


def test_what_is_not_prepared_says_how_to_prepare_it(cohort: CohortPaths, tmp_path: Path) -> None:
    for call in (lambda: open_case(cohort, "P0"), lambda: open_split(cohort, "train")):
        with pytest.raises(LungSegError, match="lungseg prepare"):
            call()
    with pytest.raises(BadInputError, match="no cohort"):
        prepare(tmp_path / "nothing here")
    with pytest.raises(BadInputError, match="no finished case"):
        prepare(new_cohort(tmp_path / "empty").root)
    with pytest.raises(BadInputError, match="nobody"):
        prepare(cohort.root, SMALL)
        open_case(cohort, "nobody")


@pytest.mark.parametrize(
    "wrong",
    [
        {"slice_size": 0},
        {"slice_size": 100},
        {"slice_size": 4096},
        {"window": (400, -1000)},
        {"window": (float("nan"), 1)},
        {"window": (-2000, 400)},
        {"field_of_view": "head"},
        {"label_resampling": "linear"},
        {"jobs": 0},
        {"ratios": (0.5, 0.1, 0.1)},
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        PreparationOptions(**wrong)


def test_a_volume_that_does_not_fit_its_case_fails_that_case_alone(cohort: CohortPaths) -> None:
    ct = sitk.ReadImage(str(cohort.case("P0").ct))
    ct.SetOrigin((5.0, 5.0, 5.0))
    sitk.WriteImage(ct, str(cohort.case("P0").ct))
    half = sitk.Cast(sitk.ReadImage(str(cohort.case("P1").structures)), sitk.sitkFloat32)
    half[0, 0, 0] = 0.5
    sitk.WriteImage(half, str(cohort.case("P1").structures))
    foreign = sitk.ReadImage(str(cohort.case("P2").structures))
    foreign[0, 0, 0] = 200
    sitk.WriteImage(foreign, str(cohort.case("P2").structures))
    reasons = {o.case: o.failure.reason for o in prepare(cohort.root, SMALL).outcomes if o.failure}
    assert "grid" in reasons["P0"]
    assert "whole numbers" in reasons["P1"]
    assert "200" in reasons["P2"]
    assert set(reasons) == {"P0", "P1", "P2"}


def test_a_ct_with_holes_that_are_no_numbers_is_refused(cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def holes(path: Path) -> tuple[Grid, np.ndarray]:
        # NIfTI readers put 0 in their place; other formats keep them.
        grid, array = read_array(path)
        array = array.astype(np.float32)
        array[0, 0, 0] = np.nan
        return grid, array

    monkeypatch.setattr("LungSegmentationLib.cohort.slicing.read_array", holes)
    with pytest.raises(BadInputError, match="no numbers"):
        prepare(cohort.root, SMALL)


def test_nothing_left_at_all_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    paths = new_cohort(tmp_path / "c")
    add_case(paths, "only")
    paths.case("only").ct.write_bytes(b"")
    with pytest.raises(BadInputError, match="only"):
        prepare(paths.root, SMALL)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {"slice_size": 48},
        lambda _: {"slice_size": 32, "window": (-200.0, 300.0)},
        lambda _: {"slice_size": 32, "label_resampling": "nearest"},
        lambda paths: shutil.rmtree(paths.case("P0").folder) or {},
        lambda paths: os.utime(paths.case("P0").ct, ns=(1, 1)) or {},
    ],
    ids=["size", "window", "resampling", "case gone", "case changed"],
)
def test_slices_that_a_living_training_may_read_are_neither_replaced_nor_removed(cohort: CohortPaths, change) -> None:
    prepare(cohort.root, SMALL)
    run = cohort.run("first one é")
    run.folder.mkdir(parents=True)
    options = PreparationOptions(**change(cohort))
    before = {file: file.read_bytes() for file in cohort.root.rglob("*") if file.is_file()}
    with RunLock(run.folder), pytest.raises(LockedError, match=r"first one é.*process \d+.*Wait"):
        prepare(cohort.root, options)
    assert {file: file.read_bytes() for file in cohort.root.rglob("*") if file.is_file()} == before
    prepare(cohort.root, options)


def test_beside_a_living_training_new_cases_are_prepared_and_a_dead_one_does_not_matter(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    before = stamps_of(cohort)
    run = cohort.run("first")
    run.folder.mkdir(parents=True)
    add_case(cohort, "new")
    with RunLock(run.folder):
        assert states_of(cohort)["new"] == "prepared"
    assert before.items() <= stamps_of(cohort).items()
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom LungSegmentationLib.jobs.lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).acquire()\nos._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(run.folder)], check=False)
    assert read_lock(run.folder) is not None
    assert set(states_of(cohort, PreparationOptions(slice_size=48)).values()) == {"prepared"}


def test_two_preparations_of_one_cohort_are_told_apart_from_trainings(cohort: CohortPaths) -> None:
    with RunLock(cohort.root), pytest.raises(LockedError, match=r"is being prepared.*Wait"):
        prepare(cohort.root, SMALL)


def _killed_with_p1(work: Any) -> Prepared:
    if work.case.case == "P1":
        os.kill(os.getpid(), signal.SIGKILL)
    return _prepare_one(work)


@pytest.mark.skipif(os.name != "posix", reason="kills a process as Linux does that runs out of memory")
def test_a_case_whose_process_is_killed_is_lost_alone(cohort: CohortPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("LungSegmentationLib.cohort.prepare._prepare_one", _killed_with_p1)
    heard = Listener()
    done = prepare(cohort.root, PreparationOptions(slice_size=32, jobs=2), heard)
    assert {outcome.case: outcome.state for outcome in done.outcomes} == {
        "P0": "prepared",
        "P1": "failed",
        "P2": "prepared",
        "P3": "prepared",
    }
    assert any(event.subject == "P1" and "memory" in event.message for event in heard.warned)
    assert "P1" not in done.split.by_case


@pytest.mark.parametrize("found", [True, False], ids=["python found", "only the launcher"])
def test_workers_are_started_without_the_launcher_that_started_this_process(
    cohort: CohortPaths, tmp_path: Path, found: bool
) -> None:
    # As PythonSlicer: it starts a Python, but does not hand on the pipes that workers are told their work by.
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\nfrom pathlib import Path\n"
        f"Path({str(tmp_path / 'was used')!r}).touch()\n"
        f"sys.exit(subprocess.run([{sys.executable!r}, *sys.argv[1:]], close_fds=True).returncode)\n",
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    code = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.executable = {str(launcher)!r}\n"
        "from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare\n"
        "from LungSegmentationLib.jobs import python\n"
        f"if not {found}: python.real_python = lambda: Path(sys.executable)\n"
        "from prepared_files import Listener\n"
        "heard = Listener()\n"
        "done = prepare(Path(sys.argv[1]), PreparationOptions(slice_size=32, jobs=2), heard)\n"
        "print(done.count('prepared'), sum('one by one' in event.message for event in heard.warned), sys.executable)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(cohort.root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert ran.stdout.split(maxsplit=2) == ["4", "0" if found else "1", f"{launcher}\n"], ran.stderr
    assert not (tmp_path / "was used").exists()


def test_a_split_edited_by_hand_survives_a_kill_while_it_is_replaced(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    for part, text in {"train": "P0\nP2\n", "val": "P3\n", "test": "P1\n"}.items():
        cohort.split(part).write_text(text)
    # What a kill between the two renames leaves.
    aside = cohort.root / ".partial-999999-old-splits"
    cohort.splits.rename(aside)
    shutil.copytree(aside, cohort.root / ".partial-999999-new-splits")
    split = prepare(cohort.root).split
    assert (split.train, split.val, split.test) == (("P0", "P2"), ("P3",), ("P1",))
    assert not list(cohort.root.glob(".partial-*"))
