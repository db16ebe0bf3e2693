"""The pictures of the conversion show what they say they show."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.cohort.records import CaseRecord, read_record
from LungSegmentationLib.dicom.stored_values import stored_slice
from LungSegmentationLib.errors import BadInputError
from LungSegmentationLib.figures.conversion import conversion_figures
from LungSegmentationLib.figures.style import colored, overlaid, side_letters
from LungSegmentationLib.labels import load_label_set
from LungSegmentationLib.phantom import PhantomOptions, make_phantoms

LABELS = load_label_set()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortPaths:
    out = tmp_path_factory.mktemp("figures")
    make_phantoms(out, 2, 3, options=PhantomOptions(in_plane=64, slices=12))
    convert(out / "dicom", out / "cohort")
    return CohortPaths(out / "cohort")


def _colors(path: Path) -> set[tuple[int, int, int]]:
    pixels = (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)
    return {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0)}


def test_both_pictures_are_made_and_the_label_map_has_the_colors_of_the_label_set(cohort: CohortPaths) -> None:
    made = conversion_figures(cohort.root)
    assert [path.name for path in made] == ["phase2_dicom_to_nifti.png", "phase2_5_multi_organ.png"]
    assert all(path.parent == cohort.figures for path in made)
    record = max(
        (read_record(CaseRecord, case.record) for case in cohort.finished_cases()), key=lambda r: len(r.annotated)
    )
    shown = _colors(made[1])
    assert {LABELS[key].color for key in record.annotated} <= shown


def test_stored_values_are_those_of_the_file(cohort: CohortPaths) -> None:
    record = read_record(CaseRecord, cohort.finished_cases()[0].record)
    uid = record.source.sop_instance_uids[3]
    assert uid is not None
    ours = stored_slice(Path(record.source.ct_folder), uid)
    for file in Path(record.source.ct_folder).iterdir():
        dataset = pydicom.dcmread(file)
        if dataset.SOPInstanceUID == uid:
            assert (ours.values == dataset.pixel_array).all()
            assert (ours.slope, ours.intercept) == (dataset.RescaleSlope, dataset.RescaleIntercept)
            return
    pytest.fail("the slice was not found by pydicom")


def test_without_the_dicom_the_picture_says_so_and_is_made_all_the_same(cohort: CohortPaths, tmp_path: Path) -> None:
    copy = CohortPaths(tmp_path / "copy")
    shutil.copytree(cohort.root, copy.root)
    for case in copy.finished_cases():
        text = case.record.read_text(encoding="utf-8")
        folder = read_record(CaseRecord, case.record).source.ct_folder
        case.record.write_text(text.replace(folder, "/nowhere"), encoding="utf-8")
    assert all(path.stat().st_size > 10_000 for path in conversion_figures(copy.root))


def test_a_folder_that_is_no_cohort_and_a_case_that_is_not_there_are_told(cohort: CohortPaths, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is no cohort"):
        conversion_figures(tmp_path)
    with pytest.raises(BadInputError, match="has no case “X”"):
        conversion_figures(cohort.root, "X")


def test_the_overlay_mixes_gray_and_color_by_its_opacity() -> None:
    ct = np.array([[-1000, 400], [-300, -300]], np.int16)
    labels = np.array([[0, 0], [1, 0]], np.uint8)
    mixed = overlaid(ct, labels, LABELS, opacity=0.7)
    assert mixed[0, 0] == pytest.approx([0, 0, 0])
    assert mixed[0, 1] == pytest.approx([1, 1, 1])
    assert mixed[1, 0] == pytest.approx([0.5 * 0.3 + 0.7, 0.5 * 0.3, 0.5 * 0.3])
    assert mixed[1, 1] == pytest.approx([0.5, 0.5, 0.5])
    assert colored(labels, LABELS)[1, 0].tolist() == [255, 0, 0]


def test_the_saved_ct_is_what_simpleitk_reads_from_the_series(cohort: CohortPaths) -> None:
    for case in cohort.finished_cases():
        record = read_record(CaseRecord, case.record)
        reader = sitk.ImageSeriesReader()
        names = reader.GetGDCMSeriesFileNames(record.source.ct_folder, record.source.series_uid)
        reader.SetFileNames(names)
        theirs = sitk.GetArrayFromImage(reader.Execute())
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(case.ct)))
        assert np.array_equal(ours, np.clip(theirs, -1024, 32767))


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), ("R", "L")),
        ((-1, 0, 0, 0, 1, 0, 0, 0, -1), ("L", "R")),
        ((0, 0, 1, 1, 0, 0, 0, -1, 0), ("A", "P")),
        ((0, 1, 0, 0, 0, 1, -1, 0, 0), ("S", "I")),
    ],
)
def test_the_edges_of_a_slice_are_named_by_the_patients_sides(
    direction: tuple[float, ...], expected: tuple[str, str]
) -> None:
    assert side_letters(direction) == expected
