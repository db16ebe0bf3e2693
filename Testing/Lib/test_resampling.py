"""Cached slices lie where the patient lies: axes, positions, values and the way back, against other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from LungSegmentationLib.cohort.axis_mapping import AxisMapping
from LungSegmentationLib.cohort.resampling import AIR, InPlaneMapping, plan_mapping
from LungSegmentationLib.dicom.ct import read_ct
from LungSegmentationLib.dicom.scan import scan
from LungSegmentationLib.errors import UsageError
from LungSegmentationLib.geometry import Grid, Reorientation
from LungSegmentationLib.phantom import PhantomOptions, PhantomPatient, make_patient

AXIAL = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
LPS_ORDER = {"x": 0, "y": 1, "z": 2}


def _rotation(angles: tuple[float, float, float]) -> np.ndarray:
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids in any orientation: axes exchanged, reversed and turned by up to 40°."""
    order = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from((-1.0, 1.0))) for _ in range(3)]
    angles = tuple(draw(st.sampled_from((0.0, 0.1, -0.3, 0.5))) for _ in range(3))
    matrix = (_rotation(angles) @ np.eye(3)[:, list(order)]) * signs
    size = tuple(draw(st.integers(1, 9)) for _ in range(3))
    spacing = tuple(draw(st.sampled_from((0.7, 0.9765625, 1.0, 2.5, 3.0))) for _ in range(3))
    origin = tuple(draw(st.floats(-300, 300)) for _ in range(3))
    return Grid(size, spacing, origin, tuple(matrix.ravel().tolist()))


@st.composite
def axis_mappings(draw: st.DrawFn) -> AxisMapping:
    native, cached = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    scale = draw(st.floats(0.2, 5.0))
    return AxisMapping(native, cached, scale, draw(st.floats(-20.0, 20.0)))


