"""A CT that a model is not made for is noticed, and a fitting one is left in peace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from inference_files import LUNGS, ByIntensity, make_card, predictor
from training_files import Recorder

from LungSegmentationLib.cohort.resampling import InPlaneMapping
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.dicom.writers import DESCRIPTION
from LungSegmentationLib.errors import LungSegError
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.checks import check_input
from LungSegmentationLib.inference.forward import Model
from LungSegmentationLib.inference.prediction import MARKED_DESCRIPTION
from LungSegmentationLib.phantom import PhantomOptions, make_patient
from LungSegmentationLib.volumes import read_array

AXIAL = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
SPACING = ((1.5, 2.0), (1.5, 2.0), (3.0, 5.0))


def warnings_of(ct: np.ndarray, grid: Grid, **card: object) -> list[str]:
    return check_input(ct, InPlaneMapping.of(grid, 256), make_card(LUNGS, size=256, **card))


def chest(shape: tuple[int, int, int] = (20, 128, 128), lungs: float = -800) -> np.ndarray:
    """An oval of water with two ovals of lung."""
    _, rows, columns = np.mgrid[: shape[0], : shape[1], : shape[2]]
    y, x = rows / shape[1] - 0.5, columns / shape[2] - 0.5
    ct = np.where((x / 0.42) ** 2 + (y / 0.3) ** 2 < 1, 20.0, -1000.0)
    for side in (-0.18, 0.18):
        ct[((x - side) / 0.13) ** 2 + (y / 0.2) ** 2 < 1] = lungs
    return ct.astype(np.int16)


def grid_of(ct: np.ndarray, spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)) -> Grid:
    return Grid((ct.shape[2], ct.shape[1], ct.shape[0]), spacing, (0, 0, 0), AXIAL)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["rt_lung1-001", "rt_lung1-002", "rt_ibsi_pat2", "rt_ibsi_pat3", "cip64"])
def test_real_chests_are_left_in_peace(name: str, data: Path) -> None:
    found = scan(data / name)
    for patient in found.patients:
        for series in patient.series:
            ct = read_ct(series)
            assert not warnings_of(sitk.GetArrayFromImage(ct.image), ct.grid)


@pytest.mark.realdata
def test_a_crop_of_a_chest_around_the_aorta_is_a_chest(data: Path) -> None:
    grid, ct = read_array(data / "totalseg_aorta_crop" / "ct_cropped.nii.gz")
    assert not warnings_of(ct.astype(np.int16), grid)


@pytest.mark.realdata
def test_a_real_body_without_lungs_is_noticed(data: Path) -> None:
    (series,) = (series for patient in scan(data / "totalseg_j2k").patients for series in patient.series)
    ct = read_ct(series)
    (warning,) = warnings_of(sitk.GetArrayFromImage(ct.image), ct.grid)
    assert "no lungs" in warning


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "coronal", "oblique"])
@pytest.mark.parametrize("seed", [1, 2])
def test_phantoms_are_left_in_peace(orientation: str, seed: int) -> None:
    patient = make_patient(seed, 0, PhantomOptions(in_plane=128, slices=12, orientation=orientation))
    assert not warnings_of(patient.ct, patient.grid)


def test_a_chest_of_any_size_spacing_and_noise_is_left_in_peace() -> None:
    rng = np.random.default_rng(0)
    for shape, spacing in (
        ((20, 128, 128), (3.0, 3.0, 3.0)),
        ((60, 64, 64), (6.0, 6.0, 5.0)),
        ((400, 32, 40), (9.0, 9.0, 0.7)),
        ((3, 256, 200), (1.5, 1.5, 8.0)),
    ):
        ct = chest(shape) + rng.normal(0, 40, shape).astype(np.int16)
        assert not warnings_of(ct, grid_of(ct, spacing)), shape


@pytest.mark.parametrize("lungs", [-950, -850, -600])
def test_emphysema_and_injected_lungs_are_lungs(lungs: float) -> None:
    ct = chest(lungs=lungs)
    assert not warnings_of(ct, grid_of(ct))


def test_a_body_without_lungs_is_noticed() -> None:
    ct = chest(lungs=20)
    ct[10, 60:64, 40:50] = -1000  # gas in a bowel
    (warning,) = warnings_of(ct, grid_of(ct))
    assert "no lungs" in warning


def test_air_alone_is_noticed() -> None:
    ct = np.full((20, 64, 64), -1000, np.int16)
    (warning,) = warnings_of(ct, grid_of(ct))
    assert "no body" in warning


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ct: np.clip((ct + 1000) / 4, 0, 255), "gray levels"),
        (lambda ct: ct + 1024, "slope and intercept"),
    ],
)
def test_values_that_are_no_hounsfield_units_are_noticed(change, said: str) -> None:
    ct = change(chest()).astype(np.int16)
    (warning,) = warnings_of(ct, grid_of(ct))
    assert "not HU" in warning
    assert said in warning


@pytest.mark.parametrize(("slices", "said"), [(1, "1 slice "), (2, "2 slices "), (3, None)])
def test_fewer_than_three_slices_are_noticed(slices: int, said: str | None) -> None:
    ct = chest()[:slices]
    found = warnings_of(ct, grid_of(ct))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_slices_are_counted_from_feet_to_head_also_in_sagittal_images() -> None:
    sagittal = (0.0, 0, 1, 1, 0, 0, 0, -1, 0)
    ct = np.ascontiguousarray(chest((128, 64, 64)).transpose(2, 0, 1))
    grid = Grid((64, 128, 64), (4.0, 3.0, 4.0), (0, 0, 0), sagittal)
    assert not warnings_of(ct, grid)


@pytest.mark.parametrize(
    ("pixel", "distance", "said"),
    [
        (3.5, 4.0, None),  # 128 pixels of 3.5 mm: 1.75 mm on 256
        (2.6, 4.0, None),  # 1.3 mm: within a quarter of 1.5
        (2.2, 4.0, "1.10 mm a pixel of the network; the model learned from 1.50 to 2.00"),
        (6.0, 4.0, "3.00 mm a pixel"),
        (3.5, 2.1, None),
        (3.5, 7.4, None),
        (3.5, 1.0, "1.00 mm apart; the model learned from 3.00 to 5.00 mm"),
        (3.5, 10.0, "10.00 mm apart"),
    ],
)
def test_spacing_outside_the_training_range_is_noticed_with_some_tolerance(
    pixel: float, distance: float, said: str | None
) -> None:
    ct = chest()
    found = warnings_of(ct, grid_of(ct, (pixel, pixel, distance)), spacing=SPACING)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
    assert not warnings_of(ct, grid_of(ct, (pixel, pixel, distance)))  # a model that does not know


def test_a_marked_prediction_says_so_once_to_everybody(tmp_path: Path) -> None:
    ct = chest(lungs=20)[:2]
    reporter = Recorder()
    models = [Model(ByIntensity(3), make_card(LUNGS), name) for name in "ab"]
    found = predictor(*models).predict((ct, grid_of(ct)), reporter, name="scan 7")
    assert found.marked
    assert len(found.warnings) == 2
    assert [event.message for event in reporter.of("warning")] == list(found.warnings)
    assert {event.subject for event in reporter.of("warning")} == {"scan 7"}
    content = found.write(tmp_path / "out.seg.nrrd").read_bytes()
    assert MARKED_DESCRIPTION.encode() in content
    assert len(MARKED_DESCRIPTION) <= 64
    fine = chest()
    good = predictor(models[0]).predict((fine, grid_of(fine)))
    assert not good.marked
    assert DESCRIPTION.encode() in good.write(tmp_path / "good.seg.nrrd").read_bytes()


def test_a_dicom_result_of_an_image_in_memory_is_refused_in_a_sentence(tmp_path: Path) -> None:
    ct = chest()
    found = predictor(Model(ByIntensity(3), make_card(LUNGS), "n")).predict((ct, grid_of(ct)))
    with pytest.raises(LungSegError, match="DICOM series"):
        found.write(tmp_path / "out.rtstruct.dcm")
    labels = sitk.ReadImage(str(found.write(tmp_path / "a" / "labels.nii.gz")))
    assert (sitk.GetArrayFromImage(labels) == found.label_map()).all()
    assert Grid.of(labels).matches(grid_of(ct))
