"""The cache of a preparation is checked whenever it is opened, is small, and says where it came from."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from prepared_files import SMALL, four_patients, states_of

from LungSegmentationLib.cohort.cache import cached_cases, open_case, open_split, read_cache_record, refuse_flat
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.prepare import PreparationOptions, prepare
from LungSegmentationLib.cohort.records import CaseRecord, CohortRecord, read_record, write_record
from LungSegmentationLib.errors import BadInputError


@pytest.fixture
def cohort(tmp_path: Path) -> CohortPaths:
    return four_patients(tmp_path / "Kohorte é 患者 x")


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
    assert states_of(cohort)["P0"] == "prepared"
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


def test_fingerprints_are_of_the_content_wherever_and_whenever_it_was_made(cohort: CohortPaths, tmp_path: Path) -> None:
    prepare(cohort.root, SMALL)
    first = {name: read_cache_record(cohort, name).fingerprint for name in cached_cases(cohort)}
    assert len(set(first.values())) == 4
    os.utime(cohort.case("P0").ct, ns=(1, 1))
    assert states_of(cohort)["P0"] == "prepared"
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
    assert states_of(cohort)["P0"] == "prepared"


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