@given(grids())
@settings(deadline=None, max_examples=60)
def test_every_voxel_keeps_its_place_in_the_patient_when_axes_are_exchanged_and_reversed(grid: Grid) -> None:
    turn = Reorientation.of(grid)
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in grid.size), indexing="ij"), -1).reshape(-1, 3)
    places = np.zeros((*grid.shape, 3))
    places[indices[:, 2], indices[:, 1], indices[:, 0]] = grid.to_physical(indices)
    axial = turn.grid(grid)
    moved = np.stack([turn.apply(places[..., axis]) for axis in range(3)], -1)
    assert moved.shape[:3] == axial.shape
    for z, y, x in ((0, 0, 0), tuple(n - 1 for n in axial.shape), tuple(n // 2 for n in axial.shape)):
        assert moved[z, y, x] == pytest.approx(axial.to_physical([[x, y, z]])[0], abs=1e-9)


@given(grids())
@settings(deadline=None, max_examples=60)
def test_reoriented_axes_run_to_the_left_the_back_and_the_head(grid: Grid) -> None:
    axial = Reorientation.of(grid).grid(grid)
    assert (np.diag(axial.axes) > 0).all()
    other = sitk.DICOMOrientImageFilter()
    other.SetDesiredCoordinateOrientation("LPS")
    turned = other.Execute(grid.image(np.zeros(grid.shape, np.uint8)))
    assert Grid.of(turned).matches(axial, 1e-6)


@given(grids(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_reorienting_and_back_gives_the_same_bytes(grid: Grid, seed: int) -> None:
    array = np.random.default_rng(seed).integers(-1024, 3000, grid.shape, dtype=np.int16)
    turn = Reorientation.of(grid)
    assert (turn.undo(turn.apply(array)) == array).all()
    mapping = InPlaneMapping.of(grid, 16)
    back = mapping.full_volume(turn.apply(array))
    assert back.tobytes() == array.tobytes()


@given(axis_mappings(), st.floats(-50, 50))
@settings(deadline=None, max_examples=60)
def test_an_index_goes_to_the_cache_and_back_unchanged(axis: AxisMapping, index: float) -> None:
    assert float(axis.to_native(axis.to_cached(index))) == pytest.approx(index, abs=1e-9)


@given(axis_mappings())
@settings(deadline=None, max_examples=60)
def test_weights_are_shares_and_nothing_comes_from_outside(axis: AxisMapping) -> None:
    triangle, area, back = (matrix.toarray() for matrix in (axis.triangle, axis.area, axis.linear_back))
    assert (triangle >= 0).all()
    assert (area >= 0).all()
    assert (back >= 0).all()
    sums = triangle.sum(axis=1)
    assert sums[axis.inside] == pytest.approx(1.0, abs=1e-5)
    assert (sums[~axis.inside] == 0).all()
    assert back.sum(axis=1)[axis.covered] == pytest.approx(1.0, abs=1e-5)
    assert (back.sum(axis=1)[~axis.covered] == 0).all()
    assert area.max(initial=0) <= 1.0 + 1e-5
    assert (area.sum(axis=1) <= 1.0 + 1e-4).all()


@given(axis_mappings())
@settings(deadline=None, max_examples=60)
def test_area_weights_are_the_overlap_of_the_two_pixels(axis: AxisMapping) -> None:
    area = axis.area.toarray()
    for j in range(0, axis.cached, 7):
        start, end = axis.offset + j * axis.scale, axis.offset + (j + 1) * axis.scale
        for i in range(axis.native):
            overlap = max(0.0, min(end, i + 1) - max(start, i))
            assert area[j, i] == pytest.approx(overlap / axis.scale, abs=1e-5)


@given(axis_mappings())
@settings(deadline=None, max_examples=60)
def test_a_ramp_is_a_ramp_after_both_ways_where_no_edge_is_near(axis: AxisMapping) -> None:
    ramp = np.arange(axis.native, dtype=float)
    places = axis.to_native(np.arange(axis.cached))
    reach = max(axis.scale, 1.0)
    free = (places - reach >= 0) & (places + reach <= axis.native - 1)
    # A triangle of a width that is no whole number of pixels is, as everywhere, sampled a little unevenly.
    tolerance = 1e-3 if axis.scale <= 1 else 0.1
    assert (axis.triangle @ ramp)[free] == pytest.approx(places[free], abs=tolerance)
    ramp = np.arange(axis.cached, dtype=float)
    places = axis.to_cached(np.arange(axis.native))
    free = (places >= 0) & (places <= axis.cached - 1)
    assert (axis.linear_back @ ramp)[free] == pytest.approx(places[free], abs=1e-3)


def test_a_square_image_of_double_size_is_the_plain_resize() -> None:
    mapping = InPlaneMapping.of(Grid((512, 512, 3), (0.9765625, 0.9765625, 3.0), (-250.0, -250.0, 0.0), AXIAL), 256)
    assert (mapping.x.scale, mapping.x.offset, mapping.y.scale, mapping.y.offset) == pytest.approx((2, 0, 2, 0))
    row = mapping.x.triangle.toarray()[100]
    assert {int(i): float(row[i]) for i in np.flatnonzero(row)} == {199: 0.125, 200: 0.375, 201: 0.375, 202: 0.125}


def test_pixels_stay_square_and_the_short_side_lies_in_the_middle_between_air() -> None:
    grid = Grid((40, 80, 2), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    mapping = InPlaneMapping.of(grid, 32)
    assert mapping.cached.spacing == pytest.approx((2.5, 2.5, 3.0))
    cached = mapping.to_cache(np.full(grid.shape, 50, np.int16))
    # 40 mm are 16 of 32 pixels of 2.5 mm: 8 on each side are air.
    assert (cached[:, :, 8:24] == 50).all()
    assert (cached[:, :, :8] == AIR).all()
    assert (cached[:, :, 24:] == AIR).all()
    bits = mapping.bits_to_cache(np.full(grid.shape, 5, np.uint8))
    assert ((bits == 5) == (cached == 50)).all()


def test_values_below_air_are_raised_to_air_and_do_not_bleed_into_the_body() -> None:
    grid = Grid((8, 8, 1), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    ct = np.full(grid.shape, -3024, np.int16)
    ct[:, 4:] = 0
    cached = InPlaneMapping.of(grid, 4).to_cache(ct)
    assert cached.min() == AIR
    assert cached[0, 1, 0] == pytest.approx(-1024 * 7 / 8, abs=1)


def _rods(patient: PhantomPatient, places: np.ndarray) -> np.ndarray:
    """Bright soft balls at places in LPS (n, 3), sampled where the grid's voxels really lie."""
    grid = patient.grid
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    points = grid.to_physical(np.stack([x, y, z], -1).reshape(-1, 3))
    values = sum(2000.0 * np.exp(-((points - place) ** 2).sum(1) / (2 * 8.0**2)) for place in places)
    return values.reshape(grid.shape).astype(np.int16)


CUTS = [
    PhantomOptions(in_plane=64, slices=24),
    PhantomOptions(in_plane=64, slices=24, position="FFS"),
    PhantomOptions(in_plane=64, slices=24, position="HFP"),
    PhantomOptions(in_plane=64, slices=24, orientation="sagittal"),
    PhantomOptions(in_plane=64, slices=24, orientation="coronal"),
    PhantomOptions(in_plane=64, slices=24, orientation="oblique"),
]


@pytest.mark.parametrize("options", CUTS, ids=lambda o: f"{o.orientation} {o.position}")
@pytest.mark.parametrize("view", ["full", "body"])
def test_a_bright_ball_lies_at_the_same_place_in_the_patient_after_caching(options: PhantomOptions, view: str) -> None:
    patient = make_patient(5, 1, options)
    center = patient.grid.to_physical([[(n - 1) / 2 for n in patient.grid.size]])[0]
    balls = _rods(patient, np.array([center + np.array([20.0, -12.0, 6.0])]))
    mapping = plan_mapping(patient.ct, patient.grid, 48, view)  # type: ignore[arg-type]
    cached = mapping.to_cache(balls).clip(0).astype(float)
    index = [
        np.arange(n) @ cached.sum(axis=tuple(a for a in range(3) if a != axis)) / cached.sum()
        for axis, n in enumerate(cached.shape)
    ]
    native = balls.clip(0).astype(float)
    before = [
        np.arange(n) @ native.sum(axis=tuple(a for a in range(3) if a != axis)) / native.sum()
        for axis, n in enumerate(native.shape)
    ]
    place = mapping.cached.to_physical([index[::-1]])[0]
    assert place == pytest.approx(patient.grid.to_physical([before[::-1]])[0], abs=0.6)
    assert (np.diag(mapping.cached.axes) > 0).all()


@pytest.mark.parametrize("options", CUTS, ids=lambda o: f"{o.orientation} {o.position}")
def test_a_cached_ct_equals_what_simpleitk_samples_at_the_same_places(options: PhantomOptions) -> None:
    patient = make_patient(9, 0, options)
    mapping = InPlaneMapping.of(patient.grid, 48)
    cached = mapping.to_cache(patient.ct)
    reference = mapping.cached.image(cached)
    # SimpleITK has no anti-aliasing of its own: smoothed in plane by about what a triangle of the same width does.
    turned = mapping.axial.image(np.ascontiguousarray(mapping.reorientation.apply(patient.ct)))
    wide = [
        s * max(axis.scale, 1.0) * 0.41 for s, axis in zip(turned.GetSpacing(), (mapping.x, mapping.y), strict=False)
    ]
    smooth = turned
    for axis, sigma in enumerate(wide):
        smooth = sitk.RecursiveGaussian(sitk.Cast(smooth, sitk.sitkFloat32), sigma, direction=axis)
    sampled = sitk.GetArrayFromImage(sitk.Resample(smooth, reference, sitk.Transform(), sitk.sitkLinear, AIR))
    inside = np.broadcast_to(mapping.y.inside[:, None] & mapping.x.inside, cached.shape)
    assert np.abs(sampled - cached)[inside].mean() < 20.0
    assert (cached[~inside] == AIR).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 8), (24, 12), (20, 7), (9, 16)]))
@settings(max_examples=40, deadline=None)
def test_coverage_holds_a_pixel_if_more_than_half_of_it_is_covered(seed: int, sizes: tuple[int, int]) -> None:
    native, cached = sizes
    grid = Grid((native, native, 4), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    bits = np.random.default_rng(seed).integers(0, 256, grid.shape, dtype=np.uint8)
    mapping = InPlaneMapping.of(grid, cached)
    result = mapping.bits_to_cache(bits)
    # By counting: each image pixel becomes c², each cached pixel n² equal little squares.
    fine = bits.repeat(cached, axis=1).repeat(cached, axis=2)
    blocks = fine.reshape(4, cached, native, cached, native)
    for bit in range(8):
        share = ((blocks >> bit) & 1).mean(axis=(2, 4))
        held = (result >> bit) & 1 == 1
        assert held[share > 0.5 + 1e-4].all()
        assert not held[share < 0.5 - 1e-4].any()


def test_the_quick_way_for_double_size_gives_the_same_bits_as_the_general_one() -> None:
    grid = Grid((40, 40, 6), (0.9765625, 0.9765625, 3.0), (0.0, 0.0, 0.0), AXIAL)
    mapping = InPlaneMapping.of(grid, 20)
    assert mapping.x.halves
    assert mapping.y.halves
    bits = np.random.default_rng(0).integers(0, 256, grid.shape, dtype=np.uint8)
    general = np.zeros(mapping.cached.shape, np.uint8)
    for bit in range(8):
        mapping._cover(bits, 1 << bit, general)
    assert (mapping.bits_to_cache(bits) == general).all()


def test_an_exact_half_neither_grows_nor_moves_a_structure_on_average() -> None:
    grid = Grid((80, 80, 8), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    bits = np.zeros(grid.shape, np.uint8)
    bits[:, 11:40, 21:50] = 1  # every edge lies in the middle of a cached pixel
    cached = InPlaneMapping.of(grid, 40).bits_to_cache(bits)
    # 29 × 29 native pixels are 14.5 × 14.5 cached ones.
    assert cached.sum() / 8 == pytest.approx(14.5**2, rel=0.01)
    _, y, x = np.nonzero(cached)
    assert (y.mean() + 0.5) * 2 == pytest.approx(25.5, abs=0.15)
    assert (x.mean() + 0.5) * 2 == pytest.approx(35.5, abs=0.15)


@pytest.mark.parametrize("how", ["coverage", "nearest"])
@given(seed=st.integers(0, 1000), size=st.sampled_from([8, 12, 20, 33]))
@settings(max_examples=15, deadline=None)
def test_structure_bits_stay_those_of_the_case(how: str, seed: int, size: int) -> None:
    grid = Grid((21, 17, 2), (1.0, 1.2, 3.0), (0.0, 0.0, 0.0), AXIAL)
    present = np.random.default_rng(seed).choice(np.array([0, 1, 4, 64], np.uint8), grid.shape)
    result = InPlaneMapping.of(grid, size).bits_to_cache(present, how)  # type: ignore[arg-type]
    assert np.bitwise_or.reduce(result, axis=None) & ~np.uint8(1 | 4 | 64) == 0
    if how == "nearest":
        assert set(np.unique(result)) <= {0, 1, 4, 64}


def test_linear_upsampling_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    grid = Grid((50, 50, 1), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    values = np.random.default_rng(1).random((3, 2, 20, 20), np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(values), (50, 50), mode="bilinear", align_corners=False)
    assert InPlaneMapping.of(grid, 20).from_cache(values) == pytest.approx(theirs.numpy(), abs=1e-5)


@pytest.mark.parametrize(("native", "cached"), [(512, 256), (300, 256), (100, 256), (97, 40)])
def test_anti_aliased_downsampling_equals_torch(native: int, cached: int) -> None:
    torch = pytest.importorskip("torch")
    grid = Grid((native, native, 1), (0.8, 0.8, 3.0), (0.0, 0.0, 0.0), AXIAL)
    ct = np.random.default_rng(2).integers(-1000, 1500, grid.shape, dtype=np.int16)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(ct.astype(np.float32))[None], (cached, cached), mode="bilinear", antialias=True
    )
    # Ours is rounded to whole HU.
    assert InPlaneMapping.of(grid, cached).to_cache(ct) == pytest.approx(theirs[0].numpy(), abs=0.55)


def test_pixels_that_the_cached_slices_do_not_show_get_the_value_for_outside() -> None:
    grid = Grid((40, 40, 1), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    mapping = InPlaneMapping.of(grid, 16, ((10.0, 30.0), (8.0, 28.0)))
    values = np.full((2, 16, 16), 0.5, np.float32)
    back = mapping.from_cache(values, outside=[1.0, 0.0])
    shown = np.zeros((40, 40), bool)
    shown[10:30, 8:28] = True
    assert (back[:, shown] == 0.5).all()
    assert (back[0][~shown] == 1.0).all()
    assert (back[1][~shown] == 0.0).all()


def test_the_body_view_shows_the_whole_body_larger_and_never_cuts_a_structure() -> None:
    patient = make_patient(3, 0, PhantomOptions(in_plane=128, slices=12))
    full = plan_mapping(patient.ct, patient.grid, 64, "full")
    body = plan_mapping(patient.ct, patient.grid, 64, "body", patient.structures.bits)
    assert body.cached.spacing[0] < full.cached.spacing[0]
    assert body.cached.spacing[0] == pytest.approx(body.cached.spacing[1])
    shown = body.y.covered[:, None] & body.x.covered
    assert not body.reorientation.apply(patient.structures.bits)[:, ~shown].any()


def test_a_view_without_a_body_is_the_whole_image() -> None:
    grid = Grid((32, 32, 2), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    air = np.full(grid.shape, -1000, np.int16)
    assert plan_mapping(air, grid, 16, "body") == plan_mapping(air, grid, 16, "full")


@pytest.mark.parametrize("options", CUTS, ids=lambda o: f"{o.orientation} {o.position}")
def test_structures_come_back_to_the_native_grid_where_they_were(options: PhantomOptions) -> None:
    patient = make_patient(4, 2, options)
    bits = patient.structures.bits
    mapping = InPlaneMapping.of(patient.grid, 96)
    cached = mapping.bits_to_cache(bits)
    lungs = np.uint8(4 | 8)
    back = mapping.full_volume(mapping.from_cache((cached & lungs != 0).astype(np.float32)) >= 0.5)
    truth = bits & lungs != 0
    assert back.shape == bits.shape
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.97


def test_arrays_of_another_grid_and_impossible_sizes_are_refused() -> None:
    grid = Grid((8, 8, 2), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), AXIAL)
    mapping = InPlaneMapping.of(grid, 4)
    with pytest.raises(ValueError, match="does not lie on a grid"):
        mapping.to_cache(np.zeros((2, 8, 9), np.int16))
    with pytest.raises(ValueError, match="is not the reoriented one"):
        mapping.full_volume(np.zeros((2, 8, 9)))
    with pytest.raises(UsageError):
        InPlaneMapping.of(grid, 0)


@pytest.fixture(scope="module")
def real_ct(data: Path) -> tuple[np.ndarray, Grid]:
    found = scan(data / "rt_lung1-001" / "image")
    ct = read_ct(found.patients[0].series[0])
    return sitk.GetArrayFromImage(ct.image), ct.grid


@pytest.mark.realdata
def test_a_real_ct_differs_from_scikit_image_by_less_than_8_hu_on_average(real_ct: tuple[np.ndarray, Grid]) -> None:
    ct, grid = real_ct
    chosen = ct[::12]
    part = Grid((*grid.size[:2], len(chosen)), grid.spacing, grid.origin, grid.direction)
    cached = InPlaneMapping.of(part, 256).to_cache(chosen)
    theirs = np.stack([resize(plane.astype(np.float32), (256, 256), preserve_range=True) for plane in chosen])
    assert np.abs(theirs - cached).mean() <= 8.0
