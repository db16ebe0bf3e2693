"""A perfect model loses next to nothing on its way through preprocessing and back, in any orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from inference_files import LABELS, dice, make_card, perfect, predictor

from LungSegmentationLib.cohort.convert import convert
from LungSegmentationLib.cohort.paths import CohortPaths
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.prediction import Prediction
from LungSegmentationLib.phantom import PhantomOptions, make_patient
from LungSegmentationLib.structures import StructureMap

BARS = {"lung_right": 0.97, "lung_left": 0.97, "heart": 0.97, "esophagus": 0.90, "spinal_cord": 0.90}
SIZE = 256


def check(prediction: Prediction, truth: StructureMap, grid: Grid) -> None:
    assert prediction.grid == grid
    assert prediction.structures.shape == grid.shape
    drawn, labels = truth.voxel_counts(), truth.label_map()
    for key, bar in BARS.items():
        if drawn[key]:
            expected = labels == LABELS[key].label if prediction.exclusive else truth.mask(key)
            assert dice(prediction.structures.mask(key), expected) >= bar, key


@pytest.mark.parametrize(
    ("options", "overlap"),
    [
        ({"orientation": "axial"}, "exclusive"),
        ({"orientation": "axial"}, "keep"),
        ({"orientation": "oblique"}, "exclusive"),
        ({"orientation": "axial", "position": "FFS"}, "exclusive"),
        ({"orientation": "axial", "position": "FFP"}, "keep"),
        ({"orientation": "sagittal"}, "exclusive"),
        ({"orientation": "coronal", "position": "FFS"}, "keep"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value.values()),
)
def test_a_perfect_model_gives_back_phantoms(options: dict[str, str], overlap: str) -> None:
    # The rows of sagittal and coronal images are axial slices.
    rows, slices = (320, 10) if options["orientation"] in {"axial", "oblique"} else (96, 60)
    patient = make_patient(3, 1, PhantomOptions(in_plane=rows, slices=slices, complete=True, **options))
    truth = patient.structures
    model = perfect(patient.grid, truth.bits, make_card(overlap=overlap, size=SIZE))
    prediction = predictor(model).predict((patient.ct, patient.grid))
    check(prediction, truth, patient.grid)
    assert not prediction.marked, prediction.warnings


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["rt_lung1-001", "rt_lung1-002"])
def test_a_perfect_model_gives_back_real_patients_on_the_grid_of_the_series(
    name: str, data: Path, tmp_path: Path
) -> None:
    convert(data / name, tmp_path)
    paths = CohortPaths(tmp_path)
    (case,) = paths.finished_cases()
    bits = sitk.GetArrayFromImage(sitk.ReadImage(str(case.structures))).astype(np.uint8)
    (series,) = (series for patient in scan(data / name).patients for series in patient.series)
    ct = read_ct(series)
    truth = StructureMap(LABELS, bits)
    prediction = predictor(perfect(ct.grid, bits, make_card(size=SIZE))).predict(ct)
    check(prediction, truth, ct.grid)
    assert not prediction.marked, prediction.warnings
    image = prediction.image()
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, what)() == getattr(ct.image, what)()
