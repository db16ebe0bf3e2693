"""Decisions on the image's pixels are those of the interpolated probabilities, for all classes at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from LungSegmentationLib.cohort.resampling import InPlaneMapping
from LungSegmentationLib.geometry import Grid
from LungSegmentationLib.inference.restoring import Restored, Restorer

AXIAL = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
TURNED = (0.0, 0, -1, 1, 0, 0, 0, -1, 0)
LABELS = (0, 1, 3, 4)


def mapping_of(
    size: tuple[int, int, int],
    cached: int,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 3.0),
    direction: tuple[float, ...] = AXIAL,
    box: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> InPlaneMapping:
    return InPlaneMapping.of(Grid(size, spacing, (0, 0, 0), direction), cached, box)


def shares(mapping: InPlaneMapping, classes: int, seed: int, *, sparse: bool = False) -> np.ndarray:
    """Random probabilities that add up to 1; ``sparse``: structures are mostly absent, as in a patient."""
    rng = np.random.default_rng(seed)
    values = rng.random((mapping.slices, classes, mapping.y.cached, mapping.x.cached)) ** 6
    if sparse:
        values[:, 1:] *= rng.random((mapping.slices, classes - 1, 1, 1)) < 0.4
        values[:, 1:, : mapping.y.cached // 3] = 0
        values[:, 0] += 0.2
    return (values / values.sum(1, keepdims=True)).astype(np.float32)


def restore(
    mapping: InPlaneMapping, probabilities: np.ndarray, *, batch: int = 3, labels: tuple[int, ...] = LABELS, **options
) -> Restored:
    restorer = Restorer(mapping, labels, **{"exclusive": True} | options)
    for start in range(0, len(probabilities), batch):
        restorer.add(probabilities[start : start + batch])
    return restorer.finish()


def whole(mapping: InPlaneMapping, probabilities: np.ndarray) -> np.ndarray:
    """All probabilities on all of the image's pixels, which the restorer never holds."""
    return mapping.from_cache(probabilities)


@given(
    size=st.tuples(st.integers(1, 23), st.integers(1, 23), st.integers(1, 4)),
    cached=st.sampled_from((8, 16, 17, 40)),
    direction=st.sampled_from((AXIAL, TURNED)),
    box=st.booleans(),
    sparse=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=80)
def test_a_voxel_gets_the_class_of_the_largest_interpolated_probability(
    size: tuple[int, int, int], cached: int, direction: tuple[float, ...], box: bool, sparse: bool, seed: int
) -> None:
    mapping = mapping_of(size, cached, direction=direction)
    if box:
        rows, columns = mapping.axial.size[1], mapping.axial.size[0]
        mapping = InPlaneMapping.of(mapping.native, cached, ((rows * 0.2, rows * 0.7), (columns * 0.1, columns * 0.5)))
    probabilities = shares(mapping, len(LABELS), seed, sparse=sparse)
    found = restore(mapping, probabilities)
    native = whole(mapping, probabilities)
    seen = mapping.y.covered[:, None] & mapping.x.covered
    expected = np.array([0, *(1 << (label - 1) for label in LABELS[1:])], np.uint8)[native.argmax(1)]
    expected[:, ~seen] = 0
    ordered = np.sort(native, axis=1)
    clear = (ordered[:, -1] - ordered[:, -2] > 1e-5) | ~seen
    turn = mapping.reorientation
    assert (turn.apply(found.bits) == expected)[clear].all()
    best = np.rint(100 * native.max(1) * seen)
    assert np.abs(turn.apply(found.confidence).astype(float) - best).max() <= 1
    for index, mean in enumerate(found.means):
        chosen = native[:, index + 1][(native.argmax(1) == index + 1) & seen]
        assert (mean is None) == (not chosen.size)
        if mean is not None:
            assert mean == pytest.approx(chosen.mean(), abs=1e-3)


