"""Preparation: right slices, only what changed, settings and splits that stay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from prepared_files import LABELS, SMALL, Listener, add_case, four_patients, new_cohort, stamps_of, states_of

from LungSegmentationLib.cohort.cache import cached_cases, open_case, read_cache_record
from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, read_record, write_record
from LungSegmentationLib.errors import ExitCode
from LungSegmentationLib.figures.preparation import preparation_figures
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    return four_patients(tmp_path / "Kohorte é 患者 x")


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
    before = stamps_of(cohort)
    assert set(states_of(cohort).values()) == {"kept"}
    assert stamps_of(cohort) == before
    record = read_record(CaseRecord, cohort.case("P2").record)
    write_record(record.model_copy(update={"fingerprint": "converted anew"}), cohort.case("P2").record)
    os.utime(cohort.case("P3").structures, ns=(1, 1))
    add_case(cohort, "new")
    cohort.cached("P0").structures.write_bytes(b"cut off")
    expected = {"P0": "prepared", "P1": "kept", "P2": "prepared", "P3": "prepared", "new": "prepared"}
    assert states_of(cohort) == expected
    assert set(states_of(cohort).values()) == {"kept"}


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
    assert set(states_of(cohort, options).values()) == {"prepared"}
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


def test_what_is_not_said_stays_as_it_was(cohort: CohortPaths) -> None:
    options = PreparationOptions(slice_size=64, window=(-900, 300), field_of_view="body", label_resampling="nearest")
    prepare(cohort.root, options)
    before = stamps_of(cohort)
    heard = Listener()
    assert {outcome.state for outcome in prepare(cohort.root, None, heard).outcomes} == {"kept"}
    assert stamps_of(cohort) == before
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
