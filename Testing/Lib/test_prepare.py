"""Preparation: right slices, whole cases, only what changed, nothing on a full disk, a cache that is checked."""

from __future__ import annotations

import os
import pickle
import re
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
from prepared_files import LABELS, add_case, new_cohort

from LungSegmentationLib.cohort.cache import cached_cases, open_case, open_split, read_cache_record, refuse_flat
from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, Prepared, _prepare_one, prepare
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, read_record, write_record
from LungSegmentationLib.cohort.splits import read_split
from LungSegmentationLib.errors import BadInputError, CancelledError, ExitCode, LungSegError, StorageError, UsageError
from LungSegmentationLib.figures.preparation import preparation_figures
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.jobs.events import Log, Progress, SilentReporter, Warning_
from LungSegmentationLib.jobs.lock import LockedError, RunLock, read_lock
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms
from LungSegmentationLib.volumes import read_array

SMALL = PreparationOptions(slice_size=32)


class Listener(SilentReporter):
    """Keeps what it hears; stops after ``stop_after`` progress reports."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(lambda: stop_after is not None and len(self.progressed) > stop_after)
        self.progressed: list[Progress] = []
        self.warned: list[Warning_] = []
        self.logged: list[str] = []

    def emit(self, event: object) -> None:
        if isinstance(event, Progress):
            self.progressed.append(event)
        elif isinstance(event, Warning_):
            self.warned.append(event)
        elif isinstance(event, Log):
            self.logged.append(event.message)


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    paths = new_cohort(tmp_path / "Kohorte é 患者 x")
    for number in range(4):
        add_case(
            paths, f"P{number}", seed=number, keys=("gtv", "lung_right", "lung_left", *(["heart"] * (number == 1)))
        )
    return paths


def _states(paths: CohortPaths, options: PreparationOptions = SMALL) -> dict[str, str]:
    return {outcome.case: outcome.state for outcome in prepare(paths.root, options).outcomes}


def _stamps(paths: CohortPaths) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in paths.cache.iterdir()}


def test_each_case_gets_slices_in_int16_hu_and_uint8_bits_and_a_record(cohort: CohortPaths) -> None:
    done = prepare(cohort.root, SMALL)
    assert done.summary == {"prepared": 4, "kept": 0, "failed": 0, "train": 2, "val": 1, "test": 1}
    assert cached_cases(cohort) == ("P0", "P1", "P2", "P3")
    case = open_case(cohort, "P1")
    assert (case.ct.dtype, case.ct.shape) == (np.int16, (6, 32, 32))
    assert (case.structures.dtype, case.structures.shape) == (np.uint8, (6, 32, 32))
    assert isinstance(case.ct, np.memmap)
    assert not case.ct.flags.writeable
    assert case.record.annotated == ("gtv", "lung_right", "lung_left", "heart")
    plain = np.load(cohort.cached("P1").ct)
    assert (plain == case.ct).all()


def test_mean_and_standard_deviation_are_those_of_the_clipped_cached_voxels(cohort: CohortPaths) -> None:
    options = PreparationOptions(slice_size=32, window=(-700, 250))
    prepare(cohort.root, options)
    for name in cached_cases(cohort):
        case = open_case(cohort, name)
        clipped = np.clip(np.asarray(case.ct, float), -700, 250)
        assert case.record.mean == pytest.approx(clipped.mean(), rel=1e-9)
        assert case.record.std == pytest.approx(clipped.std(), rel=1e-9)


def test_counts_are_those_of_the_cached_slices(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    case = open_case(cohort, "P1")
    bits = np.asarray(case.structures)
    record = case.record
    for k, key in enumerate(record.structures):
        expected = ((bits >> (LABELS[key].label - 1)) & 1).sum(axis=(1, 2))
        assert [row[k] for row in record.structure_counts] == expected.tolist()
    painted = np.zeros_like(bits)
    for key in LABELS.paint_order:
        painted[(bits >> (LABELS[key].label - 1)) & 1 == 1] = LABELS[key].label
    for z in range(len(bits)):
        assert list(record.label_counts[z]) == np.bincount(painted[z].ravel(), minlength=8).tolist()
    values, counts = np.unique(bits, return_counts=True)
    assert record.bit_counts == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_the_record_leads_back_to_the_grid_of_the_case(cohort: CohortPaths) -> None:
    turned = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    _, bits = add_case(cohort, "sagittal", direction=turned, shape=(20, 36, 40))
    prepare(cohort.root, PreparationOptions(slice_size=64))
    case = open_case(cohort, "sagittal")
    mapping = case.record.mapping
    lungs = np.asarray(case.structures) & 12 != 0
    back = mapping.full_volume(mapping.from_cache(lungs.astype(np.float32)) >= 0.5)
    truth = bits & 12 != 0
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.97
    image = sitk.ReadImage(str(cohort.case("sagittal").ct))
    assert case.record.native.size == image.GetSize()
    assert case.record.native.direction == pytest.approx(image.GetDirection(), abs=1e-6)


def test_a_second_call_does_only_what_is_new_or_changed(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    before = _stamps(cohort)
    assert set(_states(cohort).values()) == {"kept"}
    assert _stamps(cohort) == before
    record = read_record(CaseRecord, cohort.case("P2").record)
    write_record(record.model_copy(update={"fingerprint": "converted anew"}), cohort.case("P2").record)
    os.utime(cohort.case("P3").structures, ns=(1, 1))
    add_case(cohort, "new")
    cohort.cached("P0").structures.write_bytes(b"cut off")
    expected = {"P0": "prepared", "P1": "kept", "P2": "prepared", "P3": "prepared", "new": "prepared"}
    assert _states(cohort) == expected
    assert set(_states(cohort).values()) == {"kept"}


@pytest.mark.parametrize(
    "change",
    [
        {"slice_size": 48},
        {"window": (-900.0, 300.0)},
        {"field_of_view": "body"},
        {"label_resampling": "nearest"},
    ],
    ids=str,
)
def test_other_settings_make_the_cache_anew_and_stand_in_the_cohort(cohort: CohortPaths, change: dict) -> None:
    prepare(cohort.root, SMALL)
    options = PreparationOptions(**({"slice_size": 32} | change))
    assert set(_states(cohort, options).values()) == {"prepared"}
    record = read_record(CohortRecord, cohort.cohort)
    (key, value), *_ = change.items()
    assert getattr(record, key) == value
    case = open_case(cohort, "P0")
    assert case.ct.shape[1] == options.slice_size
    assert getattr(case.record, key) == value


def test_two_processes_make_the_same_cache_as_one(cohort: CohortPaths, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(cohort.root, other)
    prepare(cohort.root, SMALL)
    prepare(other, PreparationOptions(slice_size=32, jobs=2))
    for name in cached_cases(cohort):
        for mine, theirs in zip(cohort.cached(name).all, CohortPaths(other).cached(name).all, strict=True):
            assert mine.read_bytes() == theirs.read_bytes()


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


def test_splits_are_kept_completed_and_made_anew_only_when_asked(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    text = {part: cohort.split(part).read_text() for part in ("train", "val", "test")}
    prepare(cohort.root, PreparationOptions(slice_size=32, seed=7, stratify=False))
    assert {part: cohort.split(part).read_text() for part in text} == text
    for number in range(10):
        add_case(cohort, f"Q{number}")
    heard = Listener()
    prepare(cohort.root, SMALL, heard)
    for part, old in text.items():
        assert cohort.split(part).read_text().startswith(old)
    assert any("has grown" in line for line in heard.logged)
    fresh = prepare(cohort.root, PreparationOptions(slice_size=32, seed=7, new_splits=True))
    assert [len(fresh.split.part(part)) for part in ("train", "val", "test")] == [9, 2, 3]


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
    states = _states(cohort)
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


def test_the_cache_stays_below_200_kilobytes_a_slice(cohort: CohortPaths) -> None:
    prepare(cohort.root)
    for name in cached_cases(cohort):
        files = cohort.cached(name).all
        assert sum(file.stat().st_size for file in files) <= 200_000 * len(open_case(cohort, name))


def test_a_cached_case_can_be_sent_to_another_process(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    case = open_case(cohort, "P2")
    first = case.ct[0].copy()
    sent = pickle.dumps(case)
    assert len(sent) < 20_000
    assert (pickle.loads(sent).ct[0] == first).all()


def test_a_split_opens_in_the_order_of_the_names_whatever_the_order_of_its_lines(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    cohort.split("train").write_text("P3\nP0\nP1\n")
    cohort.split("val").write_text("P2\n")
    cohort.split("test").write_text("")
    assert [case.name for case in open_split(cohort, "train")] == ["P0", "P1", "P3"]
    assert open_split(cohort, "test") == []


def _damage_cut(files) -> None:
    files.ct.write_bytes(files.ct.read_bytes()[:-100])


def _damage_longer(files) -> None:
    files.ct.write_bytes(files.ct.read_bytes() + b"\0")


def _damage_empty(files) -> None:
    files.structures.write_bytes(b"")


def _damage_missing(files) -> None:
    files.structures.unlink()


def _damage_kind(files) -> None:
    np.save(files.ct, np.zeros((6, 32, 32), np.float32))


def _damage_shape(files) -> None:
    np.save(files.structures, np.zeros((5, 32, 32), np.uint8))


def _damage_pickle(files) -> None:
    np.save(files.ct, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _damage_record(files) -> None:
    files.record.write_text(files.record.read_text()[:-30])


def _damage_other(files) -> None:
    files.record.write_text(files.record.read_text().replace('"case": "P0"', '"case": "P1"'))


@pytest.mark.parametrize(
    "damage",
    [
        _damage_cut,
        _damage_longer,
        _damage_empty,
        _damage_missing,
        _damage_kind,
        _damage_shape,
        _damage_pickle,
        _damage_record,
        _damage_other,
    ],
)
def test_a_damaged_cache_is_refused_in_a_sentence_and_mended_by_the_next_call(cohort: CohortPaths, damage) -> None:
    prepare(cohort.root, SMALL)
    damage(cohort.cached("P0"))
    with pytest.raises(BadInputError, match="P0"):
        open_case(cohort, "P0")
    assert _states(cohort)["P0"] == "prepared"
    open_case(cohort, "P0")


def test_slices_of_a_case_that_was_converted_anew_are_refused(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    record = read_record(CaseRecord, cohort.case("P0").record)
    write_record(record.model_copy(update={"fingerprint": "other"}), cohort.case("P0").record)
    with pytest.raises(BadInputError, match="converted anew"):
        open_case(cohort, "P0")


def test_a_cache_taken_elsewhere_without_its_cases_still_opens(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    shutil.rmtree(cohort.cases)
    assert len(open_split(cohort, "train")) == 2


def test_slices_of_an_interrupted_change_of_settings_are_refused(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    record = read_record(CohortRecord, cohort.cohort)
    write_record(record.model_copy(update={"slice_size": 64}), cohort.cohort)
    with pytest.raises(BadInputError, match="other settings"):
        open_case(cohort, "P0")


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


def test_a_case_of_one_slice_and_one_of_empty_air_are_prepared(tmp_path: Path) -> None:
    paths = new_cohort(tmp_path / "c")
    add_case(paths, "thin", shape=(1, 40, 40), keys=())
    ct, _ = add_case(paths, "air", keys=())
    image = sitk.ReadImage(str(paths.case("air").ct))
    sitk.WriteImage(image * 0 - 1024, str(paths.case("air").ct))
    heard = Listener()
    prepare(paths.root, PreparationOptions(slice_size=32, field_of_view="body"), heard)
    assert open_case(paths, "thin").ct.shape == (1, 32, 32)
    assert read_cache_record(paths, "air").std == 0.0
    assert any(event.subject == "air" for event in heard.warned)
    assert ct.shape == (6, 40, 40)


def test_a_structure_that_vanishes_in_small_slices_is_named(tmp_path: Path) -> None:
    paths = new_cohort(tmp_path / "c")
    add_case(paths, "fine", shape=(4, 256, 256), keys=())
    bits = np.zeros((4, 256, 256), np.uint8)
    bits[2, 100, 100] = 64
    record = read_record(CaseRecord, paths.case("fine").record)
    sitk.WriteImage(record.geometry.grid.image(bits), str(paths.case("fine").structures))
    write_record(record.model_copy(update={"annotated": ("spinal_cord",)}), paths.case("fine").record)
    heard = Listener()
    prepare(paths.root, SMALL, heard)
    assert any("spinal cord" in event.message for event in heard.warned)


def test_the_command_prepares_a_converted_cohort_and_draws_its_pictures(tmp_path: Path) -> None:
    make_phantoms(tmp_path, 3, 11, options=PhantomOptions(in_plane=64, slices=8))
    convert(tmp_path / "dicom", tmp_path / "cohort")
    assert preparation_figures(tmp_path / "cohort") == []
    command = [sys.executable, "-m", "LungSegmentationLib", "prepare", str(tmp_path / "cohort"), "--slice-size", "64"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == ExitCode.DONE, run.stderr
    assert "3 prepared, 0 kept, 0 failed, 1 train, 1 val, 1 test" in run.stdout
    run = subprocess.run([*command, "--window", "400", "-1000"], capture_output=True, text=True, check=False)
    assert run.returncode == ExitCode.USAGE
    made = preparation_figures(tmp_path / "cohort")
    assert [path.name for path in made] == [
        "phase3_normalization.png",
        "phase4_dataset_pytorch.png",
        "dataset_statistics.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)


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
    before = _stamps(cohort)
    run = cohort.run("first")
    run.folder.mkdir(parents=True)
    add_case(cohort, "new")
    with RunLock(run.folder):
        assert _states(cohort)["new"] == "prepared"
    assert before.items() <= _stamps(cohort).items()
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom LungSegmentationLib.jobs.lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).acquire()\nos._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(run.folder)], check=False)
    assert read_lock(run.folder) is not None
    assert set(_states(cohort, PreparationOptions(slice_size=48)).values()) == {"prepared"}


def test_two_preparations_of_one_cohort_are_told_apart_from_trainings(cohort: CohortPaths) -> None:
    with RunLock(cohort.root), pytest.raises(LockedError, match=r"is being prepared.*Wait"):
        prepare(cohort.root, SMALL)


def test_what_is_not_said_stays_as_it_was(cohort: CohortPaths) -> None:
    options = PreparationOptions(slice_size=64, window=(-900, 300), field_of_view="body", label_resampling="nearest")
    prepare(cohort.root, options)
    before = _stamps(cohort)
    heard = Listener()
    assert {outcome.state for outcome in prepare(cohort.root, None, heard).outcomes} == {"kept"}
    assert _stamps(cohort) == before
    said = "as before, with slice size 64, window -900 to 300 HU, field of view body, label resampling nearest"
    assert said in heard.logged
    heard = Listener()
    prepare(cohort.root, PreparationOptions(slice_size=32), heard)
    assert "slice size changes from 64 to 32: 4 case(s) are made anew" in heard.logged
    record = open_case(cohort, "P0").record
    assert (record.slice_size, record.window, record.field_of_view) == (32, (-900.0, 300.0), "body")


def test_a_first_preparation_says_nothing_of_changes(cohort: CohortPaths) -> None:
    heard = Listener()
    prepare(cohort.root, None, heard)
    assert open_case(cohort, "P0").record.slice_size == 256
    assert not [line for line in heard.logged if "changes" in line or "as before" in line]


def test_ways_to_split_have_no_effect_on_a_split_cohort_and_this_is_said(cohort: CohortPaths) -> None:
    prepare(cohort.root, PreparationOptions(slice_size=32, seed=3, ratios=(0.5, 0.25, 0.25)))
    text = [cohort.split(part).read_text() for part in ("train", "val", "test")]
    heard = Listener()
    prepare(cohort.root, PreparationOptions(seed=7, ratios=(0.8, 0.1, 0.1), stratify=False), heard)
    said = [event.message for event in heard.warned if "no effect" in event.message]
    assert len(said) == 1
    assert said[0].startswith("--seed, --ratios, --no-stratify has no effect")
    assert "--new-splits" in said[0]
    assert [cohort.split(part).read_text() for part in ("train", "val", "test")] == text
    for options in (PreparationOptions(seed=3), PreparationOptions(), PreparationOptions(seed=7, new_splits=True)):
        heard = Listener()
        prepare(cohort.root, options, heard)
        assert not [event for event in heard.warned if "no effect" in event.message]


def test_new_cases_are_dealt_as_the_cohort_was_split(cohort: CohortPaths) -> None:
    prepare(cohort.root, PreparationOptions(slice_size=32, ratios=(0.5, 0.25, 0.25)))
    for number in range(8):
        add_case(cohort, f"Q{number}")
    split = prepare(cohort.root).split
    assert [len(split.part(part)) for part in ("train", "val", "test")] == [6, 3, 3]


def test_the_command_remembers_its_options(cohort: CohortPaths) -> None:
    command = [sys.executable, "-m", "LungSegmentationLib", "prepare", str(cohort.root)]
    first = subprocess.run(
        [*command, "--slice-size", "32", "--window", "-900", "300", "--ratios", "0.5", "0.25", "0.25"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == ExitCode.DONE, first.stderr
    again = subprocess.run([*command, "--no-stratify"], capture_output=True, text=True, check=False)
    assert again.returncode == ExitCode.DONE, again.stderr
    assert "0 prepared, 4 kept" in again.stdout
    assert "slice size 32" in again.stderr
    assert "--no-stratify has no effect" in again.stderr


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
        "from test_prepare import Listener\n"
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


def test_fingerprints_are_of_the_content_wherever_and_whenever_it_was_made(cohort: CohortPaths, tmp_path: Path) -> None:
    prepare(cohort.root, SMALL)
    first = {name: read_cache_record(cohort, name).fingerprint for name in cached_cases(cohort)}
    assert len(set(first.values())) == 4
    os.utime(cohort.case("P0").ct, ns=(1, 1))
    assert _states(cohort)["P0"] == "prepared"
    shutil.copytree(cohort.root, tmp_path / "copy", copy_function=shutil.copyfile)
    copied = CohortPaths(tmp_path / "copy")
    prepare(copied.root)
    for paths in (cohort, copied):
        assert {name: read_cache_record(paths, name).fingerprint for name in cached_cases(paths)} == first


@pytest.mark.parametrize("change", ["voxel", "bit", "annotated", "window"])
def test_another_content_has_another_fingerprint(cohort: CohortPaths, change: str) -> None:
    prepare(cohort.root, SMALL)
    first = read_cache_record(cohort, "P0").fingerprint
    files, options = cohort.case("P0"), SMALL
    if change == "annotated":
        record = read_record(CaseRecord, files.record)
        write_record(record.model_copy(update={"annotated": ("gtv", "heart")}), files.record)
    elif change == "window":
        options = PreparationOptions(window=(-900, 400))
    else:
        path = files.ct if change == "voxel" else files.structures
        image = sitk.ReadImage(str(path))
        image[20, 20, 3] = 7
        image[21, 20, 3] = 7
        sitk.WriteImage(image, str(path))
    prepare(cohort.root, options)
    assert read_cache_record(cohort, "P0").fingerprint != first


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity"])
def test_a_mean_or_standard_deviation_that_is_no_number_is_refused(cohort: CohortPaths, key: str, value: str) -> None:
    prepare(cohort.root, SMALL)
    _set_in_record(cohort, key, value)
    with pytest.raises(BadInputError, match=rf"P0.*{key}"):
        open_case(cohort, "P0")
    assert _states(cohort)["P0"] == "prepared"


def test_a_standard_deviation_below_zero_is_refused_and_zero_only_for_z_scores(cohort: CohortPaths) -> None:
    prepare(cohort.root, SMALL)
    refuse_flat([open_case(cohort, "P0")])
    _set_in_record(cohort, "std", "0")
    with pytest.raises(BadInputError, match=r"“P0”.*-1000 and 400 HU.*window"):
        refuse_flat([open_case(cohort, "P1"), open_case(cohort, "P0")])
    _set_in_record(cohort, "std", "-5")
    with pytest.raises(BadInputError, match=r"P0.*std"):
        open_case(cohort, "P0")


def _set_in_record(paths: CohortPaths, key: str, value: str) -> None:
    path = paths.cached("P0").record
    text, count = re.subn(rf'"{key}": [^,]+,', f'"{key}": {value},', path.read_text(encoding="utf-8"))
    assert count == 1
    path.write_text(text, encoding="utf-8")


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


@pytest.mark.realdata
def test_a_real_patient_keeps_his_volumes_and_comes_back_from_256_pixels(data: Path, tmp_path: Path) -> None:
    convert(data / "rt_lung1-002", tmp_path / "cohort")
    prepare(tmp_path / "cohort")
    paths = CohortPaths(tmp_path / "cohort")
    (name,) = cached_cases(paths)
    case = open_case(paths, name)
    native = sitk.GetArrayFromImage(sitk.ReadImage(str(paths.case(name).structures)))
    bars = {"lung_right": 0.97, "lung_left": 0.97, "heart": 0.97, "esophagus": 0.90, "spinal_cord": 0.90}
    mapping = case.record.mapping
    for key, bar in bars.items():
        bit = 1 << (LABELS[key].label - 1)
        truth = mapping.reorientation.apply(native) & bit != 0
        cached = np.asarray(case.structures) & bit != 0
        both = total = 0
        for z in np.flatnonzero(cached.any(axis=(1, 2)) | truth.any(axis=(1, 2))):
            back = mapping.from_cache(cached[z].astype(np.float32)) >= 0.5
            both += int((back & truth[z]).sum())
            total += int(back.sum())
        volume = int(truth.sum())
        assert 2 * both / (total + volume) >= bar, key
        assert total / volume == pytest.approx(1.0, abs=0.01), key