@given(
    size=st.tuples(st.integers(1, 23), st.integers(1, 23), st.integers(1, 4)),
    cached=st.sampled_from((8, 17, 40)),
    direction=st.sampled_from((AXIAL, TURNED)),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60)
def test_overlapping_structures_are_each_decided_at_one_half(
    size: tuple[int, int, int], cached: int, direction: tuple[float, ...], seed: int
) -> None:
    mapping = mapping_of(size, cached, direction=direction)
    rng = np.random.default_rng(seed)
    probabilities = rng.random((mapping.slices, 3, cached, cached)).astype(np.float32)
    probabilities *= rng.random((mapping.slices, 3, 1, 1)) < 0.6
    found = restore(mapping, probabilities, labels=(2, 5, 8), exclusive=False)
    native = whole(mapping, probabilities)
    bits = mapping.reorientation.apply(found.bits)
    for index, label in enumerate((2, 5, 8)):
        clear = np.abs(native[:, index] - 0.5) > 1e-5
        held = (bits >> (label - 1)) & 1 == 1
        assert (held == (native[:, index] > 0.5))[clear].all()
        if held.any():
            assert found.means[index] == pytest.approx(native[:, index][held].mean(), abs=1e-3)
    certainty = 100 * np.maximum(native, 1 - native).min(1)
    assert np.abs(mapping.reorientation.apply(found.confidence) - certainty).max() <= 1.1


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("slices", [1, 2, 5])
def test_smoothing_weighs_neighbors_by_their_distance_and_the_ends_by_what_they_have(slices: int, batch: int) -> None:
    mapping = mapping_of((12, 12, slices), 12, spacing=(1.0, 1.0, 2.0))
    probabilities = shares(mapping, 4, 1)
    found = restore(mapping, probabilities, smoothing=1.5, batch=batch)
    weight = np.exp(-0.5 * (2.0 / 1.5) ** 2)
    smoothed = []
    for z in range(slices):
        neighbors = [(1.0, z)] + [(weight, other) for other in (z - 1, z + 1) if 0 <= other < slices]
        smoothed.append(sum(w * probabilities[n] for w, n in neighbors) / sum(w for w, _ in neighbors))
    expected = restore(mapping, np.array(smoothed, np.float32))
    assert (found.bits == expected.bits).all()
    assert found.means == pytest.approx(expected.means)
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1


def test_a_slice_without_its_voice_is_mended_by_smoothing() -> None:
    mapping = mapping_of((10, 10, 5), 10)
    probabilities = np.zeros((5, 2, 10, 10), np.float32)
    probabilities[:, 1] = 0.9
    probabilities[2, 1] = 0.3
    probabilities[:, 0] = 1 - probabilities[:, 1]
    plain = restore(mapping, probabilities, labels=(0, 1))
    smooth = restore(mapping, probabilities, labels=(0, 1), smoothing=4.0)
    assert not plain.bits[2].any()
    assert smooth.bits.all()


def test_missing_slices_are_a_fault_of_the_program() -> None:
    mapping = mapping_of((6, 6, 4), 6)
    with pytest.raises(ValueError, match="3 slices of 4"):
        restore(mapping, shares(mapping, 4, 0)[:3])


def test_nothing_of_the_images_size_is_held_but_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = mapping_of((64, 64, 50), 16)
    restorer = Restorer(mapping, LABELS, exclusive=True, keep=False)
    restorer.add(shares(mapping, 4, 0))
    arrays = [value for value in vars(restorer).values() if isinstance(value, np.ndarray) and value.base is None]
    large = [array for array in arrays if array.size >= mapping.native.shape[0] * 64 * 64]
    assert sorted(array.dtype.name for array in large) == ["uint8", "uint8"]


def test_ties_go_to_background() -> None:
    mapping = mapping_of((8, 8, 1), 8)
    probabilities = np.full((1, 2, 8, 8), 0.5, np.float32)
    assert not restore(mapping, probabilities, labels=(0, 1)).bits.any()
    assert not restore(mapping, probabilities, labels=(1, 2), exclusive=False).bits.any()
